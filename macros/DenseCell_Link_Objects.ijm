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
  list = "";
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
        list = regionList();
        region = selectedRegion(count);
      }
      for (i = 0; i < tables.length; i++) {
        row = selectedRow(tables[i]);
        if (row != rows[i]) {
          rows[i] = row;
          if (row >= 0 && count > 0) region = selectRegionOf(i, row, tables, list, region);
        }
      }
      now = selectedRegion(count);
      if (now != region) {
        region = now;
        if (now >= 0) {
          name = RoiManager.getName(now);
          selectRowOf(name, now, tables, rows, list);
        }
      }
    }
    escaped = call("ij.IJ.escapePressed");
  } while ((tables.length > 0 || is("Batch Mode")) && escaped != "true");
}

// Titles of the open tables of objects. A window that is just being opened holds no table yet, and somebody else's table of
// such a name has other columns: to ask for what is not there would end us with a window that waits.
function objectTables() {
  titles = objectTitles();
  found = newArray(0);
  for (i = 0; i < titles.length; i++) {
    columns = ",";
    table = "" + call("ij.measure.ResultsTable.getResultsTable", titles[i]);
    if (table != "null") columns = "," + replace(Table.headings(titles[i]), "\t", ",") + ",";
    if (matches(columns, ".*,class,object,.*,z_start,z_stop,.*")) found = Array.concat(found, titles[i]);
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

// Which table the regions came with: its number at the index of each, or -1.
function owners(tables, list) {
  owner = newArray(countLines(list));
  Array.fill(owner, -1);
  for (i = 0; i < tables.length; i++) {
    first = firstRegionOf(tables[i], list);
    kept = keptRegions(tables[i]);
    n = countLines(kept);
    if (first >= 0) for (k = first; k < first + n; k++) owner[k] = i;
  }
  return owner;
}

// Select the region of an object, the one in the middle of its slices; returns its index. Stacks may have objects of the
// same numbers: of regions that came with the table, it is one of these, else one that came with no other.
function selectRegionOf(table, row, tables, list, region) {
  title = tables[table];
  owner = owners(tables, list);
  ours = -1;
  for (i = 0; i < owner.length; i++) if (owner[i] == table) ours = table;
  number = "" + Table.get("object", row, title);
  class = Table.getString("class", row, title);
  middle = (Table.get("z_start", row, title) + 1 + Table.get("z_stop", row, title)) / 2;
  best = -1;
  nearest = 1e9;
  digits = lengthOf(number);
  do {
    start = "\n" + String.pad(number, digits) + "-z";
    at = indexOf(list, start);
    while (at >= 0) {
      name = substring(list, at + 1, indexOf(list, "\n", at + 1));
      distance = abs(parseInt(substring(name, digits + 2, indexOf(name, " "))) - middle);
      if (isOfClass(name, class) && distance <= nearest) {
        index = countLines(substring(list, 0, at + 1));
        if (owner[index] == ours) {
          nearest = distance;
          best = index;
        }
      }
      at = indexOf(list, start, at + 1);
    }
    digits++; // as many as the number of all objects has, but at least four
  } while (digits <= 9);
  if (best < 0) return region;
  if (nImages > 0) showOn(objectsImage(title));
  roiManager("select", best);
  showStatus(RoiManager.getName(best)); // its list does not scroll there
  return best;
}

// Whether a region is called after a class, whose name may be cut there, and has "-" for what no name may have.
function isOfClass(name, class) {
  end = String.trim(substring(name, indexOf(name, " ")));
  class = replace(class, "[^ -~]|[/\\\\:*?\"<>|]", "-");
  if (startsWith(class, end)) return true;
  return matches(class, ".*[^ -~].*");
}

// The image that the regions of a table belong to, as DenseCell Objects has it, if it is still open; else the active one.
function objectsImage(title) {
  id = parseInt(call("java.lang.System.getProperty", "densecell.image of " + title, "0"));
  if (id != 0) if (isOpen(id)) return id;
  return getImageID();
}

function showOn(id) {
  if (getImageID() != id) selectImage(id);
}

// Select the row of the object that a region is of, in the table that it came with; if it came with none, in any.
function selectRowOf(name, region, tables, rows, list) {
  if (!matches(name, "\\d+-z\\d+ .*")) return;
  number = parseInt(substring(name, 0, indexOf(name, "-")));
  owner = owners(tables, list);
  last = tables.length - 1;
  until = 0;
  if (owner[region] >= 0) {
    last = owner[region];
    until = last;
  }
  for (i = last; i >= until; i--) {
    numbers = Table.getColumn("object", tables[i]);
    classes = Table.getColumn("class", tables[i]);
    for (row = 0; row < numbers.length; row++) {
      if (numbers[row] == number) {
        if (isOfClass(name, classes[row])) {
          Table.setSelection(row, row, tables[i]);
          rows[i] = row;
          return;
        }
      }
    }
  }
}
