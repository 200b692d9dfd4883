"""How labels lie over their stack in real ImageJ: classes, opacity, outlines, uncertainty, places of windows."""

import shutil

import numpy as np
import pytest
import tifffile
from fiji_folder import run_script
from imagej_app import MISSING

from densecell_batch import ClassInfo, write_stack

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

COLOURS = np.array([(40, 40, 40), (255, 0, 0), (0, 0, 255)])


@pytest.fixture
def labels(tmp_path):
    """Labels of three classes, their grey stack and uncertainty, in three slices."""
    labels = np.zeros((3, 40, 60), np.uint8)
    labels[:, 5:20, 5:20], labels[1:, 20:35, 30:50] = 1, 2
    classes = [ClassInfo(name, tuple(map(int, c))) for name, c in zip(("back", "a", "b"), COLOURS, strict=True)]
    write_stack(tmp_path / "x_labels.tif", labels, classes=classes)
    grey = np.full(labels.shape, 100, np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", grey, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "t.tif", grey, imagej=True, metadata={"axes": "TYX"})
    doubts = (labels / 4).astype(np.float32)
    tifffile.imwrite(tmp_path / "x_uncertainty.tif", doubts, imagej=True, metadata={"axes": "ZYX"})
    return labels


# Load, then change the view; what is seen of the stack each time goes into a file.
FLAT = r"""
function flat(name) {
  id = getImageID();
  setBatchMode(true);
  run("Select None");
  run("Duplicate...", "title=flat duplicate");
  run("RGB Color");
  run("Flatten", "stack");
  saveAs("Tiff", T + name); close();
  setBatchMode("exit and display");
  selectImage(id);
}
function view(words) { answer = runMacro(D + "DenseCell_View.ijm", words); say(answer); }
function load(words) {
  answer = runMacro(D + "DenseCell_Load_Labels.ijm", "labels=[" + T + "x_labels.tif] " + words);
  say(answer);
}
"""


def test_classes_opacity_and_outlines_without_loading_again(imagej, labels, tmp_path):
    script = (
        FLAT
        + r"""
open(T + "x.tif");
load("opacity=50");
flat("all.tif");
before = nImages;
deleted = File.rename(T + "x_labels.tif", T + "y_labels.tif"); // it is open
setSlice(2); makeRectangle(3, 4, 5, 6);
view("classes=a opacity=20");
getSelectionBounds(x, y, w, h);
say("" + getTitle() + "," + getSliceNumber() + "," + x + " " + y + " " + w + " " + h + "," + (nImages - before));
flat("a.tif");
makeRectangle(3, 4, 5, 6);
view("style=outlines classes=[a, b]");
getSelectionBounds(x, y, w, h);
say("" + Overlay.size + "," + x + " " + y + " " + w + " " + h + "," + getSliceNumber());
run("Select None");
flat("outlines.tif");
view("classes=none");
say(Overlay.size);
view("classes=c");
view("style=dots");
deleted = File.rename(T + "y_labels.tif", T + "x_labels.tif");
"""
    )
    loaded, on, state, drawn, outlines, none, left, unknown, style = run_script(imagej, script, tmp_path, timeout=80)
    path = f"{tmp_path}/x_labels.tif"
    assert {loaded, on, drawn, none} == {f"ok\t{path}"}
    assert state == "x.tif,2,3 4 5 6,0"
    assert outlines == "5,3 4 5 6,2"
    assert left == "0"
    assert unknown == "failed\tthere is no class 'c'; expected some of back, a, b"
    assert style == "failed\tstyle is 'dots'; expected fill or outlines"
    both = tifffile.imread(tmp_path / "all.tif").astype(float)
    assert np.abs(both - (50 + 0.5 * COLOURS[labels])).max() < 3
    one = tifffile.imread(tmp_path / "a.tif").astype(float)
    expected = np.where((labels == 1)[..., None], 80 + 0.2 * COLOURS[1], 100)
    assert np.abs(one - expected).max() < 3
    drawn = tifffile.imread(tmp_path / "outlines.tif")
    assert (drawn[:, 12, 12] == 100).all()
    assert (drawn[0, :, :, 2] == drawn[0, :, :, 1]).all()  # nothing blue in the first slice
    assert (drawn[0] == COLOURS[1]).all(axis=-1).any()
    assert (drawn[1] == COLOURS[2]).all(axis=-1).any()


def test_uncertainty_places_and_windows(imagej, labels, tmp_path):
    """Beside the stack, not over it; loaded again, no window is opened twice, and one that was moved stays."""
    script = (
        FLAT
        + r"""
function places() {
  text = "";
  names = newArray("x.tif", "x_labels.tif", "x_uncertainty.tif", "Legend of x_labels.tif");
  for (i = 0; i < names.length; i++) {
    selectImage(names[i]);
    getLocationAndSize(x, y, w, h);
    text += "" + x + "," + y + "," + w + "," + h + " ";
  }
  selectImage("x.tif");
  return text;
}
open(T + "x.tif");
setLocation(20, 150);
load("uncertainty=yes");
wait(500);
where = places(); say(where);
shoot("beside");
selectImage("x_uncertainty.tif"); getMinAndMax(low, high); say("" + low + "," + high);
selectImage("x_labels.tif"); setLocation(400, 500);
selectImage("x.tif");
load("uncertainty=yes");
wait(500);
where = places(); say(where);
say(nImages);
run("Close All");
open(T + "x_labels.tif");
run("Set...", "value=1 slice"); // a correction that is not saved is what is shown
open(T + "x.tif");
load("opacity=100");
say(nImages);
flat("corrected.tif");
"""
    )
    _, before, levels, _, after, images, _, again = run_script(imagej, script, tmp_path, timeout=80)
    stack, shown, doubts, legend = ([*map(int, place.split(","))] for place in before.split())
    for left, right in ((stack, shown), (shown, doubts), (doubts, legend)):
        assert right[0] >= left[0] + left[2]
        assert right[1] == stack[1]
    assert levels == "0,0.5"
    assert after.split()[1].startswith("400,500,")
    assert images == "4"
    assert again == "3"
    assert (tifffile.imread(tmp_path / "corrected.tif")[0] == COLOURS[1]).all()


def test_of_several_labels_those_of_the_stack(imagej, labels, tmp_path):
    """Those that lie over it, else those of its name; where neither says which, none: they are equally large."""
    for name in "by":
        shutil.copy(tmp_path / "x.tif", tmp_path / f"{name}.tif")
        shutil.copy(tmp_path / "x_labels.tif", tmp_path / f"{name}_labels.tif")
    script = (
        FLAT.replace("x_labels.tif] ", '" + name + "_labels.tif] ').replace("load(words)", "load(name, words)")
        + r"""
load("x", "image=none legend=no");
load("b", "image=none legend=no");
open(T + "b.tif"); view("opacity=20"); // its name
load("x", "legend=no"); view("opacity=20"); // what it was told
open(T + "y.tif"); view("opacity=20");
load("b", "legend=no"); view("opacity=20");
"""
    )
    *_, named, _, laid, neither, _, told = run_script(imagej, script, tmp_path, timeout=80)
    assert named == f"ok\t{tmp_path}/b_labels.tif"
    assert laid == f"ok\t{tmp_path}/x_labels.tif"
    assert neither.startswith("failed\tseveral labels of the size of y.tif are open")
    assert told == f"ok\t{tmp_path}/b_labels.tif"


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")
def test_the_dialog_and_slices_that_are_time_points(imagej, labels, tmp_path):
    """It offers to take them as slices, and has a box for each class."""
    script = (
        FLAT
        + r"""
open(T + "t.tif");
load("legend=no");
say(Overlay.size);
run("DenseCell View");
Stack.getDimensions(width, height, channels, slices, frames);
say("" + getTitle() + "," + slices + "," + frames + "," + Overlay.size);
flat("t_flat.tif");
close("*");
newImage("alone", "8-bit black", 9, 9, 1);
view("classes=none");
"""
    )
    clicks = (("DenseCell View", "right"),)
    _, size, state, alone = run_script(imagej, script, tmp_path, timeout=80, clicks=clicks)
    assert size == "3"
    assert state == "t.tif,3,1,3"
    flat = tifffile.imread(tmp_path / "t_flat.tif").astype(float)
    assert np.abs(flat - (55 + 0.45 * COLOURS[labels])).max() < 3
    assert alone == "failed\tno labels of the size of alone are open: DenseCell Load Labels opens them"
