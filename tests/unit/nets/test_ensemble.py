"""Combination of members against hand-computed cases."""

import numpy as np
import pytest

from densecell_batch.errors import OptionError
from densecell_batch.nets.ensemble import combine, decide, entropy


def voxel(*rows):
    return [np.array(row, np.float32).reshape(1, 1, 1, -1) for row in rows]


def test_mean_and_vote_can_differ():
    members = voxel([0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3])
    mean, _ = combine(members, "mean")
    vote, _ = combine(members, "vote")
    np.testing.assert_allclose(mean.ravel(), [0.5, 0.3, 0.2], atol=1e-7)
    np.testing.assert_allclose(vote.ravel(), [1 / 3, 2 / 3, 0], atol=1e-7)
    assert decide(mean)[0].item() == 0
    assert decide(vote)[0].item() == 1


@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_lowest_class_wins_a_tie(rule):
    probabilities, _ = combine(voxel([0, 0.2, 0.8], [0, 0.8, 0.2]), rule)
    assert decide(probabilities)[0].item() == 1
    assert decide(probabilities)[1].item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("members", "bits"),
    [
        ([[0.5, 0.5, 0], [0.5, 0.5, 0]], 0.0),  # unsure together: no disagreement
        ([[1, 0, 0], [0, 1, 0]], 1.0),  # certain of different classes
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.log2(3)),
        ([[1, 0, 0], [0.5, 0.5, 0]], -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25) - 0.5),
        ([[0.25, 0.25, 0.5]], 1.5),  # one net alone: its entropy
        ([[0, 0, 1]], 0.0),
    ],
)
@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_disagreement_is_the_mutual_information(members, bits, rule):
    _, disagreement = combine(voxel(*members), rule, with_disagreement=True)
    assert disagreement.item() == pytest.approx(bits, abs=1e-6)
    assert disagreement.dtype == np.float32


def test_entropy_of_even_odds():
    np.testing.assert_allclose(entropy(np.array([[0.25] * 4, [1, 0, 0, 0]], np.float32)), [2, 0], atol=1e-6)


@pytest.mark.parametrize(("members", "rule", "message"), [([], "mean", "at least one"), (voxel([1.0]), "max", "'max'")])
def test_misuse(members, rule, message):
    with pytest.raises(OptionError, match=message):
        combine(members, rule)
