"""The tables of objects against what real ImageJ measures on the files beside them."""

import csv
from collections import Counter

import numpy as np
import pytest
import tifffile
from imagej_app import MISSING, run_macro

from densecell_batch.calibration import VoxelSize
from densecell_batch.data import SAMPLE
from densecell_batch.io.writing import StackWriter, instance_colours
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.measured import measure_labels
from densecell_batch.runs.object_options import ObjectOptions
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import segment_stack
from tests.support.solids import touching_ellipsoids

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

# Arguments: instances, zip, file to write. Its lines: "voxel", volume, unit and depth; "object", number, slice and
# voxels; "region", name, slice and area. The image in colours goes beside it.
MEASURE = r"""
a = split(getArgument(), "|");
setBatchMode(true);
open(a[0]);
id = getImageID();
getVoxelSize(width, height, depth, unit);
out = File.open(a[2]);
print(out, "voxel\t" + d2s(width * height * depth, -9) + "\t" + unit + "\t" + d2s(depth, 9));
for (s = 1; s <= nSlices; s++) {
  setSlice(s);
  getHistogram(values, counts, 65536);
  for (i = 1; i < counts.length; i++) if (counts[i] > 0) print(out, "object\t" + i + "\t" + s + "\t" + counts[i]);
}
roiManager("open", a[1]);
for (i = 0; i < roiManager("count"); i++) {
  roiManager("select", i);
  getStatistics(area);
  print(out, "region\t" + RoiManager.getName(i) + "\t" + getSliceNumber() + "\t" + d2s(area, -9));
}
File.close(out);
run("Select None");
run("RGB Color");
saveAs("Tiff", a[2] + ".rgb.tif");
"""


def of_solids(folder):
    """Of ellipsoids that touch, as the command `instances` measures given labels."""
    shape, voxel_size = (24, 160, 200), VoxelSize(0.05, 0.01, 0.012)
    true = touching_ellipsoids(shape, voxel_size, 0.2, 12, 0)
    with StackWriter(folder / "solids_labels.tif", shape, "uint8", voxel_size=voxel_size) as writer:
        for z, plane in enumerate(true):
            writer.write(z, (plane > 0).astype(np.uint8))
        writer.commit()
    options = ObjectOptions(split=True, rois=True)
    measure_labels(folder / "solids_labels.tif", folder, options, classes=["rest", "thing"])
    return "solids", "thing", voxel_size


def of_a_run(folder, bundle):
    """Of the package's own sample, as a run segments and measures it."""
    options = RunOptions(instances=("mitochondrion",), split=True, rois=True, min_volume=5e-5, precision="float32")
    segment_stack(SAMPLE, folder, RunSegmenter(bundle, options))
    return "fly-vnc-sample", "mitochondrion", VoxelSize(0.047, 0.0092, 0.0092)


@pytest.fixture(scope="module", params=["solids", "a run"])
def measured(request, data, tmp_path_factory):
    """Rows of the table, what ImageJ said, voxel size, the instances, the same in the colours of ImageJ."""
    folder = tmp_path_factory.mktemp("objects")
    made = of_solids(folder) if request.param == "solids" else of_a_run(folder, load_bundle(data / "fly-vnc-small.zip"))
    name, kind, voxel_size = made
    with (folder / f"{name}_objects.csv").open(newline="", encoding="utf-8") as stream:
        rows = [*csv.DictReader(stream)]
    image, regions, out = folder / f"{name}_{kind}_instances.tif", folder / f"{name}_{kind}_rois.zip", folder / "said"
    (folder / "measure.ijm").write_text(MEASURE)
    said = run_macro(folder / "measure.ijm", f"{image}|{regions}|{out}", timeout=180)
    assert out.exists(), said
    lines = [line.split("\t") for line in out.read_text(encoding="utf-8").splitlines()]
    return rows, lines, voxel_size, tifffile.imread(image), tifffile.imread(f"{out}.rgb.tif")


def said(lines, kind):
    return [line[1:] for line in lines if line[0] == kind]


def test_volumes_are_those_of_the_calibrated_image(measured):
    rows, lines, voxel_size, *_ = measured
    ((volume, unit, depth),) = said(lines, "voxel")
    assert unit in ("um", "µm", "micron")
    assert float(volume) == pytest.approx(voxel_size.volume, rel=1e-6)
    assert float(depth) == pytest.approx(voxel_size.z, rel=1e-6)
    counts = Counter()
    slices = {}
    for number, z, n in said(lines, "object"):
        counts[int(number)] += int(n)
        slices.setdefault(int(number), []).append(int(z))
    assert len(rows) > 5
    assert sorted(counts) == [int(row["object"]) for row in rows]
    for row in rows:
        number = int(row["object"])
        assert counts[number] == int(row["voxels"])
        assert counts[number] * float(volume) == pytest.approx(
            float(row["volume_um3"]), rel=6e-6
        )  # six digits in the table
        # Slices count from 0 in the table, without the end; from 1 in ImageJ.
        assert (min(slices[number]), max(slices[number])) == (int(row["z_start"]) + 1, int(row["z_stop"]))


def test_regions_amount_to_the_volumes(measured):
    rows, lines, *_ = measured
    ((_, _, depth),) = said(lines, "voxel")
    areas = Counter()
    for name, z, area in said(lines, "region"):
        number, place = name.split(" ")[0].split("-z")
        assert int(place) == int(z)
        areas[int(number)] += float(area)
    assert sorted(areas) == [int(row["object"]) for row in rows]
    for row in rows:
        assert areas[int(row["object"])] * float(depth) == pytest.approx(
            float(row["volume_um3"]), rel=6e-6
        )  # six digits in the table


def test_each_object_has_a_colour_of_its_own(measured):
    rows, _, _, numbers, shown = measured
    assert len(rows) <= 255
    colours = instance_colours(len(rows) + 1)
    np.testing.assert_array_equal(shown, colours[numbers])
    assert len(np.unique(shown[numbers > 0], axis=0)) == len(rows)
    assert not shown[numbers == 0].any()
