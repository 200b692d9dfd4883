"""The macros in real ImageJ, with its windows: an open stack is segmented, shown and measured, and stays as it was."""

import csv
import re
import struct
import zipfile

import numpy as np
import pytest
import tifffile
from fiji_folder import TOOL, install, make_imagej, run_script
from imagej_app import MISSING, look
from macro_input import ODD, VOXEL, options, save

from densecell_batch.io.writing import instance_colours
from densecell_batch.models.bundle import load_bundle

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

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


def test_measuring_the_active_image_leaves_slice_and_selection(session):
    assert session[1]["active state"] == "2 3 3 9 9"


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
