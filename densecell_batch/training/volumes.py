"""Labelled volumes in memory, checked so that training cannot fail for them an hour later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import StackError
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.prepare.examine import examine
from densecell_batch.prepare.preparation import Steps
from densecell_batch.prepare.prepared import Prepared
from densecell_batch.storage.opening import Reach
from densecell_batch.system import need_memory

__all__ = ["LabelledVolume", "load_labelled"]


@dataclass(frozen=True)
class LabelledVolume:
    """An image with the class of each voxel."""

    image: np.ndarray  # (z, y, x) float32, prepared; normalized with the mean and standard deviation of its tissue
    labels: np.ndarray  # (z, y, x) uint8
    voxel_size: VoxelSize | None
    sha256: tuple[str, ...]  # of the image file(s), the label file(s), those of the weights
    weights: np.ndarray | None = None  # (z, y, x) float32: how much each voxel counts; all alike if None

    @property
    def counted(self) -> np.ndarray | None:
        """Bool (z, y, x): voxels that count; None for all."""
        return None if self.weights is None else self.weights > 0

    def frequencies(self, n_classes: int) -> np.ndarray:
        """Share of each class in the labels, (n_classes,) float64."""
        return np.bincount(self.labels.ravel(), minlength=n_classes) / self.labels.size


def load_labelled(
    images: Path,
    labels: Path,
    n_classes: int,
    window: tuple[int, int, int] | None = None,
    weights: Path | None = None,
    *,
    outside: str = "auto",
) -> LabelledVolume:
    """Read an image stack and its labels.

    Parameters
    ----------
    images, labels
        TIFF files or folders of slices, of the same shape.
    n_classes
        Labels run from 0 to `n_classes` - 1.
    window
        Smallest shape (z, y, x) that will do; None when any will.
    weights
        Stack that says how much each voxel counts, 0 for not at all.
    outside
        "auto": what is no tissue does not count, and is mirrored tissue in the image. "off": all is tissue.

    Raises
    ------
    StackError
        If a file cannot be read, the shapes differ, the labels are no whole numbers or outside the classes, the
        weights are negative or nowhere above 0, or the volume is smaller than the window.
    """
    with (
        open_stack(images, reach=Reach.of(images, links=True)) as image,
        open_labels(labels, Reach.of(labels, links=True)) as label,
    ):
        if image.info.shape != label.info.shape:
            raise StackError(
                f"{labels}: the labels are {_by(label.info.shape)}, the images {images} are {_by(image.info.shape)} "
                "(z, y, x); expected the same shape: export both from the same stack"
            )
        if window is not None and any(a < b for a, b in zip(image.info.shape, window, strict=True)):
            raise StackError(
                f"{images}: it is {_by(image.info.shape)} (z, y, x), smaller than the training window "
                f"{_by(window)}; give a larger stack or a smaller --window"
            )
        shape = image.info.shape
        need_memory(images, (5 if weights is None else 9) * image.info.n_voxels)
        classes = np.empty(shape, np.uint8)
        for z in range(shape[0]):  # before the images: what is wrong shows early
            classes[z] = _checked(label, z, n_classes)
        found = examine(image, Steps(outside=outside, contrast="stack", scale="off", defects="off")).preparation()
        prepared = Prepared(image, found.on_own_grid(), find=outside == "auto")
        grey, counts = np.empty(shape, np.float32), None
        for z in range(shape[0]):
            grey[z] = prepared.read(z, (0, shape[1]))
            where = prepared.outside(z, (0, shape[1]))
            if where is not None:
                counts = np.ones(shape, np.float32) if counts is None else counts
                counts[z][where] = 0
        sums = (image.sha256(), label.sha256())
        if weights is None:
            return LabelledVolume(grey, classes, image.info.voxel_size, sums, counts)
        values, checksum = _read_weights(weights, image.info.shape)
        if counts is not None:
            values *= counts
        return LabelledVolume(grey, classes, image.info.voxel_size, (*sums, checksum), values)


def _read_weights(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """Error weights and the checksum of their file."""
    with open_stack(path, stored=True, reach=Reach.of(path, links=True)) as stack:
        if stack.info.shape != shape:
            raise StackError(
                f"{path}: the weights are {_by(stack.info.shape)}, the images {_by(shape)} (z, y, x); expected the "
                "same shape"
            )
        values = np.empty(shape, np.float32)
        for z in range(shape[0]):
            values[z] = stack.read(z)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
            raise StackError(
                f"{path}: the weights run from {values.min():g} to {values.max():g}; expected 0 and "
                "above, and some above 0"
            )
        return values, stack.sha256()


def _checked(labels: Stack, z: int, n_classes: int) -> np.ndarray:
    """Slice `z` of the labels as uint8."""
    plane = labels.read(z)
    low, high = int(plane.min()), int(plane.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise StackError(
            f"{labels.info.path}: slice {z} has the label {wrong}; expected 0 to {n_classes - 1} for {n_classes} "
            "classes: name all classes with --classes, or correct the labels"
        )
    return plane.astype(np.uint8)


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
