// Put the instances of a class into the ROI Manager: a region for each object and slice, named "CLASS NUMBER z SLICE".
//
// Options: instances (file NAME_CLASS_instances.tif, or another one with 'class'; else the active image), class (else as in
// the file's name), zip (file to save the regions to; else NAME_CLASS_rois.zip beside the instances), image (title of an open image that
// the regions are shown on, each on its slice). What the ROI Manager holds already stays.
// Returns "ok<TAB>ZIP<TAB>NUMBER OF REGIONS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
if (interactive) options = ask();
result = toRois(options);
tell(result, interactive);
if (asked) return result;

function ask() {
  instances = recall("instances.file", "");
  images = imageChoices();
  Dialog.create("DenseCell Labels To ROIs");
  Dialog.addFile("Instances of a class", instances);
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

function toRois(options) {
  wrong = parse(options, "instances class zip image");
  if (wrong != "") return "failed\t" + wrong;
  path = option("instances", "");
  image = option("image", "none");
  if (image != "none" && !isOpen(image)) return "failed\tno image '" + image + "' is open";
  if (path == "" && nImages == 0)
    return "failed\tno instances: give NAME_CLASS_instances.tif, which DenseCell Segment makes with instances=CLASS";
  if (!is("Batch Mode")) run("ROI Manager..."); // else it would be a hidden one, for the time of the batch mode
  ours = hide();
  opened = lengthOf(path) > 0;
  if (opened) wrong = openQuietly(path);
  else path = getInfo("image.directory") + getTitle();
  instances = 0;
  if (wrong == "") {
    instances = getImageID();
    named = matches(File.getName(path), ".*_.+_instances\\.tif");
    name = option("class", "");
    if ((!named && name == "") || (bitDepth() != 8 && bitDepth() != 16))
      wrong = File.getName(path) + " is no file of instances; expected NAME_CLASS_instances.tif with at most 65535 "
        + "objects, which DenseCell Segment makes with instances=CLASS, or the class as 'class'";
  }
  nRegions = 0;
  if (wrong == "") {
    if (named) stem = substring(path, 0, lastIndexOf(path, "_instances.tif"));
    else stem = replace(path, "(?i)\\.tiff?$", "");
    zip = option("zip", stem + "_rois.zip");
    if (name == "") name = classOf(stem);
    if (!endsWith(zip, ".zip")) wrong = zip + ": expected the name of a .zip file";
    else wrong = canWrite(zip, "zip");
  }
  if (wrong == "") {
    nBefore = roiManager("count");
    nRegions = addRegions(instances, name, classColour(stem, name));
    saveRegions(zip, nBefore, nRegions);
  }
  if (opened && instances != 0) {
    selectImage(instances);
    close();
  }
  if (ours) setBatchMode("exit and display");
  if (wrong != "") return "failed\t" + wrong;
  if (image != "none") {
    selectImage(image);
    roiManager("associate", "true"); // each region on its slice only: else all are drawn over each other
    roiManager("Show All without labels");
  }
  return "ok\t" + zip + "\t" + nRegions;
}

// The class in NAME_CLASS: both may have a "_", but NAME_labels.tif is there, unless it was moved.
function classOf(stem) {
  at = lastIndexOf(stem, File.separator);
  do {
    at = indexOf(stem, "_", at + 1);
    if (at >= 0) found = File.exists(substring(stem, 0, at) + "_labels.tif");
    else found = true;
  } while (!found);
  if (at < 0) at = lastIndexOf(stem, "_");
  return substring(stem, at + 1);
}

// Add a region for each object in each slice; returns their number.
function addRegions(instances, name, colour) {
  selectImage(instances);
  slice = getSliceNumber();
  run("Select None");
  nRegions = 0;
  nValues = pow(2, bitDepth());
  left = newArray(nValues);
  right = newArray(nValues);
  top = newArray(nValues);
  bottom = newArray(nValues);
  for (z = 1; z <= nSlices; z++) {
    showProgress(z, nSlices);
    setSlice(z);
    getHistogram(values, counts, nValues);
    findBoxes(left, right, top, bottom);
    for (number = 1; number < nValues; number++) {
      if (counts[number] > 0) {
        // In its box alone: a selection is made from all pixels of an image.
        makeRectangle(left[number], top[number], right[number] - left[number] + 1, bottom[number] - top[number] + 1);
        run("Duplicate...", "title=densecell-object");
        setThreshold(number, number, "no-update");
        run("Create Selection");
        Roi.move(left[number], top[number]);
        Roi.setName(name + " " + number + " z " + z);
        Roi.setStrokeColor(colour);
        Roi.setPosition(z);
        roiManager("add");
        close();
        selectImage(instances);
        nRegions++;
      }
    }
    run("Select None");
  }
  setSlice(slice);
  return nRegions;
}

// The box of each number of the slice, in one pass over its pixels.
function findBoxes(left, right, top, bottom) {
  width = getWidth();
  height = getHeight();
  Array.fill(left, width);
  Array.fill(right, -1);
  Array.fill(top, height);
  Array.fill(bottom, -1);
  for (y = 0; y < height; y++) {
    for (x = 0; x < width; x++) {
      number = getPixel(x, y);
      if (number > 0) {
        if (x < left[number]) left[number] = x;
        if (x > right[number]) right[number] = x;
        if (y < top[number]) top[number] = y;
        bottom[number] = y;
      }
    }
  }
}

// Save the regions that were added to a zip file; none where there are no objects.
function saveRegions(zip, nBefore, nRegions) {
  keepEarlier(zip);
  if (nRegions == 0) return;
  added = newArray(nRegions);
  for (i = 0; i < nRegions; i++) added[i] = nBefore + i;
  roiManager("select", added);
  roiManager("save selected", zip);
  roiManager("deselect");
}

// Colour of the class in the labels that lie beside its instances, as "#rrggbb"; yellow where there are none.
function classColour(stem, name) {
  labels = substring(stem, 0, maxOf(0, lengthOf(stem) - lengthOf(name) - 1)) + "_labels.tif";
  colour = "yellow";
  if (File.exists(labels)) {
    image = getImageID();
    wrong = openQuietly(labels);
    if (wrong == "") {
      names = classNames();
      getLut(reds, greens, blues);
      for (i = 0; i < names.length; i++) {
        className = fileName(names[i]);
        if (className == name)
          colour = "#" + String.pad(toHex(reds[i]), 2) + String.pad(toHex(greens[i]), 2) + String.pad(toHex(blues[i]), 2);
      }
      close();
    }
    selectImage(image);
  }
  return colour;
}
