"""The commands in the menu of real ImageJ: their names, the macro recorder, every dialog answered with a click."""

import shutil

import numpy as np
import pytest
from fiji_folder import TOOL, install, make_imagej, run_script
from imagej_app import MISSING
from macro_input import save

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")
def test_the_dialog_is_recorded_and_failures_are_shown(imagej, volume, tmp_path):
    """A command of the menu, without options; what the recorder wrote is then run as it is, and asks nothing."""
    folder = tmp_path / 'a "b" c'
    folder.mkdir()
    stack = save(folder / "x.tif", volume)
    quoted = str(stack).replace('"', r"\"")
    script = rf"""
open("{quoted}");
call("ij.Prefs.set", "densecell.model", "no-such-model");
run("Record...");
run("DenseCell Segment");
selectWindow("Recorder");
recorded = getInfo("window.contents");
say(recorded);
run("Close");
before = call("ij.IJ.runMacro", recorded, "");
say(getInfo("log"));
"""
    clicks = (("DenseCell Segment", "right"), ("DenseCell", "middle"))
    recorded, log = run_script(imagej, script, tmp_path / "talk", clicks=clicks, timeout=60)
    assert recorded == (
        rf'run("DenseCell Segment", "options=[] stack=[] out=[{tmp_path}/a \"b\" c/densecell/] model=[no-such-model] '
        'instances=[mitochondrion] voxel_size=[] show=yes");|'
    )
    assert log.startswith("DenseCell: the tool gave no verdict. ")
    assert "no-such-model" in log


def test_the_menu_and_names_with_underscores(imagej, volume, tmp_path):
    """The commands that ImageJ found; a class whose name has the character that separates names in files."""
    instances = np.zeros((4, 96, 96), np.uint16)
    instances[1:3, 5:20, 5:20], instances[2, 40:50, 40:60] = 1, 300
    save(tmp_path / "a_b_golgi_body_instances.tif", instances)
    save(tmp_path / "a_b_labels.tif", (instances > 0).astype(np.uint8))
    save(tmp_path / "other.tif", volume[:, :50, :50])
    script = r"""
say(call("ij.Menus.getCommands"));
open(T + "other.tif");
say(runMacro(D + "DenseCell_Load_Labels.ijm", "labels=[" + T + "a_b_labels.tif] image=other.tif legend=no"));
run("DenseCell Labels To ROIs", "instances=[" + T + "a_b_golgi_body_instances.tif]");
for (i = 0; i < roiManager("count"); i++) { name = RoiManager.getName(i); say(name); }
"""
    commands, loaded, *names = run_script(imagej, script, tmp_path)
    for name in ("Segment", "Batch", "Load Labels", "Labels To ROIs", "Measure", "Objects"):
        assert (
            f'DenseCell {name}=ij.plugin.Macro_Runner("DenseCell/DenseCell_{name.replace(" ", "_")}.ijm")' in commands
        )
    assert loaded == (
        "failed\tother.tif is 50 x 50 x 4 voxels, the labels are 96 x 96 x 4: they belong to another image"
    )
    assert names == ["0001-z002 golgi_body", "0001-z003 golgi_body", "0300-z003 golgi_body"]
    assert (tmp_path / "a_b_golgi_body_rois.zip").exists()


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")
def test_every_dialog(imagej, volume, tmp_path):
    """Opened from the menu and answered with OK; the runner that is confirmed is remembered until the next install."""
    save(tmp_path / "x.tif", volume)
    save(tmp_path / "x_labels.tif", (volume > 128).astype(np.uint8))
    (tmp_path / "nothing.ijm").write_text("x = 1;")
    script = r"""
open(T + "x.tif");
run("DenseCell Batch");
run("DenseCell Load Labels");
run("DenseCell Labels To ROIs");
open(T + "x_labels.tif");
answer = runMacro(D + "DenseCell_Measure.ijm"); // as from the menu: nobody takes the answer
none = runMacro(T + "nothing.ijm");
say("" + answer + " " + none);
title = Table.title; say(title);
close();
run("DenseCell Measure");
say(call("ij.Prefs.get", "densecell.runner", "") + " " + call("ij.Prefs.get", "densecell.command", ""));
call("ij.Prefs.set", "densecell.command", "/no such/tool");
say(runMacro(D + "DenseCell_Segment.ijm", "stack=[" + T + "x.tif]"));
File.append("words=--new", D + "runner.txt");
say(runMacro(D + "DenseCell_Segment.ijm", "stack=[" + T + "x.tif] out=[" + T + "out] model=no-such-model"));
"""
    clicks = [("DenseCell Batch", "box"), ("DenseCell: how the tool is started", "right"), ("DenseCell", "middle")]
    clicks += [("DenseCell Load Labels", "right"), ("DenseCell", "middle")]
    clicks += [("DenseCell Labels To ROIs", "right"), ("DenseCell", "middle"), ("DenseCell Measure", "right")]
    clicks += [("DenseCell Measure", "right")]
    clicks += [("DenseCell", "middle")]
    folder = make_imagej(tmp_path / "ij")
    install(folder)
    answer, table, remembered, changed, anew = run_script(folder, script, tmp_path, clicks=tuple(clicks))
    assert answer.split() in (["0", "0"], ["null", "null"])
    assert table == "DenseCell measurements of x"
    assert not list(tmp_path.glob("x_measurements.csv.*"))
    assert not (tmp_path / "x.tif_measurements.csv").exists()
    assert remembered == f"local {TOOL}"
    assert changed.startswith("failed\tthere is no program /no such/tool")
    assert "no such program" not in anew
    assert "tool gave no verdict" in anew
