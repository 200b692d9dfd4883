"""The table of objects and the ROI Manager of real ImageJ, clicked: a row selects its region, a region its row."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import tifffile
from fiji_folder import photograph, run_script
from imagej_app import JAR, MISSING, display

from densecell_batch import ClassInfo, VoxelSize, write_stack

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

NEEDS_CLICKS = pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")
LONG = "a class whose name is too long"


def write_labels(folder):
    """Three objects of one class and one of another, in six slices; a stack that they belong to."""
    labels = np.zeros((6, 120, 160), np.uint8)
    labels[:, 10:30, 10:30] = labels[1:4, 50:70, 50:80] = labels[2:, 80:110, 100:140] = 1
    labels[4:, 10:40, 100:140] = 2
    classes = [ClassInfo("back", (40, 40, 40)), ClassInfo("mitochondrion", (255, 0, 0)), ClassInfo(LONG, (0, 255, 0))]
    write_stack(folder / "x_labels.tif", labels, voxel_size=VoxelSize(0.05, 0.01, 0.01), classes=classes)
    tifffile.imwrite(folder / "x.tif", labels * 60 + 50, imagej=True, metadata={"axes": "ZYX"})
    return labels


CLICKS = r"""
function row() { return Table.getSelectionStart("x_objects.csv"); }
function region() { k = roiManager("index"); if (k < 0) return "none"; name = RoiManager.getName(k); return name; }
function click(x, y) { said = exec("xdotool", "mousemove", "" + x, "" + y, "click", "1"); wait(1000); }
function beats() {
  before = call("java.lang.System.getProperty", "densecell.link", "");
  for (i = 0; i < 25; i++) {
    wait(100);
    after = call("java.lang.System.getProperty", "densecell.link", "");
    if (before != after) return 1;
  }
  return 0;
}
open(T + "x.tif");
setLocation(10, 120);
answer = runMacro(D + "DenseCell_Objects.ijm", "labels=[" + T + "x_labels.tif] image=x.tif");
Table.setLocationAndSize(300, 120, 700, 200, "x_objects.csv");
selectWindow("ROI Manager"); setLocation(10, 350);
wait(1000);
"""


@NEEDS_CLICKS
def test_a_row_selects_its_region_and_a_region_its_row(imagej, tmp_path):
    """Rows are 19 pixels apart, regions 17; of a row's regions, that in the middle of its slices."""
    write_labels(tmp_path)
    script = (
        CLICKS
        + r"""
for (i = 0; i < 4; i++) {
  click(400, 170 + 19 * i);
  shown = Roi.getName; at = region();
  say("" + row() + "," + at + "," + shown + "," + getSliceNumber());
}
for (i = 2; i < 8; i++) {
  click(60, 360 + 17 * i);
  at = region();
  say("" + row() + "," + at + "," + getSliceNumber());
}
newImage("other", "8-bit black", 50, 50, 1); // the regions are not of this one
click(400, 170);
for (i = 0; i < 30 && getTitle() != "x.tif"; i++) wait(100);
at = region();
say(getTitle() + "," + at + "," + row());
shoot("other");
"""
    )
    *said, active = run_script(imagej, script, tmp_path)
    rows, regions = said[:4], said[4:]
    long = LONG[:14].rstrip()  # names of regions have 24 characters
    expected = [(0, 4, "mitochondrion"), (1, 3, "mitochondrion"), (2, 5, "mitochondrion"), (3, 6, long)]
    names = [f"{n:04d}-z{z:03d} {kind}" for (_, z, kind), n in zip(expected, (1, 2, 3, 1), strict=True)]
    assert rows == [f"{row},{name},{name},{z}" for (row, z, _), name in zip(expected, names, strict=True)]
    listed = [(1, 1), (1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]
    assert regions == [f"{n - 1},{n:04d}-z{z:03d} mitochondrion,{z}" for n, z in listed]
    assert active == "x.tif,0001-z004 mitochondrion,0"


@NEEDS_CLICKS
def test_the_link_ends_with_its_table_and_begins_again(imagej, tmp_path):
    """Measured again, the table and the link are those of before; other commands go on beside it."""
    write_labels(tmp_path)
    script = (
        CLICKS
        + r"""
say(beats());
run("DenseCell Objects", "labels=[" + T + "x_labels.tif] image=x.tif classes=mitochondrion");
titles = getList("window.titles");
count = 0;
for (i = 0; i < titles.length; i++) if (endsWith(titles[i], "_objects.csv")) count++;
say("" + count + " " + Table.size("x_objects.csv") + " " + roiManager("count") + " " + beats());
selectWindow("x_objects.csv"); run("Close");
wait(1000);
say(beats());
run("DenseCell Objects", "labels=[" + T + "x_labels.tif]");
wait(1000);
say(beats());
makeOval(1, 1, 5, 5); roiManager("add"); Roi.setName("mine"); // of the user's, between two of ours
run("DenseCell Objects", "labels=[" + T + "x_labels.tif]");
say(roiManager("count"));
"""
    )
    assert run_script(imagej, script, tmp_path, timeout=60) == ["1", "1 3 13 1", "0", "1", "16"]


@NEEDS_CLICKS
def test_of_several_tables_each_has_its_own_regions(imagej, tmp_path):
    """Their names are the same. A window that is called like a table, and has none yet, ends nothing."""
    labels = write_labels(tmp_path)
    classes = [ClassInfo("back", (40, 40, 40)), ClassInfo("mitochondrion", (255, 0, 0))]
    other = np.zeros_like(labels)
    other[:, 60:90, 20:50] = 1
    write_stack(tmp_path / "y_labels.tif", other, voxel_size=VoxelSize(0.05, 0.01, 0.01), classes=classes)
    shutil.copy(tmp_path / "x.tif", tmp_path / "y.tif")
    script = (
        CLICKS
        + r"""
function shown(image, table) {
  for (i = 0; i < 50 && (getTitle() != image || selectionType() < 0); i++) wait(100);
  wait(500);
  Roi.getBounds(x, y, width, height);
  say(getTitle() + " " + x + " " + y + " " + Table.getSelectionStart(table));
}
open(T + "y.tif"); setLocation(200, 350);
answer = runMacro(D + "DenseCell_Objects.ijm", "labels=[" + T + "y_labels.tif] image=y.tif");
Table.setLocationAndSize(500, 350, 700, 200, "y_objects.csv");
selectWindow("ROI Manager"); setLocation(10, 350);
run("New... ", "name=z_objects.csv type=Table"); setLocation(900, 700);
wait(1000);
selectWindow("ROI Manager"); click(60, 360 + 17 * 2); shown("y.tif", "x_objects.csv"); // of x, while y is active
say(Table.getSelectionStart("y_objects.csv"));
selectWindow("x_objects.csv"); click(400, 189); click(400, 170); shown("x.tif", "x_objects.csv");
selectWindow("y_objects.csv"); click(600, 400); shown("y.tif", "y_objects.csv");
shoot("several");
"""
    )
    said = run_script(imagej, script, tmp_path, timeout=60)
    assert said == ["y.tif 10 10 0", "-1", "x.tif 10 10 0", "y.tif 20 60 0"]


# What is selected: the region, the rows of the tables of a and b, the active image.
SEEN = r"""
function seen() {
  wait(2000);
  at = region();
  say("" + roiManager("index") + "," + Table.getSelectionStart("a_objects.csv") + ","
    + Table.getSelectionStart("b_objects.csv") + "," + getTitle());
}
function measure(name) {
  words = "labels=[" + T + name + "_labels.tif] image=" + name + ".tif classes=mitochondrion";
  said = runMacro(D + "DenseCell_Objects.ijm", words);
  wait(1500);
}
open(T + "a.tif"); open(T + "b.tif");
measure("a"); measure("b");
"""


def test_two_stacks_whose_objects_have_the_same_numbers(imagej, tmp_path):
    """Each row has its own stack's region and image, each region its own table's row; also when one is measured again,
    and when a region was deleted.
    """
    write_labels(tmp_path)
    for name in "ab":
        shutil.copy(tmp_path / "x_labels.tif", tmp_path / f"{name}_labels.tif")
        shutil.copy(tmp_path / "x.tif", tmp_path / f"{name}.tif")
    script = (
        CLICKS.split("open(")[0]
        + SEEN
        + r"""
Table.setSelection(0, 0, "a_objects.csv"); seen();
Table.setSelection(0, 0, "b_objects.csv"); seen();
roiManager("select", 12); seen();
roiManager("select", 25); seen();
measure("a"); // its regions are now behind those of the other
Table.setSelection(1, 1, "b_objects.csv"); seen();
Table.setSelection(1, 1, "a_objects.csv"); seen();
roiManager("select", 25); roiManager("delete");
Table.setSelection(0, 0, "a_objects.csv"); seen();
measure("a"); // those that are left of its own stay, and those of the other
say(roiManager("count"));
"""
    )
    *said, count = run_script(imagej, script, tmp_path)
    rows = [line.split(",") for line in said]
    seen = [(title, "b" if (int(region) < 13) == (n > 3) else "a") for n, (region, _, _, title) in enumerate(rows)]
    assert [seen[n] for n in (0, 1, 4, 5, 6)] == [(f"{name}.tif", name) for name in "abbaa"]
    assert rows[2][1:3] == ["2", "0"]
    assert rows[3][1:3] == ["2", "2"]
    assert count == str(13 + 12 + 13)


def test_tables_that_are_none_of_ours(imagej, tmp_path):
    """Of such a name, or with a column less: the link goes on, without a window of an error."""
    write_labels(tmp_path)
    (tmp_path / "mine_objects.csv").write_text("what,how\n1,2\n3,4\n")
    script = (
        CLICKS
        + r"""
open(T + "mine_objects.csv");
Table.setSelection(1, 1, "mine_objects.csv");
wait(1000);
say(beats());
roiManager("select", 12);
wait(1000);
say(row());
Table.deleteColumn("z_start", "x_objects.csv");
Table.setSelection(0, 0, "x_objects.csv");
wait(1000);
titles = getList("window.titles");
say(String.join(titles, ","));
"""
    )
    beats, row, titles = run_script(imagej, script, tmp_path, timeout=60)
    assert (beats, row) == ("1", "2")
    assert "Macro Error" not in titles


def test_the_regions_are_those_of_the_labels(imagej, tmp_path):
    """Of a stack whose name another one's begins with, in the same folder; all classes, as none is named."""
    labels = write_labels(tmp_path)
    classes = [ClassInfo("back", (40, 40, 40)), ClassInfo("a", (255, 0, 0)), ClassInfo("b", (0, 255, 0))]
    for name, count in (("x_2", 2), ("x", 1)):
        write_stack(tmp_path / f"{name}_labels.tif", np.minimum(labels, count), classes=classes)
    script = r"""
say(runMacro(D + "DenseCell_Objects.ijm", "labels=[" + T + "x_2_labels.tif]"));
say(runMacro(D + "DenseCell_Objects.ijm", "labels=[" + T + "x_labels.tif]"));
"""
    for answer, n in zip(run_script(imagej, script, tmp_path, timeout=60), (15, 15), strict=True):
        assert answer.endswith(f"_objects.csv\t{n}")


# What ImageJ thinks is running: before, while the two are linked, after another macro, and after Esc.
PROBE = r"""
import ij.*;
public class Probe {
  static void say(String when) {
    System.out.println(when + " " + IJ.isMacro() + " " + System.getProperty("densecell.link"));
  }
  public static void main(String[] a) throws Exception {
    new ImageJ().setVisible(true);
    System.out.println(IJ.runMacroFile(a[0], a[1]));
    Thread.sleep(1500);
    say("linked");
    IJ.runMacro("x = 1;");
    say("after a macro");
    IJ.setKeyDown(java.awt.event.KeyEvent.VK_ESCAPE);
    Thread.sleep(1500);
    say("ended");
    System.exit(0);
  }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="not installed: javac")
def test_imagej_does_not_take_the_link_for_a_macro_that_runs(imagej, tmp_path):
    """It would not ask before it closes an editor with changes, and would do so no more after the link's end."""
    write_labels(tmp_path)
    (tmp_path / "Probe.java").write_text(PROBE)
    subprocess.run(["javac", "-cp", JAR, tmp_path / "Probe.java"], check=True, timeout=60)
    macro, words = imagej / "plugins/DenseCell/DenseCell_Objects.ijm", f"labels=[{tmp_path}/x_labels.tif]"
    with display() as screen:
        command = ["java", "-cp", f"{JAR}:{tmp_path}", f"-Dplugins.dir={imagej}", f"-Duser.home={tmp_path}", "Probe"]
        done = subprocess.run(
            [*command, macro, words], env={**os.environ, "DISPLAY": screen}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        photograph(screen, tmp_path / "end.png")
    answer, linked, after, ended = done.stdout.splitlines()
    assert answer.startswith("ok\t")
    assert linked.startswith("linked false 1")
    assert after.startswith("after a macro false 1")
    assert ended == "ended false "
