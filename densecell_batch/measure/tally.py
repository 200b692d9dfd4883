"""What a segmentation amounts to, added up slice by slice: voxels, volumes, confidence and disagreement per class.

Voxels outside (`labels.OUTSIDE`) are of no class: they are counted apart, and part of no mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from densecell_batch.calibration import VoxelSize
from densecell_batch.labels import OUTSIDE
from densecell_batch.models.classes import ClassInfo

__all__ = ["ClassRow", "Tally", "slice_sums"]


_ROWS = 32


def slice_sums(
    n_classes: int, labels: np.ndarray, confidence: np.ndarray, disagreement: np.ndarray | None
) -> np.ndarray:
    """Sums over the voxels of each class in a slice; those outside are of none.

    Parameters
    ----------
    n_classes
        Classes of the labels.
    labels, confidence, disagreement
        (y, x) uint8, where `OUTSIDE` is no class; float32; and float32 in bits or None.

    Returns
    -------
    numpy.ndarray
        (3, class) float64: number, confidence, disagreement (NaN if there is none).

    Raises
    ------
    ValueError
        If a label is neither a class nor outside.
    """
    sums = np.zeros((3, n_classes))
    if disagreement is None:
        sums[2] = np.nan
    # A few rows at a time stay in the cache; row by row, so that it is the same in whatever bands a slice comes.
    for first in range(0, len(labels), _ROWS):
        rows = slice(first, first + _ROWS)
        for i in range(n_classes):
            here = labels[rows] == i
            sums[0, i] += np.count_nonzero(here)
            mask = here.astype(np.float32)
            for kind, values in ((1, confidence), (2, disagreement)):
                if values is not None:
                    sums[kind, i] += np.einsum("yx,yx->y", mask, values[rows]).sum(dtype=np.float64)
    counted = int(sums[0].sum())
    if counted < labels.size and counted + np.count_nonzero(labels == OUTSIDE) < labels.size:
        raise ValueError("a label is neither a class nor outside")
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
        self._outside = 0

    def add(self, sums: np.ndarray, n_voxels: int | None = None) -> None:
        """Add a slice, by its `slice_sums`. It has `n_voxels`: those of no class are outside; none of them if None."""
        self._sums += sums
        if n_voxels is not None:
            self._outside += n_voxels - int(sums[0].sum())

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

    def outside(self, voxel_size: VoxelSize | None) -> tuple[int, float | None]:
        """Voxels outside, and their volume in cubic micrometres; None where the voxel size is not known."""
        volume = None if voxel_size is None else float(f"{self._outside * voxel_size.volume:.6g}")
        return self._outside, volume

    def means(self) -> tuple[float | None, float | None]:
        """Confidence and disagreement (in bits) of a voxel of the tissue; None where they were not computed, or all is
        outside.
        """
        voxels, confidence, disagreement = self._sums

        def overall(sums: np.ndarray) -> float | None:
            if np.isnan(sums).any() or not voxels.any():
                return None
            return round(float(sums.sum() / voxels.sum()), 6)

        return overall(confidence), overall(disagreement)
