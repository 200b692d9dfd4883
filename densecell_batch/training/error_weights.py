"""Error weights: how much each labelled voxel counts in the published loss.

Rare classes count more than frequent ones, and voxels at the border between two classes more than those within.

References
----------
.. [1] Guay et al. 2021, Sci Rep 11:2561, Methods, "error weighting"; constants are those of the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densecell_batch.io.writing import StackWriter
from densecell_batch.plots.png import write_png
from densecell_batch.training.volumes import LabelledVolume

__all__ = ["border_weights", "class_balance_weights", "diffuse", "error_weights", "write_error_weights"]

_DIFFUSION = 0.2  # share of the difference to its neighbourhood that a voxel takes on in a step
_DECAY = 0.98  # per step
_THRESHOLD = 0.2  # taken off in the end, so that voxels far from a border get 0
_STEPS = 50
_BORDER_MAX = 25.0


def error_weights(labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Class-balance plus border weights of a class map.

    Parameters
    ----------
    labels
        (z, y, x) of whole numbers.
    counted
        (z, y, x) bool: voxels that somebody labelled; all if None.

    Returns
    -------
    numpy.ndarray
        (z, y, x) float32, above 0; 0 where nobody labelled.
    """
    if counted is None:
        return class_balance_weights(labels)[labels] + border_weights(labels)
    balance = class_balance_weights(labels[counted])
    balance = np.pad(balance, (0, max(0, int(labels.max()) + 1 - len(balance))))
    return np.where(counted, balance[labels] + border_weights(labels, counted), 0).astype(np.float32)


def class_balance_weights(labels: np.ndarray) -> np.ndarray:
    """Weight of each class, (class,) float32: inverse to its frequency, 1 for the rarest, 0 for absent ones."""
    counts = np.bincount(labels.ravel())
    least = counts[counts > 0].min()
    return np.where(counts > 0, least / np.maximum(counts, 1), 0).astype(np.float32)


def border_weights(labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Weights from 0 to 25 that fall off with the distance to the next voxel of another class in the same slice.

    Heat flows from all other classes into each class, slice by slice, so both sides of a border are weighted, and those
    voxels most that lie between two borders. The published code does this for two groups of classes that its user
    names; here it is done for each class against all others, which is the same for two classes.

    Parameters
    ----------
    labels
        (z, y, x) of whole numbers.
    counted
        (z, y, x) bool: voxels that somebody labelled; all if None. There is no border to the others.

    Returns
    -------
    numpy.ndarray
        (z, y, x) float32; the highest weight within each class that has a border is 25.
    """
    weights = np.zeros(labels.shape, np.float32)
    for c in np.unique(labels):
        inside = labels == c
        others = ~inside if counted is None else ~inside & counted
        heat = np.zeros(labels.shape, np.float32)
        for z in range(len(labels)):
            if inside[z].any() and others[z].any():
                heat[z] = np.maximum(diffuse(others[z]) - _THRESHOLD, 0) * inside[z]
        if heat.max() > 0:
            weights += heat * (_BORDER_MAX / heat.max())
    return weights


def diffuse(sources: np.ndarray, steps: int = _STEPS) -> np.ndarray:
    """Explicit steps of the heat equation in a slice, with decay and with sources held at 1.

    The stencil has 1/6 for neighbours across an edge, 1/12 across a corner and -1 in the middle. Nothing flows through
    the edge of the slice (in the published code, opposite edges touch).

    Parameters
    ----------
    sources
        (y, x) bool.
    steps
        How many.

    Returns
    -------
    numpy.ndarray
        (y, x) float32 from 0 to 1.
    """
    heat: np.ndarray = sources.astype(np.float32)
    for _ in range(steps):
        padded = np.pad(heat, 1, mode="edge")
        rows = padded[1:-1] + 0.5 * (padded[:-2] + padded[2:])
        around = rows[:, 1:-1] + 0.5 * (rows[:, :-2] + rows[:, 2:])  # the stencil is (this - 4 x the middle) / 3
        heat = np.float32(_DECAY) * (heat + _DIFFUSION * (around - 4 * heat) / 3)
        heat[sources] = 1
    return heat


def write_error_weights(path: Path, volume: LabelledVolume, colours: Sequence[tuple[int, int, int]]) -> None:
    """Write the error weights of a volume as float32 stack, and a picture beside it: labels left, weights right."""
    weights = error_weights(volume.labels, volume.counted)
    highest = float(weights.max())
    with StackWriter(
        path, weights.shape, "float32", voxel_size=volume.voxel_size, display_range=(0.0, highest)
    ) as stack:
        for z, plane in enumerate(weights):
            stack.write(z, plane)
        stack.commit()
    middle = len(weights) // 2
    grey = np.rint(weights[middle] * (255 / highest)).astype(np.uint8)
    picture = [np.array(colours, np.uint8)[volume.labels[middle]], np.repeat(grey[..., None], 3, axis=-1)]
    write_png(path.with_suffix(".png"), np.concatenate(picture, axis=1))
