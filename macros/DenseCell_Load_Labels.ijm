// Open the labels of a finished run: over the image that they belong to, with colours, legend and names of the classes.
//
// Options: labels (file NAME_labels.tif), image (title or number of an open image, or none; else the active image, if it
// has the size of the labels), opacity (of the overlay, percent), legend (yes or no), classes (those that the overlay shows,
// separated by commas, or none; else all), style (fill or outlines), uncertainty (yes: NAME_uncertainty.tif, too). Windows
// that are open already are used again.
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
  wrong = parse(options, "labels image opacity legend classes style uncertainty");
  if (wrong != "") return "failed\t" + wrong;
  opacity = parseFloat(option("opacity", "45"));
  if (!(opacity >= 0 && opacity <= 100)) return "failed\topacity is '" + option("opacity", "") + "'; expected 0 to 100";
  style = option("style", "fill");
  if (style != "fill" && style != "outlines") return "failed\tstyle is '" + style + "'; expected fill or outlines";
  path = option("labels", "");
  image = option("image", "");
  base = 0;
  if (image != "none" && image != "") {
    if (!isOpen(image) && !isNumber(image)) return "failed\tno image '" + image + "' is open";
    if (isNumber(image)) {
      if (!isOpen(parseInt(image))) return "failed\tno image '" + image + "' is open";
      selectImage(parseInt(image));
    } else if (nImages == 0 || image != getTitle()) selectImage(image); // of several of this title, the active one
    base = getImageID();
  }
  if (image == "" && nImages > 0) base = getImageID();
  labels = 0;
  ours = hide();
  wrong = openOnce(path);
  if (wrong == "") {
    if (bitDepth() != 8) {
      wrong = getTitle() + " has " + bitDepth() + " bits; expected the labels of a run, NAME_labels.tif, which have 8";
      close();
    }
  }
  if (wrong == "") {
    labels = getImageID();
    names = classNames();
    shown = newArray(256);
    wrong = chooseClasses(names, shown);
    legend = option("legend", "yes");
    if (legend == "yes" && wrong == "") drawLegend(labels, names);
    if (base != 0 && wrong == "") wrong = overlay(base, labels, opacity, lengthOf(image), shown, style);
    if (base != 0 && wrong == "") before = call("java.lang.System.setProperty", "densecell.laid over " + base, "" + labels);
  }
  doubts = option("uncertainty", "no");
  if (wrong == "" && doubts == "yes") wrong = showUncertainty(replace(path, "_labels\\.tif$", "_uncertainty.tif"));
  if (ours) {
    setBatchMode("exit and display");
    if (labels != 0) arrange(base, labels);
  }
  if (base != 0) selectImage(base);
  if (wrong != "") return "failed\t" + wrong;
  return "ok\t" + option("labels", "");
}

function isNumber(text) {
  return matches(text, "-?\\d+");
}

// Open a file unless it is open as it is on disk; returns what is wrong, or "".
function openOnce(path) {
  if (path == "") return "no labels: give the file NAME_labels.tif as 'labels'";
  path = File.getAbsolutePath(path);
  written = "gone";
  if (File.exists(path)) written = "" + d2s(File.lastModified(path), 0);
  for (i = 1; i <= nImages; i++) {
    selectImage(i);
    here = getInfo("image.directory") + getInfo("image.filename");
    if (here == path) {
      read = call("java.lang.System.getProperty", "densecell.read." + getImageID(), written);
      if (is("changes") || read == written || written == "gone") return "";
      close();
      i = nImages;
    }
  }
  wrong = openQuietly(path);
  if (wrong == "") before = call("java.lang.System.setProperty", "densecell.read." + getImageID(), written);
  return wrong;
}

// Mark the classes that are to be seen; returns what is wrong, or "".
function chooseClasses(names, shown) {
  wanted = option("classes", "");
  if (wanted == "") Array.fill(shown, 1);
  shown[255] = 0;
  if (wanted == "" || wanted == "none") return "";
  wanted = split(wanted, ",");
  for (i = 0; i < wanted.length; i++) {
    found = false;
    for (k = 0; k < names.length; k++) {
      if (names[k] == String.trim(wanted[i])) {
        shown[k] = 1;
        found = true;
      }
    }
    if (!found) return "there is no class '" + String.trim(wanted[i]) + "'; expected some of " + String.join(names, ", ");
  }
  return "";
}

// Show how sure the nets were, in the colours of fire; returns what is wrong, or "".
function showUncertainty(path) {
  if (!File.exists(path)) return path + ": no such file; Segment writes it with options=[--uncertainty]";
  wrong = openOnce(path);
  if (wrong == "") {
    run("Fire");
    Stack.getStatistics(n, mean, least, highest);
    setMinAndMax(0, maxOf(highest, 0.001));
  }
  return wrong;
}

// Put the labels, their legend and the uncertainty beside the image, as far as the screen is wide.
function arrange(base, labels) {
  selectImage(labels);
  title = getTitle();
  titles = newArray(title, replace(title, "_labels\\.tif$", "_uncertainty.tif"), "Legend of " + title);
  x = 0;
  if (base != 0) {
    selectImage(base);
    getLocationAndSize(x, y, width, height);
    x += width + 8;
  }
  for (i = 0; i < titles.length; i++) {
    if (isOpen(titles[i])) {
      place = call("java.lang.System.getProperty", "densecell.placed " + titles[i], "");
      selectImage(titles[i]);
      here = "" + getImageID();
      if (base == 0 && x == 0) getLocationAndSize(x, y, width, height);
      getLocationAndSize(nowX, nowY, width, height);
      if (place != here || i == 2) { // one that was there may have been moved by the user
        setLocation(minOf(x, maxOf(0, screenWidth - width)), y);
        place = call("java.lang.System.setProperty", "densecell.placed " + titles[i], here);
      } else x = nowX;
      x += width + 8;
    }
  }
}

// Lay the labels over the image, slice by slice, in place of those that were laid there before.
function overlay(base, labels, opacity, named, shown, style) {
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
  if (style == "outlines") {
    addOutlines(base, labels, shown);
    return "";
  }
  hidden = newArray(0); // labels of the classes that are not to be seen
  for (i = 0; i < 255; i++) if (shown[i] == 0) hidden = Array.concat(hidden, i);
  if (hidden.length == 255) return "";
  selectImage(labels);
  if (hidden.length == 0) rename("DenseCell-labels");
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
    if (hidden.length > 0) {
      run("Duplicate...", "title=DenseCell-labels");
      for (i = 0; i < hidden.length; i++) if (hidden[i] <= highest) changeValues(hidden[i], hidden[i], 255);
      highest = 255;
    }
    if (highest == 255) {
      room -= bytes;
      if (room >= 0) through = " zero";
      else dark++;
    }
    selectImage(base);
    run("Add Image...", "image=DenseCell-labels x=0 y=0 opacity=" + opacity + through);
    Overlay.setPosition(z);
    if (hidden.length > 0) close("DenseCell-labels");
  }
  added = Overlay.size - before;
  selectImage(labels);
  rename(title);
  setSlice(slice);
  selectImage(base);
  setSlice(slice);
  if (added != depth)
    return "the overlay has " + added + " of " + depth + " slices, for ImageJ's memory is small: give it more in Edit > "
      + "Options > Memory & Threads, or look at the labels on their own, with 'image=none'";
  if (dark > 0) print("DenseCell: in " + dark + " slices of the overlay what is outside is dark, for ImageJ's memory is small");
  return "";
}

// Draw around the classes instead, a region for each class and slice.
function addOutlines(base, labels, shown) {
  selectImage(base);
  slice = getSliceNumber();
  kept = -1;
  if (selectionType() >= 0) { // Restore Selection would forget it
    Overlay.addSelection;
    kept = Overlay.size - 1;
  }
  selectImage(labels);
  getLut(reds, greens, blues);
  depth = nSlices;
  for (z = 1; z <= depth; z++) {
    showProgress(z, depth);
    selectImage(labels);
    setSlice(z);
    run("Select None");
    getHistogram(values, counts, 256);
    for (i = 0; i < 255; i++) {
      if (counts[i] > 0 && shown[i] == 1) {
        selectImage(labels);
        setThreshold(i, i, "no-update");
        run("Create Selection");
        resetThreshold();
        run("Select None");
        selectImage(base);
        setSlice(z);
        run("Restore Selection");
        Roi.setName("DenseCell-labels");
        Overlay.addSelection("#" + String.pad(toHex(reds[i]), 2) + String.pad(toHex(greens[i]), 2) + String.pad(toHex(blues[i]), 2));
        Overlay.setPosition(z);
        run("Select None");
      }
    }
  }
  selectImage(labels);
  setSlice(slice);
  selectImage(base);
  setSlice(slice);
  if (kept >= 0) {
    Overlay.activateSelection(kept);
    Overlay.removeSelection(kept);
  }
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
