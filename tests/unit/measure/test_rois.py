"""Regions for ImageJ: outlines along pixels, names, colours, the zip."""

import io
import zipfile

import numpy as np
import pytest
from roifile import ROI_TYPE, ImagejRoi
from skimage.measure import label

from densecell_batch.errors import OptionError
from densecell_batch.io.writing import instance_colours
from densecell_batch.measure.rois import object_outlines, roi_files, write_rois

COLOURS = instance_colours(100)


def area(points):
    """Signed area of a polygon, positive where it runs clockwise on the screen."""
    x, y = points.astype(float).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def areas(numbers):
    return {number: [area(outline) for outline in outlines] for number, outlines in object_outlines(numbers)}


def drawn(text):
    """A slice of objects from a picture of digits."""
    return np.array([[int(c) for c in row.replace(".", "0")] for row in text.split()], np.uint16)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ("...", {}),
        ("1", {1: [1]}),
        (".2.", {2: [1]}),
        ("11 11", {1: [4]}),
        ("12 21", {1: [1, 1], 2: [1, 1]}),  # they touch at a corner only
        ("11. 1.1 111", {1: [7]}),  # the hole is open to the outside at a corner
        ("11. 1.1 .11", {1: [3, 3]}),
        ("111 1.1 111", {1: [9, -1]}),
        ("111 121 111", {1: [9, -1], 2: [1]}),
        ("1111 1.11 11.1 1111", {1: [16, -2]}),  # holes that touch at a corner are one
        ("11111 1...1 1.1.1 1...1 11111", {1: [25, -9, 1]}),
        ("1.1 ... 3.3", {1: [1, 1], 3: [1, 1]}),
    ],
)
def test_areas(picture, expected):
    assert areas(drawn(picture)) == expected


def test_one_pixel():
    ((number, (outline,)),) = object_outlines(drawn("... ..5"))
    assert number == 5
    np.testing.assert_array_equal(outline, [[2, 1], [3, 1], [3, 2], [2, 2]])


@pytest.mark.parametrize("seed", range(30))
def test_outlines_enclose_exactly_the_pixels(seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, rng.integers(2, 6), rng.integers(1, 14, 2)).astype(np.uint16)
    found = dict(object_outlines(numbers))
    assert sorted(found) == [n for n in np.unique(numbers) if n]
    for number, outlines in found.items():
        mask = numbers == number
        signed = [area(outline) for outline in outlines]
        assert sum(signed) == mask.sum()
        assert sum(a > 0 for a in signed) == label(mask, connectivity=1).max()
        assert sum(a < 0 for a in signed) == label(np.pad(~mask, 1, constant_values=True), connectivity=2).max() - 1
        assert signed[0] > 0
        for outline in outlines:
            steps = np.diff(outline, axis=0, append=outline[:1]) != 0
            assert (steps.sum(1) == 1).all()  # along rows and columns
            assert (steps[:, 0] != np.roll(steps[:, 0], 1)).all()  # and a turn at each corner


def test_numbers_of_any_size():
    numbers = np.zeros((3, 4), np.uint32)
    numbers[1, 2] = 2**32 - 1
    assert areas(numbers) == {2**32 - 1: [1]}


def read(files):
    return [(name, ImagejRoi.frombytes(content)) for name, content in files]


def test_regions():
    slices = [(0, drawn("11. 11. ..2")), (4, drawn("222 2.2 222"))]
    found = read(roi_files(slices, "mito", COLOURS, objects=2, depth=5))
    assert [name for name, _ in found] == ["0001-z001 mito.roi", "0002-z001 mito.roi", "0002-z005 mito.roi"]
    for name, roi in found:
        assert f"{roi.name}.roi" == name
        assert roi.stroke_color == b"\xff" + COLOURS[int(name[:4])].tobytes()
        assert roi.z_position == 0  # in a plain stack ImageJ would show it on all slices
    assert [roi.position for _, roi in found] == [1, 1, 5]
    square, pixel, ring = (roi for _, roi in found)
    assert square.roitype == ROI_TYPE.TRACED
    np.testing.assert_array_equal(square.coordinates(), [[0, 0], [2, 0], [2, 2], [0, 2]])
    np.testing.assert_array_equal(pixel.coordinates(), [[2, 2], [3, 2], [3, 3], [2, 3]])
    assert (ring.left, ring.top, ring.right, ring.bottom) == (0, 0, 3, 3)
    assert [abs(area(part[:4])) for part in ring.coordinates(multi=True)] == [9, 1]


def test_coordinates_beyond_15_bits():
    numbers = np.zeros((2, 50_000), np.uint16)
    numbers[1, 45_000:45_003] = 1
    ((_, roi),) = read(roi_files([(0, numbers)], "x", COLOURS, objects=1, depth=1))
    assert roi.coordinates()[:, 0].tolist() == [45_000, 45_003, 45_003, 45_000]


def test_slices_beyond_coordinates():
    with pytest.raises(OptionError, match=r"slices are \(1, 60537\) pixels; regions of ImageJ reach to 60536"):
        list(roi_files([(0, np.ones((1, 60_537), np.uint16))], "x", COLOURS, objects=1, depth=1))


def test_an_outline_of_more_corners_than_16_bits_count():
    numbers = np.zeros((2, 40_000), np.uint16)
    numbers[0] = numbers[1, ::2] = 1
    ((_, roi),) = read(roi_files([(0, numbers)], "x", COLOURS, objects=1, depth=1))
    assert roi.n_coordinates == len(roi.coordinates()) == 80_002
    assert area(roi.coordinates()) == 60_000


@pytest.mark.parametrize(
    ("class_name", "objects", "depth", "name"),
    [
        ("mito", 9, 9, "0001-z001 mito"),
        ("mito", 12_345, 1234, "00001-z0001 mito"),
        ("", 1, 1, "0001-z001"),
        ("endoplasmic reticulum", 1, 1, "0001-z001 endoplasmic re"),
        ("endoplasmic reticulum", 10**9, 10**5, "0000000001-z000001 endop"),
        ("Zellkörper/é\n", 1, 1, "0001-z001 Zellkorper-e-"),
        ("細胞", 1, 1, "0001-z001 --"),
        ("abcdefghijklm nop", 1, 1, "0001-z001 abcdefghijklm"),
    ],
)
def test_names(class_name, objects, depth, name):
    ((file, _),) = roi_files([(0, drawn("1"))], class_name, COLOURS, objects=objects, depth=depth)
    assert file == f"{name}.roi"
    assert len(name) <= 24


def test_names_are_unique():
    rng = np.random.default_rng(0)
    slices = [(z, rng.integers(0, 12_000, (50, 60)).astype(np.uint16)) for z in range(3)]
    names = [name for name, _ in roi_files(slices, "a long name of a class", COLOURS, objects=12_000, depth=3)]
    assert len(set(names)) == len(names) > 7000
    assert max(map(len, names)) <= 24 + len(".roi")


def test_colours_repeat_without_black():
    files = roi_files([(0, np.array([[99, 100, 198, 199]], np.uint16))], "x", COLOURS, objects=199, depth=1)
    found = [roi.stroke_color[1:] for _, roi in read(files)]
    assert found == [COLOURS[i].tobytes() for i in (99, 1, 99, 1)]


def test_the_zip(tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 4, (3, 8, 9)).astype(np.uint16)
    paths = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for path in paths:
        assert write_rois(path, enumerate(volume), "mito", COLOURS, objects=3, depth=3) == 9
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[:4] == [f"{k:04d}-z00{z} mito.roi" for z, k in ((1, 1), (1, 2), (1, 3), (2, 1))]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert ImagejRoi.frombytes(archive.read("0003-z002 mito.roi")).position == 2


def test_an_earlier_zip_is_replaced_only_by_a_whole_one(tmp_path):
    path, slices = tmp_path / "a.zip", [(0, drawn("1.2.3"))]
    path.write_bytes(b"earlier")
    with pytest.raises(OptionError, match=r"a.zip: more than 2 regions, one for each object and slice"):
        write_rois(path, slices, "x", COLOURS, objects=3, depth=1, most=2)
    assert path.read_bytes() == b"earlier"
    assert write_rois(path, slices, "x", COLOURS, objects=3, depth=1, most=3) == 3
    assert zipfile.is_zipfile(path)
    assert list(tmp_path.iterdir()) == [path]


def test_no_object_no_file(tmp_path):
    assert write_rois(tmp_path / "a.zip", [(0, drawn("..."))], "x", COLOURS, objects=0, depth=1) == 0
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_a_slice():
    """Slices are asked for one by one, when the regions of those before were taken."""
    taken = []

    def slices():
        for z in range(3):
            taken.append(z)
            yield z, drawn("12")

    files = roi_files(slices(), "x", COLOURS, objects=2, depth=3)
    assert [len(taken) for _ in files] == [1, 1, 2, 2, 3, 3]


def test_content_is_what_imagej_reads_back():
    """A file as written is a whole file of the format: its magic, its version, its type."""
    ((_, content),) = roi_files([(0, drawn("11"))], "x", COLOURS, objects=1, depth=1)
    stream = io.BytesIO(content)
    assert stream.read(4) == b"Iout"
    assert int.from_bytes(stream.read(2)) == 227
    assert stream.read(1) == b"\x08"
