"""Offsets of classes, fitted to labels: what is added to the logits of each member before the mean is formed.

Nets learn from their training how frequent each class is, and how much each error costs. Where either is otherwise, a
class is given too often or too rarely; an offset for each class moves the borders between them back::

    p_m(c)  ->  p_m(c) exp(b_c) / sum over k of p_m(k) exp(b_k),    then the mean over the members m

Adding the same to all classes changes nothing, so that the most frequent one keeps 0.

References
----------
.. [1] Saerens, Latinne, Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities: a
   simple procedure", Neural Computation 14:21, eq. 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecell_batch.errors import OptionError
from densecell_batch.measure.metrics import Scores, confusion_matrix

__all__ = ["BANDS", "FARTHEST", "HeldOut", "decided", "fit_offsets", "hold_out", "spread"]

BANDS = 5
_STEPS = (0.5, 0.25, 0.1)  # of the search; 0.1 is a tenth more or less likely
FARTHEST = 3.0
_LEAST = 5e-4  # of the mean IoU: what is less is no reason for a step
_ROUNDS = 10
_FITTED = 200_000  # voxels


@dataclass(frozen=True)
class HeldOut:
    """Mean IoU on bands of rows, of offsets that were fitted on the others; over the classes that the labels have.

    Attributes
    ----------
    before, after
        Of all bands together, without the offsets and with them.
    bands
        The same of each band.
    """

    before: float
    after: float
    bands: tuple[tuple[float, float], ...]

    @property
    def gain(self) -> float:
        """How much better it is with them; below 0 for worse."""
        return self.after - self.before


def decided(probabilities: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The likeliest class by the mean of the members, each with the offsets: the lowest on a tie.

    Parameters
    ----------
    probabilities
        (member, class, voxel) float32.
    offsets
        (class,).

    Returns
    -------
    numpy.ndarray
        (voxel,) int64.
    """
    weighted = probabilities * np.exp(offsets).astype(np.float32)[:, None]
    weighted /= weighted.sum(axis=1, keepdims=True)
    found: np.ndarray = weighted.sum(axis=0).argmax(axis=0)
    return found


def fit_offsets(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The offsets that give the largest mean IoU, by a search along one class after the other; same input, same result.

    Parameters
    ----------
    probabilities
        Of each member, (member, class, voxel) float32.
    labels
        True class of each voxel, (voxel,) uint8.

    Returns
    -------
    numpy.ndarray
        (class,) float64; 0 of the most frequent class, and of those that the labels do not have.
    """
    if labels.size > _FITTED:
        some = spread(labels.size, _FITTED)
        probabilities, labels = np.ascontiguousarray(probabilities[..., some]), labels[some]
    n_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    free = [c for c in np.argsort(-counts, kind="stable")[1:] if counts[c]]

    def score(offsets: np.ndarray) -> float:
        return _mean_iou(confusion_matrix(labels, decided(probabilities, offsets), n_classes))

    offsets = np.zeros(n_classes)
    best = score(offsets)
    for step in _STEPS:
        for _ in range(_ROUNDS):
            before = best
            for c in free:
                for value in _candidates(offsets[c], step):
                    tried = offsets.copy()
                    tried[c] = value
                    found = score(tried)
                    if found > best + _LEAST:
                        offsets, best = tried, found
            if best == before:
                break
    return offsets


def _candidates(value: float, step: float) -> list[float]:
    """What an offset may become, nearest to 0 first: in the first step all of the range, then its neighbours."""
    if step == _STEPS[0]:
        n = round(FARTHEST / step)
        found = [i * step for i in range(-n, n + 1)]
    else:
        found = [value - step, value + step]
    return sorted((x for x in found if x != value and abs(x) <= FARTHEST), key=abs)


def hold_out(probabilities: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> HeldOut:
    """What offsets are worth where they were not fitted: bands of rows, each with the offsets of the other bands.

    Parameters
    ----------
    probabilities
        (member, class, voxel) float32.
    labels
        (voxel,) uint8.
    rows
        Row of each voxel in its slice, (voxel,) of whole numbers. Neighbouring slices show the same objects, so that a
        band goes through all slices.

    Raises
    ------
    OptionError
        If all voxels are in one row.
    """
    n_classes = probabilities.shape[1]
    edges = np.unique(np.quantile(rows, np.arange(1, BANDS) / BANDS, method="nearest"))
    band = np.searchsorted(edges, rows, side="right")  # about as many voxels in each
    parts = [there for there in (band == i for i in range(len(edges) + 1)) if there.any()]
    if len(parts) < 2:
        raise OptionError("all labels are in one row; expected some rows, of which a part can be held out")
    matrices = []
    for there in parts:
        offsets = fit_offsets(np.ascontiguousarray(probabilities[..., ~there]), labels[~there])
        held, truth = np.ascontiguousarray(probabilities[..., there]), labels[there]
        matrices.append([confusion_matrix(truth, decided(held, b), n_classes) for b in (np.zeros(n_classes), offsets)])
    before, after = (_mean_iou(np.sum([pair[i] for pair in matrices], axis=0)) for i in (0, 1))
    return HeldOut(before, after, tuple((_mean_iou(a), _mean_iou(b)) for a, b in matrices))


def spread(n: int, most: int) -> np.ndarray:
    """At most so many of the numbers from 0 to `n` - 1, evenly over all but not in step with rows: (number,) int64."""
    if n <= most:
        return np.arange(n)
    within = np.random.default_rng(0).random(most)
    found: np.ndarray = ((np.arange(most) + within) * (n / most)).astype(np.int64)
    return np.minimum(found, n - 1)


def _mean_iou(confusion: np.ndarray) -> float:
    """Over the classes that the labels have: with the others, the last stray voxel of one would decide."""
    return Scores(confusion, of_true=True).mean_iou
