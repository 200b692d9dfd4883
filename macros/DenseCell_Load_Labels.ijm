// Open the labels of a finished run: over the image that they belong to, with colours, legend and names of the classes.
//
// Options: labels (file NAME_labels.tif), image (title or number of an open image, or none; else the active image, if it
// has the size of the labels), opacity (of the overlay, percent), legend (yes or no).
// Returns "ok<TAB>LABELS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
if (interactive) options = ask();
result = load(options);
tell(result, interactive);
if (asked) return result;

function ask() {
  images = imageChoices();
  Dialog.create("DenseCell Load Labels");
  Dialog.addFile("Labels", recall("labels", ""));
  Dialog.addChoice("Image to show them over", images, images[0]);
  Dialog.addNumber("Opacity of the overlay, percent", parseFloat(recall("opacity", "45")), 0, 4, "");
  Dialog.addCheckbox("Legend", true);
  Dialog.show();
  labels = Dialog.getString();
  image = Dialog.getChoice();
  opacity = Dialog.getNumber();
  legend = "no";
  if (Dialog.getCheckbox()) legend = "yes";
  remember("labels", labels);
  remember("opacity", "" + opacity);
  text = "" + setting("labels", labels) + setting("image", image) + "opacity=" + opacity + " legend=" + legend;
  record("DenseCell Load Labels", text);
  return text;
}

function load(options) {
  wrong = parse(options, "labels image opacity legend");
  if (wrong != "") return "failed\t" + wrong;
  opacity = parseFloat(option("opacity", "45"));
  if (!(opacity >= 0 && opacity <= 100)) return "failed\topacity is '" + option("opacity", "") + "'; expected 0 to 100";
  image = option("image", "");
  base = 0;
  if (image != "none" && image != "") {
    if (!isOpen(image) && !isNumber(image)) return "failed\tno image '" + image + "' is open";
    if (isNumber(image)) {
      if (!isOpen(parseInt(image))) return "failed\tno image '" + image + "' is open";
      selectImage(parseInt(image));
    } else selectImage(image);
    base = getImageID();
  }
  if (image == "" && nImages > 0) base = getImageID();
  ours = hide();
  wrong = openQuietly(option("labels", ""));
  if (wrong == "") {
    if (bitDepth() != 8) {
      wrong = getTitle() + " has " + bitDepth() + " bits; expected the labels of a run, NAME_labels.tif, which have 8";
      close();
    }
  }
  if (wrong == "") {
    labels = getImageID();
    names = classNames();
    legend = option("legend", "yes");
    if (legend == "yes") drawLegend(labels, names);
    if (base != 0) wrong = overlay(base, labels, opacity, lengthOf(image));
  }
  if (ours) setBatchMode("exit and display");
  if (base != 0) selectImage(base);
  if (wrong != "") return "failed\t" + wrong;
  return "ok\t" + option("labels", "");
}

function isNumber(text) {
  return matches(text, "-?\\d+");
}

// Lay the labels over the image, slice by slice, in place of those that were laid there before.
function overlay(base, labels, opacity, named) {
  selectImage(labels);
  size = dimensions();
  title = getTitle();
  selectImage(base);
  here = dimensions();
  if (size != here) {
    wrong = getTitle() + " is " + here + " voxels, the labels are " + size + ": they belong to another image";
    if (named == 0) wrong = ""; // nobody said that they belong together
    return wrong;
  }
  slice = getSliceNumber();
  if (Overlay.size > 0) Overlay.removeRois("DenseCell-labels");
  before = Overlay.size;
  selectImage(labels);
  rename("DenseCell-labels");
  depth = nSlices;
  // Where nothing is outside, which is to be seen through, a slice of the labels is laid there as it is: it takes no
  // memory. With something, it takes four bytes a voxel; where that is not there, what is outside is dark.
  bytes = 4 * getWidth() * getHeight();
  room = freeMemory() / 2;
  dark = 0;
  for (z = 1; z <= depth; z++) {
    selectImage(labels);
    setSlice(z);
    getRawStatistics(n, mean, least, highest);
    through = "";
    if (highest == 255) {
      room -= bytes;
      if (room >= 0) through = " zero";
      else dark++;
    }
    selectImage(base);
    run("Add Image...", "image=DenseCell-labels x=0 y=0 opacity=" + opacity + through);
    Overlay.setPosition(z);
  }
  added = Overlay.size - before;
  selectImage(labels);
  rename(title);
  setSlice(slice);
  if (added != depth)
    return "the overlay has " + added + " of " + depth + " slices, for ImageJ's memory is small: give it more in Edit > "
      + "Options > Memory & Threads, or look at the labels on their own, with 'image=none'";
  if (dark > 0) print("DenseCell: in " + dark + " slices of the overlay what is outside is dark, for ImageJ's memory is small");
  return "";
}

// Bytes that ImageJ may still take.
function freeMemory() {
  call("java.lang.System.gc");
  return parseFloat(call("ij.IJ.maxMemory")) - parseFloat(call("ij.IJ.currentMemory"));
}

function dimensions() {
  getDimensions(width, height, channels, slices, frames);
  return "" + width + " x " + height + " x " + nSlices;
}

// Whether voxels of the active label image are outside, which is no class.
function hasOutside() {
  hasSelection = selectionType() >= 0;
  if (hasSelection) run("Select None");
  Stack.getStatistics(n, mean, least, highest);
  if (hasSelection) run("Restore Selection");
  if (highest == 255) return true;
  return false;
}

// A small image with the colour and name of each class, and of what is outside where something is.
function drawLegend(labels, names) {
  selectImage(labels);
  outside = hasOutside();
  if (outside) names = Array.concat(names, newArray("outside"));
  title = "Legend of " + getTitle();
  getLut(reds, greens, blues);
  if (isOpen(title)) close(title);
  line = 22;
  newImage(title, "RGB white", 40, 40, 1);
  setFont("SansSerif", 14, "antialiased");
  width = 0;
  for (i = 0; i < names.length; i++) width = maxOf(width, getStringWidth(names[i]));
  close();
  newImage(title, "RGB white", width + 44, line * names.length + 8, 1);
  setFont("SansSerif", 14, "antialiased");
  for (i = 0; i < names.length; i++) {
    value = i;
    if (outside && i == names.length - 1) value = 255;
    setColor(reds[value], greens[value], blues[value]);
    fillRect(8, 8 + i * line, 20, line - 8);
    setColor(0, 0, 0);
    drawString(names[i], 36, 6 + (i + 1) * line - 4);
  }
  setOption("Changes", false);
}
