"""How well a class map agrees with the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Scores", "confusion_matrix", "score"]


@dataclass(frozen=True)
class Scores:
    """Agreement of a class map with the truth, from one confusion matrix."""

    confusion: np.ndarray  # (class, class) int64: voxels of true class i that were given class j

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, (class,); NaN for a class that is neither true nor predicted."""
        both = np.diag(self.confusion).astype(float)
        union = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur; MIoU(all) of Guay et al. 2021."""
        return float(np.nanmean(self.iou))

    @property
    def mean_iou_without_first(self) -> float:
        """Mean over the classes that occur but class 0, the background; as MIoU(org)."""
        return float(np.nanmean(self.iou[1:]))

    @property
    def accuracy(self) -> float:
        """Share of voxels that have the true class."""
        return float(np.trace(self.confusion) / self.confusion.sum())


def confusion_matrix(truth: np.ndarray, found: np.ndarray, n_classes: int) -> np.ndarray:
    """Count voxels by (true class, found class): (n_classes, n_classes) int64."""
    pairs = truth.astype(np.int64).ravel() * n_classes + found.ravel()
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def score(truth: np.ndarray, found: np.ndarray, n_classes: int, counted: np.ndarray | None = None) -> Scores:
    """Compare two class maps of the same shape; where `counted` (bool, same shape) is given, only there."""
    if counted is not None:
        truth, found = truth[counted], found[counted]
    return Scores(confusion_matrix(truth, found, n_classes))
