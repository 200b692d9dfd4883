"""Labels and error weights as files have them: read, checked, and which slices somebody labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densecell_batch.errors import StackError
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.io.stack import Stack, StackInfo
from densecell_batch.storage.opening import Reach

__all__ = ["labelled_slices", "read_labels", "read_weights"]

Triple = tuple[int, int, int]
Slices = tuple[int, int]  # the first, and one past the last


def read_labels(
    path: Path | None, image: StackInfo, n_classes: int, *, ignore: int | None = None, slices: Slices | None = None
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The classes of an image.

    Parameters
    ----------
    path
        The label stack; None for none, then all are 0.
    image
        What the labels belong to, as a whole.
    n_classes
        Labels run from 0 to `n_classes` - 1.
    ignore
        The label of voxels that do not count, which may be any number.
    slices
        Those that are read; all if None.

    Returns
    -------
    labels : numpy.ndarray
        (z, y, x) uint8; 0 where `ignore` is.
    counted : numpy.ndarray or None
        Bool (z, y, x): voxels that count; None when `ignore` is.
    checksums : list of str
        SHA-256 of the file, if there is one.

    Raises
    ------
    StackError
        If it cannot be read, has another shape, has a label that is no class, or has none that counts.
    """
    start, stop = slices or (0, image.shape[0])
    classes = np.zeros((stop - start, *image.shape[1:]), np.uint8)
    if path is None:
        return classes, None, []
    counted = None if ignore is None else np.empty(classes.shape, bool)
    with open_labels(path, Reach.of(path, links=True)) as labels:
        if image.shape != labels.info.shape:
            raise StackError(
                f"{path}: the labels are {_by(labels.info.shape)}, the images {image.path} are {_by(image.shape)} "
                "(z, y, x); expected the same shape: export both from the same stack"
            )
        for z, plane in enumerate(classes):
            found = labels.read(start + z)
            if counted is not None:
                counted[z] = found != ignore
                found = np.where(counted[z], found, 0)
            plane[:] = _checked(labels, start + z, found, n_classes)
        if counted is not None and not counted.any():
            raise StackError(f"{path}: every label is {ignore}, which --ignore-label leaves out; expected some others")
        return classes, counted, [labels.sha256()]


def read_weights(path: Path, shape: Triple, slices: Slices | None = None) -> tuple[np.ndarray, str]:
    """Error weights (z, y, x) float32 of a stack of some shape, and the checksum of their file.

    Raises
    ------
    StackError
        If they cannot be read, have another shape, are negative or nowhere above 0.
    """
    start, stop = slices or (0, shape[0])
    with open_stack(path, stored=True, reach=Reach.of(path, links=True)) as stack:
        if stack.info.shape != shape:
            raise StackError(
                f"{path}: the weights are {_by(stack.info.shape)}, the images {_by(shape)} (z, y, x); expected the "
                "same shape"
            )
        values = np.empty((stop - start, *shape[1:]), np.float32)
        for z in range(start, stop):
            values[z - start] = stack.read(z)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
            raise StackError(
                f"{path}: the weights run from {values.min():g} to {values.max():g}; expected 0 and "
                "above, and some above 0"
            )
        return values, stack.sha256()


def labelled_slices(labels: Path, ignore: int | None = None, weights: Path | None = None) -> list[int]:
    """Numbers of the slices in which a voxel counts. Raises StackError if a file cannot be read."""
    with open_labels(labels, Reach.of(labels, links=True)) as stack:
        there = [z for z in range(len(stack)) if ignore is None or bool((stack.read(z) != ignore).any())]
    if weights is None:
        return there
    with open_stack(weights, stored=True, reach=Reach.of(weights, links=True)) as stack:
        return [z for z in there if z < len(stack) and bool((stack.read(z) > 0).any())]


def _checked(labels: Stack, z: int, plane: np.ndarray, n_classes: int) -> np.ndarray:
    """Slice `z` of the labels as uint8."""
    low, high = int(plane.min()), int(plane.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise StackError(
            f"{labels.info.path}: slice {z + 1} has the label {wrong}; expected 0 to {n_classes - 1} for {n_classes} "
            f"classes: name all classes with --classes, leave such voxels out with --ignore-label {wrong}, or correct "
            "the labels"
        )
    return plane.astype(np.uint8)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
