"""Images to real ImageJ and back, in a real JVM. A process can have one JVM: each ImageJ gets a process of its own."""

import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tifffile
from imagej_app import MISSING_PYTHON, jar_of

from densecell_batch.calibration import VoxelSize
from densecell_batch.io.writing import StackWriter, instance_colours

pytestmark = [
    pytest.mark.fiji,
    pytest.mark.skipif(bool(MISSING_PYTHON), reason=f"not installed: {', '.join(MISSING_PYTHON)}"),
]

RNG = np.random.default_rng(0)
SIZE = VoxelSize(0.047, 0.0092, 0.0093)
COLOURS = np.array([[0, 0, 0], [255, 0, 9], [1, 200, 128], [0, 0, 255]], np.uint8)
VOLUMES = {
    "uint8": RNG.integers(0, 256, (3, 20, 17)).astype(np.uint8),
    "uint16": RNG.integers(0, 65536, (2, 9, 30)).astype(np.uint16),
    "float32": RNG.standard_normal((1, 11, 12)).astype(np.float32),
}

# Runs in a process of its own: arrays to ImageJ, saved by ImageJ, and back; files opened by ImageJ.
SCRIPT = r"""
import json, sys
from pathlib import Path
import numpy as np
from densecell_batch.errors import DensecellError
from densecell_batch.imagej.images import from_imageplus, save_rois, to_imageplus
from densecell_batch.imagej.jvm import start_imagej
from densecell_batch.calibration import VoxelSize

folder, jar = Path(sys.argv[1]), sys.argv[2]
said = {}
imagej = start_imagej(jar)
assert start_imagej(jar) is imagej
said["version"], said["place"] = imagej.version, imagej.place.where
from scyjava import jimport
saver, opener = jimport("ij.io.FileSaver"), jimport("ij.IJ")
size, colours = VoxelSize(0.047, 0.0092, 0.0093), np.load(folder / "colours.npy")

def tell(name, image):
    found = from_imageplus(image)
    np.save(folder / f"{name}-back.npy", found.volume)
    np.save(folder / f"{name}-colours.npy", np.zeros(0) if found.colours is None else found.colours)
    said[name] = {"voxel": found.voxel_size and found.voxel_size.edges, "title": found.title}

for name in ("uint8", "uint16", "float32"):
    image = to_imageplus(np.load(folder / f"{name}.npy"), size, title=f"{name} é")
    save = saver(image).saveAsTiffStack if image.getStackSize() > 1 else saver(image).saveAsTiff
    save(str(folder / f"{name}-saved.tif"))
    tell(name, image)
labels = np.load(folder / "uint8.npy") % 4
image = to_imageplus(labels, None, colours, ["background", "cell, a", "é", "d"])
said["info"], said["range"] = str(image.getProperty("Info")), [image.getDisplayRangeMin(), image.getDisplayRangeMax()]
saver(image).saveAsTiffStack(str(folder / "labels-saved.tif"))
tell("labels", image)
tell("painted", to_imageplus(labels, None, np.full((256, 3), [9, 8, 7], np.uint8), ["a"]))
tell("instances", to_imageplus(np.load(folder / "uint16.npy"), size, np.load(folder / "many.npy")))
tell("file", opener.openImage(str(folder / "file.tif")))
tell("lazy", to_imageplus(plane for plane in labels))

roi, oval = jimport("ij.gui.Roi"), jimport("ij.gui.OvalRoi")
regions = [roi(1, 2, 5, 6), oval(3, 3, 8, 4), roi(0, 0, 2, 2)]
for region, name in zip(regions, ["cell/1", "cell/1", None]):
    if name: region.setName(name)
regions[0].setPosition(2)
save_rois(regions, folder / "rois.zip")

said["errors"] = []
rgb = opener.createImage("pic", "RGB", 5, 5, 2)
hyper = opener.createHyperStack("many", 5, 5, 2, 3, 1, 8)
for attempt in (
    lambda: to_imageplus(np.zeros((2, 3, 3), np.int64)), lambda: to_imageplus(np.zeros((0, 3, 3), np.uint8)),
    lambda: from_imageplus(rgb), lambda: from_imageplus(hyper), lambda: start_imagej(str(folder / "other")),
    lambda: save_rois([], folder / "none.zip"), lambda: to_imageplus(labels, class_names=["a"] * 256),
):
    try:
        attempt()
        said["errors"].append("none")
    except DensecellError as error:
        said["errors"].append(f"{type(error).__name__}: {error}")
tell("frames", opener.createHyperStack("t", 5, 4, 1, 1, 3, 8))
image = to_imageplus(labels, size); image.getCalibration().setUnit("mm"); tell("mm", image)
image.getCalibration().setUnit("furlong"); tell("furlong", image)
(folder / "said.json").write_text(json.dumps(said))
import os; os._exit(0)
"""


@pytest.fixture(scope="module", params=["debian", "newest"])
def trip(request, tmp_path_factory):
    """What came back from an ImageJ: its folder, what was said."""
    jar, folder = jar_of(request.param), tmp_path_factory.mktemp(request.param)
    for name, volume in VOLUMES.items():
        np.save(folder / f"{name}.npy", volume)
    np.save(folder / "colours.npy", COLOURS)
    np.save(folder / "many.npy", instance_colours(1000))
    (folder / "other").mkdir()
    (folder / "other/ij.jar").touch()
    with StackWriter(
        folder / "file.tif", (3, 20, 17), "uint8", voxel_size=SIZE, colours=COLOURS, class_names="abcd"
    ) as writer:
        for z, plane in enumerate(VOLUMES["uint8"]):
            writer.write(z, plane)
        writer.commit()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(jar)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return folder, json.loads((folder / "said.json").read_text())


def test_the_version_and_place_are_said(trip):
    _, said = trip
    assert said["version"].startswith("1.5")
    assert said["place"].endswith(".jar")


@pytest.mark.parametrize("name", VOLUMES)
def test_values_and_calibration_make_the_round_trip(trip, name):
    folder, said = trip
    back = np.load(folder / f"{name}-back.npy")
    assert back.dtype == name
    np.testing.assert_array_equal(back, VOLUMES[name])
    assert said[name]["voxel"] == pytest.approx(SIZE.edges)
    assert said[name]["title"] == f"{name} é"
    assert np.load(folder / f"{name}-colours.npy").size == 0


@pytest.mark.parametrize("name", VOLUMES)
def test_what_imagej_saves_is_what_it_was_given(trip, name):
    folder, _ = trip
    with tifffile.TiffFile(folder / f"{name}-saved.tif") as tiff:
        saved = tiff.asarray()
        assert saved.dtype == name
        np.testing.assert_array_equal(saved.reshape(VOLUMES[name].shape), VOLUMES[name])
        assert tiff.imagej_metadata["unit"] in ("um", "\\u00B5m", "micron")
        pixels, units = tiff.pages[0].tags["XResolution"].value
        assert units / pixels == pytest.approx(SIZE.x, rel=1e-4)


def test_colours_and_class_names(trip):
    folder, said = trip
    wanted = np.zeros((256, 3), np.uint8)
    wanted[:4] = COLOURS
    np.testing.assert_array_equal(np.load(folder / "labels-colours.npy"), wanted)
    with tifffile.TiffFile(folder / "labels-saved.tif") as tiff:
        table = np.array(tiff.pages[0].tags["ColorMap"].value).reshape(3, 256)
        np.testing.assert_array_equal(table // 256, wanted.T)
        np.testing.assert_array_equal(tiff.asarray(), VOLUMES["uint8"] % 4)
    assert "class 1 = cell, a #ff0009" in said["info"]
    assert "class 2 = é" in said["info"]
    assert said["info"].endswith("label 255 = outside #000000\n")
    painted = np.load(folder / "painted-colours.npy")
    assert (painted[:255] == [9, 8, 7]).all()
    assert (painted[255] == 0).all()
    assert said["range"] == [0, 255]
    assert said["labels"]["voxel"] is None
    np.testing.assert_array_equal(np.load(folder / "instances-colours.npy"), instance_colours(256))


def test_a_file_that_imagej_opened(trip):
    folder, said = trip
    np.testing.assert_array_equal(np.load(folder / "file-back.npy"), VOLUMES["uint8"])
    assert said["file"]["voxel"] == pytest.approx(SIZE.edges, rel=1e-5)
    np.testing.assert_array_equal(np.load(folder / "file-colours.npy")[:4], COLOURS)


def test_planes_may_come_one_by_one(trip):
    np.testing.assert_array_equal(np.load(trip[0] / "lazy-back.npy"), VOLUMES["uint8"] % 4)


@pytest.mark.parametrize(
    ("name", "voxel"), [("mm", [47.0, 9.2, 9.3]), ("furlong", None), ("frames", None)], ids=["mm", "no unit", "frames"]
)
def test_units(trip, name, voxel):
    folder, said = trip
    assert said[name]["voxel"] == (voxel and pytest.approx(voxel))
    assert np.load(folder / f"{name}-back.npy").shape[0] == 3


def test_saved_regions(trip):
    with zipfile.ZipFile(trip[0] / "rois.zip") as archive:
        assert archive.namelist() == ["cell-1.roi", "cell-1-2.roi", "0003.roi"]
        contents = [archive.read(name) for name in archive.namelist()]
    assert all(content.startswith(b"Iout") for content in contents)
    assert [content[6] for content in contents] == [1, 2, 1]  # rectangle, oval, rectangle
    bounds = [np.frombuffer(content[8:16], ">i2").tolist() for content in contents]  # top, left, bottom, right
    assert bounds == [[2, 1, 8, 6], [3, 3, 7, 11], [0, 0, 2, 2]]
    assert int.from_bytes(contents[0][56:60]) == 2  # slice


def test_what_cannot_be_an_image(trip):
    messages = [
        r"OptionError: ImageJ has no images of int64 \(3, 3\); expected planes \(y, x\) of uint8, uint16, float32",
        "OptionError: labels: it has no slice",
        "StackError: image 'pic' is RGB; expected grey values: end the macro with run\\(\"8-bit\"\\)",
        "StackError: image 'many' has 2 channels, 3 slices and 1 frames; expected slices only",
        "ImageJError: this process runs ImageJ 1.5.* a process can have one",
        "OptionError: .*none.zip: there is no region to save",
        "OptionError: 256 classes are named; expected at most 255",
    ]
    for message, said in zip(messages, trip[1]["errors"], strict=True):
        assert re.search(message, said), said
