"""What the members of an ensemble say together, voxel by voxel: functions on arrays.

The disagreement of members is the mutual information between the class of a voxel and the member asked, in bits::

    I = H(mean over m of p_m) - mean over m of H(p_m),    H(p) = - sum over classes c of p_c log2 p_c

It is 0 where all members give the same probabilities and at most log2(min(members, classes)); it is not raised by
voxels about which every member is unsure in the same way, so that it shows where more training data would help.
One net alone has nobody to disagree with: H of its own probabilities stands in.

References
----------
.. [1] Guay et al. 2021, Sci Rep 11:2561, "Ensembling": the mean of the probabilities, then the likeliest class.
.. [2] Houlsby et al. 2011, "Bayesian active learning for classification and preference learning", arXiv:1112.5745,
   eq. 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from densecell_batch.errors import OptionError

__all__ = ["RULES", "Answer", "answer_of", "combine", "decide", "entropy"]

RULES = ("mean", "vote")


class Answer(NamedTuple):
    """What an ensemble says of a tile, over its output region."""

    labels: np.ndarray  # (z, y, x) uint8: the likeliest class
    confidence: np.ndarray  # (z, y, x) float32: its probability
    probabilities: np.ndarray | None = None  # (z, y, x, class) float32, where asked for
    disagreement: np.ndarray | None = None  # (z, y, x) float32, bits, where asked for


def answer_of(
    probabilities: np.ndarray, disagreement: np.ndarray | None = None, *, with_probabilities: bool = True
) -> Answer:
    """What probabilities (z, y, x, class) say."""
    return Answer(*decide(probabilities), probabilities if with_probabilities else None, disagreement)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy in bits along the last axis; 0 log 0 is 0. Shape (..., class) -> (...), float32."""
    # Adding the smallest normal number instead of masking zeros changes the result by less than 1e-35 bit.
    logs = np.log2(probabilities + np.finfo(np.float32).tiny)
    return -np.einsum("...c,...c->...", probabilities, logs, dtype=np.float32)


def combine(
    members: Iterable[np.ndarray], rule: str = "mean", *, with_disagreement: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Combine the probabilities of the members on one tile, one member at a time.

    Parameters
    ----------
    members
        Probabilities (z, y, x, class), float32, of one member after the other.
    rule
        "mean" (published): the mean of the probabilities. "vote": the share of members whose likeliest class it is, the
        lowest class on a member's tie; its likeliest class is the majority, lowest on a tie.
    with_disagreement
        Whether to compute the mutual information as well.

    Returns
    -------
    probabilities : numpy.ndarray
        (z, y, x, class) float32, summing to 1.
    disagreement : numpy.ndarray or None
        (z, y, x) float32 in bits, at least 0; of a single member its entropy.

    Raises
    ------
    OptionError
        If the rule is unknown or there is no member.
    """
    if rule not in RULES:
        raise OptionError(f"ensemble rule is {rule!r}; expected one of {', '.join(RULES)}")
    n_members, total, votes, entropies = 0, None, None, None
    for probabilities in members:
        n_members += 1
        if total is None:
            total = np.zeros_like(probabilities, dtype=np.float32)
            votes = np.zeros_like(total) if rule == "vote" else None
            entropies = np.zeros(total.shape[:-1], np.float32) if with_disagreement else None
        if rule == "mean" or with_disagreement:
            total += probabilities
        if votes is not None:
            votes += np.argmax(probabilities, axis=-1)[..., None] == np.arange(total.shape[-1])
        if entropies is not None:
            entropies += entropy(probabilities)
    if total is None:
        raise OptionError("an ensemble needs at least one member")
    total /= n_members
    disagreement = None
    if entropies is not None:
        # Rounding can take the difference just below 0 where members agree.
        disagreement = entropies if n_members == 1 else np.maximum(entropy(total) - entropies / n_members, 0)
    return (total if votes is None else votes / n_members), disagreement


def decide(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class, the lowest on a tie, and its probability.

    Shape (..., class) float32 -> labels (...) uint8, confidence (...) float32.
    """
    labels = np.argmax(probabilities, axis=-1).astype(np.uint8)
    return labels, np.max(probabilities, axis=-1)
