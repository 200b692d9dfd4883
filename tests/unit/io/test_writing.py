"""Files that are written a slice at a time: whole or not at all, with everything that a viewer needs."""

import errno
import os

import numpy as np
import pytest
import tifffile
from skimage.color import deltaE_ciede2000, rgb2lab

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, OutputError
from densecell_batch.io import writing
from densecell_batch.io.writing import StackWriter, instance_colours, instance_range

RNG = np.random.default_rng(0)
SIZE = VoxelSize(0.04, 0.012, 0.01)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [10, 20, 30]], np.uint8)


def volume(dtype, shape=(5, 12, 14)):
    return (100 * RNG.random(shape)).astype(dtype)


def write(path, planes, order=None, **options):
    with StackWriter(path, planes.shape, planes.dtype.name, **options) as writer:
        for z in order if order is not None else range(len(planes)):
            writer.write(z, planes[z])
        writer.commit()


@pytest.mark.parametrize("channels", [None, ["a", "b"]])
@pytest.mark.parametrize(
    ("file_format", "dtype"),
    [
        (f, d)
        for f in ("imagej", "ome-tiff")
        for d in ("uint8", "uint16", "float32", "uint32")
        if (f, d) != ("imagej", "uint32")
    ],
)
def test_comes_back_as_it_was(tmp_path, file_format, dtype, channels):
    planes = volume(dtype, (5, 2, 12, 14) if channels else (5, 12, 14))
    path = tmp_path / "o.tif"
    write(path, planes, RNG.permutation(5), file_format=file_format, channels=channels, voxel_size=SIZE)
    with tifffile.TiffFile(path) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), planes)
        assert tiff.series[0].axes == ("ZCYX" if channels else "ZYX")
        assert tiff.is_imagej if file_format == "imagej" else tiff.is_ome
        if file_format == "ome-tiff" and channels:
            assert 'Name="b"' in tiff.ome_metadata
    assert list(tmp_path.iterdir()) == [path]


def test_what_imagej_needs(tmp_path):
    write(tmp_path / "o.tif", volume(np.uint8), voxel_size=SIZE, colours=COLOURS, class_names=["none", "cell", "été µ"])
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        found, tags = tiff.imagej_metadata, tiff.pages[0].tags
        assert (found["unit"], found["spacing"], found["slices"]) == ("um", 0.04, 5)
        assert (found["min"], found["max"]) == (0, 255)
        assert "class 1 = cell #ff0000" in found["Info"]
        assert "été µ" in found["Info"]
        assert [n / d for d, n in (tags["XResolution"].value, tags["YResolution"].value)] == pytest.approx(
            [0.01, 0.012]
        )
        np.testing.assert_array_equal(tags["ColorMap"].value.reshape(3, 256)[:, :3].T // 257, COLOURS)


def test_channels_have_names_and_range(tmp_path):
    planes = volume(np.float32, (2, 3, 8, 9))
    write(tmp_path / "o.tif", planes, channels=["x", "y", "z"], display_range=(0, 1))
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        assert tiff.imagej_metadata["Labels"][:3] == ["x", "y", "z"]
        assert (tiff.imagej_metadata["min"], tiff.imagej_metadata["max"]) == (0, 1)


def test_ome_calibration_and_classes(tmp_path):
    write(
        tmp_path / "o.tif",
        volume(np.uint8),
        file_format="ome-tiff",
        voxel_size=SIZE,
        class_names=["a", "b & <c>"],
        colours=COLOURS,
    )
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{axis}"] for axis in "ZYX"] == [0.04, 0.012, 0.01]
        assert "b &amp; &lt;c&gt;" in tiff.ome_metadata


@pytest.mark.parametrize("file_format", ["imagej", "ome-tiff"])
def test_outside_is_black_and_has_a_name(tmp_path, file_format):
    """Whatever colours are given; where the values have no names, they are no classes."""
    colours = np.full((256, 3), 9, np.uint8)
    names = [f"c{i}" for i in range(255)]
    write(tmp_path / "o.tif", volume(np.uint8), file_format=file_format, class_names=names, colours=colours)
    write(tmp_path / "none.tif", volume(np.uint8), file_format=file_format, colours=colours)
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        table = tiff.pages[0].tags["ColorMap"].value.reshape(3, 256) // 257
        assert table[:, 254].tolist() == [9, 9, 9]
        assert table[:, 255].tolist() == [0, 0, 0]
        text = tiff.imagej_metadata["Info"] if file_format == "imagej" else tiff.ome_metadata
        assert "class 254 = c254 #090909\nlabel 255 = outside #000000\n" in text
    with tifffile.TiffFile(tmp_path / "none.tif") as tiff:
        assert (tiff.pages[0].tags["ColorMap"].value == 9 * 257).all()
        assert "outside" not in str(tiff.imagej_metadata or tiff.ome_metadata)


def test_more_classes_than_labels(tmp_path):
    names, colours = ["a"] * 256, np.zeros((256, 3), np.uint8)
    with pytest.raises(OptionError, match="256 classes are named; expected at most 255: label 255 is what lies outs"):
        write(tmp_path / "o.tif", volume(np.uint8), class_names=names, colours=colours)
    assert list(tmp_path.iterdir()) == []


def test_same_input_same_bytes(tmp_path):
    planes = volume(np.uint8)
    for name in ("a", "b"):
        write(tmp_path / name, planes, voxel_size=SIZE, colours=COLOURS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path):
    path, old, new = tmp_path / "o.tif", volume(np.uint8), volume(np.uint8)
    write(path, old)
    with StackWriter(path, new.shape, "uint8") as writer:
        writer.write(0, new[0])
        np.testing.assert_array_equal(tifffile.imread(path), old)
    np.testing.assert_array_equal(tifffile.imread(path), old)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_a_gap_is_not_committed(tmp_path):
    planes = volume(np.uint8)
    with pytest.raises(OutputError, match="1 of 5 slices were never written"):
        write(tmp_path / "o.tif", planes, [0, 1, 2, 4])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "plane", [np.zeros((12, 13), np.uint8), np.zeros((12, 14), np.uint16), np.zeros((1, 12, 14), np.uint8)]
)
def test_a_plane_of_another_kind(tmp_path, plane):
    with StackWriter(tmp_path / "o.tif", (5, 12, 14), "uint8") as writer, pytest.raises(ValueError, match="slice 2 is"):
        writer.write(2, plane)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "uint32"}, "imagej has no uint32"),
        ({"dtype": "int64", "file_format": "ome-tiff"}, "ome-tiff has no int64"),
        ({"dtype": "uint8", "file_format": "png"}, "file format is 'png'"),
    ],
)
def test_what_a_format_has_not(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        StackWriter(tmp_path / "o.tif", (5, 12, 14), **options)
    assert list(tmp_path.iterdir()) == []


def test_no_folder(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        StackWriter(tmp_path / "none" / "o.tif", (5, 12, 14), "uint8")


def test_more_than_the_disk_has(tmp_path):
    with pytest.raises(OutputError, match=r"MiB are free.*make room"):
        StackWriter(tmp_path / "o.tif", (2**20, 2**14, 2**14), "uint8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota"), (errno.EIO, "Input/output")]
)
def test_the_disk_fails_while_writing(tmp_path, monkeypatch, number, message):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing.os, "pwrite", fail)
    with pytest.raises(OutputError, match=message):
        write(tmp_path / "o.tif", volume(np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_instance_colours():
    colours = instance_colours()
    assert (colours[0] == 0).all()
    assert colours[1:].max(1).min() > 150  # all visible on black
    steps = np.abs(np.diff(colours[1:256].astype(int), axis=0)).sum(1)
    assert np.median(steps) > 150  # neighbouring numbers look different


@pytest.mark.parametrize(("step", "least"), [(1, 40), (2, 30), (3, 20)])
def test_instance_colours_look_different(step, least):
    lab = rgb2lab(instance_colours(2000)[None] / 255)[0]
    assert deltaE_ciede2000(lab[1:-step], lab[1 + step :]).min() > least
    assert deltaE_ciede2000(lab[1:], np.zeros_like(lab[1:])).min() > 35


@pytest.mark.parametrize("n", [0, 1, 255, 256, 511, 512, 1000, 1022, 1023, 60_000, 65_535])
def test_no_object_has_the_colour_of_the_background(n):
    low, high = instance_range(n)
    value = np.arange(max(n, 1) + 1)
    colour = np.minimum(((value - low) * (256 / (high - low + 1)) + 0.5).astype(int), 255)  # as ImageJ has it
    assert colour[0] == 0
    assert colour[1] == 1
    if n <= 255:
        np.testing.assert_array_equal(colour, value)
    else:
        assert len(np.unique(colour)) == 256
