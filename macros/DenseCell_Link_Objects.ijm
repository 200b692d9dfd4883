// Link the tables of objects and the ROI Manager: a row that is clicked selects its region there, and the image shows it on
// its slice; a region that is selected selects its row. It goes on beside all other work until the last of these tables
// is closed, or Esc is pressed. DenseCell Objects starts it; start it again after Esc.
//
// Tables are those that densecell-batch writes, NAME_objects.csv; regions, those that it calls "0003-z012 CLASS".

state = linkState();
if (state == "begin" || state == "end") call("ij.plugin.frame.Recorder.disableCommandRecording"); // it is not the user's
if (state == "begin") {
  link();
  setLinkState("end");
  doCommand("DenseCell Link Objects");
  while (state != "") {
    wait(20);
    state = linkState();
  }
} else if (state == "end") { // ImageJ went back from the one above to the macro that started it, from this to what now runs
  setLinkState("");
  wait(500);
} else startLink();

function link() {
  tables = newArray(0);
  rows = newArray(0);
  region = -1;
  nRegions = -1;
  names = "";
  do {
    setLinkState(d2s(getTime(), 0));
    wait(120);
    if (!is("Batch Mode")) { // of another macro: its images are hidden, and so would the ROI Manager be
      found = objectTables();
      if (String.join(found, "\n") != String.join(tables, "\n")) {
        tables = found;
        rows = newArray(tables.length);
        for (i = 0; i < tables.length; i++) rows[i] = selectedRow(tables[i]);
      }
      count = 0;
      if (isOpen("ROI Manager")) count = roiManager("count");
      if (count != nRegions) {
        nRegions = count;
        names = regionNames(count);
        region = selectedRegion(count);
      }
      for (i = 0; i < tables.length; i++) {
        row = selectedRow(tables[i]);
        if (row != rows[i]) {
          rows[i] = row;
          if (row >= 0 && count > 0) region = selectRegionOf(tables[i], row, names, region);
        }
      }
      now = selectedRegion(count);
      if (now != region) {
        region = now;
        if (now >= 0) {
          name = RoiManager.getName(now);
          selectRowOf(name, tables, rows);
        }
      }
    }
    escaped = call("ij.IJ.escapePressed");
  } while ((tables.length > 0 || is("Batch Mode")) && escaped != "true");
}

// Titles of the open tables of objects. A window that is just being opened has no table yet: to ask that would be an error.
function objectTables() {
  titles = getList("window.titles");
  found = newArray(0);
  for (i = 0; i < titles.length; i++) {
    if (endsWith(titles[i], "_objects.csv")) {
      table = "" + call("ij.measure.ResultsTable.getResultsTable", titles[i]);
      if (table != "null") found = Array.concat(found, titles[i]);
    }
  }
  return found;
}

// The one row that is selected, or -1.
function selectedRow(title) {
  if (!isOpen(title)) return -1;
  first = Table.getSelectionStart(title);
  last = Table.getSelectionEnd(title);
  if (first != last) return -1;
  return first;
}

// The one region that is selected, or -1.
function selectedRegion(count) {
  if (count == 0) return -1;
  return roiManager("index");
}

// A line for each region, "NAME<TAB>INDEX": a search in one text is faster than a loop.
function regionNames(count) {
  lines = newArray(count);
  for (i = 0; i < count; i++) lines[i] = RoiManager.getName(i) + "\t" + i;
  return "\n" + String.join(lines, "\n") + "\n";
}

// Select the region of an object, the one in the middle of its slices; returns its index. Objects of other tables have the
// same names: of those that are equally near, the last that lies where the object does.
function selectRegionOf(title, row, names, region) {
  number = "" + Table.get("object", row, title);
  class = Table.getString("class", row, title);
  middle = (Table.get("z_start", row, title) + 1 + Table.get("z_stop", row, title)) / 2;
  indices = newArray(0);
  distances = newArray(0);
  digits = lengthOf(number);
  do {
    start = "\n" + String.pad(number, digits) + "-z";
    at = indexOf(names, start);
    while (at >= 0) {
      fields = split(substring(names, at + 1, indexOf(names, "\n", at + 1)), "\t");
      if (isOfClass(fields[0], class)) {
        indices = Array.concat(indices, parseInt(fields[fields.length - 1]));
        distances = Array.concat(distances, abs(sliceOf(fields[0]) - middle));
      }
      at = indexOf(names, start, at + 1);
    }
    digits++; // as many as the number of all objects has, but at least four
  } while (digits <= 9);
  n = indices.length;
  if (n == 0) return region;
  if (nImages > 0) showOn(objectsImage(title));
  for (i = 0; i < n; i++) distances[i] -= i / (4 * n); // distances are whole or half
  order = Array.rankPositions(distances);
  i = 0;
  do {
    best = indices[order[i]];
    roiManager("select", best);
    name = RoiManager.getName(best);
    there = liesIn(title, row, name);
    i++;
  } while (!there && i < n);
  if (!there) {
    best = indices[order[0]]; // somebody moved it
    roiManager("select", best);
    name = RoiManager.getName(best);
  }
  showStatus(name); // its list does not scroll there
  return best;
}

// The slice of a region that is called as "0003-z012 CLASS".
function sliceOf(name) {
  return parseInt(substring(name, indexOf(name, "-z") + 2, indexOf(name, " ")));
}

// Whether the selection, which is the region of this name, lies within the bounds of an object.
function liesIn(title, row, name) {
  if (nImages == 0) return true;
  if (selectionType() < 0) return true;
  z = sliceOf(name);
  Roi.getBounds(x, y, width, height);
  if (x < Table.get("x_start", row, title) || x + width > Table.get("x_stop", row, title)) return false;
  if (y < Table.get("y_start", row, title) || y + height > Table.get("y_stop", row, title)) return false;
  if (z <= Table.get("z_start", row, title) || z > Table.get("z_stop", row, title)) return false;
  return true;
}

// Whether a region is called after a class, whose name may be cut there, and has "-" for what no name may have.
function isOfClass(name, class) {
  end = String.trim(substring(name, indexOf(name, " ")));
  class = replace(class, "[^ -~]|[/\\\\:*?\"<>|]", "-");
  if (startsWith(class, end)) return true;
  return matches(class, ".*[^ -~].*");
}

// The image that a table belongs to, as DenseCell Objects has it, if it is still open; else the active one.
function objectsImage(title) {
  id = parseInt(call("java.lang.System.getProperty", "densecell.image of " + title, "0"));
  if (id != 0) if (isOpen(id)) return id;
  return getImageID();
}

function showOn(id) {
  if (getImageID() != id) selectImage(id);
}

// Select the row of the object that a region is of: of several tables, the last one where it lies in the object.
function selectRowOf(name, tables, rows) {
  if (!matches(name, "\\d+-z\\d+ .*")) return;
  number = parseInt(substring(name, 0, indexOf(name, "-")));
  best = -1;
  there = false;
  for (i = tables.length - 1; i >= 0 && !there; i--) {
    numbers = Table.getColumn("object", tables[i]);
    classes = Table.getColumn("class", tables[i]);
    for (row = 0; row < numbers.length && !there; row++) {
      if (numbers[row] == number) {
        if (isOfClass(name, classes[row])) {
          there = liesIn(tables[i], row, name);
          if (there || best < 0) {
            best = i;
            found = row;
          }
        }
      }
    }
  }
  if (best < 0) return;
  Table.setSelection(found, found, tables[best]);
  rows[best] = found;
}
