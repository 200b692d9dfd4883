// Segment all TIFF stacks of a folder with densecell-batch. One that fails does not stop the others.
//
// Options: folder, out (folder; else "densecell" in that folder), model, instances (classes, separated by commas),
// voxel_size (z,y,x in nm), onerror (continue or stop: begin no further stack after one that failed), options (further
// ones of `densecell-batch segment`).
// Returns "ok<TAB>NUMBER OF STACKS" or "failed<TAB>WHICH FAILED, AND WHY", a line each. The Log shows every stack, and
// densecell_batch.csv in the output folder has a row for each.

var stacks, results, places, reasons; // of the batch: paths, then what became of each

options = given();
interactive = isInteractive(options);
asked = isAsked(options, interactive);
folder = home();
if (interactive) options = ask(folder);
result = segmentFolder(options, folder);
tell(result, interactive);
if (asked) return result;

function ask(folder) {
  Dialog.create("DenseCell Batch");
  Dialog.addDirectory("Folder of stacks", recall("batch.folder", ""));
  Dialog.addDirectory("Output folder, if not 'densecell' in it", "");
  Dialog.addString("Model, by name or path", recall("model", "fly-vnc"), 30);
  Dialog.addString("Objects of the classes", recall("instances", "mitochondrion"), 30);
  Dialog.addString("Voxel size z,y,x in nm, if not the stacks'", "", 30);
  Dialog.addString("Further options", recall("options", ""), 30);
  Dialog.addCheckbox("Stop at the first failure", false);
  Dialog.addCheckbox("Change how the tool is started", false);
  Dialog.show();
  source = Dialog.getString();
  out = Dialog.getString();
  model = Dialog.getString();
  instances = Dialog.getString();
  voxelSize = Dialog.getString();
  further = Dialog.getString();
  onerror = "continue";
  if (Dialog.getCheckbox()) onerror = "stop";
  if (Dialog.getCheckbox()) askRunner(folder);
  remember("batch.folder", source);
  remember("model", model);
  remember("instances", instances);
  remember("options", further);
  text = "" + setting("options", further) + setting("folder", source) + setting("out", out) + setting("model", model)
    + setting("instances", instances) + setting("voxel_size", voxelSize) + "onerror=" + onerror;
  record("DenseCell Batch", text);
  return text;
}

function segmentFolder(options, folder) {
  wrong = parse(options, "folder out model instances voxel_size onerror options");
  if (wrong == "") wrong = findRunner(folder);
  if (wrong != "") return "failed\t" + wrong;
  onerror = option("onerror", "continue");
  if (onerror != "continue" && onerror != "stop") return "failed\tonerror is '" + onerror + "'; expected continue or stop";
  source = tidy(option("folder", ""));
  if (source == "" || !File.isDirectory(source))
    return "failed\t'" + source + "' is no folder; expected one with TIFF stacks";
  source = File.getAbsolutePath(source);
  out = tidy(option("out", ""));
  if (out == "") out = source + File.separator + "densecell";
  out = File.getAbsolutePath(out);
  stacks = stacksIn(source, out);
  if (stacks.length == 0) return "failed\tno .tif or .tiff file in " + source;
  wrong = makeFolder(out);
  if (wrong != "") return "failed\t" + wrong;
  logFile = out + File.separator + "densecell_log.txt";
  wrong = canWrite(logFile, "out");
  if (wrong != "") return "failed\t" + wrong;
  table = out + File.separator + "densecell_batch.csv";
  wrong = canWrite(table, "out");
  if (wrong != "") return "failed\t" + wrong;
  results = newArray(stacks.length);
  places = newArray(stacks.length);
  reasons = newArray(stacks.length);
  for (i = 0; i < stacks.length; i++) {
    results[i] = "not done";
    places[i] = "";
    reasons[i] = "";
  }
  trouble = segmentAll(out, logFile, onerror);
  unwritten = writeTable(table);
  showProgress(1);
  showStatus("");
  failures = "";
  nFailed = 0;
  for (i = 0; i < stacks.length; i++) {
    if (results[i] == "failed") {
      nFailed++;
      failures += "\n" + replace(File.getName(stacks[i]), "\n", "?") + ": " + reasons[i];
    }
  }
  if (unwritten != "") failures += "\n" + unwritten;
  if (trouble != "") return "failed\t" + trouble + failures;
  if (nFailed > 0) return "failed\t" + nFailed + " of " + stacks.length + " stacks failed:" + failures;
  if (unwritten != "") return "failed\t" + unwritten;
  return "ok\t" + stacks.length;
}

// Segment the stacks; returns why not all were tried, or "".
function segmentAll(out, logFile, onerror) {
  together = 20; // the models are loaded once for as many; few enough for the command line of any system
  if (onerror == "stop") together = 1;
  first = 0;
  while (first < stacks.length) {
    showStatus("DenseCell: stack " + (first + 1) + " of " + stacks.length);
    showProgress(first, stacks.length);
    some = newArray(0);
    for (i = first; i < minOf(first + together, stacks.length); i++) {
      if (indexOf(stacks[i], "\n") >= 0) { // the others are not to fail with it
        results[i] = "failed";
        reasons[i] = "a name with a line break cannot be given to the tool";
      } else some = Array.concat(some, stacks[i]);
    }
    said = "";
    if (some.length > 0) {
      said = segmentStacks(some, out, logFile);
      readVerdicts(said);
    }
    failed = 0;
    missing = 0;
    for (i = first; i < minOf(first + together, stacks.length); i++) {
      if (results[i] == "not done") missing++;
      if (results[i] == "failed") failed++;
    }
    if (missing > 0) { // the tool could not start, or was stopped: the next ones would fare alike
      text = complaint("", logFile);
      if (missing == some.length) text = complaint(said, logFile);
      left = 0;
      for (i = 0; i < stacks.length; i++) if (results[i] == "not done") left++;
      return "" + left + " of " + stacks.length + " stacks were not segmented: " + text;
    }
    first += together;
    if (failed > 0 && onerror == "stop") return "stopped at the first failure, after " + first + " of " + stacks.length + " stacks:";
  }
  return "";
}

// Read what the tool said of some of the stacks. Its paths may be those within a container, so names tell which.
function readVerdicts(said) {
  lines = split(said, "\n");
  for (i = 0; i < lines.length; i++) {
    fields = split(lines[i], "\t");
    if (fields.length >= 4) {
      if (fields[0] == "DENSECELL") {
        name = File.getName(fields[2]);
        for (k = 0; k < stacks.length; k++) {
          stem = stackName(stacks[k]);
          if (fields[1] == "ok" && name == stem + "_labels.tif") {
            results[k] = "ok";
            places[k] = name;
          } else if (fields[1] != "ok" && name == File.getName(stacks[k])) {
            if (fields[1] == "failed") results[k] = "failed";
            if (reasons[k] != "") reasons[k] = reasons[k] + "; ";
            reasons[k] = reasons[k] + fields[3];
          }
        }
        if (fields[1] == "warning") print(name + ": " + fields[3]);
        else print(fields[1] + ": " + fields[2]);
        if (fields[1] == "failed") print("  " + fields[3]);
      }
    }
  }
}

// Write a row for each stack: its path, ok, failed or not done, its labels, and warnings or the reason. A file of this
// name with another head is the user's. Returns what is wrong, or "".
function writeTable(path) {
  head = "Stack,Result,Labels,Remarks\n";
  text = head;
  for (i = 0; i < stacks.length; i++) {
    stack = csvText(stacks[i]);
    labels = csvText(places[i]);
    remarks = csvText(reasons[i]);
    text += stack + "," + results[i] + "," + labels + "," + remarks + "\n";
  }
  foreign = false;
  if (File.exists(path)) {
    before = call("ij.IJ.openAsString", path);
    foreign = !startsWith(before, head);
  }
  wrong = writeText(text, path, foreign, "out");
  return wrong;
}

// Paths of the TIFF files of a folder, without the results of runs whose output folder it is.
function stacksIn(source, out) {
  names = getFileList(source);
  found = newArray(0);
  for (i = 0; i < names.length; i++) {
    path = source + File.separator + names[i];
    ours = false;
    if (source == out) ours = isResult(path);
    if (matches(names[i], "(?is)[^.].*\\.tiff?") && !ours) found = Array.concat(found, newArray(path));
  }
  return found;
}

// Whether a file is a result of a stack: its report lies beside it, or it is an earlier one that was set aside.
function isResult(path) {
  name = File.getName(path);
  if (!matches(name, "(?s).+_(labels|probabilities|uncertainty|.+_instances)\\.tif")) return false;
  if (matches(name, "(?s).+\\.old-\\d{8}T\\d{6}Z(-\\d+)?_.+")) return true;
  at = lengthOf(path) - lengthOf(name);
  do {
    at = indexOf(path, "_", at + 1);
    there = false;
    if (at >= 0) there = File.exists(substring(path, 0, at) + "_report.json");
  } while (at >= 0 && !there);
  return there;
}
