"""What a segmentation amounts to, added up slice by slice: voxels, volumes, confidence and disagreement per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from densecell_batch.bundle import ClassInfo
from densecell_batch.volume import VoxelSize

__all__ = ["Tally"]


class Tally:
    """Running sums over slices.

    Parameters
    ----------
    n_classes
        Classes of the labels.
    """

    def __init__(self, n_classes: int) -> None:
        self._voxels = np.zeros(n_classes, np.int64)
        self._confidence = np.zeros(n_classes)
        self._disagreement: np.ndarray | None = None

    def add(self, labels: np.ndarray, confidence: np.ndarray, disagreement: np.ndarray | None) -> None:
        """Add a slice: labels (y, x) uint8, confidence (y, x) float32, disagreement (y, x) float32 in bits or None."""
        flat, n = labels.ravel(), len(self._voxels)
        self._voxels += np.bincount(flat, minlength=n)
        self._confidence += np.bincount(flat, confidence.ravel(), minlength=n)
        if disagreement is not None:
            before = 0.0 if self._disagreement is None else self._disagreement
            self._disagreement = before + np.bincount(flat, disagreement.ravel(), minlength=n)

    def summary(self, classes: Sequence[ClassInfo], voxel_size: VoxelSize | None) -> dict[str, Any]:
        """Entries of the report: per class and for the stack. Volumes in cubic micrometres, disagreement in bits;
        None where a class has no voxel, the voxel size is not known or the disagreement was not computed.
        """

        def mean(sums: np.ndarray | None, i: int) -> float | None:
            return None if sums is None or not self._voxels[i] else round(float(sums[i] / self._voxels[i]), 6)

        def overall(sums: np.ndarray | None) -> float | None:
            return None if sums is None else round(float(sums.sum() / self._voxels.sum()), 6)

        volume = None if voxel_size is None else voxel_size.volume
        rows = [
            {
                "index": i,
                "name": info.name,
                "colour": "#{:02x}{:02x}{:02x}".format(*info.colour),
                "voxels": int(self._voxels[i]),
                "volume_um3": None if volume is None else float(f"{self._voxels[i] * volume:.6g}"),
                "mean_confidence": mean(self._confidence, i),
                "mean_disagreement_bits": mean(self._disagreement, i),
            }
            for i, info in enumerate(classes)
        ]
        return {
            "classes": rows,
            "mean_confidence": overall(self._confidence),
            "mean_disagreement_bits": overall(self._disagreement),
        }
