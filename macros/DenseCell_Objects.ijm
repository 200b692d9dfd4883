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
  last = recall("split", "no");
  parting = false;
  if (last == "yes") parting = true;
  Dialog.addCheckbox("Split those that touch", parting);
  Dialog.addNumber("Leave out objects below", parseFloat(recall("min_volume", "0")), 4, 8, "um^3 (specks, of mitochondria: 0.001)");
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
  remember("split", parting);
  remember("min_volume", "" + least);
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
    labels = pathOfImage();
    named = hasClassNames();
    if (!named && !endsWith(getTitle(), "_labels.tif"))
      return "failed\t" + getTitle() + " bears no names of classes, so it may be the stack itself; expected NAME_labels.tif, "
        + "or a copy of it";
    wrong = unsaved(labels);
    if (wrong != "") return "failed\t" + wrong;
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
  title = File.getName(table);
  if (isOpen(title)) close(title); // of an earlier time
  shown = 0;
  if (nImages > 0) shown = getImageID();
  if (image != "none") {
    selectImage(image);
    shown = getImageID();
  }
  Table.open(table);
  dropRegions(title);
  nRegions = openRegions(out, replace(title, "_objects\\.csv$", "_"), title);
  keepRegions(title, nRegions);
  if (image != "none" && nRegions > 0) showRegions(image);
  if (nRegions > 0) linkObjects(title, shown);
  return "ok\t" + table + "\t" + nRegions;
}

// From now on a row selects its region, and a region its row.
function linkObjects(title, shown) {
  if (is("Batch Mode") || getInfo("java.awt.headless") == "true") return;
  said = call("java.lang.System.setProperty", "densecell.image of " + title, "" + shown);
  startLink();
}

// Add the outlines that the tool wrote to those in the ROI Manager; returns their number. The table says which classes have
// objects: files of other stacks, whose names go on beyond that of this one, and of earlier times, lie in the same folder.
function openRegions(out, start, title) {
  before = nRois();
  wanted = "\n";
  for (row = 0; row < Table.size(title); row++) {
    class = Table.getString("class", row, title);
    zip = start + fileName(class) + "_rois.zip\n";
    if (indexOf(wanted, "\n" + zip) < 0) wanted += zip;
  }
  names = getFileList(out);
  for (i = 0; i < names.length; i++)
    if (indexOf(wanted, "\n" + names[i] + "\n") >= 0) addRegions(out + File.separator + names[i]);
  return nRois() - before;
}

// Remember which regions belong to a table, by their names, and where they are: there may be others, before and after them.
function keepRegions(title, nRegions) {
  first = nRois() - nRegions;
  names = newArray(nRegions);
  for (i = 0; i < nRegions; i++) names[i] = RoiManager.getName(first + i);
  said = call("java.lang.System.setProperty", "densecell.first of " + title, "" + first);
  said = call("java.lang.System.setProperty", "densecell.regions of " + title, String.join(names, "\n"));
}

// Remove the regions that an earlier table of the same name brought, if they are still there as they came.
function dropRegions(title) {
  list = regionList();
  first = firstRegionOf(title, list);
  if (first < 0) return;
  kept = keptRegions(title);
  n = countLines(kept);
  numbers = newArray(n);
  for (i = 0; i < n; i++) numbers[i] = first + i;
  roiManager("select", numbers);
  roiManager("delete");
  titles = objectTitles();
  for (i = 0; i < titles.length; i++) {
    place = placeOf(titles[i]);
    if (place > first) said = call("java.lang.System.setProperty", "densecell.first of " + titles[i], "" + (place - n));
  }
}
