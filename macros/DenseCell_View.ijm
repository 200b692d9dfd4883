// Change how labels that are open lie over their stack: classes on and off, opacity, outlines, uncertainty beside it.
// Nothing is loaded again.
//
// Options: image (title of the stack; else the active image), labels (title of the open labels; else those of its size),
// opacity (percent), classes (separated by commas, or none; else all), style (fill or outlines), uncertainty (yes or no),
// as_slices (yes: time points or channels of the stack are slices).
// Returns "ok<TAB>LABELS" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
folder = home();
if (interactive) options = ask();
result = "";
if (startsWith(options, "failed\t")) result = options;
else result = view(options, folder);
tell(result, interactive);
if (asked) return result;

function ask() {
  if (nImages == 0) return "failed\tno image is open: open a stack and its labels";
  image = getTitle();
  labels = labelsFor(getImageID());
  if (labels == "") return "failed\tno labels of the size of " + image + " are open: DenseCell Load Labels opens them";
  getDimensions(width, height, channels, slices, frames);
  base = getImageID();
  selectImage(labels);
  names = classNames();
  selectImage(base);
  for (i = 0; i < names.length; i++) if (names[i] == "") names[i] = "class " + i;
  on = newArray(names.length);
  Array.fill(on, 1);
  Dialog.create("DenseCell View");
  Dialog.addMessage(labels + " over " + image);
  Dialog.addSlider("Opacity, percent", 0, 100, parseFloat(recall("opacity", "45")));
  Dialog.addChoice("Style", newArray("fill", "outlines"), recall("style", "fill"));
  Dialog.addCheckboxGroup(names.length, 1, names, on);
  Dialog.addCheckbox("Uncertainty beside it", false);
  flat = false;
  if (slices == 1) flat = channels * frames > 1;
  Dialog.addCheckbox("Time points or channels are slices", flat);
  Dialog.show();
  opacity = Dialog.getNumber();
  style = Dialog.getChoice();
  classes = "";
  count = 0;
  for (i = 0; i < names.length; i++) {
    if (Dialog.getCheckbox()) {
      count++;
      if (classes != "") classes = classes + ",";
      classes = classes + names[i];
    }
  }
  if (count == names.length) classes = "";
  if (count == 0) classes = "none";
  doubts = "no";
  if (Dialog.getCheckbox()) doubts = "yes";
  asSlices = "no";
  if (Dialog.getCheckbox()) asSlices = "yes";
  remember("opacity", "" + opacity);
  remember("style", style);
  text = "" + setting("image", image) + setting("labels", labels) + setting("classes", classes) + "opacity=" + opacity
    + " style=" + style + " uncertainty=" + doubts + " as_slices=" + asSlices;
  record("DenseCell View", text);
  return text;
}

function view(options, folder) {
  wrong = parse(options, "image labels opacity classes style uncertainty as_slices");
  if (wrong != "") return "failed\t" + wrong;
  image = option("image", "");
  if (image != "" && !isOpen(image)) return "failed\tno image '" + image + "' is open";
  if (nImages == 0) return "failed\tno image is open: open a stack and its labels";
  if (image != "") selectImage(image);
  base = getImageID();
  labels = option("labels", "");
  if (labels == "") labels = labelsFor(base);
  if (labels == "") return "failed\tno labels of the size of " + getTitle() + " are open: DenseCell Load Labels opens them";
  if (!isOpen(labels)) return "failed\tno image '" + labels + "' is open";
  asSlices = option("as_slices", "no");
  if (asSlices == "yes") takeAsSlices();
  selectImage(labels);
  path = getInfo("image.directory") + getInfo("image.filename");
  selectImage(base);
  opacity = option("opacity", "45");
  style = option("style", "fill");
  doubts = option("uncertainty", "no");
  classes = option("classes", "");
  text = "" + setting("labels", path) + setting("classes", classes) + "image=" + base + " opacity=" + opacity + " style=" + style
    + " uncertainty=" + doubts;
  if (refused != "") return "failed\t" + refused;
  return runMacro(folder + "DenseCell_Load_Labels.ijm", text);
}

// Title of the open labels that have the size of an image, or "".
function labelsFor(base) {
  selectImage(base);
  getDimensions(width, height, channels, slices, frames);
  depth = nSlices;
  found = "";
  ours = hide();
  for (i = 1; i <= nImages && found == ""; i++) {
    selectImage(i);
    if (getImageID() != base && bitDepth() == 8 && nSlices == depth && getWidth() == width && getHeight() == height)
      if (hasClassNames()) found = getTitle();
  }
  selectImage(base);
  if (ours) setBatchMode(false);
  return found;
}
