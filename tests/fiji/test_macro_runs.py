"""The macros in real ImageJ around a run: what the tool warns of, other runs, images that are closed, folders."""

import csv
import os
import shutil
import subprocess
import time
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from fiji_folder import TOOL, install, make_imagej, run_script
from imagej_app import MISSING
from macro_input import options, save

from densecell_batch import ClassInfo, VoxelSize, write_stack
from densecell_batch.labels import OUTSIDE

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

NEEDS_CLICKS = pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")


@NEEDS_CLICKS
def test_measure_begins_with_the_labels_of_the_last_run(imagej, model, volume, tmp_path):
    """OK clicked in one dialog after the other, while the stack is active; then with the labels active."""
    folder = tmp_path / "stäck s"
    folder.mkdir()
    stack = save(folder / "x.tif", volume)
    (tmp_path / "args.txt").write_text(f"{stack}\n{model}", encoding="utf-8")
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
open(args[0]);
call("ij.Prefs.set", "densecell.model", args[1]);
call("ij.Prefs.set", "densecell.instances", "");
run("DenseCell Segment");
say(getTitle());
run("DenseCell Measure");
title = Table.title; say(title);
selectImage("x_labels.tif");
run("Set...", "value=1");
saveAs("Tiff", T + "mine.tif");
run("DenseCell Measure");
selectWindow("DenseCell measurements of mine.tif");
say(Table.get("Voxels", 1));
"""
    clicks = (("DenseCell Segment", "right"), ("DenseCell Measure", "right"), ("DenseCell Measure", "right"))
    active, table, voxels = run_script(imagej, script, tmp_path, clicks=clicks)
    assert active == "x.tif"
    assert table == "DenseCell measurements of x"
    with (folder / "densecell" / "x_measurements.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    labels = tifffile.imread(folder / "densecell" / "x_labels.tif")
    assert [int(row["Voxels"]) for row in rows] == [np.count_nonzero(labels == i) for i in range(5)]
    assert not list(folder.glob("*.csv"))
    assert int(voxels) >= volume[0].size


def test_what_the_tool_warns_of_is_shown(imagej, model, volume, tmp_path):
    """A voxel size ten times off, and one that the stack is resampled for; alone and in a folder, also when done."""
    save(tmp_path / "x.tif", volume)
    (tmp_path / "one").mkdir()
    save(tmp_path / "one" / "y.tif", volume)
    rows = [
        options(stack=tmp_path / "x.tif", out=tmp_path / "out", model=model, voxel_size="470,184,184", show="no"),
        options(folder=tmp_path / "one", out=tmp_path / "out", model=model, voxel_size="47,12,12"),
    ]
    (tmp_path / "args.txt").write_text("\n".join(rows))
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
say(runMacro(D + "DenseCell_Segment.ijm", args[0]));
say(getInfo("log"));
for (i = 0; i < 2; i++) {
  print("\\Clear");
  say(runMacro(D + "DenseCell_Batch.ijm", args[1]));
  say(getInfo("log"));
}
"""
    answer, log, batch, batch_log, again, again_log = run_script(imagej, script, tmp_path)
    assert answer == f"ok\t{tmp_path}/out/x_labels.tif"
    assert "x.tif: the slices are 470 nm thick, those of the model's training 47 nm" in log
    assert "it is not resampled so far: give the true one with --voxel-size" in log
    assert batch == again == "ok\t1"
    for text in (batch_log, again_log):
        assert "y.tif: the nets saw it resampled by 1.3 and 1.3 (y, x); if its voxel size is wrong" in text


def test_a_folder_that_cannot_be_written_is_named(imagej, model, volume, tmp_path):
    """Not the words of an earlier run, which are there; those stay."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs mount, as root")
    out, talk = tmp_path / "out", tmp_path / "talk"
    out.mkdir()
    talk.mkdir()
    (out / "x_log.txt").write_text("an earlier error\n")
    (out / "densecell_log.txt").write_text("an earlier error\n")
    (tmp_path / "one").mkdir()
    save(tmp_path / "one" / "x.tif", volume)
    rows = [options(stack=tmp_path / "one/x.tif", out=out, model=model), options(folder=tmp_path / "one", out=out)]
    (talk / "args.txt").write_text("\n".join(rows))
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
say(runMacro(D + "DenseCell_Segment.ijm", args[0]));
say(runMacro(D + "DenseCell_Batch.ijm", args[1]));
"""
    mounted = [
        subprocess.run(["mount", *words, out], check=False).returncode
        for words in (["--bind", out], ["-o", "remount,bind,ro"])
    ]
    try:
        if any(mounted):
            pytest.skip("a folder cannot be mounted here")
        answers = run_script(imagej, script, talk)
    finally:
        subprocess.run(["umount", out], check=False)
    for answer, name in zip(answers, ("x_log.txt", "densecell_log.txt"), strict=True):
        assert answer.startswith(f"failed\t{out}/{name} cannot be written (")
        assert "another place as 'out'" in answer
        assert "earlier" not in answer
        assert (out / name).read_text() == "an earlier error\n"


def test_a_folder_of_stacks_that_is_also_the_output_folder(imagej, model, volume, tmp_path):
    """Results are no stacks: of the run before, of one that was set aside; a stack with such a name is one."""
    place = tmp_path / "place"
    place.mkdir()
    for name in ("a.tif", "a_b.tif", "c_labels.tif"):
        save(place / name, volume)
    shutil.copy(place / "a.tif", place / "a.old-20260101T000000Z_labels.tif")
    (tmp_path / "args.txt").write_text(options(folder=place, out=place, model=model, instances="mitochondrion"))
    script = r"""
for (i = 0; i < 2; i++) say(runMacro(D + "DenseCell_Batch.ijm", replace(File.openAsString(T + "args.txt"), "\n", "")));
say(getInfo("log"));
"""
    first, second, log = run_script(imagej, script, tmp_path)
    assert first == second == "ok\t3", log
    made = sorted(path.name for path in place.glob("*_instances.tif"))
    assert made == [f"{name}_mitochondrion_instances.tif" for name in ("a_b", "a", "c_labels")]


def test_an_image_that_is_closed_meanwhile(model, volume, tmp_path):
    """Its labels are shown on their own."""
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\nsleep 3\nexec "{TOOL}" "$@"\n')
    slow.chmod(0o755)
    folder = make_imagej(tmp_path / "ij")
    assert install(folder, "--command", slow).returncode == 0
    (folder / "plugins" / "Close_Soon.ijm").write_text('wait(2000); selectImage("x.tif"); close();')
    stack = save(tmp_path / "x.tif", volume)
    (tmp_path / "args.txt").write_text(options(out=tmp_path / "out", model=model))
    script = rf"""
open("{stack}");
doCommand("Close Soon");
say(runMacro(D + "DenseCell_Segment.ijm", replace(File.openAsString(T + "args.txt"), "\n", "")));
titles = getList("image.titles");
say(String.join(titles, ","));
"""
    answer, titles = run_script(folder, script, tmp_path)
    assert answer == f"ok\t{tmp_path}/out/x_labels.tif"
    assert sorted(titles.split(",")) == ["Legend of x_labels.tif", "x_labels.tif"]


def test_two_runs_at_a_time_have_a_log_each(imagej, model, volume, tmp_path):
    """A run of another stack of the same name; the one that is refused says so, and spoils nothing of the other."""
    stack, out = save(tmp_path / "x.tif", volume), tmp_path / "out"
    slow = tmp_path / "slow"
    slow.write_text(
        f'#!/bin/sh\n"{TOOL}" "$@"\ncode=$?\n(echo first; [ $code != 0 ] || sleep 12; echo last) >&2\nexit $code\n'
    )
    slow.chmod(0o755)
    folder = make_imagej(tmp_path / "ij")
    assert install(folder, "--command", slow).returncode == 0
    macro = folder / "plugins" / "Other_Run.ijm"
    other = options(stack=stack, out=out, model=model, show="no")
    macro.write_text(f'runMacro("{folder}/plugins/DenseCell/DenseCell_Segment.ijm", "{other}");')
    bad = options(stack=stack, out=out, model="no-such-model", show="no")
    script = rf"""
doCommand("Other Run");
wait(1000);
say(runMacro(D + "DenseCell_Segment.ijm", "{bad}"));
say(File.openAsString("{out}/x_log.txt"));
for (i = 0; i < 300 && !File.exists("{out}/x_report.json"); i++) wait(100);
wait(15000);
say(File.openAsString("{out}/x_log.txt"));
"""
    answer, log, later = run_script(folder, script, tmp_path)
    assert answer.startswith("failed\tthe tool gave no verdict")
    for text in (answer, log):
        assert "no-such-model" in text
    assert "x_labels" not in log
    assert later.endswith("first|last|")
    assert "no-such-model" not in later


@pytest.mark.parametrize("outside", [False, True])
def test_the_overlay_fits_small_memory(imagej, tmp_path, outside):
    """A stack of 60 MB and its labels, in 330 MB: four bytes a voxel would not go into that."""
    labels = np.zeros((60, 1000, 1000), np.uint8)
    labels[:, 200:300] = 1
    if outside:
        labels[:, 500:] = OUTSIDE
    classes = [ClassInfo("dark", (40, 40, 40)), ClassInfo("cell", (255, 0, 0))]
    write_stack(tmp_path / "x_labels.tif", labels, classes=classes)
    save(tmp_path / "x.tif", np.full_like(labels, 100))
    script = r"""
open(T + "x.tif");
say(runMacro(D + "DenseCell_Load_Labels.ijm", "labels=[" + T + "x_labels.tif]"));
say(Overlay.size);
say(getInfo("log"));
"""
    answer, size, log = run_script(imagej, script, tmp_path, memory="330m", timeout=80)
    assert answer == f"ok\t{tmp_path}/x_labels.tif"
    assert size == "60"
    if outside:
        assert "slices of the overlay what is outside is dark, for ImageJ's memory is small" in log
    else:
        assert log == ""


@NEEDS_CLICKS
def test_objects_of_corrected_labels(imagej, tmp_path):
    """Corrected and saved in ImageJ, then the command with OK; a table, and a region for each object and slice."""
    labels = np.zeros((3, 60, 80), np.uint8)
    labels[:, 5:15, 5:15] = labels[:2, 30:40, 30:40] = 1
    classes = [ClassInfo("back", (40, 40, 40)), ClassInfo("mitochondrion", (255, 0, 0))]
    path = tmp_path / "x é_labels.tif"
    write_stack(path, labels, voxel_size=VoxelSize(0.05, 0.01, 0.01), classes=classes)
    (tmp_path / "args.txt").write_text(str(path), encoding="utf-8")
    script = r"""
path = replace(File.openAsString(T + "args.txt"), "\n", "");
open(path);
setSlice(1);
setColor(1);
fillRect(60, 5, 9, 9);
say(runMacro(D + "DenseCell_Objects.ijm", "classes=mitochondrion"));
run("Save");
run("DenseCell Objects");
title = Table.title; say(title);
volumes = Table.getColumn("volume_um3");
Array.sort(volumes);
say(String.join(volumes, ","));
names = ""; colours = "";
for (i = 0; i < roiManager("count"); i++) {
  roiManager("select", i);
  names += RoiManager.getName(i) + ",";
  colours += Roi.getStrokeColor + ",";
}
say(names);
say(colours);
say(runMacro(D + "DenseCell_Objects.ijm", "labels=[" + path + "] classes=nucleus"));
say(runMacro(D + "DenseCell_Objects.ijm", "labels=[" + path + "] min_volume=0.003 split=yes"));
selectImage(1); run("Select None"); run("Duplicate...", "title=raw.tif"); setMetadata("Info", "");
say(runMacro(D + "DenseCell_Objects.ijm", "classes=mitochondrion"));
"""
    clicks = (("DenseCell Objects", "right"),)
    unsaved, table, volumes, names, colours, unknown, large, raw = run_script(
        imagej, script, tmp_path, clicks=clicks, timeout=100
    )
    assert "was changed, or never saved: save it (File > Save), then again" in unsaved
    assert table == "x é_objects.csv"
    assert [float(volume) for volume in volumes.split(",")] == pytest.approx(
        [81 * 5e-6, 200 * 5e-6, 300 * 5e-6], abs=5e-5
    )
    assert len(names.strip(",").split(",")) == 6
    assert len(set(colours.strip(",").split(","))) == 3
    assert "there is no class 'nucleus'" in unknown
    assert large.startswith(f"ok\t{tmp_path}/objects/x é_objects.csv\t")
    assert "raw.tif bears no names of classes" in raw


def test_instances_of_any_name(imagej, tmp_path):
    """Corrected and saved under a name of one's own: with the class they become regions."""
    instances = np.zeros((2, 40, 40), np.uint16)
    instances[0, 5:9, 5:9] = 3
    tifffile.imwrite(tmp_path / "mine.tif", instances, imagej=True, metadata={"axes": "ZYX"})
    script = r"""
say(runMacro(D + "DenseCell_Labels_To_ROIs.ijm", "instances=[" + T + "mine.tif] class=nucleus"));
name = RoiManager.getName(0); say(name);
"""
    answer, name = run_script(imagej, script, tmp_path)
    assert answer == f"ok\t{tmp_path}/mine_rois.zip\t1"
    assert name == "0003-z001 nucleus"


def a_tool(folder, lines):
    """A runner that does what the lines say, and an ImageJ whose macros start it."""
    tool = folder / "a tool"
    tool.write_text(f"#!/bin/sh\n{lines}\n")
    tool.chmod(0o755)
    imagej = make_imagej(folder / "ij")
    assert install(imagej, "--command", tool).returncode == 0
    return imagej


STOPPED = "trap 'kill $!; echo stopped by TERM >&2; sleep 1; echo done >{folder}/done.txt; exit 75' TERM"
KEY = (
    "sleep 3; w=$(xdotool search --onlyvisible --name '^ImageJ$' | tail -1)"
    "; xdotool mousemove --window $w 30 45 click 1; sleep 1; xdotool key Escape; touch pressed"
)


@NEEDS_CLICKS
def test_escape_stops_the_tool(volume, tmp_path):
    """The key is pressed by the tool itself. It gets the signal after which it goes on the next time."""
    talk = tmp_path / "talk"
    folder = a_tool(tmp_path, f"cd {tmp_path}; {STOPPED.format(folder=talk)}\n{KEY}\nsleep 100 & wait; wait")
    stack = save(tmp_path / "x.tif", volume)
    words = options(stack=stack, out=tmp_path / "out", show="no")
    run_script(folder, f'runMacro(D + "DenseCell_Segment.ijm", "{words}"); wait(200000);', talk, timeout=60)
    assert (tmp_path / "pressed").exists()
    log = tmp_path / "out" / "x_log.txt"
    for _ in range(50):
        if log.exists():
            break
        time.sleep(0.2)
    assert log.read_text() == "stopped by TERM\n"


def test_a_tool_that_says_nothing_is_stopped(volume, tmp_path):
    """After the time limit of silence; how far it is, and the way to stop it, stand in the status line."""
    lines = "echo 'densecell-batch: segmenting: 40 %, 9 voxels/s, 1 min 2 s left' >&2"
    folder = a_tool(tmp_path, f"{STOPPED.format(folder=tmp_path)}\n{lines}\nsleep 100 & wait")
    stack = save(tmp_path / "x.tif", volume)
    words = options(stack=stack, out=tmp_path / "out", show="no")
    script = f"""
call("ij.Prefs.set", "densecell.silence", "0.05");
say(runMacro(D + "DenseCell_Segment.ijm", "{words}"));
"""
    (answer,) = run_script(folder, script, tmp_path / "talk", timeout=60)
    assert answer.startswith("failed\tthe tool gave no verdict")
    assert "it said nothing for 0.05 minutes, so it was stopped" in answer
    assert "segmenting: 40 %" in answer
    assert (tmp_path / "done.txt").exists()


def test_the_tool_ends_with_imagej(volume, tmp_path):
    """ImageJ is killed while it runs."""
    folder = a_tool(tmp_path, f"{STOPPED.format(folder=tmp_path)}\ntouch {tmp_path}/begun\nsleep 100 & wait")
    stack = save(tmp_path / "x.tif", volume)
    words = options(stack=stack, out=tmp_path / "out", show="no")
    (folder / "plugins" / "Other_Run.ijm").write_text(
        f'runMacro("{folder}/plugins/DenseCell/DenseCell_Segment.ijm", "{words}");'
    )
    script = f'doCommand("Other Run"); while (!File.exists("{tmp_path}/begun")) wait(100);'
    run_script(folder, script, tmp_path / "talk", timeout=60)
    assert not (tmp_path / "done.txt").exists()
    for _ in range(200):
        if (tmp_path / "done.txt").exists():
            return
        time.sleep(0.2)
    raise AssertionError("the tool goes on")


def test_a_tool_whose_folder_is_removed(volume, tmp_path, monkeypatch):
    """As a cleaner of temporary files does: it is stopped, and ImageJ waits no longer. An earlier log is no reason."""
    place, out = tmp_path / "place", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    lines = f'{STOPPED.format(folder=tmp_path)}\nsleep 3; rm -rf "$TMPDIR"/*\nsleep 100 & wait'
    folder = a_tool(tmp_path, lines)
    stack = save(tmp_path / "x.tif", volume)
    (out / "x_log.txt").write_text("an earlier error\n")
    words = options(stack=stack, out=out, show="no")
    script = f'say(runMacro(D + "DenseCell_Segment.ijm", "{words}")); wait(25000);'
    (answer,) = run_script(folder, script, tmp_path / "talk", timeout=60)
    assert answer.startswith("failed\tthe tool gave no verdict")
    assert "was removed, or could not be written" in answer
    assert "earlier" not in answer
    assert (tmp_path / "done.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        'run("Reverse")',
        'run("Rotate 90 Degrees Right")',
        'run("Invert LUT")',
        "setSlice(2); setPixel(3, 3, 200)",
        'id = getImageID(); newImage("two", "8-bit ramp", getWidth(), getHeight(), nSlices);'
        ' imageCalculator("Add stack", id, getImageID()); close()',
    ],
)
def test_what_is_seen_is_segmented(volume, tmp_path, change):
    """Not the file, though ImageJ says that nothing was changed."""
    folder = a_tool(tmp_path, 'for last; do :; done; cp "$last" "$(dirname "$0")/seen.tif"')
    stack = save(tmp_path / "x.tif", volume[:, :60, :60])
    words = options(out=tmp_path / "out", show="no")
    script = f"""
open("{stack}"); {change};
say(is("changes"));
answer = runMacro(D + "DenseCell_Segment.ijm", "{words}");
saveAs("Tiff", T + "mine.tif");
"""
    (changed,) = run_script(folder, script, tmp_path / "talk", timeout=60)
    assert changed == "0"
    seen, mine = tifffile.imread(tmp_path / "seen.tif"), tifffile.imread(tmp_path / "talk" / "mine.tif")
    assert np.array_equal(seen, mine)
    assert not np.array_equal(seen, volume[:, :60, :60]) or "LUT" in change


def test_a_disk_that_is_full(volume, tmp_path):
    """No window, no half file: what was there stays, and the reason is said."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs mount, as root")
    folder = a_tool(tmp_path, r"for last; do :; done; printf 'DENSECELL\tok\t%s_labels.tif\tx\n' \"${last%.tif}\"")
    out, talk = tmp_path / "out", tmp_path / "talk"
    out.mkdir()
    classes = [ClassInfo("back", (40, 40, 40)), ClassInfo("cell", (255, 0, 0))]
    write_stack(tmp_path / "y_labels.tif", np.ones((2, 9, 9), np.uint8), classes=classes)
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    save(stacks / "x.tif", volume)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", out], check=False).returncode:
        pytest.skip("a folder cannot be mounted here")
    script = f"""
say(runMacro(D + "DenseCell_Measure.ijm", "labels=[{tmp_path}/y_labels.tif] csv=[{out}/m.csv]"));
say(runMacro(D + "DenseCell_Batch.ijm", "folder=[{stacks}] out=[{out}]"));
open("{stacks}/x.tif"); run("Reverse");
say(runMacro(D + "DenseCell_Segment.ijm", "out=[{out}]"));
say(runMacro(D + "DenseCell_Segment.ijm", "out=[{out}] only=slice"));
"""
    try:
        (out / "m.csv").write_text("mine\n")
        with suppress(OSError), (out / "fill").open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        answers = run_script(folder, script, talk, timeout=60)
        left = sorted(path.name for path in out.iterdir() if not path.name.endswith("_log.txt"))
        mine = (out / "m.csv").read_text()
    finally:
        subprocess.run(["umount", out], check=False)
    for answer in answers:
        assert answer.startswith("failed\t")
        assert "cannot be written" in answer
        assert "make room, or give another place as" in answer
    assert left == ["fill", "m.csv"]
    assert mine == "mine\n"


@NEEDS_CLICKS
def test_escape_leaves_no_copy_of_the_image(volume, tmp_path):
    """Of one that was changed; the log of the tool stays."""
    stopped = STOPPED.format(folder=tmp_path / "talk")
    folder = a_tool(tmp_path, f"cd {tmp_path}; {stopped}\n{KEY}\nsleep 100 & wait; wait")
    stack = save(tmp_path / "x.tif", volume)
    (tmp_path / "out").mkdir()
    script = f"""
open("{stack}"); run("Reverse");
runMacro(D + "DenseCell_Segment.ijm", "out=[{tmp_path}/out] show=no"); wait(200000);
"""
    run_script(folder, script, tmp_path / "talk", timeout=60)
    for _ in range(250):
        if (tmp_path / "out" / "x_log.txt").exists():
            break
        time.sleep(0.2)
    time.sleep(0.5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x_log.txt"]
