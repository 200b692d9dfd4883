"""Regions that real ImageJ opens in its ROI Manager: how many, their names, areas, slices and colours."""

import numpy as np
import pytest
from imagej_app import MISSING, run_macro
from skimage.measure import label

from densecell_batch.io.writing import instance_colours
from densecell_batch.measure.rois import write_rois

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

# Arguments: zip, file to write, width, height, slices, channels, step from region to region. A line for each: name,
# pixels, channel, slice, colour, type.
OPEN = r"""
a = split(getArgument(), "|");
setBatchMode(true);
planes = parseInt(a[4]) * parseInt(a[5]);
step = parseInt(a[6]);
newImage("stack", "16-bit black", parseInt(a[2]), parseInt(a[3]), planes);
if (parseInt(a[5]) > 1)
  run("Stack to Hyperstack...", "order=xyczt(default) channels=" + a[5] + " slices=" + a[4] + " frames=1");
roiManager("open", a[0]);
out = File.open(a[1]);
print(out, "" + roiManager("count"));
for (i = 0; i < roiManager("count"); i += step) {
  roiManager("select", i);
  getRawStatistics(pixels);
  Stack.getPosition(channel, slice, frame);
  place = "\t" + pixels + "\t" + channel + "\t" + slice;
  print(out, RoiManager.getName(i) + place + "\t" + Roi.getStrokeColor + "\t" + Roi.getType);
}
File.close(out);
"""

# Planes of a stack that show something once all regions are in its overlay.
OVERLAY = r"""
a = split(getArgument(), "|");
setBatchMode(true);
newImage("stack", "8-bit black", parseInt(a[2]), parseInt(a[3]), parseInt(a[4]));
roiManager("open", a[0]);
run("From ROI Manager");
out = File.open(a[1]);
for (s = 1; s <= parseInt(a[4]); s++) {
  setSlice(s);
  run("Select None");
  run("Flatten", "slice");
  getStatistics(area, mean);
  print(out, "" + (mean > 0));
  close();
}
File.close(out);
"""


def ask(folder, macro, path, shape, *, channels=1, step=1):
    """What the macro wrote, split into lines and fields."""
    out = folder / "said.txt"
    (folder / "ask.ijm").write_text(macro)
    depth, height, width = shape
    said = run_macro(folder / "ask.ijm", "|".join(map(str, [path, out, width, height, depth, channels, step])))
    assert out.exists(), said
    return [line.split("\t") for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def volume():
    """Objects of one part, of several, with holes, at the border, of one pixel, none in the second slice."""
    rng = np.random.default_rng(0)
    volume = np.zeros((4, 60, 80), np.uint16)
    volume[0] = label(rng.random((60, 80)) < 0.6, connectivity=1)  # nearly all of one part, many meet at corners
    volume[2] = label(rng.random((60, 80)) < 0.6, connectivity=2)  # of several parts
    volume[3, 10:50, 10:70] = 7
    volume[3, 20:40, 20:40] = 0
    volume[3, 25:35, 25:35] = 7
    volume[3, 0, 0] = volume[3, -1, -1] = 9
    return volume


@pytest.mark.parametrize("channels", [1, 3], ids=["stack", "hyperstack"])
def test_regions(volume, tmp_path, channels):
    path, colours = tmp_path / "mito.zip", instance_colours()
    n = int(volume.max())
    count = write_rois(path, enumerate(volume), "mito", colours, objects=n, depth=len(volume))
    (opened, *_), *rows = ask(tmp_path, OPEN, path, volume.shape, channels=channels)
    pixels = [np.bincount(plane.ravel(), minlength=n + 1) for plane in volume]
    there = [(z, k) for z in range(len(volume)) for k in range(1, n + 1) if pixels[z][k]]
    assert int(opened) == count == len(there) > 100
    for (z, k), (name, area, channel, position, colour, _) in zip(there, rows, strict=True):
        assert name == f"{k:04d}-z{z + 1:03d} mito"
        assert int(area) == pixels[z][k], name
        assert (int(channel), int(position)) == (1, z + 1)
        assert colour == "#{:02x}{:02x}{:02x}".format(*colours[k])
    kinds = [row[-1] for row in rows]
    assert kinds.count("traced") > 50
    assert kinds.count("composite") > 5


def test_each_region_shows_on_its_slice_only(volume, tmp_path):
    path = tmp_path / "mito.zip"
    write_rois(path, enumerate(volume), "mito", instance_colours(), objects=999, depth=4)
    assert ask(tmp_path, OVERLAY, path, volume.shape) == [["1"], ["0"], ["1"], ["1"]]


def test_large_slices_and_long_outlines(tmp_path):
    """Coordinates beyond 15 bits, an outline of more corners than 16 bits count."""
    plane = np.zeros((30, 50_000), np.uint16)
    plane[0] = plane[1, ::2] = 1
    plane[10:15, 39_000:39_010] = 2
    plane[20:30, 40_000:40_010] = 3
    plane[25, 40_003] = 0
    write_rois(tmp_path / "a.zip", [(0, plane)], "mito", instance_colours(), objects=3, depth=1)
    rows = ask(tmp_path, OPEN, tmp_path / "a.zip", (1, *plane.shape))
    assert [int(row[1]) for row in rows[1:]] == [75_000, 50, 99]


def test_more_regions_than_16_bits_count(tmp_path):
    """The directory of the zip then is of another kind; ImageJ does not read it."""
    y, x = np.mgrid[:300, :300]
    plane = np.where((y % 3 < 2) & (x % 3 < 2), y // 3 * 100 + x // 3 + 1, 0).astype(np.uint16)
    slices = ((z, plane) for z in range(7))
    path = tmp_path / "a.zip"
    assert write_rois(path, slices, "mito", instance_colours(), objects=10_000, depth=7) == 70_000
    (opened, *_), *rows = ask(tmp_path, OPEN, path, (7, 300, 300), step=9_999)
    assert int(opened) == 70_000
    assert [row[0] for row in rows[:2]] == ["00001-z001 mito", "10000-z001 mito"]
    assert rows[-1][:2] == ["09994-z007 mito", "4"]
