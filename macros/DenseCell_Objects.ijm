// Number and measure the objects in labels, also in labels that were corrected by hand, with densecell-batch: a table with
// a row for each object, and the outlines of all in the ROI Manager, in a colour for each object.
//
// Options: labels (file NAME_labels.tif; else the active image), out (folder; else "objects" beside the labels), classes
// (separated by commas; else all but the first), split (yes or no: part objects that touch), min_volume (cubic micrometres;
// smaller ones are left out), image (title of an open image that the outlines are shown on, each on its slice).
// Returns "ok<TAB>TABLE<TAB>NUMBER OF REGIONS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
folder = home();
if (interactive) options = ask(folder);
result = objects(options, folder);
tell(result, interactive);
if (asked) return result;

function ask(folder) {
  labels = recall("labels", ""); // of the last run
  if (!File.exists(labels)) labels = "";
  images = imageChoices();
  Dialog.create("DenseCell Objects");
  if (nImages > 0) {
    Dialog.addMessage("The active image is " + getTitle());
    named = hasClassNames();
    if (named) labels = "";
  }
  Dialog.addFile("Labels, if not the active image", labels);
  Dialog.addString("Objects of the classes", recall("instances", "mitochondrion"), 30);
  Dialog.addCheckbox("Part objects that touch", false);
  Dialog.addNumber("Leave out those below, in cubic um", 0);
  Dialog.addChoice("Image to show them on", images, images[0]);
  Dialog.addCheckbox("Change how the tool is started", false);
  Dialog.show();
  labels = Dialog.getString();
  classes = Dialog.getString();
  parting = "no";
  if (Dialog.getCheckbox()) parting = "yes";
  least = Dialog.getNumber();
  image = Dialog.getChoice();
  if (Dialog.getCheckbox()) askRunner(folder);
  remember("instances", classes);
  text = "" + setting("labels", labels) + setting("classes", classes) + "split=" + parting + " min_volume=" + least + " "
    + setting("image", image);
  record("DenseCell Objects", text);
  return text;
}

function objects(options, folder) {
  wrong = parse(options, "labels out classes split min_volume image");
  if (wrong == "") wrong = findRunner(folder);
  if (wrong != "") return "failed\t" + wrong;
  image = option("image", "none");
  if (image != "none" && !isOpen(image)) return "failed\tno image '" + image + "' is open";
  labels = option("labels", "");
  if (labels == "" && nImages == 0) return "failed\tno image is open: open labels, or give them as 'labels'";
  if (labels == "") {
    labels = getInfo("image.directory") + getInfo("image.filename");
    named = hasClassNames();
    if (!named && !endsWith(getTitle(), "_labels.tif"))
      return "failed\t" + getTitle() + " bears no names of classes, so it may be the stack itself; expected NAME_labels.tif, "
        + "or a copy of it";
    if (is("changes") || !File.exists(labels) || File.isDirectory(labels))
      return "failed\t" + getTitle() + " was changed, or never saved: save it (File > Save), then again";
  }
  if (!File.exists(labels)) return "failed\t" + labels + ": no such file";
  labels = File.getAbsolutePath(labels);
  least = option("min_volume", "0");
  if (!matches(least, "\\d+(\\.\\d*)?(E-?\\d+)?")) return "failed\tmin_volume is '" + least + "'; expected cubic micrometres";
  out = tidy(option("out", ""));
  if (out == "") out = File.getParent(labels) + File.separator + "objects";
  out = File.getAbsolutePath(out);
  wrong = makeFolder(out);
  logFile = out + File.separator + stackName(labels) + "_log.txt";
  if (wrong == "") wrong = canWrite(logFile, "out");
  if (wrong != "") return "failed\t" + wrong;
  all = newArray("instances", "--rois");
  splitting = option("split", "no");
  if (splitting == "yes") all = with(all, "", "--split");
  if (parseFloat(least) > 0) all = with(all, "--min-volume", least);
  classes = split(option("classes", ""), ",");
  for (i = 0; i < classes.length; i++) all = with(all, "--class", String.trim(classes[i]));
  showStatus("DenseCell: objects of " + stackName(labels) + " ...");
  said = runTool(all, newArray(labels), out, "", logFile);
  showStatus("");
  printWarnings(said);
  lines = split(said, "\n");
  table = "";
  for (i = 0; i < lines.length; i++) {
    fields = split(lines[i], "\t");
    if (fields.length >= 4) {
      if (fields[0] == "DENSECELL" && fields[1] == "failed") return "failed\t" + fields[3];
      if (fields[0] == "DENSECELL" && fields[1] == "ok") table = out + File.separator + File.getName(fields[2]);
    }
  }
  if (table == "") return "failed\t" + complaint(said, logFile);
  if (!File.exists(table))
    return "failed\tthe tool wrote " + table + ", but it is not here: do both see the same folder?";
  Table.open(table);
  nRegions = openRegions(out, replace(File.getName(table), "_objects\\.csv$", "_"), classes);
  if (image != "none" && nRegions > 0) {
    selectImage(image);
    roiManager("associate", "true"); // each region on its slice only
    roiManager("Show All without labels");
  }
  return "ok\t" + table + "\t" + nRegions;
}

// Add the outlines that the tool wrote to those in the ROI Manager; returns their number.
function openRegions(out, start, classes) {
  if (!is("Batch Mode")) run("ROI Manager...");
  before = roiManager("count");
  names = getFileList(out);
  for (i = 0; i < names.length; i++) {
    wanted = classes.length == 0;
    for (k = 0; k < classes.length; k++) {
      class = fileName(String.trim(classes[k]));
      if (names[i] == start + class + "_rois.zip") wanted = true;
    }
    if (wanted && startsWith(names[i], start) && endsWith(names[i], "_rois.zip"))
      roiManager("open", out + File.separator + names[i]);
  }
  return roiManager("count") - before;
}
