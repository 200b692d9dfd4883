// Segment the active image, or a stack on disk, with densecell-batch, and show the labels over it.
//
// Options: stack (file or folder; else the active image), out (folder; else "densecell" beside the stack), model,
// instances (classes, separated by commas), voxel_size (z,y,x in nm), options (further ones of `densecell-batch segment`),
// show (yes or no). Returns "ok<TAB>LABELS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
folder = home();
if (interactive) options = ask(folder);
result = segment(options, folder);
if (startsWith(result, "ok\t")) suggest(substring(result, 3));
tell(result, interactive);
if (asked) return result;

function ask(folder) {
  stack = "";
  out = recall("out", getDirectory("home") + "densecell");
  if (nImages > 0) {
    if (getInfo("image.directory") != "") out = getInfo("image.directory") + "densecell";
  }
  Dialog.create("DenseCell Segment");
  if (nImages > 0) Dialog.addMessage("The active image is " + getTitle());
  Dialog.addFile("Stack, if not the active image", "");
  Dialog.addDirectory("Output folder", out);
  Dialog.addString("Model, by name or path", recall("model", "fly-vnc-2d3d"), 30);
  Dialog.addString("Instances of the classes", recall("instances", "mitochondrion"), 30);
  Dialog.addString("Voxel size z,y,x in nm, if not the image's", "", 30);
  Dialog.addString("Further options", recall("options", ""), 30);
  Dialog.addCheckbox("Show the labels", true);
  Dialog.addCheckbox("Change how the tool is started", false);
  Dialog.show();
  stack = Dialog.getString();
  out = Dialog.getString();
  model = Dialog.getString();
  instances = Dialog.getString();
  voxelSize = Dialog.getString();
  further = Dialog.getString();
  showing = "no";
  if (Dialog.getCheckbox()) showing = "yes";
  if (Dialog.getCheckbox()) askRunner(folder);
  remember("out", out);
  remember("model", model);
  remember("instances", instances);
  remember("options", further);
  text = "" + setting("options", further) + setting("stack", stack) + setting("out", out) + setting("model", model)
    + setting("instances", instances) + setting("voxel_size", voxelSize) + "show=" + showing;
  record("DenseCell Segment", text);
  return text;
}

function segment(options, folder) {
  wrong = parse(options, "stack out model instances voxel_size options show");
  if (wrong == "") wrong = findRunner(folder);
  if (wrong != "") return "failed\t" + wrong;
  stack = tidy(option("stack", ""));
  image = 0;
  if (stack == "" && nImages == 0) return "failed\tno image is open: open a stack, or give one as 'stack'";
  if (stack != "" && !File.exists(stack)) return "failed\t" + stack + ": no such file or folder";
  if (stack == "") {
    image = getImageID();
    stack = fileOfImage();
  }
  out = tidy(option("out", ""));
  if (out == "" && stack != "") out = File.getParent(stack) + File.separator + "densecell";
  if (out == "") return "failed\tthe image has no folder of its own: give an output folder as 'out'";
  out = File.getAbsolutePath(out);
  wrong = makeFolder(out);
  if (wrong != "") return "failed\t" + wrong;
  if (stack == "") name = titleAsFileName();
  else name = stackName(stack);
  logFile = out + File.separator + name + "_log.txt";
  wrong = canWrite(logFile, "out");
  if (wrong != "") return "failed\t" + wrong;
  copy = "";
  if (stack == "") {
    copy = out + File.separator + "densecell-input-" + d2s(getTime(), 0);
    wrong = makeFolder(copy);
    if (wrong != "") return "failed\t" + wrong;
    stack = copy + File.separator + name + ".tif";
    saveCopy(stack);
  }
  showStatus("DenseCell: segmenting " + stackName(stack) + " ...");
  said = segmentStacks(newArray(stack), out, logFile);
  if (copy != "") {
    deleted = File.delete(stack); // a statement of its own would print 1
    deleted = File.delete(copy);
  }
  showStatus("");
  printWarnings(said);
  labels = out + File.separator + stackName(stack) + "_labels.tif";
  result = verdict(said, labels, logFile);
  showing = option("show", "yes");
  if (startsWith(result, "ok") && showing == "yes") {
    if (image != 0) if (!isOpen(image)) image = 0; // closed in the meantime
    shown = showLabels(labels, image, folder);
    if (startsWith(shown, "failed")) result = shown;
  }
  return result;
}

// The file that the active image was opened from and still is as, else "". A voxel size that is set does not mark an image
// as changed, so it is compared.
function fileOfImage() {
  name = getInfo("image.filename");
  path = getInfo("image.directory") + name;
  if (is("changes") || name != getTitle() || !matches(name, "(?i).*\\.tiff?") || !File.exists(path)) return "";
  image = getImageID();
  getVoxelSize(width, height, depth, unit);
  ours = hide();
  call("ij.IJ.redirectErrorMessages");
  before = nImages;
  open(path, 1);
  same = false;
  if (nImages > before) {
    getVoxelSize(fileWidth, fileHeight, fileDepth, fileUnit);
    same = width == fileWidth && height == fileHeight && depth == fileDepth && unit == fileUnit;
    close();
  }
  if (ours) setBatchMode(false);
  selectImage(image);
  if (!same) path = "";
  return path;
}

function titleAsFileName() {
  name = replace(replace(getTitle(), "(?i)(\\.ome)?\\.tiff?$", ""), "[\\\\/:*?\"<>|\\x00-\\x1f]", "-");
  if (name == "") name = "untitled";
  return name;
}

// Write the active image to a file. Saving itself would rename it, and clear the mark that it was changed.
function saveCopy(path) {
  image = getImageID();
  hasSelection = selectionType() >= 0;
  if (hasSelection) run("Select None");
  ours = hide();
  run("Duplicate...", "title=densecell-copy duplicate");
  saveAs("Tiff", path);
  close();
  if (ours) setBatchMode(false);
  selectImage(image);
  if (hasSelection) run("Restore Selection");
}

// What the dialogs of the other commands are to begin with.
function suggest(labels) {
  remember("labels", labels);
  classes = split(option("instances", ""), ",");
  if (classes.length > 0) {
    class = fileName(String.trim(classes[0]));
    remember("instances.file", replace(labels, "_labels\\.tif$", "_" + class + "_instances.tif"));
  }
}

function verdict(said, labels, logFile) {
  lines = split(said, "\n");
  for (i = 0; i < lines.length; i++) {
    fields = split(lines[i], "\t");
    if (fields.length >= 4) {
      if (fields[0] == "DENSECELL" && fields[1] == "ok") {
        if (File.exists(labels)) return "ok\t" + labels;
        return "failed\tthe tool wrote " + fields[2] + ", but " + labels + " is not here: do both see the same folder?";
      }
      if (fields[0] == "DENSECELL" && fields[1] == "failed") return "failed\t" + fields[3];
    }
  }
  return "failed\t" + complaint(said, logFile);
}

function showLabels(labels, image, folder) {
  text = setting("labels", labels);
  if (refused != "") return "failed\t" + refused;
  if (image != 0) text += "image=" + image;
  else text += "image=none";
  return runMacro(folder + "DenseCell_Load_Labels.ijm", text);
}
