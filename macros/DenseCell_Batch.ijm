// Segment all TIFF stacks of a folder with densecell-batch. One that fails does not stop the others.
//
// Options: folder, out (folder; else "densecell" in that folder), model, instances (classes, separated by commas),
// voxel_size (z,y,x in nm), options (further ones of `densecell-batch segment`).
// Returns "ok<TAB>NUMBER OF STACKS" or "failed<TAB>WHICH FAILED, AND WHY", a line each. The Log shows every stack.

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
  Dialog.addString("Model, by name or path", recall("model", "fly-vnc-2d3d"), 30);
  Dialog.addString("Instances of the classes", recall("instances", "mitochondrion"), 30);
  Dialog.addString("Voxel size z,y,x in nm, if not the stacks'", "", 30);
  Dialog.addString("Further options", recall("options", ""), 30);
  Dialog.addCheckbox("Change how the tool is started", false);
  Dialog.show();
  stacks = Dialog.getString();
  out = Dialog.getString();
  model = Dialog.getString();
  instances = Dialog.getString();
  voxelSize = Dialog.getString();
  further = Dialog.getString();
  if (Dialog.getCheckbox()) askRunner(folder);
  remember("batch.folder", stacks);
  remember("model", model);
  remember("instances", instances);
  remember("options", further);
  text = "" + setting("options", further) + setting("folder", stacks) + setting("out", out) + setting("model", model)
    + setting("instances", instances) + setting("voxel_size", voxelSize);
  record("DenseCell Batch", text);
  return text;
}

function segmentFolder(options, folder) {
  wrong = parse(options, "folder out model instances voxel_size options");
  if (wrong == "") wrong = findRunner(folder);
  if (wrong != "") return "failed\t" + wrong;
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
  failures = "";
  nFailed = 0;
  nStacks = stacks.length;
  for (i = stacks.length - 1; i >= 0; i--) {
    if (indexOf(stacks[i], "\n") >= 0) { // the others are not to fail with it
      nFailed++;
      failures += "\n" + replace(File.getName(stacks[i]), "\n", "?") + ": a name with a line break cannot be given to the tool";
      stacks = Array.deleteIndex(stacks, i);
    }
  }
  together = 20; // the models are loaded once for as many; few enough for the command line of any system
  for (first = 0; first < stacks.length; first += together) {
    showStatus("DenseCell: stack " + (first + 1) + " of " + stacks.length);
    showProgress(first, stacks.length);
    some = Array.slice(stacks, first, minOf(first + together, stacks.length));
    said = segmentStacks(some, out, logFile);
    lines = split(said, "\n");
    answered = 0;
    for (i = 0; i < lines.length; i++) {
      fields = split(lines[i], "\t");
      if (fields.length >= 4) {
        if (fields[0] == "DENSECELL" && fields[1] == "warning") print(File.getName(fields[2]) + ": " + fields[3]);
        else if (fields[0] == "DENSECELL") {
          answered++;
          print(fields[1] + ": " + fields[2]);
          if (fields[1] != "ok") {
            nFailed++;
            failures += "\n" + File.getName(fields[2]) + ": " + fields[3];
            print("  " + fields[3]);
          }
        }
      }
    }
    if (answered < some.length) { // the tool could not start, or was stopped: the next ones would fare alike
      text = complaint("", logFile);
      if (answered == 0) text = complaint(said, logFile);
      return "failed\t" + (stacks.length - first - answered) + " of " + stacks.length + " stacks were not segmented: " + text
        + failures;
    }
  }
  showProgress(1);
  showStatus("");
  if (nFailed > 0) return "failed\t" + nFailed + " of " + nStacks + " stacks failed:" + failures;
  return "ok\t" + nStacks;
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
