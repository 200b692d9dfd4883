"""Our commands in Fiji's macro layer, where each is a script of SciJava, and what a script returns opens a window.

The real ImageJ 1.54p, ij1-patcher and scijava-common run here. imagej-legacy cannot be had: its engine for macros and
its hooks are done anew in FijiLayer.java. Nor is a display opened as a window: those that SciJava makes are counted.
"""

import shutil

import pytest
from fiji_layer import build_layer, run_steps
from imagej_app import MISSING_PYTHON
from macro_input import save
from test_object_link import write_labels

NEEDED = MISSING_PYTHON + ([] if shutil.which("xdotool") else ["xdotool"])
pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(NEEDED), reason=f"not installed: {', '.join(NEEDED)}")]


@pytest.fixture(scope="module")
def layer(imagej, tmp_path_factory):
    """The class path of the layer. Beside our macros, the folder of ImageJ gets one that returns, come what may."""
    (imagej / "plugins" / "Plain_Return.ijm").write_text('return "x";\n')
    return build_layer(tmp_path_factory.mktemp("layer"))


def test_what_is_picked_from_the_menu_shows_no_result(layer, imagej, model, volume, tmp_path):
    """Done, failed or cancelled, no command of ours returns anything. A macro that does opens a window, "result"."""
    stack = save(tmp_path / "x.tif", volume)
    steps = [
        "pick Plain Return",
        f'open("{stack}"); call("ij.Prefs.set", "densecell.model", "{model}");',
        "pick DenseCell Segment",
        'selectImage("x.tif");',
        "pick DenseCell View",
        'close("*");',
        "pick DenseCell Load Labels",
        "pick DenseCell Measure",
        "pick DenseCell Objects",
        'return "" + roiManager("count");',
        # Its table and the ROI Manager are linked by a command, too, until the table is closed.
        'close("x_objects.csv"); do { wait(100); link = call("java.lang.System.getProperty", "densecell.link"); } '
        'while (link != "");',
        'call("ij.Prefs.set", "densecell.instances.file", "/none/x_mitochondrion_instances.tif");',
        "pick DenseCell Labels To ROIs",
        'call("ij.Prefs.set", "densecell.batch.folder", "/none");',
        "pick DenseCell Batch",
        "pick DenseCell Segment",
    ]
    done = [(f"DenseCell {name}", "right") for name in ("Segment", "View", "Load Labels", "Measure", "Objects")]
    complaint = ("DenseCell", "middle")
    failed = (("DenseCell Labels To ROIs", "right"), complaint, ("DenseCell Batch", "right"), complaint)
    clicks = (*done, *failed, ("DenseCell Segment", "cancel"))
    said = run_steps(layer, imagej, steps, tmp_path / "talk", clicks=clicks)
    control, *ours = (line.split(": ", 1) for line in said if not line.startswith("macro: "))
    assert control == ["Plain Return", "x, shown: [result]"]
    macros = {path.stem.replace("_", " ") for path in (imagej / "plugins" / "DenseCell").glob("*.ijm")}
    assert {command for command, _ in ours} == macros
    assert {outcome for _, outcome in ours} == {"null, shown: []"}
    (regions,) = (int(line.removeprefix("macro: ")) for line in said if line.removeprefix("macro: ").isdigit())
    assert regions > 0
    assert (tmp_path / "densecell" / "x_measurements.csv").exists()


def test_whoever_asks_gets_the_answer(layer, imagej, tmp_path):
    """Of runMacro with options; of run, as of every command, there is none."""
    write_labels(tmp_path)
    macros, good = imagej / "plugins" / "DenseCell", f"labels=[{tmp_path}/x_labels.tif]"
    steps = [
        f'return runMacro("{macros}/DenseCell_Measure.ijm", "{good} csv=[{tmp_path}/asked.csv]");',
        f'return runMacro("{macros}/DenseCell_Measure.ijm", "labels=[/none.tif]");',
        f'run("DenseCell Measure", "{good} csv=[{tmp_path}/run.csv]");',
        'run("DenseCell Measure", "labels=[/none.tif]");',
        'run("Plain Return", "labels=[/none.tif]");',
    ]
    assert run_steps(layer, imagej, steps, tmp_path / "talk") == [
        f"macro: ok\t{tmp_path}/asked.csv",
        "macro: failed\t/none.tif: no such file",
        "DenseCell Measure: null, shown: []",
        "macro: null",
        "DenseCell Measure: null, shown: []",
        "macro: null",
        "Plain Return: x, shown: [result]",
        "macro: null",
    ]
    assert (tmp_path / "run.csv").read_bytes() == (tmp_path / "asked.csv").read_bytes()
