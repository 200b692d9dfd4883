// Volume, surface and number of objects of each class, in the units of the image, as a table and a CSV file.
//
// Volume: voxels of the class times the volume of a voxel. Surface: area of the voxel faces between the class and other
// classes; faces on the border of the stack, and to what is outside (label 255), do not count, for there the object is
// cut, not bounded. Count: different numbers above 0 in NAME_CLASS_instances.tif beside the labels; NaN where there is no
// such file, or the class has other voxels than the report says: then somebody corrected it since. What is outside is no class: where something is, the last row has its voxels and volume.
//
// Options: labels (file NAME_labels.tif; else the active image), csv (else NAME_measurements.csv beside the labels).
// Returns "ok<TAB>CSV" or "failed<TAB>REASON".

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
if (interactive) options = ask();
result = measure(options);
tell(result, interactive);
if (asked) return result;

function ask() {
  Dialog.create("DenseCell Measure");
  labels = recall("labels", ""); // of the last run: after it, its stack is active
  if (!File.exists(labels)) labels = "";
  if (nImages > 0) {
    Dialog.addMessage("The active image is " + getTitle());
    named = hasClassNames();
    if (named) labels = "";
  }
  Dialog.addFile("Labels, if not the active image", labels);
  Dialog.show();
  labels = Dialog.getString();
  text = setting("labels", labels);
  record("DenseCell Measure", text);
  return text;
}

function measure(options) {
  wrong = parse(options, "labels csv");
  if (wrong != "") return "failed\t" + wrong;
  path = option("labels", "");
  if (path == "" && nImages == 0) return "failed\tno image is open: open labels, or give them as 'labels'";
  ours = hide();
  opened = lengthOf(path) > 0;
  if (opened) wrong = openQuietly(path);
  else path = getInfo("image.directory") + getTitle();
  csv = "";
  labels = 0;
  if (wrong == "") {
    labels = getImageID();
    csv = option("csv", replace(path, "(_labels)?\\.tif$", "") + "_measurements.csv");
    if (bitDepth() != 8) wrong = getTitle() + " has " + bitDepth() + " bits; expected labels, which have 8";
    else if (!matches(csv, "(/|\\\\|[A-Za-z]:).*")) wrong = "the labels have no folder of their own: give a file as 'csv'";
    else if (!endsWith(path, "_labels.tif") && !hasClassNames()) wrong = getTitle() + " bears no names of classes, so it "
      + "may be the stack itself; expected NAME_labels.tif, or a copy of it";
    else wrong = canWrite(csv, "csv");
  }
  if (wrong == "") wrong = fillTable(labels, replace(path, "_labels\\.tif$", ""), csv);
  if (opened && labels != 0) {
    selectImage(labels);
    close();
  }
  if (ours) setBatchMode("exit and display");
  if (wrong != "") return "failed\t" + wrong;
  return "ok\t" + csv;
}

function fillTable(labels, stem, csv) {
  selectImage(labels);
  getVoxelSize(width, height, depth, unit);
  unit = replace(unit, fromCharCode(181), "u");
  if (unit == "micron" || unit == "microns") unit = "um";
  names = classNames();
  voxels = newArray(256);
  faces = newArray(3 * 256); // of each class, those across x, across y, across z
  count(labels, voxels, faces);
  title = "DenseCell measurements of " + File.getName(stem);
  digits = 3;
  if (width * height * depth < 0.01) digits = 9;
  saveSettings();
  run("Set Measurements...", "decimal=" + digits); // the columns are made with as many decimal places
  report = "";
  if (File.exists(stem + "_report.json")) report = call("ij.IJ.openAsString", stem + "_report.json");
  corrected = "";
  fresh = !isOpen(title);
  Table.create(title);
  for (i = 0; i < 255; i++) {
    if (i < names.length || voxels[i] > 0) {
      row = Table.size;
      name = "class " + i;
      if (i < names.length) if (names[i] != "") name = names[i];
      Table.set("Index", row, i);
      Table.set("Class", row, name);
      Table.set("Voxels", row, voxels[i]);
      Table.set("Volume", row, voxels[i] * width * height * depth);
      Table.set("Surface", row, faces[i] * height * depth + faces[256 + i] * width * depth + faces[512 + i] * width * height);
      n = objects(stem + "_" + fileName(name) + "_instances.tif");
      same = isAsReported(report, i, voxels[i]);
      if (n > 0 && !same) {
        n = NaN;
        corrected += ", " + name;
      }
      Table.set("Count", row, n);
      Table.set("Unit", row, unit);
    }
  }
  if (voxels[255] > 0) {
    row = Table.size;
    Table.set("Index", row, 255);
    Table.set("Class", row, "outside");
    Table.set("Voxels", row, voxels[255]);
    Table.set("Volume", row, voxels[255] * width * height * depth);
    Table.set("Surface", row, NaN);
    Table.set("Count", row, NaN);
    Table.set("Unit", row, unit);
  }
  Table.update;
  if (corrected != "") print("DenseCell: " + File.getName(stem) + ": corrected since the objects were counted: "
    + substring(corrected, 2) + ". DenseCell Objects counts them as they are now");
  headless = getInfo("java.awt.headless");
  if (fresh && headless != "true") // as ImageJ makes it, it is too narrow for the numbers
    Table.setLocationAndSize(maxOf(0, (screenWidth - 640) / 2), screenHeight / 4, minOf(640, screenWidth), 260);
  text = csvOfTable();
  before = "";
  if (File.exists(csv)) before = call("ij.IJ.openAsString", csv);
  wrong = "";
  if (before != text) wrong = writeText(text, csv, true, "csv"); // ImageJ's own way to save it breaks at quotes
  restoreSettings();
  return wrong;
}

// Whether a class has as many voxels as the report of its run says; true where that cannot be known.
function isAsReported(report, index, voxels) {
  at = indexOf(report, "\"classes\": [");
  if (at >= 0) at = indexOf(report, "\"index\": " + index + ",", at);
  if (at >= 0) at = indexOf(report, "\"voxels\": ", at);
  if (at < 0) return true;
  reported = parseInt(substring(report, at + 10, indexOf(report, ",", at)));
  if (reported == voxels) return true; // ImageJ takes no comparison as a value
  return false;
}

// The table as CSV (RFC 4180), with the digits that it shows.
function csvOfTable() {
  columns = split("Index,Class,Voxels,Volume,Surface,Count,Unit", ",");
  text = String.join(columns, ",") + "\n";
  cells = newArray(columns.length);
  for (row = 0; row < Table.size; row++) {
    for (i = 0; i < columns.length; i++) {
      cell = Table.getString(columns[i], row);
      if (columns[i] == "Class" || columns[i] == "Unit") cell = csvText(cell);
      cells[i] = cell;
    }
    text += String.join(cells, ",") + "\n";
  }
  return text;
}

// Count the voxels of each label, and the faces of each class to other classes across each axis.
function count(labels, voxels, faces) {
  selectImage(labels);
  slice = getSliceNumber();
  hasSelection = selectionType() >= 0;
  width = getWidth();
  height = getHeight();
  depth = nSlices;
  highest = 0; // class so far
  before = 0;
  for (z = 1; z <= depth; z++) {
    showProgress(z, depth);
    selectImage(labels);
    setSlice(z);
    if (hasSelection) run("Select None");
    run("Duplicate...", "title=densecell-slice");
    here = getImageID();
    if (hasSelection) {
      selectImage(labels);
      run("Restore Selection"); // of the last one that was dropped: before we make others
      selectImage(here);
    }
    run("Grays"); // an image with a colour table is not converted to 16 bits
    run("16-bit");
    getHistogram(values, counts, 65536);
    for (i = 0; i < 256; i++) {
      voxels[i] += counts[i];
      if (counts[i] > 0 && i < 255) highest = maxOf(highest, i);
    }
    if (width > 1) meet(here, 0, 0, here, 1, 0, width - 1, height, highest, faces, 0);
    if (height > 1) meet(here, 0, 0, here, 0, 1, width, height - 1, highest, faces, 256);
    if (before != 0) {
      meet(before, 0, 0, here, 0, 0, width, height, highest, faces, 512);
      selectImage(before);
      close();
    }
    before = here;
  }
  selectImage(before);
  close();
  selectImage(labels);
  setSlice(slice);
}

// Add the faces at which two classes meet: the voxels of a rectangle of `a` lie beside those of a rectangle of `b`. The
// histogram of 256 a + b counts all pairs of classes at once.
function meet(a, ax, ay, b, bx, by, width, height, highest, faces, first) {
  selectImage(a);
  makeRectangle(ax, ay, width, height);
  run("Duplicate...", "title=densecell-a");
  pairs = getImageID();
  run("Multiply...", "value=256");
  selectImage(b);
  makeRectangle(bx, by, width, height);
  run("Duplicate...", "title=densecell-b");
  other = getImageID();
  imageCalculator("Add", pairs, other);
  selectImage(other);
  close();
  selectImage(pairs);
  getHistogram(values, counts, 65536);
  close();
  for (i = 0; i <= highest; i++) {
    for (j = 0; j <= highest; j++) {
      if (i != j) {
        faces[first + i] += counts[256 * i + j];
        faces[first + j] += counts[256 * i + j];
      }
    }
  }
}

// How many different numbers above 0 a file of instances has; NaN where there is no such file.
function objects(path) {
  if (!File.exists(path)) return NaN;
  wrong = openQuietly(path);
  if (wrong != "") return NaN;
  nValues = pow(2, bitDepth());
  found = 0;
  if (nValues > 65536) found = NaN; // floating point: too many for a file of integers that ImageJ opens
  else {
    there = newArray(nValues);
    for (z = 1; z <= nSlices; z++) {
      setSlice(z);
      getHistogram(values, counts, nValues);
      for (i = 1; i < nValues; i++) if (counts[i] > 0) there[i] = 1;
    }
    for (i = 1; i < nValues; i++) found += there[i];
  }
  close();
  return found;
}
