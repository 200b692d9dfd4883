"""Regions of an image of instances: names, colours, whose class, what stays, what is refused."""

import numpy as np
import pytest
import tifffile
from roifile import roiread

from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.writing import instance_colours
from densecell_batch.runs.regions import write_regions


def write(path, dtype=np.uint16):
    instances = np.zeros((3, 20, 30), dtype)
    instances[0, 2:5, 2:5], instances[1:, 8:12, 8:20] = 1, 40
    tifffile.imwrite(path, instances, imagej=True, metadata={"axes": "ZYX"})
    return path


def test_a_region_for_each_object_and_slice(tmp_path):
    made, count = write_regions(write(tmp_path / "a_mito_instances.tif"), tmp_path / "new")
    assert (made, count) == (tmp_path / "new" / "a_mito_rois.zip", 3)
    regions = roiread(made)
    assert [region.name for region in regions] == ["0001-z001 mito", "0040-z002 mito", "0040-z003 mito"]
    assert [region.stroke_color[1:] for region in regions] == [instance_colours()[n].tobytes() for n in (1, 40, 40)]


def test_whose_class_it_is(tmp_path):
    """Names and classes may have a "_": the labels beside tell where the class begins."""
    path = write(tmp_path / "a_b_golgi_body_instances.tif")
    assert roiread(write_regions(path, tmp_path)[0])[0].name == "0001-z001 body"
    (tmp_path / "a_b_labels.tif").touch()
    assert roiread(write_regions(path, tmp_path / "beside")[0])[0].name == "0001-z001 golgi_body"
    mine = write(tmp_path / "mine.tif")
    assert roiread(write_regions(mine, tmp_path, "golgi", "my own.zip")[0])[0].name == "0001-z001 golgi"
    assert (tmp_path / "my own.zip").exists()


def test_what_is_there_is_kept(tmp_path):
    path = write(tmp_path / "a_mito_instances.tif", np.uint8)
    made, _ = write_regions(path, tmp_path)
    before = made.stat()
    write_regions(path, tmp_path)
    assert made.stat() == before
    made.write_text("mine")
    write_regions(path, tmp_path)
    (kept,) = tmp_path.glob("a_mito_rois.old-*.zip")
    assert kept.read_text() == "mine"
    assert len(roiread(made)) == 3
    assert {file.name for file in tmp_path.iterdir()} == {path.name, made.name, kept.name}


def test_no_objects_no_zip(tmp_path):
    tifffile.imwrite(
        tmp_path / "a_mito_instances.tif", np.zeros((2, 5, 5), np.uint8), imagej=True, metadata={"axes": "ZYX"}
    )
    made, count = write_regions(tmp_path / "a_mito_instances.tif", tmp_path)
    assert (made.exists(), count) == (False, 0)


@pytest.mark.parametrize(
    ("name", "words", "error", "message"),
    [
        ("x.tif", {}, OptionError, "x.tif is no file of instances; expected NAME_CLASS_instances.tif"),
        ("x_a_instances.tif", {"name": "x.roi"}, OptionError, "x.roi: expected the name of a .zip file"),
        ("x_a_instances.tif", {"name": "../x.zip"}, OptionError, "expected the name of a .zip file"),
        ("none_a_instances.tif", {}, StackError, "none_a_instances.tif"),
        ("float_a_instances.tif", {}, StackError, "float32; expected whole numbers"),
    ],
)
def test_bad_input(tmp_path, name, words, error, message):
    write(tmp_path / "x_a_instances.tif")
    write(tmp_path / "x.tif")
    write(tmp_path / "float_a_instances.tif", np.float32)
    with pytest.raises(error, match=message):
        write_regions(tmp_path / name, tmp_path / "out", **words)
    assert not [*(tmp_path / "out").glob("*")]
