// Change how labels that are open lie over their stack: classes on and off, opacity, outlines, uncertainty beside it.
// Nothing is loaded again.
//
// Options: image (title of the stack; else the active image), labels (title of the open labels; else those that lie over it),
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
  base = getImageID();
  number = labelsFor(base);
  if (!startsWith(number, "-")) return "failed\t" + number;
  getDimensions(width, height, channels, slices, frames);
  selectImage(parseInt(number));
  labels = getTitle();
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
  if (image != "" && image != getTitle()) selectImage(image); // of several of this title, the active one
  base = getImageID();
  number = labelsFor(base);
  labels = option("labels", "");
  if (labels == "" && !startsWith(number, "-")) return "failed\t" + number;
  if (labels != "" && !isOpen(labels)) return "failed\tno image '" + labels + "' is open";
  asSlices = option("as_slices", "no");
  if (asSlices == "yes") takeAsSlices();
  if (startsWith(number, "-")) selectImage(parseInt(number));
  if (labels != "" && labels != getTitle()) selectImage(labels);
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

// Number, which is below 0, of the open labels of an image: those that were laid over it last, else those of its name, else
// the only ones of its size; or why there are none.
function labelsFor(base) {
  selectImage(base);
  getDimensions(width, height, channels, slices, frames);
  depth = nSlices;
  title = getTitle();
  name = titleAsFileName();
  name += "_labels.tif";
  laid = call("java.lang.System.getProperty", "densecell.laid over " + base, "");
  found = "";
  best = 0;
  several = false;
  ours = hide();
  for (i = 1; i <= nImages; i++) {
    selectImage(i);
    if (getImageID() != base && bitDepth() == 8 && nSlices == depth && getWidth() == width && getHeight() == height) {
      here = "" + getImageID();
      rank = 0;
      if (hasClassNames()) rank = 1;
      if (rank == 1 && getTitle() == name) rank = 2;
      if (here == laid) rank = 3;
      if (rank == 1 && best == 1) several = true;
      if (rank > best) {
        best = rank;
        found = here;
      }
    }
  }
  selectImage(base);
  if (ours) setBatchMode(false);
  if (best == 0) return "no labels of the size of " + title + " are open: DenseCell Load Labels opens them";
  if (best == 1 && several)
    return "several labels of the size of " + title + " are open: DenseCell Load Labels lays those over it that are its own";
  return found;
}
