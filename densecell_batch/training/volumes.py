"""Labelled volumes in memory, checked so that training cannot fail for them an hour later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import StackError
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack, StackInfo
from densecell_batch.prepare.contrast import SliceGreys, describe
from densecell_batch.prepare.examine import examine, zoom_to
from densecell_batch.prepare.preparation import Aim, Steps
from densecell_batch.prepare.prepared import Prepared
from densecell_batch.prepare.scale import grid_at
from densecell_batch.storage.opening import Reach
from densecell_batch.system import need_memory
from densecell_batch.training.label_files import read_labels, read_weights
from densecell_batch.training.rescaled import classes_at, weights_at

__all__ = ["LabelledVolume", "Original", "load_labelled"]

Triple = tuple[int, int, int]
Factors = tuple[float, float, float]

_OF_ONE_SLICE = "; for stacks of one slice there are --net unet, and residual, the default"
_FAR = 5.0  # times as large or small that pixels may be, where they are not resampled: another unit, more likely


@dataclass(frozen=True)
class Original:
    """What a volume was before it was brought to the voxel size of the nets."""

    labels: np.ndarray  # (z, y, x) uint8
    counted: np.ndarray | None  # (z, y, x) bool: voxels that count; None for all
    greys: list[SliceGreys]  # of its image, normalized


@dataclass(frozen=True)
class LabelledVolume:
    """An image with the class of each voxel."""

    image: np.ndarray  # (z, y, x) float32, prepared; normalized with the mean and standard deviation of its tissue
    labels: np.ndarray  # (z, y, x) uint8
    voxel_size: VoxelSize | None
    sha256: tuple[str, ...]  # of the image file(s), the label file(s), those of the weights
    weights: np.ndarray | None = None  # (z, y, x) float32: how much each voxel counts; all alike if None
    original: Original | None = None  # where it has other voxels than its files
    shares: np.ndarray | None = None  # (z, y, x, class) uint8, in 1/255: what is to be learned; None for the labels
    tissue: np.ndarray | None = None  # (z, y, x) bool: voxels that are not outside, labelled or not; None for all

    @property
    def counted(self) -> np.ndarray | None:
        """Bool (z, y, x): voxels that count; None for all."""
        return None if self.weights is None else self.weights > 0

    def has(self, index: int) -> bool:
        """Whether a voxel that counts is of a class."""
        there, counted = self.labels == index, self.counted
        return bool((there if counted is None else there & counted).any())

    @property
    def truth(self) -> tuple[np.ndarray, np.ndarray | None]:
        """What class maps are held against: labels (z, y, x) on the grid of the file, and which count."""
        return (self.labels, self.counted) if self.original is None else (self.original.labels, self.original.counted)

    @property
    def greys(self) -> list[SliceGreys]:
        """What is to be remembered of its grey values, slice by slice, as stacks are looked at that come later."""
        if self.original is not None:
            return self.original.greys
        tissue = self.tissue
        return [describe(plane, None if tissue is None else tissue[z]) for z, plane in enumerate(self.image)]


def load_labelled(
    images: Path,
    labels: Path | None,
    n_classes: int,
    window: tuple[int, int, int] | None = None,
    weights: Path | None = None,
    *,
    outside: str = "auto",
    aim: Aim | None = None,
    ignore: int | None = None,
    slices: tuple[int, int] | None = None,
) -> LabelledVolume:
    """Read an image stack and its labels.

    Parameters
    ----------
    images, labels
        TIFF files or folders of slices, of the same shape. Without labels, all are 0.
    n_classes
        Labels run from 0 to `n_classes` - 1.
    window
        Of the training: a volume has to be as large (z, y, x); None when any will do.
    weights
        Stack that says how much each voxel counts, 0 for not at all.
    outside
        "auto": what is no tissue does not count, and is mirrored tissue in the image. "off": all is tissue.
    aim
        What the nets want to see: the volume is brought there. A voxel then has the class that most of it has, and
        counts if most of it does.
    ignore
        The label of voxels that do not count, which may be any number.
    slices
        First, and one past the last, of those that are read; all if None.

    Raises
    ------
    StackError
        If a file cannot be read, the shapes differ, the labels are no whole numbers or outside the classes, the
        weights are negative or nowhere above 0, the volume is smaller than the window, or no voxel counts.
    """
    with open_stack(images, reach=Reach.of(images, links=True)) as whole:
        image = whole if slices is None else whole.part((slices, (0, whole.shape[1]), (0, whole.shape[2])))
        scale = _scale_of(image, aim or Aim())
        grid = grid_at(image.info.shape, scale)
        if window is not None:
            _check_size(image.info, grid, window, slices)
        shape = image.info.shape
        each = 5 if weights is None and ignore is None else 9
        need_memory(images, each * (image.info.n_voxels + (0 if grid == shape else prod(grid))))
        # First: what is wrong shows early.
        classes, counted, checksums = read_labels(labels, whole.info, n_classes, ignore=ignore, slices=slices)
        found = examine(image, Steps(outside=outside, contrast="stack", scale="off", defects="off")).preparation()
        prepared = Prepared(image, found.of_all(scale), find=outside == "auto")
        sums, values = [image.sha256(), *checksums], None
        if weights is not None:
            values, checksum = read_weights(weights, whole.shape, slices)
            sums.append(checksum)
        tissue = _tissue(prepared)
        counts = _counts(shape, values, counted, tissue)
        if counts is not None and not counts.any():
            raise StackError(
                f"{labels or images}: no voxel that counts lies in the tissue of {images}; expected some: label "
                "tissue, or correct --weights and --ignore-label"
            )
        grey = np.empty(grid, np.float32)
        for plane in range(grid[0]):
            grey[plane] = prepared.read(plane, (0, grid[1]))
        volume = LabelledVolume(grey, classes, image.info.voxel_size, tuple(sums), counts, tissue=tissue)
        if grid == shape:
            return volume
        own = Prepared(image, found.of_all(), find=outside == "auto")
        greys = [
            describe(own.read(plane, (0, shape[1])), None if tissue is None else tissue[plane])
            for plane in range(shape[0])
        ]
        return _scaled(volume, grid, Original(classes, volume.counted, greys), n_classes)


def _check_size(image: StackInfo, grid: Triple, window: Triple, slices: tuple[int, int] | None) -> None:
    """Refuse a stack that is smaller than a window, at the voxel size of the nets."""
    if all(a >= b for a, b in zip(grid, window, strict=True)):
        return
    part = "" if slices is None else f", its slices {slices[0] + 1} to {slices[1]}, for the others are held back"
    scaled = "" if image.shape == grid else f", at the voxel size of the nets {_by(grid)}"
    raise StackError(
        f"{image.path}: it is {_by(image.shape)} (z, y, x){part}{scaled}, smaller than the training window, which "
        f"shows {_by(window)} of it; give a larger stack, a smaller --window, or a finer --scale"
        f"{_OF_ONE_SLICE if grid[0] < window[0] else ''}"
    )


def _tissue(prepared: Prepared) -> np.ndarray | None:
    """Voxels of the file (z, y, x) bool that are not outside; None if none is outside."""
    depth, height, _ = prepared.result_shape
    tissue: np.ndarray | None = None
    for z in range(depth):
        where = prepared.outside(z, (0, height))
        if where is not None:
            tissue = np.ones(prepared.result_shape, bool) if tissue is None else tissue
            tissue[z] = ~where
    return tissue


def _counts(
    shape: Triple, weights: np.ndarray | None, counted: np.ndarray | None, tissue: np.ndarray | None
) -> np.ndarray | None:
    """How much each voxel counts (z, y, x): as weights say, and not at all outside or unlabelled; None if all do."""
    for some in (counted, tissue):
        if some is not None:
            weights = np.ones(shape, np.float32) if weights is None else weights
            weights[~some] = 0
    return weights


def _scale_of(image: Stack, aim: Aim) -> Factors:
    """Voxels (z, y, x) of the nets for each of the stack; StackError where it is too far from what they see."""
    found, wanted = image.info.voxel_size, aim.voxel_size
    scale, warnings = zoom_to(aim, found)
    if scale == (1, 1, 1) and found is not None and wanted is not None:
        ratios = [a / b for a, b in zip(found.edges[1:], wanted.edges[1:], strict=True)]
        if max(*ratios, *(1 / ratio for ratio in ratios)) > _FAR:
            raise StackError(f"{image.info.path}: {warnings[-1]}")
    return scale


def _scaled(volume: LabelledVolume, grid: Triple, original: Original, n_classes: int) -> LabelledVolume:
    """The volume, whose image is on a grid (z, y, x) already, with labels and weights there, too."""
    labels = classes_at(original.labels, grid, n_classes, original.counted)
    weights = None if volume.weights is None else weights_at(volume.weights, grid)
    if weights is not None and not weights.any():
        raise StackError(
            f"at the voxel size of the nets, {_by(grid)} (z, y, x), no voxel counts any more: what is labelled is too "
            "thin; give --scale off, or label areas"
        )
    tissue = None if volume.tissue is None else weights_at(volume.tissue, grid) > 0
    size = _larger(volume, grid)
    return replace(volume, labels=labels, weights=weights, voxel_size=size, original=original, tissue=tissue)


def _larger(volume: LabelledVolume, grid: Triple) -> VoxelSize | None:
    if volume.voxel_size is None:
        return None
    z, y, x = (e * a / b for e, a, b in zip(volume.voxel_size.edges, volume.labels.shape, grid, strict=True))
    return VoxelSize(z, y, x)


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
