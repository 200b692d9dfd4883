"""Offsets of classes are found where there are some to be found, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from densecell_batch.errors import OptionError
from densecell_batch.nets.ensemble import combine
from densecell_batch.training.offsets import BANDS, decided, fit_offsets, hold_out, spread

OFFSETS = np.array([0, -1.0, 1.5, 0])


def drawn(n: int = 40_000, members: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (member, class, voxel) of 4 classes, of which the last is never true; labels; rows."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, n, p=[0.6, 0.3, 0.1]).astype(np.uint8)
    logits = 1.2 * random.standard_normal((members, 4, n)) + 2.5 * np.eye(4)[:, labels]
    logits[:, 3] -= 6
    return softmax(logits, axis=1).astype(np.float32), labels, np.arange(n) * 60 // n


def biased(probabilities: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    weighted = probabilities * np.exp(offsets)[:, None]
    return (weighted / weighted.sum(1, keepdims=True)).astype(np.float32)


def test_the_decision_is_that_of_the_ensemble():
    probabilities, _, _ = drawn(100)
    members = [np.moveaxis(member, 0, -1) for member in biased(probabilities, OFFSETS)]
    mean, _ = combine(members)
    np.testing.assert_array_equal(decided(probabilities, OFFSETS), mean.argmax(-1))
    np.testing.assert_array_equal(decided(probabilities, OFFSETS + 3), mean.argmax(-1))  # the same to all


def test_known_biases_are_recovered():
    probabilities, labels, rows = drawn()
    right = fit_offsets(probabilities, labels)
    found = fit_offsets(biased(probabilities, -OFFSETS), labels)
    np.testing.assert_allclose(found - right, OFFSETS, atol=0.35)
    np.testing.assert_array_equal(found, fit_offsets(biased(probabilities, -OFFSETS), labels))
    held_out = hold_out(biased(probabilities, -OFFSETS), labels, rows)
    assert held_out.gain > 0.1
    assert len(held_out.bands) == BANDS
    assert all(after > before for before, after in held_out.bands)


def test_nothing_is_changed_where_nothing_helps():
    probabilities, labels, rows = drawn()
    labels[:] = decided(probabilities, np.zeros(4))
    assert not fit_offsets(probabilities, labels).any()
    held_out = hold_out(probabilities, labels, rows)
    assert (held_out.before, held_out.after, held_out.gain) == (1, 1, 0)


@pytest.mark.parametrize("absent", [1, 2])
def test_a_class_without_labels_keeps_its_place(absent):
    probabilities, labels, _ = drawn(10_000)
    some = labels != absent
    found = fit_offsets(biased(probabilities, -OFFSETS)[..., some], labels[some])
    assert found[absent] == found[3] == found[0] == 0
    assert found[3 - absent] != 0


def test_one_class_alone_says_nothing():
    probabilities, labels, _ = drawn(1000)
    assert not fit_offsets(probabilities, labels * 0).any()


def test_chance_is_not_taken_for_a_gain():
    """Labels that the image does not say: what is fitted to them is worth nothing elsewhere."""
    probabilities, labels, rows = drawn(600, seed=3)
    labels[:] = np.random.default_rng(1).integers(0, 2, len(labels))
    held_out = hold_out(probabilities, labels, rows)
    assert held_out.gain < 0.05


def test_bands_go_through_the_rows_that_are_labelled():
    probabilities, labels, rows = drawn(1000)
    assert len(hold_out(probabilities, labels, rows % 2).bands) == 2
    with pytest.raises(OptionError, match="all labels are in one row"):
        hold_out(probabilities, labels, rows * 0)


def test_many_voxels_are_thinned_out_evenly():
    np.testing.assert_array_equal(spread(5, 10), range(5))
    some = spread(1_000_003, 1000)
    assert len(np.unique(some)) == len(some) == 1000
    assert 0 <= some[0] < some[-1] < 1_000_003
    assert np.all(np.diff(some) > 0)
    assert np.diff(some).max() < 2002
    assert np.bincount(some % 512 // 64).min() > 90  # of all columns of a slice
