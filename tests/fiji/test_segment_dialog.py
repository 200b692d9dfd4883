"""The dialog of DenseCell Segment in real ImageJ: models and classes, previews, refusals at once, where the tool is."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fiji_folder import TOOL, install, make_imagej, run_script
from imagej_app import MISSING
from macro_input import options, save

from densecell_batch import VoxelSize
from densecell_batch.prepare.examine import zoom_to
from densecell_batch.prepare.preparation import Aim

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

NEEDS_CLICKS = pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")

OK = ("DenseCell Segment", "right")


def a_tool(folder: Path) -> tuple[Path, Path]:
    """The real tool, which notes each start; an ImageJ whose macros start it, and the notes."""
    tool, notes = folder / "a tool", folder / "starts.txt"
    tool.write_text(f'#!/bin/sh\necho "$1" >>"{notes}"\nexec "{TOOL}" "$@"\n')
    tool.chmod(0o755)
    imagej = make_imagej(folder / "ij")
    assert install(imagej, "--command", tool).returncode == 0
    notes.touch()
    return imagej, notes


@NEEDS_CLICKS
def test_another_model_brings_its_classes(model, volume, tmp_path):
    """Its path is typed; the dialog comes again with its classes, of which one is ticked. Again the same: at once."""
    imagej, notes = a_tool(tmp_path)
    stack = save(tmp_path / "x.tif", volume)
    own = tmp_path / "own.zip"
    shutil.copy(model, own)
    script = rf"""
open("{stack}");
run("DenseCell Segment");
say(call("ij.Prefs.get", "densecell.instances", ""));
say(File.openAsString("{notes}"));
titles = getList("image.titles");
say(titles.length);
selectImage("x_labels.tif"); close();
selectImage("x.tif"); run("Remove Overlay");
run("DenseCell Segment");
say(File.openAsString("{notes}"));
selectImage("x.tif");
say(Overlay.size);
say(getInfo("log"));
say(call("ij.Prefs.get", "densecell.rate.{own}", ""));
"""
    clicks = ((*OK, (350, 145), str(own)), (*OK, (20, -249)), OK)
    answers = run_script(imagej, script, tmp_path / "talk", clicks=clicks, timeout=120)
    instances, starts, n, again, size, log, rate = answers
    assert instances == "mitochondrion,synapse"
    assert starts == "models|models|segment|"
    assert n == "3"
    assert again == starts
    assert int(size) == len(volume)
    assert "x_labels.tif: was done before, and is shown as it is" in log
    assert float(rate) > 0
    assert (tmp_path / "densecell" / "x_synapse_instances.tif").exists()


@pytest.mark.parametrize("only", ["slice", "selection", "slice selection"])
def test_a_preview(imagej, model, volume, tmp_path, only):
    """The same labels as of the whole stack, which is seen around; nothing is left, and the image stays as it is."""
    save(tmp_path / "x.tif", volume)
    rows = [
        options(out=tmp_path / "out", model=model, show="no"),
        options(out=tmp_path / "pre", model=model, only=only, instances="mitochondrion", split="yes", rois="yes"),
    ]
    (tmp_path / "args.txt").write_text("\n".join(rows))
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
open(T + "x.tif");
say(runMacro(D + "DenseCell_Segment.ijm", args[0]));
setSlice(3);
makeRectangle(20, 30, 40, 50);
say(runMacro(D + "DenseCell_Segment.ijm", args[1]));
say(getTitle() + " " + getSliceNumber() + " " + is("changes") + " " + Overlay.size);
getSelectionBounds(x, y, w, h); say("" + x + " " + y + " " + w + " " + h);
selectImage("Preview of x");
getDimensions(width, height, channels, slices, frames);
saveAs("Tiff", T + "seen.tif");
"""
    whole, answer, after, selection = run_script(imagej, script, tmp_path)
    assert whole == f"ok\t{tmp_path}/out/x_labels.tif"
    assert answer == "ok\tPreview of x"
    rows_, columns = (slice(30, 80), slice(20, 60)) if "selection" in only else (slice(None), slice(None))
    slices = slice(2, 3) if "slice" in only else slice(None)
    expected = tifffile.imread(tmp_path / "out" / "x_labels.tif")[slices, rows_, columns]
    seen = tifffile.imread(tmp_path / "seen.tif").reshape(expected.shape)
    assert np.mean(seen == expected) > 0.97
    assert after == f"x.tif 3 0 {len(expected)}"
    assert selection == "20 30 40 50"
    assert not list((tmp_path / "pre").iterdir())


def test_refused_at_once(volume, model, tmp_path):
    """Colours, channels, times, no selection, labels: no tool is started. Times that are slices are taken as such."""
    imagej, notes = a_tool(tmp_path)
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([volume] * 3, -1), imagej=True)
    tifffile.imwrite(tmp_path / "times.tif", volume, imagej=True, metadata={"axes": "TYX"})
    tifffile.imwrite(
        tmp_path / "both.tif", volume.reshape(2, 2, 1, *volume.shape[1:]), imagej=True, metadata={"axes": "TZCYX"}
    )
    (tmp_path / "args.txt").write_text(options(out=tmp_path / "out", model=model))
    script = rf"""
args = replace(File.openAsString("{tmp_path}/args.txt"), "\n", "");
names = newArray("rgb.tif", "times.tif", "both.tif");
for (i = 0; i < 3; i++) {{
  open("{tmp_path}/" + names[i]);
  say(runMacro(D + "DenseCell_Segment.ijm", args));
}}
selectImage("times.tif");
say(runMacro(D + "DenseCell_Segment.ijm", args + " only=selection as_slices=yes"));
newImage("labels", "8-bit", 9, 9, 1); setMetadata("Info", "class 0 = cell #787878");
say(runMacro(D + "DenseCell_Segment.ijm", args));
selectImage("times.tif");
say(File.length("{notes}"));
say(runMacro(D + "DenseCell_Segment.ijm", args + " as_slices=yes"));
selectImage("times.tif");
getDimensions(width, height, channels, slices, frames); say("" + slices + " " + frames + " " + Overlay.size);
"""
    rgb, times, both, selection, result, started, taken, after = run_script(imagej, script, tmp_path / "talk")
    assert rgb == "failed\trgb.tif is a colour image (RGB); expected grey values: Image > Type > 8-bit"
    assert times.startswith("failed\ttimes.tif has 4 time points; expected one volume of slices")
    assert "as_slices=yes" in times
    assert both.startswith("failed\tboth.tif has 2 time points")
    assert "as_slices" not in both
    assert selection.startswith("failed\ttimes.tif has no selection")
    assert result == "failed\tlabels is a result of this tool, no image: click on the stack first, then again"
    assert started == "0"
    assert taken == f"ok\t{tmp_path}/out/times_labels.tif"
    assert tifffile.imread(tmp_path / "out" / "times_labels.tif").shape == volume.shape
    assert after == "1 4 4"


@NEEDS_CLICKS
def test_the_tool_is_found(volume, model, tmp_path, monkeypatch):
    """In an environment in the user's home, though nobody said where; it is tried, and remembered."""
    imagej, talk = make_imagej(tmp_path / "ij"), tmp_path / "talk"
    assert install(imagej).returncode == 0
    (imagej / "plugins" / "DenseCell" / "runner.txt").unlink()
    place = talk / "em tools" / "bin"
    place.mkdir(parents=True)
    (place / "densecell-batch").write_text(f'#!/bin/sh\nexec "{TOOL}" "$@"\n')
    (place / "densecell-batch").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join(("/usr/bin", "/bin")))
    stack = save(tmp_path / "x.tif", volume)
    script = rf"""
say(runMacro(D + "DenseCell_Segment.ijm", "stack=[{stack}]"));
open("{stack}");
call("ij.Prefs.set", "densecell.model", "{model}");
run("DenseCell Segment");
say(call("ij.Prefs.get", "densecell.command", ""));
say(runMacro(D + "DenseCell_Segment.ijm", "out=[{tmp_path}/out] model=[{model}] show=no"));
"""
    clicks = (("DenseCell: how the tool is started", "right"), OK)
    before, command, answer = run_script(imagej, script, talk, clicks=clicks, timeout=120)
    assert before.startswith(
        "failed\twhere the tool is was not said yet: choose Plugins > DenseCell > DenseCell Segment"
    )
    assert command == str(place / "densecell-batch")
    assert answer == f"ok\t{tmp_path}/out/x_labels.tif"
    assert (tmp_path / "densecell" / "x_labels.tif").exists()


@NEEDS_CLICKS
def test_a_tool_that_does_not_answer_is_not_taken(volume, tmp_path):
    """What is wrong stands in the dialog, which comes again; with the box off it is taken untried."""
    imagej, talk = make_imagej(tmp_path / "ij"), tmp_path / "talk"
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    bad.chmod(0o755)
    assert install(imagej, "--command", bad).returncode == 0
    stack = save(tmp_path / "x.tif", volume)
    script = rf"""
open("{stack}");
run("DenseCell Segment");
say(call("ij.Prefs.get", "densecell.command", ""));
"""
    how = ("DenseCell: how the tool is started", "right")
    clicks = (("DenseCell Segment", "box"), how, (*how, (40, -60)), ("DenseCell", "middle"))
    (command,) = run_script(imagej, script, talk, clicks=clicks, timeout=120)
    assert command == str(bad)


@pytest.mark.parametrize(
    ("edges", "told", "resampled"),
    [
        ((47, 9.2, 9.2), "goes with that", False),
        ((47, 4.6, 4.6), "0.5 times that size (y), and 0.5 times (x): for the nets it is resampled", True),
        ((47, 10, 10), "goes with that", False),
        ((470, 92, 92), "too far from that to be true, and nothing is resampled", False),
        ((100, 9.2, 9.2), "goes with that. Its slices are 100 nm thick", False),
        (None, "has no voxel size", False),
    ],
)
def test_what_is_said_of_voxel_sizes(imagej, tmp_path, edges, told, resampled):
    """It is what the tool then does."""
    text = (imagej / "plugins" / "DenseCell" / "DenseCell_Segment.ijm").read_text()
    functions = (
        text[: text.index("// Segment the active image, or a stack")] + text[text.index("// Ask for everything") :]
    )
    size = "" if edges is None else f'setVoxelSize({edges[2]}, {edges[1]}, {edges[0]}, "nm");'
    script = (
        f'newImage("x", "8-bit", 64, 64, 3); {size} said = describeMismatch(newArray("47", "9.2", "9.2")); say(said);'
    )
    (said,) = run_script(imagej, f"{script}\n{functions}", tmp_path)
    assert told in said
    found = None if edges is None else VoxelSize(*(edge / 1000 for edge in edges))
    zoom, _ = zoom_to(Aim(VoxelSize(0.047, 0.0092, 0.0092)), found)
    assert (zoom != (1, 1, 1)) == resampled
