"""Names and colours that label files have beside their values, which these never change."""

import numpy as np
import pytest
import tifffile

from densecell_batch import write_stack
from densecell_batch.errors import StackError
from densecell_batch.io.label_look import label_look
from densecell_batch.io.reading import open_labels
from densecell_batch.models.classes import ClassInfo

LABELS = np.array([[[0, 1, 2], [2, 1, 0]], [[1, 1, 1], [2, 2, 255]]], np.uint8)
CLASSES = [ClassInfo("background", (0, 0, 0)), ClassInfo("cell & co <x>", (0, 0, 255)), ClassInfo("dot", (255, 9, 0))]


def table(**rows):
    found = np.zeros((3, 256), np.uint16)
    for i, colour in enumerate([(5, 0, 0), (0, 0, 255), (255, 128, 0)]):
        found[:, i] = np.array(colour) * 257
    return found


@pytest.mark.parametrize("file_format", ["imagej", "ome-tiff"])
def test_our_own_label_files_name_their_classes(tmp_path, file_format):
    path = write_stack(tmp_path / "a.tif", LABELS, classes=CLASSES, file_format=file_format)
    look = label_look(path)
    assert look.names == {i: c.name for i, c in enumerate(CLASSES)}
    assert look.colours == {i: c.colour for i, c in enumerate(CLASSES)}
    assert look.table[:4].tolist() == [[0, 0, 0], [0, 0, 255], [255, 9, 0], [0, 0, 0]]


def test_an_info_that_somebody_wrote(tmp_path):
    info = "Title: cells\nLabel 1: membrane\r\nclass 2 = mito chondrion #00FF00\nclass 999 = no\nlabel 255 = outside\n"
    tifffile.imwrite(tmp_path / "a.tif", LABELS, imagej=True, metadata={"axes": "ZYX", "Info": info})
    look = label_look(tmp_path / "a.tif")
    assert look.names == {1: "membrane", 2: "mito chondrion"}
    assert look.colours == {2: (0, 255, 0)}
    assert look.table is None


@pytest.mark.parametrize("ramp", [np.arange(256), 255 - np.arange(256), np.zeros(256)])
def test_a_grey_table_says_nothing(tmp_path, ramp):
    grey = np.tile(ramp.astype(np.uint16) * 257, (3, 1))
    tifffile.imwrite(tmp_path / "a.tif", LABELS, colormap=grey, photometric="palette", metadata={"axes": "ZYX"})
    assert label_look(tmp_path / "a.tif").table is None


def test_the_first_slice_of_a_folder_is_asked(tmp_path):
    for z, plane in enumerate(LABELS):
        tifffile.imwrite(tmp_path / f"{z}.tif", plane, colormap=table(), photometric="palette")
    assert label_look(tmp_path).table[2].tolist() == [255, 128, 0]


def test_no_labels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(np.float32), photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(StackError, match=r"a\.tif: the labels are float32"):
        label_look(tmp_path / "a.tif")
    with pytest.raises(StackError, match="no such file"):
        label_look(tmp_path / "b.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"colormap": table(), "photometric": "palette"},
        {"colormap": np.tile(255 - np.arange(256), (3, 1)).astype(np.uint16) * 257, "photometric": "palette"},
        {"photometric": "miniswhite"},
    ],
    ids=["colours", "inverted grey table", "0 is white"],
)
def test_a_colour_table_changes_no_label(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", LABELS, metadata={"axes": "ZYX"}, **options)
    with open_labels(tmp_path / "a.tif") as labels:
        np.testing.assert_array_equal(np.asarray(labels), LABELS)
