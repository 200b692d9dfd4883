"""What a segmentation amounts to, added up slice by slice: voxels, volumes, confidence and disagreement per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from densecell_batch.calibration import VoxelSize
from densecell_batch.models.classes import ClassInfo

__all__ = ["ClassRow", "Tally", "slice_sums"]


def slice_sums(
    n_classes: int, labels: np.ndarray, confidence: np.ndarray, disagreement: np.ndarray | None
) -> np.ndarray:
    """Sums over the voxels of each class in a slice.

    Parameters
    ----------
    n_classes
        Classes of the labels.
    labels, confidence, disagreement
        (y, x) uint8, float32, and float32 in bits or None.

    Returns
    -------
    numpy.ndarray
        (3, class) float64: number, confidence, disagreement (NaN if there is none).
    """
    flat = labels.ravel()
    sums = np.full((3, n_classes), np.nan)
    sums[0] = np.bincount(flat, minlength=n_classes)
    sums[1] = np.bincount(flat, confidence.ravel(), minlength=n_classes)
    if disagreement is not None:
        sums[2] = np.bincount(flat, disagreement.ravel(), minlength=n_classes)
    return sums


class ClassRow(Struct, frozen=True, kw_only=True):
    """A class in the labels of a stack. None where it has no voxel, the voxel size is not known, or the disagreement
    was not computed.
    """

    index: int
    name: str
    colour: str  # #rrggbb
    voxels: int
    volume_um3: float | None
    mean_confidence: float | None
    mean_disagreement_bits: float | None


class Tally:
    """Running sums over slices.

    Parameters
    ----------
    n_classes
        Classes of the labels.
    """

    def __init__(self, n_classes: int) -> None:
        self._sums = np.zeros((3, n_classes))

    def add(self, sums: np.ndarray) -> None:
        """Add a slice, by its `slice_sums`."""
        self._sums += sums

    def rows(self, classes: Sequence[ClassInfo], voxel_size: VoxelSize | None) -> tuple[ClassRow, ...]:
        """What a report says of each class."""
        voxels, confidence, disagreement = self._sums
        volume = None if voxel_size is None else voxel_size.volume

        def mean(sums: np.ndarray, i: int) -> float | None:
            return None if np.isnan(sums[i]) or not voxels[i] else round(float(sums[i] / voxels[i]), 6)

        return tuple(
            ClassRow(
                index=i,
                name=info.name,
                colour="#{:02x}{:02x}{:02x}".format(*info.colour),
                voxels=int(voxels[i]),
                volume_um3=None if volume is None else float(f"{voxels[i] * volume:.6g}"),
                mean_confidence=mean(confidence, i),
                mean_disagreement_bits=mean(disagreement, i),
            )
            for i, info in enumerate(classes)
        )

    def means(self) -> tuple[float | None, float | None]:
        """Confidence and disagreement (in bits) of a voxel of the stack; None where they were not computed."""
        voxels, confidence, disagreement = self._sums

        def overall(sums: np.ndarray) -> float | None:
            return None if np.isnan(sums).any() else round(float(sums.sum() / voxels.sum()), 6)

        return overall(confidence), overall(disagreement)
