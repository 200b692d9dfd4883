// Segment the active image, or a stack on disk, with densecell-batch, and show the labels over it.
//
// Options: stack (file or folder; else the active image), out (folder; else "densecell" beside the stack), model,
// instances (classes, separated by commas), split (yes or no), min_volume (um^3), rois (yes or no), voxel_size (z,y,x in
// nm), options (further ones of `densecell-batch segment`), only (slice, selection, or both, of the active image: shown,
// not kept), as_slices (yes or no: channels or time points of the active image are slices), show (yes or no).
// Returns "ok<TAB>LABELS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
folder = home();
if (interactive) options = ask(folder);
result = segment(options, folder, interactive);
tell(result, interactive);
if (asked) return result;

// Ask for everything in one dialog. Where another model is chosen it comes again, with the classes of that one.
function ask(folder) {
  wrong = findRunner(folder);
  if (wrong != "") askRunner(folder);
  asked = recall("models.of", "");
  if (asked != runner + " " + command + " " + target) {
    showStatus("DenseCell: asking the tool for its models ...");
    wrong = learnModels(""); // what is wrong is told when it is to work
  }
  image = 0;
  out = recall("out", getDirectory("home") + "densecell");
  if (nImages > 0) {
    image = getImageID();
    if (getInfo("image.directory") != "") out = getInfo("image.directory") + "densecell";
  }
  List.clear();
  List.set("stack", "");
  List.set("out", out);
  List.set("model", recall("model", "fly-vnc"));
  List.set("instances", recall("instances", "mitochondrion"));
  List.set("min_volume", recall("min_volume", "0"));
  List.set("split", recall("split", "no"));
  List.set("rois", recall("rois", "no"));
  List.set("voxel_size", "");
  List.set("options", recall("options", ""));
  List.set("only", "");
  List.set("show", "yes");
  takes = severalOf(image);
  List.set("as_slices", "no");
  if (matches(takes, "\\d+ time points") || matches(takes, "([5-9]|\\d\\d+) channels")) List.set("as_slices", "yes");
  List.set("change", "no");
  do {
    shown = List.get("model");
    known = modelField(shown, 0);
    if (known == "" && File.exists(shown)) wrong = learnModels(shown);
    dialog(image, takes, shown);
    model = List.get("model");
  } while (model != shown);
  keys = newArray("out", "model", "instances", "min_volume", "split", "rois", "options");
  for (i = 0; i < keys.length; i++) remember(keys[i], List.get(keys[i]));
  text = "" + setting("options", List.get("options")) + setting("stack", List.get("stack")) + setting("out", List.get("out"))
    + setting("model", List.get("model")) + setting("instances", List.get("instances"))
    + setting("voxel_size", List.get("voxel_size"));
  keys = newArray("split", "rois", "as_slices");
  for (i = 0; i < keys.length; i++) if (List.get(keys[i]) == "yes") text += keys[i] + "=yes ";
  if (parseFloat(List.get("min_volume")) > 0) text += "min_volume=" + List.get("min_volume") + " ";
  if (List.get("only") != "") text += "only=[" + List.get("only") + "] ";
  text += "show=" + List.get("show");
  record("DenseCell Segment", text);
  if (isYes("change")) askRunner(folder); // uses List, too
  return text;
}

// One dialog, filled with what is in List, and what was answered put there.
function dialog(image, takes, model) {
  Dialog.create("DenseCell Segment");
  if (image != 0) {
    about = describeImage(image);
    Dialog.addMessage(about);
  }
  Dialog.addFile("Stack, if not the active image", List.get("stack"));
  Dialog.addDirectory("Output folder", List.get("out"));
  models = modelNames(model);
  Dialog.addChoice("Model", models, model);
  Dialog.addFile("or one of your own (.zip)", "");
  about = describeModel(image, model);
  Dialog.addMessage(about);
  classes = classesOf(model);
  ticked = List.get("instances");
  if (classes.length > 0) {
    Dialog.addMessage("Tell apart the objects of:");
    ticks = newArray(classes.length);
    for (i = 0; i < classes.length; i++) ticks[i] = isListed(classes[i], ticked);
    columns = minOf(3, classes.length);
    Dialog.addCheckboxGroup(Math.ceil(classes.length / columns), columns, classes, ticks);
  } else Dialog.addString("Objects of the classes", ticked, 30);
  parting = newArray(2);
  parting[0] = isYes("split");
  parting[1] = isYes("rois");
  Dialog.addCheckboxGroup(1, 2, newArray("Split those that touch", "Write their outlines (ROIs)"), parting);
  Dialog.addNumber("Leave out objects below", parseFloat(List.get("min_volume")), 4, 8, "um^3 (specks, of mitochondria: 0.001)");
  Dialog.addString("Voxel size z,y,x in nm, if not the image's", List.get("voxel_size"), 30);
  Dialog.addString("Further options", List.get("options"), 30);
  only = List.get("only");
  parts = newArray(2);
  parts[0] = has(only, "slice");
  parts[1] = has(only, "selection");
  hasSelection = false;
  if (image != 0) if (selectionType() >= 0) hasSelection = true;
  if (hasSelection) Dialog.addCheckboxGroup(1, 2, newArray("Preview: only this slice", "Preview: only the selection"), parts);
  else if (image != 0) Dialog.addCheckbox("Preview: only this slice", parts[0]);
  if (takes != "") Dialog.addCheckbox("Take its " + takes + " as slices", isYes("as_slices"));
  Dialog.addCheckbox("Show the labels", isYes("show"));
  Dialog.addCheckbox("Change how the tool is started", isYes("change"));
  Dialog.show();
  List.set("stack", Dialog.getString());
  List.set("out", Dialog.getString());
  List.set("model", Dialog.getChoice());
  own = Dialog.getString();
  if (own != "") List.set("model", own);
  ticked = "";
  for (i = 0; i < classes.length; i++) {
    if (Dialog.getCheckbox()) {
      if (ticked != "") ticked += ",";
      ticked += classes[i];
    }
  }
  if (classes.length == 0) ticked = Dialog.getString();
  List.set("instances", ticked);
  answered("split");
  answered("rois");
  List.set("min_volume", "" + Dialog.getNumber());
  List.set("voxel_size", Dialog.getString());
  List.set("options", Dialog.getString());
  only = "";
  if (image != 0) if (Dialog.getCheckbox()) only = "slice";
  if (hasSelection) if (Dialog.getCheckbox()) only = String.trim(only + " selection");
  List.set("only", only);
  if (takes != "") answered("as_slices");
  answered("show");
  answered("change");
}

function isYes(key) {
  if (List.get(key) == "yes") return true;
  return false;
}

function has(text, word) {
  if (indexOf(text, word) >= 0) return true;
  return false;
}

function answered(key) {
  List.set(key, "no");
  if (Dialog.getCheckbox()) List.set(key, "yes");
}

function isListed(name, names) {
  parts = split(names, ",");
  for (k = 0; k < parts.length; k++) if (String.trim(parts[k]) == name) return true;
  return false;
}

// The names of the models that the tool has, and one that was chosen before.
function modelNames(model) {
  names = newArray(0);
  lines = split(recall("models", ""), "\n");
  for (i = 1; i < lines.length; i++) {
    fields = split(lines[i], "(\t)");
    names = Array.concat(names, fields[0]);
  }
  known = modelField(model, 0);
  if (known == "") names = Array.concat(names, model);
  return names;
}

function classesOf(model) {
  names = modelField(model, 6);
  if (names == "") return newArray(0);
  return split(names, ",");
}

// What several images of the active one may be slices that were saved as something else, such as "6 time points", or "".
function severalOf(image) {
  if (image == 0) return "";
  getDimensions(width, height, channels, slices, frames);
  if (slices > 1 || bitDepth() == 24) return "";
  if (channels == 1 && frames > 1) return "" + frames + " time points";
  if (channels > 1 && frames == 1) return "" + channels + " channels";
  return "";
}

// Why the active image is no stack that can be segmented, or "".
function refusal(asSlices) {
  if (bitDepth() == 24) return getTitle() + " is a colour image (RGB); expected grey values: Image > Type > 8-bit";
  named = hasClassNames();
  if (named) return getTitle() + " is a result of this tool, no image: click on the stack first, then again";
  getDimensions(width, height, channels, slices, frames);
  several = severalOf(getImageID());
  text = "";
  if (channels > 1) text = "" + channels + " channels";
  if (frames > 1) text = "" + frames + " time points";
  if (text == "" || (several != "" && asSlices == "yes")) return "";
  text = getTitle() + " has " + text + "; expected one volume of slices: keep one of them (Image > Duplicate)";
  if (several != "") text += ", or, if these are slices, say so with 'as_slices=yes', which is a box of the dialog";
  return text;
}

// (z, y, x) in nm of the active image; zeros where it has no voxel size.
function voxelSize() {
  getVoxelSize(width, height, depth, unit);
  factor = 0;
  if (unit == "nm") factor = 1;
  if (unit == "um" || unit == "micron" || unit == "microns" || unit == fromCharCode(181) + "m") factor = 1000;
  if (unit == "mm") factor = 1e6;
  return newArray(depth * factor, height * factor, width * factor);
}

function short(number) {
  text = d2s(number, 2);
  return replace(replace(text, "(\\.\\d*?)0+$", "$1"), "\\.$", "");
}

function describeImage(image) {
  getDimensions(width, height, channels, slices, frames);
  sides = voxelSize();
  text = "The active image is " + getTitle() + ": " + nSlices + " x " + height + " x " + width + " voxels";
  if (sides[1] > 0) text += " of " + short(sides[0]) + " x " + short(sides[1]) + " x " + short(sides[2]) + " nm (z, y, x)";
  wrong = refusal("yes");
  if (wrong != "") text += ".\nIt cannot be segmented: " + wrong;
  text = wrapped(text + "."); // an image may have any name
  return text;
}

// What a model was trained on, how the active image differs from that, what will be done about it, and how long it takes.
function describeModel(image, model) {
  text = "";
  members = modelField(model, 3);
  size = modelField(model, 5);
  wanted = split(size, ",");
  if (members != "") {
    text = model + ": " + members + " nets";
    if (members == "1") text = model + ": one net";
    if (wanted.length == 3) text += ", trained on voxels of " + replace(size, ",", " x ") + " nm (z, y, x).";
  }
  if (image != 0) {
    if (wanted.length == 3) {
      mismatch = describeMismatch(wanted);
      text += "\n" + mismatch;
    }
    rate = parseFloat(recall("rate." + model, "0"));
    getDimensions(width, height, channels, slices, frames);
    if (rate > 0) text += "\nIt takes about " + duration(2 + width * height * nSlices / rate) + ", as fast as the last time.";
    else text += "\nHow long it takes here is not known yet: the first run measures it.";
  }
  text = wrapped(String.trim(text));
  return text;
}

// As `densecell-batch segment --scale auto` decides.
function describeMismatch(wanted) {
  sides = voxelSize();
  if (sides[1] == 0)
    return "The image has no voxel size, and is taken for one like those of the training. If it is not, give it below.";
  z = sides[0] / wanted[0];
  y = sides[1] / wanted[1];
  x = sides[2] / wanted[2];
  text = "";
  if (z > 1.5 || z < 1 / 1.5)
    text = " Its slices are " + short(sides[0]) + " nm thick: look at the labels before use.";
  if (maxOf(z, maxOf(y, x)) > 6 || minOf(z, minOf(y, x)) < 0.01)
    return "The voxel size is too far from that to be true, and nothing is resampled: give the true one below." + text;
  if (maxOf(maxOf(y, 1 / y), maxOf(x, 1 / x)) > 1.1)
    return "The pixels of the image have " + short(y) + " times that size (y), and " + short(x) + " times (x): for the nets"
      + " it is resampled to theirs, and the labels have its own size again. If its voxel size is wrong, give the true one"
      + " below." + text;
  return "The voxel size of the image goes with that." + text;
}

function duration(seconds) {
  if (seconds < 90) return "" + Math.ceil(seconds) + " s";
  if (seconds < 5400) return "" + Math.ceil(seconds / 60) + " min";
  return d2s(seconds / 3600, 1) + " h";
}

function segment(options, folder, interactive) {
  wrong = parse(options,
    "stack out model instances split min_volume rois voxel_size options only as_slices show");
  stack = tidy(option("stack", ""));
  only = option("only", "");
  image = 0;
  if (stack == "" && nImages > 0 && wrong == "") wrong = refusal(option("as_slices", "no"));
  if (wrong == "") wrong = findRunner(folder);
  if (wrong != "") return "failed\t" + wrong;
  if (stack == "" && nImages == 0) return "failed\tno image is open: open a stack, or give one as 'stack'";
  if (stack != "" && !File.exists(stack)) return "failed\t" + stack + ": no such file or folder";
  if (!matches(only, "(slice|selection|slice selection|selection slice)?"))
    return "failed\tonly is '" + only + "'; expected slice, selection, or both";
  if (stack != "" && only != "") return "failed\t'only' is of the active image, and does not go with 'stack'";
  beside = stack;
  if (stack == "") {
    image = getImageID();
    if (indexOf(only, "selection") >= 0 && selectionType() < 0)
      return "failed\t" + getTitle() + " has no selection: draw one around what is to be segmented";
    several = option("as_slices", "no");
    if (only == "" && several != "yes") stack = fileOfImage();
    beside = stack;
    directory = getInfo("image.directory");
    if (only != "" && directory != "") beside = directory + getTitle();
  }
  out = tidy(option("out", ""));
  if (out == "" && beside != "") out = File.getParent(beside) + File.separator + "densecell";
  if (out == "") return "failed\tthe image has no folder of its own: give an output folder as 'out'";
  out = File.getAbsolutePath(out);
  wrong = makeFolder(out);
  if (wrong != "") return "failed\t" + wrong;
  if (stack == "") name = titleAsFileName();
  else name = stackName(stack);
  if (only != "") {
    result = preview(image, only, out, name);
    return result;
  }
  logFile = out + File.separator + name + "_log.txt";
  wrong = canWrite(logFile, "out");
  if (wrong != "") return "failed\t" + wrong;
  copy = "";
  if (stack == "") {
    copy = out + File.separator + "densecell-input-" + d2s(getTime(), 0);
    wrong = makeFolder(copy);
    if (wrong != "") return "failed\t" + wrong;
    stack = copy + File.separator + name + ".tif";
    ourCopy = copy;
    wrong = saveCopy(stack, 1, nSlices);
    if (wrong != "") {
      deleted = File.delete(stack);
      deleted = File.delete(copy);
      return "failed\t" + wrong;
    }
  }
  labels = out + File.separator + stackName(stack) + "_labels.tif";
  work = options + " " + runner + " " + command + " " + target + " " + stamp(stack);
  said = "";
  if (interactive) said = doneBefore(work, labels);
  if (said == "") {
    showStatus("DenseCell: segmenting " + stackName(stack) + " ...");
    said = segmentStacks(newArray(stack), out, logFile);
    keepDone(work, labels, said);
    learnRate(labels, logFile);
  }
  if (copy != "") {
    deleted = File.delete(stack); // a statement of its own would print 1
    deleted = File.delete(copy);
  }
  showStatus("");
  printWarnings(said);
  result = verdict(said, labels, logFile);
  if (startsWith(result, "ok\t")) suggest(labels);
  showing = option("show", "yes");
  if (startsWith(result, "ok") && showing == "yes") {
    if (image != 0) if (!isOpen(image)) image = 0; // closed in the meantime
    shown = showLabels(labels, image, folder);
    if (startsWith(shown, "failed")) result = shown;
  }
  return result;
}

// Segment a slice, or a selection, of the active image, with what the nets have to see around it; lay the labels over the
// image, and keep no file.
function preview(image, only, out, name) {
  low = 1;
  high = nSlices;
  z = getSliceNumber();
  getDimensions(width, height, channels, slices, frames);
  left = 0;
  top = 0;
  w = width;
  h = height;
  if (indexOf(only, "selection") >= 0) {
    getSelectionBounds(x, y, w, h);
    left = maxOf(0, floor(x));
    top = maxOf(0, floor(y));
    w = minOf(width, Math.ceil(x + w)) - left;
    h = minOf(height, Math.ceil(y + h)) - top;
    if (w < 1 || h < 1) return "failed\tthe selection is not on the image";
  }
  first = 1;
  last = nSlices;
  if (indexOf(only, "slice") >= 0) {
    window = split(modelField(option("model", "fly-vnc"), 4), ",");
    around = 8;
    if (window.length == 3) around = parseInt(window[0]) - 1;
    low = maxOf(1, z - around);
    high = minOf(nSlices, z + around);
    first = z;
    last = z;
  }
  place = out + File.separator + "densecell-preview-" + d2s(getTime(), 0);
  wrong = makeFolder(place);
  if (wrong != "") return "failed\t" + wrong;
  stack = place + File.separator + name + ".tif";
  logFile = place + File.separator + name + "_log.txt";
  labels = place + File.separator + name + "_labels.tif";
  ourCopy = place;
  wrong = saveCopy(stack, low, high);
  region = "" + (first - low) + ":" + (last - low + 1) + "," + top + ":" + (top + h) + "," + left + ":" + (left + w);
  List.set("options", "=" + option("options", "") + " --roi " + region + " --no-preview");
  showStatus("DenseCell: a preview of " + name + " ...");
  said = "";
  if (wrong == "") said = segmentStacks(newArray(stack), place, logFile);
  showStatus("");
  printWarnings(said);
  if (wrong == "") result = verdict(said, labels, logFile);
  else result = "failed\t" + wrong;
  if (startsWith(result, "ok\t")) {
    ours = hide();
    wrong = openQuietly(labels);
    title = "Preview of " + name;
    if (wrong == "") {
      if (isOpen(title)) close(title);
      rename(title);
      shown = getImageID();
      if (isOpen(image)) layOver(image, shown, first, left, top);
    }
    if (ours) setBatchMode("exit and display");
    if (isOpen(image)) selectImage(image);
    result = "ok\t" + title;
    if (wrong != "") result = "failed\t" + wrong;
  }
  names = getFileList(place);
  for (i = 0; i < names.length; i++) deleted = File.delete(place + File.separator + names[i]);
  hidden = place + File.separator + ".densecell-tables.json"; // getFileList does not say it
  if (File.exists(hidden)) deleted = File.delete(hidden);
  deleted = File.delete(place);
  return result;
}

// Lay labels over a part of an image, in place of those that were laid there before.
function layOver(image, labels, first, left, top) {
  selectImage(labels);
  title = getTitle();
  depth = nSlices;
  rename("DenseCell-labels");
  selectImage(image);
  slice = getSliceNumber();
  if (Overlay.size > 0) Overlay.removeRois("DenseCell-labels");
  for (z = 1; z <= depth; z++) {
    selectImage(labels);
    if (depth > 1) setSlice(z);
    selectImage(image);
    if (nSlices > 1) setSlice(first + z - 1);
    run("Add Image...", "image=DenseCell-labels x=" + left + " y=" + top + " opacity=" + recall("opacity", "45"));
    if (nSlices > 1) Overlay.setPosition(first + z - 1);
  }
  if (nSlices > 1) setSlice(slice);
  selectImage(labels);
  rename(title);
}

// What tells a file from what it was before.
function stamp(path) {
  if (!File.exists(path)) return "";
  return path + " " + File.length(path) + " " + File.lastModified(path);
}

// What the tool said of the very same work, if that was the last that was done from the dialog, and its results are as
// they were; else "".
function doneBefore(work, labels) {
  report = replace(labels, "_labels\\.tif$", "_report.json");
  if (!File.exists(labels) || !File.exists(report)) return "";
  now = work + " " + stamp(labels) + " " + stamp(report);
  done = recall("done", "");
  if (done != now) return "";
  print(File.getName(labels) + ": was done before, and is shown as it is");
  said = recall("done.said", "");
  return said;
}

function keepDone(work, labels, said) {
  report = replace(labels, "_labels\\.tif$", "_report.json");
  now = work + " " + stamp(labels) + " " + stamp(report);
  if (indexOf(said, "DENSECELL\tok") < 0) now = "";
  remember("done", now);
  remember("done.said", said);
}

// Remember how fast the model is here; a short run, most of which is the start, says less than what is known.
function learnRate(labels, logFile) {
  report = replace(labels, "_labels\\.tif$", "_report.json");
  if (!File.exists(report) || !File.exists(logFile)) return;
  text = call("ij.IJ.openAsString", logFile);
  if (indexOf(text, "was done before") >= 0) return;
  text = call("ij.IJ.openAsString", report);
  rate = parseFloat(replace(text, "(?s).*\"voxels_per_second\": ([0-9.e+]+).*", "$1"));
  total = parseFloat(replace(text, "(?s).*\"total\": ([0-9.e+]+).*", "$1"));
  key = "rate." + option("model", "fly-vnc");
  if (isNaN(rate) || isNaN(total)) return;
  known = recall(key, "");
  if (total < 5 && known != "") return;
  remember(key, "" + rate);
}

// The file that the active image was opened from and still is as, else "".
function fileOfImage() {
  path = pathOfImage();
  if (getInfo("image.filename") != getTitle() || !matches(path, "(?i).*\\.tiff?")) return "";
  changed = differs(path);
  if (changed) return "";
  return path;
}

// Write the active image, or some of its slices, to a file. Saving itself would rename it, and clear the mark that it was
// changed. Channels or time points become slices. Returns what is wrong, or "".
function saveCopy(path, first, last) {
  image = getImageID();
  getDimensions(width, height, channels, slices, frames);
  range = "";
  several = "range";
  if (channels > 1) several = "channels";
  if (frames > 1) several = "frames";
  if (nSlices > 1) range = " " + several + "=" + first + "-" + last;
  hasSelection = selectionType() >= 0;
  if (hasSelection) run("Select None");
  ours = hide();
  run("Duplicate...", "title=densecell-copy duplicate" + range);
  if (channels > 1 || frames > 1) Stack.setDimensions(1, nSlices, 1);
  call("ij.IJ.redirectErrorMessages");
  saveAs("Tiff", path);
  bytes = getWidth() * getHeight() * nSlices * bitDepth() / 8;
  close();
  if (ours) setBatchMode(false);
  selectImage(image);
  if (hasSelection) run("Restore Selection");
  if (lengthOfFile(path) >= bytes) return "";
  return path + " cannot be written: make room, or give another place as 'out'";
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
