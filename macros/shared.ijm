// What the DenseCell macros share. `densecell-batch fiji install` puts it in front of each of them: the macro language
// has no include. ImageJ reads macros as ISO 8859-1, so they are ASCII.
//
// Beware: && and || always evaluate both sides, and a string from a function of ours is assigned to a
// variable before it is compared, returned or put into an array; so is an array.
//
// A macro answers with a string: "ok<TAB>..." or "failed<TAB>REASON". With options, or in batch mode, no window is
// opened that waits for a click; a failure is printed.

var runner = "", command = "", target = "", words = "", refused = "";
var ourCopy = ""; // folder of the copy of an image that is segmented: it goes with the tool, if this macro has ended

// The options: of runMacro(path, "key=value ..."), of run("DenseCell ...", "key=value ..."), or none.
function given() {
  options = getArgument();
  if (options == "") options = "" + call("ij.Macro.getOptions");
  if (options == "null") options = "";
  return String.trim(options);
}

// Whether there is somebody to answer a dialog.
function isInteractive(options) {
  if (options == "") return !is("Batch Mode");
  return false;
}

// Whether somebody takes the answer, as runMacro does. Of a command of its menu, Fiji shows it in a window.
function isAsked(options, interactive) {
  argument = getArgument();
  if (argument != "") return true;
  if (options != "") return false; // of run(...)
  return !interactive;
}

// Folder of the installed macros, ending with a separator. To be asked first: another macro that is run changes it.
function home() {
  path = getInfo("macro.filepath");
  folder = "";
  if (path != "") folder = File.getParent(path) + File.separator;
  if (!File.exists(folder + "runner.txt")) folder = getDirectory("plugins") + "DenseCell" + File.separator;
  return folder;
}

// "key=[value] " of the options. A value that would end at a bracket of its own, and go on with keys, is refused when
// the options are parsed.
function setting(key, value) {
  if (matches(value, "(?s).*\\]\\s+\\w+=.*") && refused == "")
    refused = "the name '" + value + "' cannot be given as '" + key + "', for it holds ']' and then 'word=', as if further"
      + " options followed: rename it";
  return key + "=[" + value + "] ";
}

// Take "key=value key=[value with spaces]" apart into List; returns what is wrong, or "". A value in brackets may hold
// brackets: it ends at the one that the next key, or the end, follows.
//
// Whoever wrote the options may have put names of files into them that others chose, such as "x.tif] options=[...": so
// no key counts twice, no file may be there whose name goes on beyond the end of a value, and what can run programs or
// write elsewhere has to come first, where no name is before it.
function parse(options, keys) {
  List.clear();
  if (refused != "") return refused;
  first = true;
  while (options != "") {
    equals = indexOf(options, "=");
    space = indexOf(options + " ", " ");
    if (equals < 1 || space < equals) return "'" + options + "' is no option; expected key=value with the keys " + keys;
    key = toLowerCase(substring(options, 0, equals));
    if (indexOf(" " + keys + " ", " " + key + " ") < 0) return "there is no option '" + key + "'; expected one of " + keys;
    end = space;
    start = equals + 1;
    if (substring(options, start, minOf(start + 1, lengthOf(options))) == "[") {
      start++;
      end = start - 1;
      do {
        end = indexOf(options, "]", end + 1);
        if (end < 0) return "the bracket after '" + key + "=' is not closed";
      } while (!matches(substring(options, end + 1), "(?s)\\s*|\\s+\\w+=.*"));
    }
    value = substring(options, start, end);
    wrong = suspect(key, value, substring(options, start), first);
    if (wrong != "") return wrong;
    List.set(key, "=" + value);
    options = String.trim(substring(options, minOf(end + 1, lengthOf(options))));
    first = false;
  }
  return "";
}

// Why the value of an option may not be what was meant, or "". `rest` are the options from the value on.
function suspect(key, value, rest, first) {
  before = List.get(key);
  if (before != "") return "the option '" + key + "' is given twice, as '" + substring(before, 1) + "' and '" + value + "'";
  if (matches(value, "(?s).*[\\n\\r].*")) return "the value of '" + key + "' has a line break, which no name may have: " + value;
  reaching = "(?s).*([/\\\\]|--(pre-macro|post-macro|imagej|log|out|mask)\\b|(^|\\s)-[A-Za-z]*o).*";
  if (key == "options" && !first && matches(value, reaching))
    return "options=[" + value + "] name files or macros: such options have to come first, before all names of files";
  for (i = lengthOf(value) + 1; i <= lengthOf(rest); i++) {
    next = "]";
    if (i < lengthOf(rest)) next = substring(rest, i, i + 1);
    if (next == "]" || next == " ") {
      name = substring(rest, 0, i);
      if (File.exists(name) || isOpen(name))
        return "the name '" + name + "' cannot be given as '" + key + "': it reads as if further options followed; rename it";
    }
  }
  return "";
}

// The value of an option that was parsed.
function option(key, otherwise) {
  value = List.get(key);
  if (value == "") return otherwise;
  return substring(value, 1);
}

// Settings that outlive ImageJ.
function recall(key, otherwise) {
  return call("ij.Prefs.get", "densecell." + key, otherwise);
}

function remember(key, value) {
  call("ij.Prefs.set", "densecell." + key, value);
}

// Text of runner.txt: ASCII with %uXXXX for other characters, whatever the encoding of the machine is.
function decode(text) {
  at = indexOf(text, "%u");
  while (at >= 0) {
    character = fromCharCode(parseInt(substring(text, at + 2, at + 6), 16));
    text = substring(text, 0, at) + character + substring(text, at + 6);
    at = indexOf(text, "%u", at + 1);
  }
  return text;
}

// How the tool is started: as set in the dialog, unless it was installed anew since. Returns what is wrong, or "".
function findRunner(folder) {
  installed = "";
  if (File.exists(folder + "runner.txt")) installed = File.openAsString(folder + "runner.txt");
  lines = split(installed, "\n");
  for (i = 0; i < lines.length; i++) {
    at = indexOf(lines[i], "=");
    if (at > 0) List.set("installed " + substring(lines[i], 0, at), decode(substring(lines[i], at + 1)));
  }
  last = recall("installed", "");
  ours = false;
  if (installed == last) ours = true;
  runner = runnerSetting("runner", ours);
  command = runnerSetting("command", ours);
  target = runnerSetting("target", ours);
  words = runnerSetting("words", ours);
  if (runner == "")
    return "where the tool is was not said yet: choose Plugins > DenseCell > DenseCell Segment, or install the macros with"
      + " 'densecell-batch fiji install'";
  if (indexOf(" local docker apptainer ssh ", " " + runner + " ") < 0)
    return "the runner is '" + runner + "'; expected local, docker, apptainer or ssh: install the macros again";
  if (command == "" || (runner != "local" && target == ""))
    return "the runner '" + runner + "' has no command or no image or host: choose 'Change how the tool is started'";
  if (runner != "ssh" && (indexOf(command, "/") >= 0 || indexOf(command, "\\") >= 0) && !File.exists(command))
    return "there is no program " + command + ": install the tool there, or choose 'Change how the tool is started'";
  return "";
}

function runnerSetting(key, ours) {
  value = List.get("installed " + key);
  if (ours) value = recall(key, value);
  return value;
}

// Ask how the tool is started, try it, and remember it until the macros are installed anew.
function askRunner(folder) {
  wrong = findRunner(folder);
  if (runner == "") runner = "local";
  showStatus("DenseCell: looking for the tool ...");
  places = findTools();
  showStatus("");
  choices = newArray("as said below");
  choices = Array.concat(choices, places);
  chosen = choices[0];
  if (wrong != "" && places.length > 0) chosen = places[0];
  do {
    Dialog.create("DenseCell: how the tool is started");
    if (wrong != "") Dialog.addMessage(wrapped(wrong));
    Dialog.addChoice("Take what was found", choices, chosen);
    Dialog.addChoice("Runner", newArray("local", "docker", "apptainer", "ssh"), runner);
    Dialog.addString("Command", command, 40);
    Dialog.addString("Image, .sif file or host", target, 40);
    Dialog.addString("Further words, such as --gpus all", words, 40);
    Dialog.addMessage("The command is densecell-batch or the launcher densecell (local), docker or podman,\n"
      + "apptainer, or densecell-batch as the host of ssh knows it.");
    Dialog.addCheckbox("Try it: ask it for its models", true);
    Dialog.show();
    chosen = Dialog.getChoice();
    runner = Dialog.getChoice();
    command = Dialog.getString();
    target = Dialog.getString();
    words = Dialog.getString();
    if (chosen != choices[0]) takeFound(chosen);
    wrong = "";
    if (Dialog.getCheckbox()) wrong = learnModels("");
  } while (wrong != "");
  remember("runner", runner);
  remember("command", command);
  remember("target", target);
  remember("words", words);
  installed = "";
  if (File.exists(folder + "runner.txt")) installed = File.openAsString(folder + "runner.txt");
  remember("installed", installed);
}

// Take a place as findTools calls it.
function takeFound(place) {
  at = indexOf(place, " ");
  runner = substring(place, 0, at);
  command = substring(place, at + 1);
  target = "";
  if (runner != "local") {
    at = indexOf(command, ": ");
    target = substring(command, at + 2);
    command = substring(command, 0, at);
  }
}

// Where the tool may be on this machine: "local PROGRAM", "docker PROGRAM: IMAGE", "apptainer PROGRAM: FILE.sif". A program
// that is started from a desktop often knows fewer folders than a terminal.
function findTools() {
  user = getDirectory("home");
  bin = "bin/";
  program = "densecell-batch";
  between = ":";
  if (isWindows()) {
    bin = "Scripts/";
    program = "densecell-batch.exe";
    between = ";";
  }
  folders = split("" + call("java.lang.System.getenv", "PATH"), between);
  folders = Array.concat(folders, newArray("/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin", user + ".local/bin"));
  roots = newArray(user + ".venv/", user + ".local/share/pipx/venvs/densecell-batch/",
    user + ".local/pipx/venvs/densecell-batch/", user + "pipx/venvs/densecell-batch/",
    user + ".local/share/uv/tools/densecell-batch/", user + "AppData/Roaming/uv/tools/densecell-batch/");
  inHome = foldersIn(user);
  for (i = 0; i < inHome.length; i++)
    roots = Array.concat(roots, newArray("" + inHome[i], "" + inHome[i] + ".venv/", "" + inHome[i] + "venv/"));
  condas = Array.concat(inHome, newArray(user + ".conda/", "/opt/conda/", "/opt/miniconda3/", "/opt/miniforge3/"));
  for (i = 0; i < condas.length; i++) {
    environments = foldersIn("" + condas[i] + "envs/");
    roots = Array.concat(roots, condas[i], environments);
  }
  for (i = 0; i < roots.length; i++) folders = Array.concat(folders, "" + roots[i] + bin);
  found = newArray(0);
  for (i = 0; i < folders.length; i++) found = addIfThere(found, "local ", folders[i], program);
  images = imagesIn(folders, user);
  return Array.concat(found, images);
}

// The folders in a folder, but hidden ones; each ends with a separator.
function foldersIn(folder) {
  found = newArray(0);
  if (!File.isDirectory(folder)) return found;
  names = getFileList(folder);
  for (i = 0; i < names.length; i++) if (endsWith(names[i], "/")) found = Array.concat(found, folder + names[i]);
  return found;
}

// Add a program of a folder to a list, unless it is not there, or stands there already.
function addIfThere(found, kind, folder, program) {
  if (folder == "") return found;
  if (!endsWith(folder, "/") && !endsWith(folder, "\\")) folder += "/";
  if (!File.exists(folder + program) || File.isDirectory(folder + program)) return found;
  for (i = 0; i < found.length; i++) if (found[i] == kind + folder + program) return found;
  return Array.concat(found, kind + folder + program);
}

// The images of containers that hold the tool.
function imagesIn(folders, user) {
  found = newArray(0);
  engines = newArray("docker", "podman", "apptainer", "singularity");
  for (k = 0; k < engines.length; k++) {
    here = newArray(0);
    for (i = 0; i < folders.length; i++) here = addIfThere(here, "", folders[i], engines[k]);
    if (here.length > 0 && k < 2) {
      all = newArray(here[0], "images", "--format", "{{.Repository}}:{{.Tag}}");
      said = runWords(all, 0, "", 0.1);
      lines = split(said, "\n");
      for (i = 0; i < lines.length; i++)
        if (matches(lines[i], "\\S*densecell\\S*")) found = Array.concat(found, "docker " + here[0] + ": " + lines[i]);
    }
    if (here.length > 0 && k >= 2) {
      places = newArray(user, user + "Downloads/");
      for (p = 0; p < places.length; p++) {
        names = newArray(0);
        if (File.isDirectory(places[p])) names = getFileList(places[p]);
        for (i = 0; i < names.length; i++)
          if (matches(names[i], "(?i).*densecell.*\\.sif")) found = Array.concat(found, "apptainer " + here[0] + ": " + places[p] + names[i]);
      }
    }
  }
  return found;
}

// Ask the tool for its models, and for one of the user's own unless that is ""; remember what it says. Returns what is
// wrong, or "".
function learnModels(own) {
  all = prefix("", "", own);
  first = all.length;
  all = Array.concat(all, newArray("models", "list", "--format", "tsv"));
  if (own != "") all = with(all, "--", seen(own, "/densecell/model"));
  logFile = getDirectory("temp") + "densecell-" + d2s(getTime(), 0) + ".txt";
  said = runWords(all, first, logFile, 1);
  wrong = "";
  if (!startsWith(said, "name\t")) wrong = complaint(said, logFile);
  if (File.exists(logFile)) deleted = File.delete(logFile);
  if (wrong != "") return replace(wrong, "gave no verdict", "did not answer");
  remember("models", said);
  remember("models.of", runner + " " + command + " " + target);
  return "";
}

// A column of what the tool said of a model: 0 name, 1 where, 2 version, 3 members, 4 window, 5 voxel size in nm,
// 6 classes; "" where it is not known.
function modelField(model, column) {
  value = "";
  lines = split(recall("models", ""), "\n");
  for (i = 1; i < lines.length; i++) {
    fields = split(lines[i], "(\t)"); // in brackets: what is empty counts
    if (fields.length > column) if (fields[0] == model) value = fields[column];
  }
  return value;
}

// A text in lines that a dialog can show.
function wrapped(text) {
  parts = split(replace(text, "\n", " <br> "), " ");
  lines = "";
  length = 0;
  for (i = 0; i < parts.length; i++) {
    length += lengthOf(parts[i]) + 1;
    if (length > 90 || parts[i] == "<br>") {
      lines += "\n";
      length = lengthOf(parts[i]);
    }
    if (parts[i] != "<br>") lines += parts[i] + " ";
  }
  return lines;
}

function isContainer() {
  if (runner == "docker" || runner == "apptainer") return true;
  return false;
}

function isWindows() {
  return startsWith(getInfo("os.name"), "Windows");
}

// The path of a file in `folder` as the tool sees it, if that folder is mounted at `place`.
function seen(path, place) {
  if (isContainer()) path = place + "/" + File.getName(path);
  return path;
}

// Add the words that mount a folder in a container. Commas and quotes are escaped as in a CSV file.
function mount(all, folder, place, access) {
  if (isWindows()) return Array.concat(all, newArray("-v", folder + ":" + place + access));
  source = "source=" + folder;
  if (indexOf(source, ",") >= 0 || indexOf(source, "\"") >= 0) source = "\"" + replace(source, "\"", "\"\"") + "\"";
  return Array.concat(all, newArray("--mount", "type=bind," + source + ",destination=" + place + replace(access, ":", ",")));
}

// A word for the shell at the other end of ssh.
function quoted(word) {
  return "'" + replace(word, "'", "'\\''") + "'";
}

// The words before those of the tool: the program, or the container or connection that it runs in.
function prefix(inFolder, outFolder, model) {
  extra = newArray(0);
  if (words != "") extra = split(words, " ");
  if (runner == "ssh") {
    program = quoted(command);
    return Array.concat(newArray("ssh", "-n", "-o", "BatchMode=yes"), extra, newArray(target, program));
  }
  if (!isContainer()) return Array.concat(newArray(command), extra);
  all = newArray(command, "run");
  if (runner == "docker") all = Array.concat(all, newArray("--rm"));
  // Docker would leave files of root; podman and apptainer run as the user.
  if (File.getName(command) == "docker" && startsWith(getInfo("os.name"), "Linux")) {
    user = String.trim(exec("id", "-u")) + ":" + String.trim(exec("id", "-g"));
    all = Array.concat(all, newArray("--user", user));
  }
  if (inFolder != "") all = mount(all, inFolder, "/densecell/in", ":ro");
  if (outFolder != "") all = mount(all, outFolder, "/densecell/out", "");
  if (model != "") if (File.exists(model)) all = mount(all, parentOf(model), "/densecell/model", ":ro");
  return Array.concat(all, extra, newArray(target));
}

function parentOf(path) {
  return File.getParent(File.getAbsolutePath(path));
}

// Add words to an array; empty ones are left out.
function with(all, name, value) {
  if (value == "") return all;
  if (name == "") return Array.concat(all, newArray(value));
  return Array.concat(all, newArray(name, value));
}

// Run the tool on stacks of one folder; returns what it wrote to stdout. What it wrote to stderr is in the log.
function segmentStacks(stacks, out, logFile) {
  model = option("model", "fly-vnc");
  all = newArray("segment");
  if (File.exists(model)) all = with(all, "--model", seen(model, "/densecell/model"));
  else all = with(all, "--model", model);
  classes = split(option("instances", ""), ",");
  for (i = 0; i < classes.length; i++) all = with(all, "--instances", String.trim(classes[i]));
  all = with(all, "--voxel-size", option("voxel_size", ""));
  parting = option("split", "no");
  if (parting == "yes") all = with(all, "", "--split");
  all = with(all, "--min-volume", option("min_volume", ""));
  rois = option("rois", "no");
  if (rois == "yes") all = with(all, "", "--rois");
  further = split(option("options", ""), " ");
  for (i = 0; i < further.length; i++) all = with(all, "", further[i]);
  said = runTool(all, stacks, out, model, logFile);
  return said;
}

// Run the tool with a verb and its options on files of one folder; as segmentStacks.
function runTool(verb, files, out, model, logFile) {
  all = prefix(parentOf(files[0]), out, model);
  first = all.length;
  // On Windows exec waits for the tool, which has to keep off stderr, for ImageJ's exec waits for ever once the child
  // has written 64 KB to that.
  if (isWindows()) all = with(all, "--log", seen(logFile, "/densecell/out"));
  all = Array.concat(all, verb);
  if (isContainer()) all = with(all, "-o", "/densecell/out");
  else all = with(all, "-o", out);
  all = with(all, "", "--");
  for (i = 0; i < files.length; i++) all = with(all, "", seen(files[i], "/densecell/in"));
  minutes = parseFloat(recall("silence", "120"));
  if (isNaN(minutes)) minutes = 120; // the preference is damaged
  said = runWords(all, first, logFile, minutes);
  return said;
}

// Run words, the first of which are what the tool runs in; returns what was written to stdout. What was written to stderr
// is in the log, if one is given. Who says nothing for so many minutes is stopped. On Windows there is no shell: exec waits.
function runWords(all, first, logFile, minutes) {
  if (File.exists(logFile)) deleted = File.delete(logFile); // of an earlier run
  if (runner == "ssh" && first > 0) {
    for (i = first; i < all.length; i++) {
      word = quoted(all[i]);
      all[i] = word;
    }
  }
  if (!isWindows()) {
    script = launcher();
    all = Array.concat(newArray("/bin/sh", "-c", script, "sh", logFile, ourCopy), all);
  }
  said = String.trim(execute(all));
  if (!isWindows() && startsWith(said, "/")) said = follow(said, logFile, minutes);
  return said;
}

// A script for the shell that starts a tool in the background and says the folder in which it leaves what the tool says.
// The tool runs as long as somebody writes something new into "alive" there, or until there is a file "stop". No text of
// the user's is part of it. (Where the folder is gone, ": >" would end the watcher before it stops the tool, and touch does
// not.)
function launcher() {
  script = "log=$1; copy=$2; shift 2; run=$(mktemp -d) || exit 1; echo \"$run\"; : >\"$run/alive\"; (";
  script += "\"$@\" >\"$run/said\" 2>\"$run/log\" & tool=$!; (before=; still=0; while sleep 1; do ";
  script += "now=$(cat \"$run/alive\"); still=$((still + 1)); [ \"$now\" = \"$before\" ] || still=0; before=$now; ";
  script += "[ -e \"$run/stop\" ] && still=15; if [ $still -ge 15 ]; then [ -e \"$run/stop\" ] || touch \"$run/left\"; ";
  script += "kill -TERM $tool; sleep 20; kill -KILL $tool; fi; done) & watcher=$!; ";
  script += "wait $tool; kill $watcher; if [ -e \"$run/left\" ]; then cp \"$run/log\" \"$log\"; rm -rf \"$run\"; ";
  script += "case \"$copy\" in */densecell-input-*|*/densecell-preview-*) rm -rf \"$copy\" ;; esac; ";
  return script + "else : >\"$run/ended\"; fi) </dev/null >/dev/null 2>&1 &";
}

// Wait for the tool that the launcher started, and show how far it is; returns what it wrote to stdout. If this macro is
// ended by Esc, or ImageJ is closed, the tool stops by itself. Nor does it wait for ever for a tool that was stopped: its
// folder is gone then, or the tool hangs where no signal reaches it.
function follow(place, logFile, minutes) {
  begun = getTime();
  heard = begun;
  size = 0;
  silent = "";
  patience = 60000;
  while (!File.exists(place + "/ended") && File.exists(place) && patience > 0) {
    beat = d2s(getTime(), 0);
    trouble = call("ij.IJ.saveString", beat, place + "/alive");
    n = lengthOfFile(place + "/log") + lengthOfFile(place + "/said");
    if (n != size) {
      size = n;
      heard = getTime();
      showLast(place + "/log");
    } else if (silent == "" && getTime() - heard > 60000 * minutes) {
      silent = "\nit said nothing for " + minutes + " minutes, so it was stopped";
      trouble = call("ij.IJ.saveString", "", place + "/stop");
      asked = getTime();
    }
    if (silent != "") patience = 60000 - (getTime() - asked);
    wait(minOf(200, 20 + (getTime() - begun) / 20)); // who is quick shall not wait for us
  }
  showProgress(1);
  if (!File.exists(place))
    return silent + "\nit was stopped, for its folder " + place + " was removed, or could not be written, or ImageJ stood still";
  said = "";
  if (lengthOfFile(place + "/said") > 0) said = call("ij.IJ.openAsString", place + "/said");
  if (logFile != "") {
    copied = File.delete(logFile);
    copied = File.copy(place + "/log", logFile);
  }
  names = newArray("said", "log", "alive", "stop", "ended");
  for (i = 0; i < names.length; i++)
    if (File.exists(place + "/" + names[i])) deleted = File.delete(place + "/" + names[i]);
  deleted = File.delete(place);
  return said + silent;
}

// In bytes; ImageJ's own says it as a text.
function lengthOfFile(path) {
  if (!File.exists(path)) return 0;
  text = "" + File.length(path);
  return parseFloat(text);
}

// Show the last line of a log: how far it is, and how long it takes.
function showLast(path) {
  n = lengthOfFile(path);
  if (n == 0 || n > 1e7) return;
  lines = split(call("ij.IJ.openAsString", path), "\n");
  if (lines.length == 0) return;
  last = replace(lines[lines.length - 1], "^densecell-batch: ", "");
  if (matches(last, "segmenting: \\d+ %.*")) showProgress(parseInt(substring(last, 12, indexOf(last, " %"))) / 100);
  if (startsWith(last, "engine ") || startsWith(last, "measured how fast ")) last = "the nets begin";
  last = replace(last, ", [0-9.e+]+ voxels/s, 0 min ", ", "); // the status line is short
  last = replace(last, ", [0-9.e+]+ voxels/s", "");
  showStatus("DenseCell (Esc stops it): " + last);
}

// exec() of an array: it takes separate arguments only. The code that is made holds nothing but their number.
function execute(all) {
  for (i = 0; i < all.length; i++)
    if (indexOf(all[i], "\n") >= 0) return "a name with a line break cannot be given to the tool: " + all[i];
  code = "a = split(getArgument(), '\\n'); return exec(a[0]";
  for (i = 1; i < all.length; i++) code += ", a[" + i + "]";
  return call("ij.IJ.runMacro", code + ");", String.join(all, "\n"));
}

// Print what the tool warned of.
function printWarnings(said) {
  lines = split(said, "\n");
  for (i = 0; i < lines.length; i++) {
    fields = split(lines[i], "\t");
    if (fields.length >= 4)
      if (fields[0] == "DENSECELL" && fields[1] == "warning") print(File.getName(fields[2]) + ": " + fields[3]);
  }
}

// The tool's own words about why there is no verdict: what it said on stdout, and the end of the log.
function complaint(said, logFile) {
  text = String.trim(said);
  if (File.exists(logFile)) {
    lines = split(call("ij.IJ.openAsString", logFile), "\n"); // File.openAsString stops at a file that begins with "Error: "
    for (i = maxOf(0, lines.length - 6); i < lines.length; i++) text += "\n" + lines[i];
  }
  if (String.trim(text) == "") text = "it said nothing";
  return "the tool gave no verdict. " + command + ":\n" + String.trim(text);
}

// What the outputs of a stack are named after.
function stackName(path) {
  name = File.getName(path);
  if (!File.isDirectory(path)) name = replace(name, "(?i)(\\.ome)?\\.tiff?$", "");
  return name;
}

// The title of the active image without what a file name cannot hold.
function titleAsFileName() {
  name = replace(replace(getTitle(), "(?i)(\\.ome)?\\.tiff?$", ""), "[\\\\/:*?\"<>|\\x00-\\x1f]", "-");
  if (name == "") name = "untitled";
  return name;
}

// Make a folder and those above it; returns what is wrong, or "".
function makeFolder(path) {
  if (!File.exists(path)) {
    parent = File.getDirectory(path);
    if (parent != "") makeFolder(parent);
    File.makeDirectory(path);
  }
  if (!File.isDirectory(path)) return "the folder " + path + " cannot be made: choose another output folder";
  return "";
}

// Begin a file anew; returns what is wrong, or "". ImageJ's own commands open a window when they cannot write.
function canWrite(path, key) {
  trouble = "a folder is called so";
  if (!File.isDirectory(path)) trouble = "" + call("ij.IJ.saveString", "", path + ".part");
  if (trouble == "null" || trouble == "") {
    deleted = File.delete(path + ".part"); // what is at the path itself may be the user's
    return "";
  }
  return path + " cannot be written (" + trouble + "): give another place as '" + key + "'";
}

// Write a text, whole or not at all; `keep` an earlier one, or replace it. Returns what is wrong, or "".
function writeText(text, path, keep, key) {
  part = path + ".part";
  trouble = "" + call("ij.IJ.saveString", text, part);
  if (trouble != "null" && trouble != "") {
    deleted = File.delete(part);
    return path + " cannot be written (" + trouble + "): make room, or give another place as '" + key + "'";
  }
  if (keep) keepEarlier(path);
  if (File.exists(path)) deleted = File.delete(path);
  renamed = File.rename(part, path);
  if (!File.exists(path)) return path + " cannot be written: what should be in it is in " + part;
  return "";
}

// A file that is there may be the user's, who changed it: rename it before another one takes its name.
function keepEarlier(path) {
  if (!File.exists(path)) return;
  getDateAndTime(year, month, weekday, day, hour, minute, second, msec);
  date = "" + year + String.pad(month + 1, 2) + String.pad(day, 2) + "T" + String.pad(hour, 2) + String.pad(minute, 2) + String.pad(second, 2);
  dot = lastIndexOf(path, ".");
  if (dot < maxOf(lastIndexOf(path, "/"), lastIndexOf(path, "\\"))) dot = lengthOf(path);
  kept = substring(path, 0, dot) + ".old-" + date + substring(path, dot);
  for (n = 2; File.exists(kept); n++) kept = substring(path, 0, dot) + ".old-" + date + "-" + n + substring(path, dot);
  renamed = File.rename(path, kept);
}

// Without the separator at the end that dialogs put there.
function tidy(folder) {
  if (lengthOf(folder) > 1 && (endsWith(folder, "/") || endsWith(folder, "\\")))
    folder = substring(folder, 0, lengthOf(folder) - 1);
  return folder;
}

// Begin to work on hidden images; returns whether that is ours to end.
function hide() {
  if (is("Batch Mode")) return false;
  setBatchMode(true);
  return true;
}

// Open an image without a window that waits when it cannot be opened; returns what is wrong, or "".
function openQuietly(path) {
  if (!File.exists(path)) return path + ": no such file";
  if (File.isDirectory(path)) return path + " is a folder; expected a TIFF that densecell-batch wrote";
  before = nImages;
  call("ij.IJ.redirectErrorMessages");
  open(path);
  if (nImages == before) return path + ": ImageJ cannot open this file; expected a TIFF that densecell-batch wrote";
  return "";
}

// What can be chosen as the image to show something on: the active one first.
function imageChoices() {
  choices = newArray("none");
  if (nImages > 0) {
    titles = getList("image.titles");
    active = newArray(1);
    active[0] = getTitle();
    choices = Array.concat(active, choices, titles);
  }
  return choices;
}

// Names of the classes of the active label image, from its Info; empty where it has none. Label 255 is no class.
function classNames() {
  names = newArray(255);
  for (i = 0; i < 255; i++) names[i] = "";
  lines = split(getMetadata("Info"), "\n");
  for (i = 0; i < lines.length; i++) {
    if (matches(lines[i], "class \\d{1,3} = .*")) {
      at = indexOf(lines[i], " = ");
      number = parseInt(substring(lines[i], 6, at));
      if (number < 255) names[number] = replace(substring(lines[i], at + 3), " #[0-9a-f]{6}$", "");
    }
  }
  last = 254;
  while (last > 0 && names[last] == "") last--;
  return Array.trim(names, last + 1);
}

// Whether the active image bears names of classes, as labels do.
function hasClassNames() {
  return matches(getMetadata("Info"), "(?s)(.*\\n)?class \\d{1,3} = .*");
}

// The file that the active image was opened from, or saved to; "" where none is known, as of a copy.
function pathOfImage() {
  folder = getInfo("image.directory");
  if (folder == "") return "";
  return folder + getInfo("image.filename");
}

// Whether the active image is not as its file. ImageJ marks an image as changed by most that is done to it, but not when its
// voxel size is set, nor when it is turned, reversed, inverted by its colours, or calculated with. So that is compared, with
// the grey values of three slices: the first, the last, and the one that is seen.
function differs(path) {
  if (is("changes") || !File.exists(path) || File.isDirectory(path)) return true;
  if (!matches(path, "(?i).*\\.tiff?")) return false;
  image = getImageID();
  slice = getSliceNumber();
  slices = newArray(slice, 1, nSlices);
  about = likeness();
  hasSelection = selectionType() >= 0;
  if (hasSelection) run("Select None");
  ours = hide();
  same = true;
  for (i = 0; i < 3 && same; i++) {
    before = nImages;
    call("ij.IJ.redirectErrorMessages");
    open(path, slices[i]);
    same = nImages > before;
    if (same) {
      file = getImageID();
      there = likeness();
      if (there != about) same = false; // ImageJ takes no such comparison of texts as a value
      else {
        selectImage(image);
        if (nSlices > 1) setSlice(slices[i]);
        run("Duplicate...", "title=densecell-seen");
        other = getImageID();
        imageCalculator("Difference", file, other);
        selectImage(other);
        close();
        selectImage(file);
        getRawStatistics(n, mean, least, highest);
        same = !(least < 0 || highest > 0); // NaN is like NaN
      }
      close();
    }
  }
  selectImage(image);
  if (nSlices > 1) setSlice(slice);
  if (ours) setBatchMode("exit and display");
  if (hasSelection) run("Restore Selection");
  return !same;
}

// What a slice of a file has in common with the active image if that is as the file.
function likeness() {
  getVoxelSize(width, height, depth, unit);
  return "" + getWidth() + " " + getHeight() + " " + bitDepth() + " " + is("Inverting LUT") + " " + width + " " + height + " "
    + depth + " " + unit;
}

// Why the file of the active image is not what is seen, or "".
function unsaved(path) {
  changed = differs(path);
  if (!changed) return "";
  return getTitle() + " was changed, or never saved: save it (File > Save), then again";
}

// Open regions in the ROI Manager, beside those that it holds.
function addRegions(zip) {
  if (!is("Batch Mode")) run("ROI Manager..."); // else it would be a hidden one, for the time of the batch mode
  // The recorder writes that down, too, with the path as it is, quotes and all: as a comment, for our command does it.
  call("ij.plugin.frame.Recorder.recordString", "// ");
  roiManager("open", zip);
  call("ij.plugin.frame.Recorder.recordString", "\n");
}

// Show all regions on an image, each on its slice only: else all are drawn over each other.
function showRegions(image) {
  selectImage(image);
  roiManager("associate", "true");
  roiManager("Show All without labels");
}

function nRois() {
  if (!isOpen("ROI Manager") && !is("Batch Mode")) return 0;
  return roiManager("count");
}

// A line for each region in the ROI Manager, its name: a search in one text is faster than a loop.
function regionList() {
  names = newArray(nRois());
  for (i = 0; i < names.length; i++) names[i] = RoiManager.getName(i);
  return "\n" + String.join(names, "\n") + "\n";
}

// Number of the lines in a text that begins and ends with a line break.
function countLines(text) {
  return lengthOf(text) - lengthOf(replace(text, "\n", "")) - 1;
}

// Titles of the windows that may be tables of objects.
function objectTitles() {
  titles = getList("window.titles");
  found = newArray(0);
  for (i = 0; i < titles.length; i++) if (endsWith(titles[i], "_objects.csv")) found = Array.concat(found, titles[i]);
  return found;
}

// The regions that a table of objects brought, as in regionList.
function keptRegions(title) {
  return "\n" + call("java.lang.System.getProperty", "densecell.regions of " + title, "") + "\n";
}

// Where the regions of a table of objects were put in the ROI Manager.
function placeOf(title) {
  return parseInt(call("java.lang.System.getProperty", "densecell.first of " + title, "0"));
}

// Where in the list of regions those of a table begin, as long as they are there as they came; else -1. Two stacks may have
// regions of the same names: then it is the place nearest to where they were put, unless those of another table were put
// nearer to it.
function firstRegionOf(title, list) {
  kept = keptRegions(title);
  place = placeOf(title);
  first = -1;
  at = -1;
  if (kept != "\n\n") at = indexOf(list, kept);
  while (at >= 0) {
    here = countLines(substring(list, 0, at + 1));
    if (first < 0 || abs(here - place) < abs(first - place)) first = here;
    at = indexOf(list, kept, at + 1);
  }
  titles = objectTitles();
  for (i = 0; i < titles.length && first >= 0; i++) {
    other = keptRegions(titles[i]);
    there = placeOf(titles[i]);
    if (other == kept && abs(first - there) < abs(first - place)) first = -1;
  }
  return first;
}

// Start the command that links tables of objects and the ROI Manager, unless it is at work: beside this macro, which ends
// after it has begun. ImageJ takes what the user does for the work of the macro that began or went back last, and would
// close an editor without asking whether to save; it goes back from one that ends to the one that it found running.
function startLink() {
  beat = parseFloat(linkState());
  if (getTime() - beat < 2000) return;
  setLinkState("begin");
  doCommand("DenseCell Link Objects");
  state = "begin";
  for (i = 0; i < 50 && state == "begin"; i++) {
    wait(100);
    state = linkState();
  }
}

// "begin", the time of its last beat, "end", or "" where none was.
function linkState() {
  return call("java.lang.System.getProperty", "densecell.link", "");
}

function setLinkState(state) {
  before = call("java.lang.System.setProperty", "densecell.link", state);
}

// Files often hold slices as time points or channels.
function takeAsSlices() {
  getDimensions(width, height, channels, slices, frames);
  if (slices == 1 && nSlices > 1) Stack.setDimensions(1, nSlices, 1);
}

// What a file name cannot hold becomes "-", as in the names of the tool's outputs.
function fileName(className) {
  return replace(className, "[^0-9A-Za-z._-]+", "-");
}

// A cell of text: what a spreadsheet would take for a formula gets an apostrophe, and what would end a cell, quotes.
function csvText(text) {
  if (matches(text, "(?s)[=+\\-@\\t\\r\\n\\uff1d\\uff0b\\uff0d\\uff20].*")) text = "'" + text;
  if (matches(text, "(?s).*[,;\"\\t\\r\\n].*")) text = "\"" + replace(text, "\"", "\"\"") + "\"";
  return text;
}

// Write the command into ImageJ's recorder, if that is open.
function record(name, options) {
  if (matches(options, "(?s).*[\\n\\r].*")) return; // what follows a line break would be a statement of its own
  text = replace(replace(options, "\\", "\\\\"), "\"", "\\\"");
  call("ij.plugin.frame.Recorder.disableCommandRecording");
  call("ij.plugin.frame.Recorder.recordString", "run(\"" + name + "\", \"" + text + "\");\n");
}

// Tell the user, or print, why it failed.
function tell(result, interactive) {
  if (!startsWith(result, "failed\t")) return;
  if (interactive) showMessage("DenseCell", wrapped(substring(result, 7)));
  else print("DenseCell: " + substring(result, 7));
}
