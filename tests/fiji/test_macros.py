"""The macros in real ImageJ, with its windows, and the real command: from an open stack to measured organelles."""

import csv
import re
import shutil
import struct
import zipfile

import numpy as np
import pytest
import tifffile
from fiji_folder import TOOL, install, make_imagej, run_script
from imagej_app import MISSING, look

from densecell_batch import ClassInfo, VoxelSize, write_stack
from densecell_batch.io.writing import instance_colours
from densecell_batch.labels import OUTSIDE
from densecell_batch.models.bundle import load_bundle

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

VOXEL = (0.047, 0.0184, 0.0184)  # um, (z, y, x)
ODD = "stäcks, \"a\" 'b' [c] 漢"  # the name of a folder


def save(path, volume, unit="um"):
    metadata = {"axes": "ZYX"} | ({"spacing": VOXEL[0], "unit": unit} if unit else {})
    resolution = {"resolution": (1 / VOXEL[2], 1 / VOXEL[1])} if unit else {}
    tifffile.imwrite(path, volume, imagej=True, metadata=metadata, **resolution)
    return path


def options(**values):
    return " ".join(f"{key}=[{value}]" for key, value in values.items())


# What can be seen of the active image; then the macro under test, whose answer is said.
STATE = r"""
function state() {
  getSelectionBounds(x, y, w, h);
  getVoxelSize(vw, vh, vd, unit);
  sum = 0;
  id = getImageID();
  run("Select None");
  setBatchMode(true);
  run("Duplicate...", "duplicate");
  for (s = 1; s <= nSlices; s++) { setSlice(s); getStatistics(n, mean); sum += mean * s; }
  close();
  setBatchMode(false);
  selectImage(id);
  run("Restore Selection");
  return getTitle() + "," + is("changes") + "," + x + "," + y + "," + w + "," + h + "," + nSlices
    + "," + getSliceNumber() + "," + d2s(sum, 6)
    + "," + vw + "," + vd + "," + unit + "," + getInfo("image.filename") + "," + getInfo("image.directory");
}
"""


@pytest.fixture(scope="module")
def session(imagej, model, volume, tmp_path_factory):
    """Open a stack, segment it, show, make regions, measure: what was said, and the folders."""
    place = tmp_path_factory.mktemp("session") / ODD
    place.mkdir()
    stack, talk = save(place / "cells é, 1.tif", volume), place / "talk"
    talk.mkdir()
    (talk / "args.txt").write_text(
        "\n".join([
            str(stack),
            options(out=place / "out", model=model, instances="mitochondrion, membrane"),
            options(instances=place / "out" / "cells é, 1_mitochondrion_instances.tif"),
            options(labels=place / "out" / "cells é, 1_labels.tif"),
        ]),
        encoding="utf-8",
    )  # fmt: skip
    script = (
        STATE
        + r"""
args = split(File.openAsString(T + "args.txt"), "\n");
open(args[0]);
makeRectangle(10, 12, 20, 24);
Stack.setSlice(2);
before = state(); say(before);
say(runMacro(D + "DenseCell_Segment.ijm", args[1]));
after = state(); say(after);
say(getTitle());
say(Overlay.size);
base = getTitle();
run("Select None");
setBatchMode(true); // a window shows another slice a little later
run("Duplicate...", "title=flat duplicate");
run("RGB Color");
run("Flatten", "stack");
saveAs("Tiff", T + "flat.tif"); close();
setBatchMode(false);
titles = getList("image.titles");
say(String.join(titles, "\t"));
selectImage("Legend of cells " + fromCharCode(233) + ", 1_labels.tif");
saveAs("Tiff", T + "legend.tif"); close();
selectImage(base);
say(runMacro(D + "DenseCell_Load_Labels.ijm", args[3])); // again: in place of the first overlay
say(Overlay.size);
selectImage(base);
makeOval(1, 1, 5, 5); roiManager("add"); run("Select None");
say(runMacro(D + "DenseCell_Labels_To_ROIs.ijm", args[2]));
names = "";
for (i = 0; i < roiManager("count"); i++) names += RoiManager.getName(i) + "\t";
say(names);
say(runMacro(D + "DenseCell_Measure.ijm", args[3]));
title = Table.title; say(title);
selectImage("cells " + fromCharCode(233) + ", 1_labels.tif");
setSlice(2); makeRectangle(3, 3, 9, 9);
say(runMacro(D + "DenseCell_Measure.ijm", "csv=[" + T + "active.csv]"));
getSelectionBounds(x, y, w, h);
say("" + getSliceNumber() + " " + x + " " + y + " " + w + " " + h);
say(nImages);
"""
    )
    said = run_script(imagej, script, talk)
    keys = ["before", "segment", "after", "active", "overlay", "titles", "load", "overlay again", "rois", "names",
            "measure", "table", "active measure", "active state", "images"]  # fmt: skip
    assert len(said) == len(keys), said
    return place, dict(zip(keys, said, strict=True))


@pytest.fixture(scope="module")
def labels(session):
    return tifffile.imread(session[0] / "out" / "cells é, 1_labels.tif")


def test_segment_answers_with_the_labels(session):
    place, said = session
    assert said["segment"] == f"ok\t{place}/out/cells é, 1_labels.tif"
    names = {path.name.removeprefix("cells é, 1_") for path in (place / "out").iterdir() if path.name[0] != "."}
    assert names == {
        "labels.tif", "log.txt", "preview.png", "report.json", "mitochondrion_instances.tif", "membrane_instances.tif",
        "mitochondrion_rois.zip", "measurements.csv", "objects.csv", "classes.csv", "mitochondrion_objects.png",
        "membrane_objects.png",
    }  # fmt: skip


def test_the_image_stays_as_it_was(session):
    _, said = session
    assert said["before"] == said["after"]
    assert said["before"].startswith("cells é, 1.tif,0,10,12,20,24,4,2,")
    assert said["active"] == "cells é, 1.tif"


def test_labels_are_those_of_the_command_with_voxel_size_and_colours(session, labels, model, tmp_path):
    place, _ = session
    assert labels.shape == (4, 96, 96)
    assert len(np.unique(labels)) > 2
    (seen,) = look([place / "out" / "cells é, 1_labels.tif"], tmp_path)
    np.testing.assert_allclose(seen["voxel"], VOXEL, rtol=1e-6)
    assert seen["unit"] in ("um", "µm", "micron")
    colours = [c.colour for c in load_bundle(model).classes]
    np.testing.assert_array_equal(np.reshape(seen["lut"], (256, 3))[:5], colours)


def test_overlay_shows_the_colours_over_each_slice(session, labels, volume, model):
    place, said = session
    assert said["overlay"] == said["overlay again"] == "4"
    colours = np.array([c.colour for c in load_bundle(model).classes], float)
    flat = tifffile.imread(place / "talk" / "flat.tif").astype(float)
    assert volume.dtype == np.uint8
    expected = 0.55 * volume[..., None] + 0.45 * colours[labels]
    assert np.abs(flat - expected).max() < 3


def test_legend_has_the_colour_of_each_class(session, model):
    place, said = session
    assert "Legend of cells é, 1_labels.tif" in said["titles"].split("\t")
    legend = tifffile.imread(place / "talk" / "legend.tif")
    for i, c in enumerate(load_bundle(model).classes):
        np.testing.assert_array_equal(legend[15 + 22 * i, 15], c.colour)
        assert (legend[8 + 22 * i : 26 + 22 * i, 36:] < 128).any()  # its name


def test_regions_are_the_instances(session):
    """One region for each object and slice; what was in the ROI Manager stays and is not saved."""
    place, said = session
    instances = tifffile.imread(place / "out" / "cells é, 1_mitochondrion_instances.tif")
    expected = [
        f"{number:04d}-z{z + 1:03d} mitochondrion"
        for z, plane in enumerate(instances)
        for number in np.unique(plane)
        if number
    ]
    assert len(expected) > 10
    file = place / "out" / "cells é, 1_mitochondrion_rois.zip"
    assert said["rois"] == f"ok\t{file}\t{len(expected)}"
    assert said["names"].rstrip("\t").split("\t")[1:] == expected
    with zipfile.ZipFile(file) as saved:
        assert [name.removesuffix(".roi") for name in saved.namelist()] == expected
        for name in saved.namelist():
            raw = saved.read(name)
            number, z = map(int, re.findall(r"\d+", name))
            top, left, bottom, right = struct.unpack(">4h", raw[8:16])
            ys, xs = np.nonzero(instances[z - 1] == number)
            assert (top, left, bottom, right) == (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
            assert struct.unpack(">i", raw[56:60])[0] == z
            assert raw[41:44] == instance_colours()[number].tobytes()  # the colour of the object, after its opacity


def measured(labels, voxel):
    """For each class: voxels, volume, and the area of its faces to other classes."""
    dz, dy, dx = voxel
    rows = []
    for index in range(5):
        mask = labels == index
        faces = [np.count_nonzero(np.diff(mask.astype(np.int8), axis=axis)) for axis in range(3)]
        surface = faces[0] * dy * dx + faces[1] * dz * dx + faces[2] * dz * dy
        rows.append((mask.sum(), mask.sum() * dz * dy * dx, surface))
    return rows


@pytest.mark.parametrize("file", ["out/cells é, 1_measurements.csv", "talk/active.csv"])
def test_measurements_are_those_of_numpy(session, labels, model, file):
    place, said = session
    assert said["measure"] == f"ok\t{place}/out/cells é, 1_measurements.csv"
    assert said["table"] == "DenseCell measurements of cells é, 1"
    with (place / file).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["Class"] for row in rows] == [c.name for c in load_bundle(model).classes]
    counts = [
        tifffile.imread(place / "out" / f"cells é, 1_{name}_instances.tif").max()
        for name in ("mitochondrion", "membrane")
    ]
    assert [row["Count"] for row in rows] == ["NaN", "NaN", str(counts[0]), "NaN", str(counts[1])]
    for row, (voxels, volume, surface) in zip(rows, measured(labels, VOXEL), strict=True):
        assert row["Unit"] == "um"
        assert int(row["Voxels"]) == voxels
        assert float(row["Volume"]) == pytest.approx(volume, rel=1e-4, abs=1e-9)
        assert float(row["Surface"]) == pytest.approx(surface, rel=1e-4, abs=1e-9)


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


def test_measuring_the_active_image_leaves_slice_and_selection(session):
    assert session[1]["active state"] == "2 3 3 9 9"


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


def test_a_changed_image_is_segmented_as_it_is_and_stays(imagej, model, volume, tmp_path):
    """Through the menu command, with a runner that says 200 KB on stderr before the tool begins; no calibration."""
    chatty = tmp_path / "chatty runner"
    chatty.write_text(f'#!/bin/sh\nhead -c 200000 /dev/zero | tr "\\0" x >&2\nexec "{TOOL}" "$@"\n')
    chatty.chmod(0o755)
    folder = make_imagej(tmp_path / "ij")
    assert install(folder, "--command", chatty).returncode == 0
    stack, out = save(tmp_path / "plain.tif", volume, unit=None), tmp_path / "out"
    script = (
        STATE
        + r"""
args = split(File.openAsString(T + "args.txt"), "\n");
open(args[0]);
makeRectangle(10, 12, 20, 24);
run("Invert", "stack");
rename("a/b: c");
Stack.setSlice(2);
say(state());
run("DenseCell Segment", args[1]);
say(state());
say(Overlay.size);
say(getInfo("log"));
run("DenseCell Measure", args[2]);
run("DenseCell Labels To ROIs", args[3]);
say(roiManager("count"));
say(File.openAsString(T + "../out/a-b- c_measurements.csv"));
"""
    )
    talk = tmp_path / "talk"
    talk.mkdir()
    labels = out / "a-b- c_labels.tif"
    instances = out / "a-b- c_mitochondrion_instances.tif"
    arguments = [
        str(stack), options(out=out, model=model, instances="mitochondrion"), options(labels=labels),
        options(instances=instances, image="a/b: c"),
    ]  # fmt: skip
    (talk / "args.txt").write_text("\n".join(arguments))
    before, after, overlay, log, regions, table = run_script(folder, script, talk)
    assert before == after
    assert before.startswith("a/b: c,1,10,12,20,24,")
    assert overlay == "4"
    assert log.startswith("a-b- c.tif: the stack has no voxel size")
    assert log.count("|") == 1
    assert int(regions) == sum(len(np.unique(plane)) - 1 for plane in tifffile.imread(instances)) > 10
    assert not list(out.glob("densecell-input*"))
    assert (out / "a-b- c_log.txt").stat().st_size > 200_000
    rows = list(csv.DictReader(table.strip("|").split("|")))
    for row, (voxels, size, surface) in zip(rows, measured(tifffile.imread(labels), (1, 1, 1)), strict=True):
        assert (float(row["Voxels"]), float(row["Volume"]), float(row["Surface"])) == (voxels, size, surface)
        assert row["Unit"] == "pixels"


def test_a_voxel_size_that_was_set_counts(imagej, model, volume, tmp_path):
    """It does not mark the image as changed, and is not in its file."""
    stack = save(tmp_path / "x.tif", volume)
    (tmp_path / "args.txt").write_text(options(out=tmp_path / "out", model=model, show="no"))
    script = rf"""
open("{stack}");
setVoxelSize(8, 8, 40, "nm");
say(runMacro(D + "DenseCell_Segment.ijm", replace(File.openAsString(T + "args.txt"), "\n", "")));
say(is("changes"));
"""
    answer, changes = run_script(imagej, script, tmp_path)
    assert answer.startswith("ok")
    assert changes == "0"
    (seen,) = look([tmp_path / "out" / "x_labels.tif"], tmp_path)
    np.testing.assert_allclose(seen["voxel"], (0.04, 0.008, 0.008), rtol=1e-6)


def test_batch_goes_on_after_a_failure(imagej, model, volume, tmp_path):
    stacks = tmp_path / "stacks, é"
    stacks.mkdir()
    save(stacks / "1 good.tif", volume)
    save(stacks / "2 constant.tif", np.zeros_like(volume))
    shutil.copy(stacks / "1 good.tif", stacks / "3 good too.TIFF")
    (stacks / "notes.txt").write_text("no stack")
    (tmp_path / "args.txt").write_text(options(folder=stacks, model=model), encoding="utf-8")
    script = r"""
say(runMacro(D + "DenseCell_Batch.ijm", replace(File.openAsString(T + "args.txt"), "\n", "")));
say(getInfo("log"));
"""
    answer, log = run_script(imagej, script, tmp_path)
    assert answer.startswith("failed\t1 of 3 stacks failed:|2 constant.tif: ")
    assert log.count("ok: ") == 2
    assert log.count("failed: ") == 1
    made = sorted(path.name for path in (stacks / "densecell").glob("*_labels.tif"))
    assert made == ["1 good_labels.tif", "3 good too_labels.tif"]
    (stacks / "2 constant.tif").unlink()
    corrected = stacks / "densecell/1 good_labels.tif"
    corrected.write_bytes(corrected.read_bytes() + b"mine")
    answer, log = run_script(imagej, script, tmp_path)  # done before; a warning is no verdict
    assert answer == "ok\t2"
    assert "1 good_labels.tif: changed since the results were made" in log
    assert corrected.read_bytes().endswith(b"mine")


FAILURES = [
    ("Segment", "stack=[{T}none.tif]", "none.tif: no such file or folder"),
    ("Segment", "", "no image is open"),  # in batch mode, without options
    ("Segment", "stack=[{T}x.tif] modle=a", "there is no option 'modle'; expected one of stack out model"),
    ("Segment", "stack=[{T}x.tif", "the bracket after 'stack=' is not closed"),
    ("Segment", "anything", "'anything' is no option; expected key=value"),
    ("Segment", "stack=[{T}x.tif] out=[{T}x.tif/out]", "cannot be made: choose another output folder"),
    ("Segment", "stack=[{T}x.tif] out=[{T}out] model=no-such-model show=no", "no-such-model"),
    ("Segment", "stack=[{T}x.tif] out=[{T}out] options=--no-such-option", "No such option"),
    ("Segment", "stack=[{T}constant.tif] out=[{T}out] model=[{M}]", "constant.tif"),
    ("Batch", "folder=[{T}none]", "is no folder; expected one with TIFF stacks"),
    ("Batch", "folder=[{T}empty]", "no .tif or .tiff file in"),
    ("Batch", "folder=[{T}one] model=no-such-model", "1 of 1 stacks were not segmented: the tool gave no verdict"),
    ("Load_Labels", "labels=[{T}none.tif]", "none.tif: no such file"),
    ("Load_Labels", "image=none", "no labels: give the file NAME_labels.tif as 'labels'"),
    ("Load_Labels", "labels=[{T}empty]", "empty is a folder; expected a TIFF that densecell-batch wrote"),
    ("Load_Labels", "labels=[{T}broken.tif]", "broken.tif: ImageJ cannot open this file"),
    ("Load_Labels", "labels=[{T}x.tif] image=[none such]", "no image 'none such' is open"),
    ("Load_Labels", "labels=[{T}x.tif] opacity=dark", "opacity is 'dark'; expected 0 to 100"),
    ("Labels_To_ROIs", "instances=[{T}x.tif]", "x.tif is no file of instances; expected NAME_CLASS_instances.tif"),
    ("Labels_To_ROIs", "", "no instances: give NAME_CLASS_instances.tif"),
    ("Measure", "labels=[{T}none.tif]", "none.tif: no such file"),
    ("Measure", "", "no image is open: open labels"),
    ("Measure", "labels=[{T}x.tif]", "x.tif bears no names of classes, so it may be the stack itself"),
    ("Measure", "labels=[{T}x.tif] csv=[relative.csv]", "the labels have no folder of their own: give a file as 'csv'"),
    ("Measure", "labels=[{T}x_labels.tif] csv=[{T}none/x.csv]", "none/x.csv cannot be written"),
    ("Labels_To_ROIs", "instances=[{T}x_a_instances.tif] zip=[{T}none/x.zip]", "none/x.zip cannot be written"),
    ("Labels_To_ROIs", "instances=[{T}x_a_instances.tif] zip=[{T}x.roi]", "x.roi: expected the name of a .zip file"),
]


@pytest.fixture(scope="module")
def failures(imagej, model, volume, tmp_path_factory):
    """The answer of each macro to bad input, in one ImageJ in which no window may wait for a click."""
    folder = tmp_path_factory.mktemp("failures")
    save(folder / "x.tif", volume)
    save(folder / "constant.tif", np.zeros_like(volume))
    for name in ("x_labels.tif", "x_a_instances.tif"):
        (folder / name).symlink_to("x.tif")
    (folder / "broken.tif").write_bytes(b"II*\0broken")
    (folder / "empty").mkdir()
    (folder / "one").mkdir()
    (folder / "one" / "x.tif").symlink_to("../x.tif")
    (folder / "args.txt").write_text(
        "\n".join(f"{name}\t{args} " for name, args, _ in FAILURES)
        .replace("{T}", f"{folder}/")
        .replace("{M}", str(model))
    )
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
setBatchMode(true);
for (i = 0; i < args.length; i++) {
  at = indexOf(args[i], "\t");
  answer = runMacro(D + "DenseCell_" + substring(args[i], 0, at) + ".ijm", String.trim(substring(args[i], at + 1)));
  say(answer);
  if (nImages > 0) say("left open: " + getTitle());
}
"""
    return run_script(imagej, script, folder)


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=[f"{n} {a}" for n, a, _ in FAILURES])
def test_failures_say_what_is_wrong(failures, number):
    assert len(failures) == len(FAILURES), failures
    assert failures[number].startswith("failed\t")
    assert FAILURES[number][2] in failures[number]


def test_a_missing_tool_is_named(tmp_path, volume):
    """It was there when the macros were installed."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    folder = make_imagej(tmp_path / "ij")
    assert install(folder, "--command", tool).returncode == 0
    tool.unlink()
    stack = save(tmp_path / "x.tif", volume)
    (answer,) = run_script(folder, f'say(runMacro(D + "DenseCell_Segment.ijm", "stack=[{stack}]"));', tmp_path / "talk")
    assert answer.startswith(f"failed\tthere is no program {tool}: install the tool there")


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


def test_without_a_shell(imagej, model, volume, tmp_path):
    """As on Windows, where the tool itself sends what it says to the log; Java says that this is
    Windows. Its own quoting of arguments there is not tested.
    """
    stack, out = save(tmp_path / "a b, é.tif", volume), tmp_path / "o u t"
    talk = tmp_path / "talk"
    talk.mkdir()
    rows = [options(stack=stack, out=out, model=name, show="no") for name in (model, "no-such-model")]
    (talk / "args.txt").write_text("\n".join(rows), encoding="utf-8")
    script = r"""
said = exec("/bin/true"); // Java looks once which system it is on, to start programs
before = call("java.lang.System.setProperty", "os.name", "Windows 11");
say(getInfo("os.name"));
args = split(File.openAsString(T + "args.txt"), "\n");
say(runMacro(D + "DenseCell_Segment.ijm", args[0]));
say(runMacro(D + "DenseCell_Segment.ijm", args[1]));
"""
    system, good, bad = run_script(imagej, script, talk)
    assert system == "Windows 11"
    assert good == f"ok\t{out}/a b, é_labels.tif"
    assert bad.startswith("failed\tthe tool gave no verdict")
    assert "no-such-model" in bad


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
