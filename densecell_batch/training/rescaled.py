"""Labels and weights on another grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from densecell_batch.prepare.scale import Resampler, triangle

__all__ = ["classes_at", "weights_at"]

Triple = tuple[int, int, int]

_MOST = 0.5  # of a voxel: what has to count if it is to


def classes_at(labels: np.ndarray, grid: Triple, n_classes: int, counted: np.ndarray | None = None) -> np.ndarray:
    """The class that most of each voxel of another grid has.

    Parameters
    ----------
    labels
        (z, y, x) uint8.
    grid
        Voxels (z, y, x) that cover the same.
    n_classes
        Classes.
    counted
        (z, y, x) bool: voxels whose class is known; None for all.

    Returns
    -------
    numpy.ndarray
        `grid` uint8.
    """
    found, share = np.zeros(grid, np.uint8), np.full(grid[1:], -1, np.float32)
    at = _on(labels.shape, grid)
    for z in range(grid[0]):
        share.fill(-1)
        for c in range(n_classes):
            there = at(z, partial(_share, labels, c, counted))
            better = there > share
            found[z][better], share[better] = c, there[better]
    return found


def weights_at(weights: np.ndarray, grid: Triple) -> np.ndarray:
    """How much each voxel of another grid counts: (z, y, x) float32 -> `grid` float32; 0 where most of it does not."""
    at, found = _on(weights.shape, grid), np.empty(grid, np.float32)
    for z in range(grid[0]):
        most = at(z, lambda i: (weights[i] > 0).astype(np.float32)) >= _MOST
        found[z] = np.where(most, at(z, lambda i: weights[i]), 0)
    return found


def _share(labels: np.ndarray, c: int, counted: np.ndarray | None, z: int) -> np.ndarray:
    there = labels[z] == c
    return (there if counted is None else there & counted[z]).astype(np.float32)


def _on(shape: tuple[int, ...], grid: Triple) -> Callable[[int, Callable[[int], np.ndarray]], np.ndarray]:
    """A function: (slice of the grid, slices by their number) -> (y, x)."""
    along_z, along_y, along_x = (Resampler.of(a, b, triangle) for a, b in zip(shape, grid, strict=True))

    def at(z: int, plane: Callable[[int], np.ndarray]) -> np.ndarray:
        planes = np.stack([plane(i) for i in range(*along_z.reach(z, z + 1))])
        return along_x(along_y(along_z(planes, z, z + 1, 0)[0], 0, grid[1], 0), 0, grid[2], 1)

    return at
