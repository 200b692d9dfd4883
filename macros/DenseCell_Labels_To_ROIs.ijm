// Put the instances of a class into the ROI Manager: a region for each object and slice, named "0003-z012 CLASS", in the
// colour of the object. densecell-batch makes them.
//
// Options: instances (file NAME_CLASS_instances.tif, or another one with 'class'; else the active image, which has to be
// saved), class (else as in the file's name), zip (file for the regions; else NAME_CLASS_rois.zip beside the instances), image
// (title of an open image that the regions are shown on, each on its slice). What the ROI Manager holds already stays.
// Returns "ok<TAB>ZIP<TAB>NUMBER OF REGIONS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
folder = home();
if (interactive) options = ask();
result = toRois(options, folder);
tell(result, interactive);
if (asked) return result;

function ask() {
  instances = recall("instances.file", "");
  images = imageChoices();
  Dialog.create("DenseCell Labels To ROIs");
  Dialog.addFile("Objects (NAME_CLASS_instances.tif)", instances);
  Dialog.addString("Class, if the file's name does not say it", "", 30);
  Dialog.addChoice("Image to show them on", images, images[0]);
  Dialog.show();
  instances = Dialog.getString();
  class = Dialog.getString();
  image = Dialog.getChoice();
  remember("instances.file", instances);
  text = "" + setting("instances", instances);
  if (class != "") text = text + setting("class", class);
  text = text + setting("image", image);
  record("DenseCell Labels To ROIs", text);
  return text;
}

function toRois(options, folder) {
  wrong = parse(options, "instances class zip image");
  if (wrong == "") wrong = findRunner(folder);
  if (wrong != "") return "failed\t" + wrong;
  path = option("instances", "");
  image = option("image", "none");
  if (image != "none" && !isOpen(image)) return "failed\tno image '" + image + "' is open";
  if (path == "" && nImages == 0)
    return "failed\tno instances: give NAME_CLASS_instances.tif, which DenseCell Segment makes with instances=CLASS";
  if (path == "") {
    path = pathOfImage();
    wrong = unsaved(path);
    if (wrong != "") return "failed\t" + wrong;
  }
  if (!File.exists(path)) return "failed\t" + path + ": no such file";
  path = File.getAbsolutePath(path);
  zip = option("zip", "");
  out = File.getParent(path);
  if (zip != "") {
    if (!matches(zip, "(/|\\\\|[A-Za-z]:).*")) zip = out + File.separator + zip;
    wrong = canWrite(zip, "zip");
    out = File.getParent(zip);
  }
  logFile = out + File.separator + stackName(path) + "_rois_log.txt";
  if (wrong == "") wrong = canWrite(logFile, "zip");
  if (wrong != "") return "failed\t" + wrong;
  all = with(newArray("fiji", "rois"), "--class", option("class", ""));
  if (zip != "") all = with(all, "--name", File.getName(zip));
  showStatus("DenseCell: regions of " + stackName(path) + " ...");
  said = runTool(all, newArray(path), out, "", logFile);
  showStatus("");
  result = "failed\t" + complaint(said, logFile);
  lines = split(said, "\n");
  for (i = 0; i < lines.length; i++) {
    fields = split(lines[i], "\t");
    if (fields.length >= 4) {
      if (fields[0] == "DENSECELL" && fields[1] == "failed") result = "failed\t" + fields[3];
      if (fields[0] == "DENSECELL" && fields[1] == "ok") result = "ok\t" + out + File.separator + File.getName(fields[2]) + "\t" + fields[3];
    }
  }
  if (!startsWith(result, "ok")) return result;
  deleted = File.delete(logFile);
  fields = split(result, "\t");
  if (fields[2] == "0") return result;
  if (!File.exists(fields[1]))
    return "failed\tthe tool wrote " + fields[1] + ", but it is not here: do both see the same folder?";
  addRegions(fields[1]);
  if (image != "none") showRegions(image);
  return result;
}
