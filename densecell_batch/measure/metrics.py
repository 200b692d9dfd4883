"""How well a class map agrees with the truth.

All but the boundary score follow from one confusion matrix, which is added up slice by slice.

References
----------
.. [1] Hubert, Arabie 1985, "Comparing partitions", J Classification 2:193.
.. [2] Meila 2007, "Comparing clusterings: an information based distance", J Multivariate Analysis 98:873.
.. [3] Csurka, Larlus, Perronnin 2013, "What is a good evaluation measure for semantic segmentation?", BMVC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries

__all__ = [
    "Scores",
    "added",
    "adjusted_rand_index",
    "boundary_counts",
    "boundary_f_score",
    "confusion_matrix",
    "f_score",
    "score",
    "variation_of_information",
]

_PART = 2**22  # voxels that are counted at a time


@dataclass(frozen=True)
class Scores:
    """Agreement of a class map with the truth, from one confusion matrix."""

    confusion: np.ndarray  # (class, class) int64: voxels of true class i that were given class j
    of_true: bool = False  # whether only classes that the truth has are scored: else a stray voxel of another decides

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, (class,); NaN for one that is nowhere, or not scored."""
        both = np.diag(self.confusion).astype(float)
        union = self.confusion.sum(0) + self.confusion.sum(1) - both
        scored = self.confusion.sum(1) > 0 if self.of_true else union > 0
        return np.divide(both, union, out=np.full(len(both), np.nan), where=scored)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur; MIoU(all) of Guay et al. 2021."""
        return _mean(self.iou)

    @property
    def mean_iou_without_first(self) -> float:
        """Mean over the classes that occur but class 0, the background; as MIoU(org). NaN where there are none."""
        return _mean(self.iou[1:])

    @property
    def accuracy(self) -> float:
        """Share of voxels that have the true class."""
        return float(np.trace(self.confusion) / self.confusion.sum())


def _mean(values: np.ndarray) -> float:
    """Mean of those that are numbers; NaN where none is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def confusion_matrix(truth: np.ndarray, found: np.ndarray, n_classes: int) -> np.ndarray:
    """Count voxels by (true class, found class), a part after the other: (n_classes, n_classes) int64."""
    counts = np.zeros(n_classes**2, np.int64)
    truth, found = truth.ravel(), found.ravel()
    for start in range(0, len(truth), _PART):
        part = slice(start, start + _PART)
        pairs = truth[part].astype(np.int64) * n_classes + found[part]
        counts += np.bincount(pairs, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def score(truth: np.ndarray, found: np.ndarray, n_classes: int, counted: np.ndarray | None = None) -> Scores:
    """Compare two class maps of the same shape; where `counted` (bool, same shape) is given, only there."""
    if counted is not None:
        truth, found = truth[counted], found[counted]
    return Scores(confusion_matrix(truth, found, n_classes))


def added(scores: Iterable[Scores]) -> Scores:
    """Those of several volumes together: their confusions added up."""
    return Scores(np.sum([some.confusion for some in scores], axis=0))


def adjusted_rand_index(confusion: np.ndarray) -> float:
    """Adjusted Rand index, from a confusion matrix: 1 for equal class maps, about 0 by chance (ref. 1)."""

    def pairs(counts: np.ndarray) -> float:
        wide = counts.astype(float)
        return float((wide * (wide - 1) / 2).sum())

    together, rows, columns = pairs(confusion), pairs(confusion.sum(1)), pairs(confusion.sum(0))
    by_chance = rows * columns / pairs(confusion.sum(keepdims=True))
    highest = (rows + columns) / 2
    return 1.0 if highest == by_chance else (together - by_chance) / (highest - by_chance)


def variation_of_information(confusion: np.ndarray) -> tuple[float, float]:
    """Bits of splitting H(found | truth) and of merging H(truth | found), from a confusion matrix (ref. 2)."""
    joint = confusion / confusion.sum()

    def entropy(shares: np.ndarray) -> float:
        shares = shares[shares > 0]
        return float(-(shares * np.log2(shares)).sum())

    whole = entropy(joint.ravel())
    return whole - entropy(joint.sum(1)), whole - entropy(joint.sum(0))


def boundary_f_score(truth: np.ndarray, found: np.ndarray, tolerance: float = 2) -> float:
    """F-score of the boundaries between classes, slice by slice (ref. 3).

    Parameters
    ----------
    truth, found
        Class maps (z, y, x).
    tolerance
        Distance in voxels, in the slice, within which a boundary voxel counts as met.

    Returns
    -------
    float
        Harmonic mean of precision and recall over all slices; 1 where neither has a boundary.
    """
    return f_score(boundary_counts(truth, found, tolerance))


def boundary_counts(truth: np.ndarray, found: np.ndarray, tolerance: float = 2) -> np.ndarray:
    """Boundary voxels of what was found and of the truth: those that are met, and all; (2, 2) float64.

    Parameters are those of `boundary_f_score`. Counts of several volumes may be added up.
    """
    met, there = np.zeros(2), np.zeros(2)  # of the found boundaries, of the true ones
    for planes in zip(found, truth, strict=True):
        edges = [find_boundaries(plane, mode="inner") for plane in planes]  # type: ignore[no-untyped-call]
        for i, (mine, other) in enumerate((edges, edges[::-1])):
            near = distance_transform_edt(~other) <= tolerance if other.any() else np.zeros(other.shape, bool)
            met[i] += np.count_nonzero(mine & near)
            there[i] += np.count_nonzero(mine)
    return np.stack([met, there])


def f_score(counts: np.ndarray) -> float:
    """Harmonic mean of precision and recall, of `boundary_counts`; 1 where there is no boundary."""
    met, there = counts
    if not there.any():
        return 1.0
    if not there.all() or not met.all():
        return 0.0
    precision, recall = met / there
    return float(2 * precision * recall / (precision + recall))
