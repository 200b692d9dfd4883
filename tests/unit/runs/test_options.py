"""Each option says what it is to the result: what is forgotten here makes two kinds of work pass for the same."""

from dataclasses import fields

import pytest

from densecell_batch import OptionError, RunOptions
from densecell_batch.inference.options import SHAPES, TOLD, UNTOLD


def test_each_option_bears_one_mark():
    marked = [RunOptions.marked(mark) for mark in (SHAPES, TOLD, UNTOLD)]
    assert sorted(name for names in marked for name in names) == sorted(f.name for f in fields(RunOptions))


def test_what_shapes_the_result():
    """Those that shape it make other work; of an option that this version does not know, nobody knows."""
    assert RunOptions.marked(SHAPES) == {
        "stitch", "ensemble", "probabilities", "uncertainty", "precision", "tile", "instances", "min_volume",
        "voxel_size", "file_format", "outside", "mask", "contrast", "fit", "defects", "scale", "roi", "cells_from",
        "split", "split_tolerance", "rois",
    }  # fmt: skip
    assert set(RunOptions().told()) == RunOptions.marked(SHAPES) | {"device", "engine", "preview"}


@pytest.mark.parametrize(("options", "message"), [
    ({"instances": ("nothing",)}, "no class 'nothing'; the classes are a, b"),
    ({"min_volume": 1.0}, "say of which class"),
    ({"split": True}, "--split parts touching instances; say of which class"),
    ({"rois": True}, "--rois outlines instances; say of which class"),
    ({"instances": ("a",), "split_tolerance": 0.1}, "give --split as well"),
    ({"cells_from": ("nothing",)}, "--cells-from: there is no class 'nothing'"),
    ({"cells_from": ("a", "b")}, "all classes are walls"),
])  # fmt: skip
def test_what_a_model_cannot_do(options, message):
    with pytest.raises(OptionError, match=message):
        RunOptions(**options).check(["a", "b"])
