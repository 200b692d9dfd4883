"""Scores against cases computed by hand, and against scikit-image."""

import numpy as np
import pytest
import skimage.metrics

from densecell_batch.measure.metrics import (
    adjusted_rand_index,
    boundary_f_score,
    confusion_matrix,
    score,
    variation_of_information,
)

TRUTH = np.array([[[0, 0, 1], [1, 2, 2]]])
FOUND = np.array([[[0, 1, 1], [1, 2, 0]]])


def test_confusion_by_hand():
    np.testing.assert_array_equal(confusion_matrix(TRUTH, FOUND, 3), [[1, 1, 0], [0, 2, 0], [1, 0, 1]])


def test_confusion_is_counted_in_parts(monkeypatch):
    monkeypatch.setattr("densecell_batch.measure.metrics._PART", 4)
    np.testing.assert_array_equal(confusion_matrix(TRUTH, FOUND.astype(np.uint8), 3), [[1, 1, 0], [0, 2, 0], [1, 0, 1]])


def test_scores_by_hand():
    found = score(TRUTH, FOUND, 3)
    assert found.iou == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert found.mean_iou == pytest.approx(0.5)
    assert found.mean_iou_without_first == pytest.approx(7 / 12)
    assert found.accuracy == pytest.approx(4 / 6)


def test_a_class_that_does_not_occur_is_left_out():
    found = score(TRUTH, FOUND, 5)
    assert np.isnan(found.iou[3:]).all()
    assert found.mean_iou == pytest.approx(0.5)


def test_only_what_counts():
    found = score(TRUTH, FOUND, 3, counted=TRUTH != 2)
    np.testing.assert_array_equal(found.confusion, [[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert found.iou == pytest.approx([1 / 2, 2 / 3, np.nan], nan_ok=True)


def test_perfect():
    found = score(TRUTH, TRUTH, 3)
    assert (found.mean_iou, found.accuracy) == (1, 1)
    assert adjusted_rand_index(found.confusion) == pytest.approx(1)
    assert variation_of_information(found.confusion) == pytest.approx((0, 0))


def test_adjusted_rand_index_by_hand():
    """Hubert and Arabie 1985: pairs counted by hand for 6 voxels."""
    # Pairs together in both: one in cell (1, 1); in rows 1 + 1 + 1; in columns 1 + 3 + 0; 15 in all.
    expected = 3 * 4 / 15
    assert adjusted_rand_index(confusion_matrix(TRUTH, FOUND, 3)) == pytest.approx((1 - expected) / (3.5 - expected))


def test_variation_of_information_by_hand():
    """One object of the truth cut in two equal halves: 1 bit of splitting, none of merging."""
    truth, found = np.zeros(8, int), np.arange(8) // 4
    assert variation_of_information(confusion_matrix(truth, found, 2)) == pytest.approx((1, 0))
    assert variation_of_information(confusion_matrix(found, truth, 2)) == pytest.approx((0, 1))


def test_variation_of_information_is_that_of_scikit_image():
    truth, found = np.random.default_rng(0).integers(0, 4, (2, 6, 20, 20))
    ours = variation_of_information(confusion_matrix(truth, found, 4))
    assert sorted(ours) == pytest.approx(sorted(skimage.metrics.variation_of_information(truth, found)))


def test_boundary_f_score():
    truth = np.zeros((1, 20, 20), int)
    truth[:, 5:15, 5:15] = 1
    assert boundary_f_score(truth, truth, 0) == 1
    moved = np.roll(truth, 1, axis=2)
    assert boundary_f_score(truth, moved, 0) < 1
    assert boundary_f_score(truth, moved, 1) == 1
    assert boundary_f_score(truth, np.zeros_like(truth), 2) == 0
    assert boundary_f_score(np.zeros_like(truth), np.zeros_like(truth), 2) == 1
