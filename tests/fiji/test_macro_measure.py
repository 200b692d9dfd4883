"""*DenseCell Measure* in real ImageJ: labels that were corrected, what is outside, tables and regions of before."""

import csv
import zipfile

import numpy as np
import pytest
import tifffile
from fiji_folder import run_script
from imagej_app import MISSING
from macro_input import VOXEL, options, save

from densecell_batch import ClassInfo, VoxelSize, write_stack
from densecell_batch.labels import OUTSIDE

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]


def test_the_count_of_corrected_labels_is_not_that_from_before(imagej, model, volume, tmp_path):
    """One class is painted over another: volumes are of what is seen, and no count is of what was."""
    stack = save(tmp_path / "x.tif", volume)
    words = options(stack=stack, out=tmp_path / "out", model=model, instances="mitochondrion, membrane", show="no")
    script = f"""
say(runMacro(D + "DenseCell_Segment.ijm", "{words}"));
open("{tmp_path}/out/x_labels.tif");
table = "DenseCell measurements of x";
runMacro(D + "DenseCell_Measure.ijm", "csv=[" + T + "before.csv]");
say("" + Table.get("Count", 2, table) + "," + Table.get("Count", 4, table));
makeRectangle(0, 0, 40, 40);
run("Macro...", "code=[if (v == 1) v = 2] stack");
runMacro(D + "DenseCell_Measure.ijm", "csv=[" + T + "after.csv]");
say("" + Table.get("Count", 2, table) + "," + Table.get("Count", 4, table));
say(getInfo("log"));
"""
    done, before, after, *log = run_script(imagej, script, tmp_path / "talk", timeout=100)
    assert done.startswith("ok")
    mitochondria, membranes = before.split(",")
    assert float(mitochondria) > 0
    assert after == f"NaN,{membranes}"  # which are as they were
    assert "DenseCell: x: corrected since the objects were counted: mitochondrion. DenseCell Objects" in log[-1]


@pytest.fixture(scope="module")
def with_outside(imagej, tmp_path_factory):
    """Labels of which a part is outside, in macros: their folder, the labels, what was said."""
    folder = tmp_path_factory.mktemp("outside")
    labels = np.random.default_rng(0).integers(0, 3, (3, 20, 30)).astype(np.uint8)
    labels[:, :8] = labels[2, :, :9] = OUTSIDE
    labels[0, 8:12, :6] = 0
    classes = [ClassInfo("dark", (40, 40, 40)), ClassInfo("cell", (255, 0, 0)), ClassInfo("outside", (0, 9, 250))]
    write_stack(folder / "a_labels.tif", labels, voxel_size=VoxelSize(*VOXEL), classes=classes)
    write_stack(folder / "whole_labels.tif", np.where(labels == OUTSIDE, 0, labels), classes=classes)
    bare = np.where(labels == 2, 4, labels)
    tifffile.imwrite(folder / "bare_labels.tif", bare, imagej=True, metadata={"axes": "ZYX"})
    (folder / "a_outside_instances.tif").symlink_to("a_labels.tif")
    save(folder / "a.tif", np.full(labels.shape, 100, np.uint8))
    script = r"""
names = newArray("a", "whole", "bare");
for (i = 0; i < names.length; i++) {
  say(runMacro(D + "DenseCell_Measure.ijm", "labels=[" + T + names[i] + "_labels.tif]"));
  if (names[i] == "a") open(T + "a.tif");
  say(runMacro(D + "DenseCell_Load_Labels.ijm", "labels=[" + T + names[i] + "_labels.tif]"));
  if (names[i] == "a") {
    setBatchMode(true);
    run("Duplicate...", "title=flat duplicate");
    run("RGB Color");
    run("Flatten", "stack");
    saveAs("Tiff", T + "flat.tif"); close();
    setBatchMode(false);
    close("a.tif");
  }
  selectImage("Legend of " + names[i] + "_labels.tif");
  saveAs("Tiff", T + names[i] + "_legend.tif"); close();
  close("*");
}
open(T + "a_labels.tif");
setSlice(1); makeRectangle(0, 8, 6, 4); // of class 0 alone
say(runMacro(D + "DenseCell_Measure.ijm", "csv=[" + T + "selected.csv]"));
"""
    return folder, labels, run_script(imagej, script, folder)


def rows_of(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def inner_faces(labels, index):
    """Area of the faces between a class and the other classes, not to what is outside."""
    dz, dy, dx = VOXEL
    total = 0.0
    for axis, area in enumerate((dy * dx, dz * dx, dz * dy)):
        a, b = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        inside = (a != OUTSIDE) & (b != OUTSIDE)
        total += np.count_nonzero(inside & ((a == index) != (b == index))) * area
    return total


@pytest.mark.parametrize("file", ["a_measurements.csv", "selected.csv"])
def test_outside_is_measured_apart(with_outside, file):
    """Whatever is selected; a class that is called so, too, is a class."""
    folder, labels, said = with_outside
    assert said == [
        f"ok\t{folder}/a_measurements.csv", f"ok\t{folder}/a_labels.tif",
        f"ok\t{folder}/whole_measurements.csv", f"ok\t{folder}/whole_labels.tif",
        f"ok\t{folder}/bare_measurements.csv", f"ok\t{folder}/bare_labels.tif", f"ok\t{folder}/selected.csv",
    ]  # fmt: skip
    *rows, last = rows_of(folder / file)
    assert [(row["Index"], row["Class"]) for row in rows] == [("0", "dark"), ("1", "cell"), ("2", "outside")]
    for i, row in enumerate(rows):
        assert int(row["Voxels"]) == np.count_nonzero(labels == i)
        assert float(row["Volume"]) == pytest.approx(np.count_nonzero(labels == i) * np.prod(VOXEL), rel=1e-4)
        assert float(row["Surface"]) == pytest.approx(inner_faces(labels, i), rel=1e-4)
    n_outside = np.count_nonzero(labels == OUTSIDE)
    assert [last[key] for key in ("Index", "Class", "Voxels", "Surface", "Count", "Unit")] == [
        "255", "outside", str(n_outside), "NaN", "NaN", "um",
    ]  # fmt: skip
    assert float(last["Volume"]) == pytest.approx(n_outside * np.prod(VOXEL), rel=1e-4)


def test_without_outside_there_is_no_row_of_it(with_outside):
    folder, labels, _ = with_outside
    assert [row["Index"] for row in rows_of(folder / "whole_measurements.csv")] == ["0", "1", "2"]
    bare = rows_of(folder / "bare_measurements.csv")  # without names
    assert [row["Class"] for row in bare] == ["class 0", "class 1", "class 4", "outside"]
    assert sum(int(row["Voxels"]) for row in bare) == labels.size


@pytest.mark.parametrize(("name", "n_lines"), [("a", 4), ("whole", 3), ("bare", 2)])
def test_legend_names_what_is_outside(with_outside, name, n_lines):
    legend = tifffile.imread(with_outside[0] / f"{name}_legend.tif")
    assert legend.shape[0] == 22 * n_lines + 8
    if name == "a":
        np.testing.assert_array_equal(legend[15 + 22 * 3, 15], (0, 0, 0))
        assert (legend[8 + 22 * 3 : 26 + 22 * 3, 36:] < 128).any()
    if name != "bare":
        np.testing.assert_array_equal(legend[15 + 22 * 2, 15], (0, 9, 250))


def test_nothing_lies_over_what_is_outside(with_outside):
    folder, labels, _ = with_outside
    flat = tifffile.imread(folder / "flat.tif")
    assert (flat[labels == OUTSIDE] == 100).all()
    assert np.abs(flat[labels == 1].astype(int) - (170, 55, 55)).max() < 3


def test_tables_and_regions_that_are_there_are_kept(imagej, volume, tmp_path):
    """What the user changed is renamed; what is the same is left alone."""
    labels = (volume > 128).astype(np.uint8)
    save(tmp_path / "a_labels.tif", labels)
    save(tmp_path / "a_x_instances.tif", labels.astype(np.uint16))
    measure = 'say(runMacro(D + "DenseCell_Measure.ijm", "labels=[" + T + "a_labels.tif]"));\n'
    regions = 'say(runMacro(D + "DenseCell_Labels_To_ROIs.ijm", "instances=[" + T + "a_x_instances.tif]"));\n'
    change = 'File.append("mine", T + "a_measurements.csv");\n'
    changed = 'File.saveString("mine", T + "a_x_rois.zip");\n'
    said = run_script(imagej, measure * 2 + change + measure + regions + changed + regions, tmp_path)
    assert [line.split("\t")[0] for line in said] == ["ok"] * 5
    (kept,) = tmp_path.glob("a_measurements.old-*.csv")
    assert kept.read_text().rstrip().endswith("mine")
    assert kept.read_text().startswith((tmp_path / "a_measurements.csv").read_text())
    (kept,) = tmp_path.glob("a_x_rois.old-*.zip")
    assert kept.read_text() == "mine"
    assert zipfile.is_zipfile(tmp_path / "a_x_rois.zip")
    assert not list(tmp_path.glob("*.part"))
