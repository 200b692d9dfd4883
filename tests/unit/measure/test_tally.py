"""Sums per class, against numbers computed by hand."""

import numpy as np
import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.tally import Tally, slice_sums
from densecell_batch.models.classes import ClassInfo

CLASSES = [ClassInfo("a", (255, 0, 16)), ClassInfo("b", (0, 0, 0)), ClassInfo("c", (1, 2, 3))]


def test_two_slices_by_hand():
    tally = Tally(3)
    first = np.array([[0, 0], [1, 0]], np.uint8), np.float32([[0.5, 0.7], [0.9, 0.6]]), np.float32([[0, 1], [0.5, 0.5]])
    second = np.array([[1, 1], [1, 1]], np.uint8), np.full((2, 2), 0.4, np.float32), np.zeros((2, 2), np.float32)
    tally.add(slice_sums(3, *first))
    tally.add(slice_sums(3, *second))
    a, b, c = tally.rows(CLASSES, VoxelSize(0.04, 0.01, 0.01))
    assert [row.voxels for row in (a, b, c)] == [3, 5, 0]
    assert [row.volume_um3 for row in (a, b, c)] == pytest.approx([1.2e-5, 2e-5, 0])
    assert a.mean_confidence == pytest.approx(0.6)
    assert b.mean_confidence == pytest.approx((0.9 + 1.6) / 5)
    assert a.mean_disagreement_bits == pytest.approx(0.5)
    assert c.mean_confidence is None
    assert c.mean_disagreement_bits is None
    assert tally.means() == pytest.approx(((1.8 + 2.5) / 8, 2 / 8))
    assert a.colour == "#ff0010"


def test_what_is_not_known_is_none():
    tally = Tally(3)
    tally.add(slice_sums(3, np.zeros((1, 1), np.uint8), np.ones((1, 1), np.float32), None))
    assert tally.means() == (1, None)
    assert tally.rows(CLASSES, None)[0].volume_um3 is None


def test_outside_is_no_class():
    tally, size = Tally(3), VoxelSize(0.04, 0.01, 0.01)
    labels = np.array([[0, OUTSIDE, 2], [OUTSIDE, 2, OUTSIDE]], np.uint8)
    confidence = np.float32([[0.5, 9, 0.75], [9, 0.25, 9]])
    sums = slice_sums(3, labels, confidence, confidence / 2)
    np.testing.assert_allclose(sums, [[1, 0, 2], [0.5, 0, 1], [0.25, 0, 0.5]])
    tally.add(sums, labels.size)
    tally.add(slice_sums(3, np.zeros((2, 3), np.uint8), np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)), 6)
    assert [row.voxels for row in tally.rows(CLASSES, size)] == [7, 0, 2]
    assert tally.outside(size) == (3, 1.2e-5)
    assert tally.outside(None) == (3, None)
    assert tally.means() == pytest.approx((7.5 / 9, 0.75 / 9), abs=1e-6)


@pytest.mark.parametrize("disagreement", [None, np.zeros((2, 2), np.float32)])
def test_all_is_outside(disagreement):
    tally = Tally(3)
    tally.add(slice_sums(3, np.full((2, 2), OUTSIDE, np.uint8), np.zeros((2, 2), np.float32), disagreement), 4)
    assert tally.outside(VoxelSize(1, 1, 1)) == (4, 4)
    assert tally.means() == (None, None)
    assert [row.mean_confidence for row in tally.rows(CLASSES, None)] == [None] * 3


def test_without_the_size_of_a_slice_none_is_outside():
    tally = Tally(3)
    tally.add(slice_sums(3, np.full((2, 2), OUTSIDE, np.uint8), np.zeros((2, 2), np.float32), None))
    assert tally.outside(None) == (0, None)


def test_a_label_that_is_neither_class_nor_outside_is_a_mistake():
    with pytest.raises(ValueError, match="neither a class nor outside"):
        slice_sums(3, np.array([[3, OUTSIDE]], np.uint8), np.ones((1, 2), np.float32), None)
