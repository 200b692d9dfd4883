"""Compare class maps with the truth: read, count, and say it as a table, as JSON and as a picture.

Where a class map says that there is no tissue (`labels.OUTSIDE`), it says nothing that could be true or false: such
voxels are not scored, but told of. The truth has no such label: what does not count in it is named by its reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from msgspec import Struct

from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.metrics import (
    Scores,
    adjusted_rand_index,
    boundary_counts,
    f_score,
    score,
    variation_of_information,
)
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.storage.opening import Reach
from densecell_batch.system import need_memory

__all__ = [
    "MAX_CLASSES",
    "Agreement",
    "Comparison",
    "agreement",
    "as_table",
    "check_classes",
    "compare",
    "n_classes_of",
    "read_classes",
    "read_mask",
    "read_truth",
    "same_shape",
]

MAX_CLASSES = OUTSIDE  # all other values of 8 bits; the memory that scores take grows with the square


class Comparison(Struct, frozen=True, kw_only=True):
    """How well a class map agrees with the truth.

    Attributes
    ----------
    mean_iou, mean_iou_without_class_0
        Intersection over union, mean over the classes that occur; None where only class 0 does.
    accuracy
        Share of voxels that have the true class.
    adjusted_rand_index
        1 for equal class maps, about 0 by chance.
    variation_of_information_split, variation_of_information_merge
        In bits; 0 for equal class maps.
    boundary_f_score
        Of the boundaries between classes, within 2 voxels in the slice.
    iou
        Of each class; None of one that is neither true nor found.
    confusion
        Voxels by true class and found class.
    voxels
        Those that counted.
    outside_voxels
        Those that would have counted, but are outside in the class map.
    """

    mean_iou: float
    mean_iou_without_class_0: float | None
    accuracy: float
    adjusted_rand_index: float
    variation_of_information_split: float
    variation_of_information_merge: float
    boundary_f_score: float
    iou: list[float | None]
    confusion: list[list[int]]
    voxels: int
    outside_voxels: int = 0


_SHOWN = Comparison.__struct_fields__[:7]


def read_classes(
    path: Path, ignore: int | None = None, *, outside: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """A class map.

    Parameters
    ----------
    path
        The stack.
    ignore
        The label of voxels that do not count, which may be any number.
    outside
        Whether voxels may be `OUTSIDE`, as in a class map that was found.

    Returns
    -------
    labels : numpy.ndarray
        (z, y, x) uint8; 0 where nothing counts.
    counted : numpy.ndarray or None
        Bool (z, y, x): voxels that count; None when `ignore` is.

    Raises
    ------
    StackError
        If it cannot be read, is not of whole numbers, or has a label that is no class: below 0, or `MAX_CLASSES` or
        more.
    """
    with open_labels(path, Reach.of(path, links=True)) as stack:
        need_memory(path, (1 if ignore is None else 2) * stack.info.n_voxels)
        labels = np.empty(stack.info.shape, np.uint8)
        counted = None if ignore is None else np.empty(stack.info.shape, bool)
        for z in range(len(labels)):
            plane = stack.read(z)
            if counted is not None:
                counted[z] = plane != ignore
                plane = np.where(counted[z], plane, 0)
            low, high = int(plane.min()), _highest(plane) if outside else int(plane.max())
            if low < 0 or high >= MAX_CLASSES:
                raise StackError(
                    f"{path}: it has the label {low if low < 0 else high} in slice {z + 1}; expected classes from 0 to "
                    f"{MAX_CLASSES - 1}: correct it, or leave out such voxels with --ignore-label "
                    f"{low if low < 0 else high}; numbers of objects are no classes"
                )
            labels[z] = plane
    return labels, counted


def _highest(labels: np.ndarray) -> int:
    """The highest label but that of what is outside; 0 where there is no other."""
    highest = int(labels.max())
    return highest if highest < OUTSIDE else int(labels.max(initial=0, where=labels != OUTSIDE))


def n_classes_of(truth: np.ndarray, *found: np.ndarray) -> int:
    """As many classes as occur, from 0 on; what is outside in class maps that were found is none."""
    return max(int(truth.max()), *(_highest(labels) for labels in found)) + 1


def check_classes(path: Path, truth: np.ndarray, counted: np.ndarray | None, bundle: ModelBundle) -> None:
    """See that the labels (z, y, x) that count are classes of a model; raises StackError if not."""
    highest, n = int((truth if counted is None else truth[counted]).max()), len(bundle.classes)
    if highest >= n:
        names = ", ".join(f"{i} {c.name}" for i, c in enumerate(bundle.classes))
        raise StackError(
            f"{path}: it has the label {highest}; the classes of {bundle.name} are {names}: correct the labels, or "
            "leave out such voxels with --ignore-label"
        )


def read_truth(
    labels: Path, ignore: int | None = None, mask: Path | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """True labels, and which of them count.

    Parameters
    ----------
    labels
        The stack.
    ignore
        The label of voxels that do not count, which may be any number.
    mask
        A stack of the same shape; only voxels above 0 count.

    Returns
    -------
    labels : numpy.ndarray
        (z, y, x) uint8; 0 where `ignore` is.
    counted : numpy.ndarray or None
        Bool (z, y, x): voxels that count; None when all do.

    Raises
    ------
    StackError
        If a stack cannot be read, the labels are no classes, the mask has another shape, or no voxel counts.
    """
    truth, counted = read_classes(labels, ignore)
    if mask is not None:
        masked = same_shape(read_mask(mask), truth, mask)
        counted = masked if counted is None else counted & masked
    if counted is not None and not counted.any():
        raise StackError(f"{labels}: no voxel is left to score: the mask or --ignore-label leaves out all of them")
    return truth, counted


def same_shape(volume: np.ndarray, truth: np.ndarray, path: Path) -> np.ndarray:
    """A volume as it is; raises StackError if it has not the shape of the truth."""
    if volume.shape != truth.shape:
        shapes = [" x ".join(map(str, v.shape)) for v in (volume, truth)]
        raise StackError(
            f"{path}: it is {shapes[0]} (z, y, x), what it is compared with is {shapes[1]}; expected the same"
        )
    return volume


def read_mask(path: Path) -> np.ndarray:
    """Where a stack is above 0: (z, y, x) bool. Raises StackError if it cannot be read."""
    with open_stack(path, stored=True, reach=Reach.of(path, links=True)) as stack:
        need_memory(path, stack.info.n_voxels)
        mask = np.empty(stack.info.shape, bool)
        for z in range(len(mask)):
            mask[z] = stack.read(z) > 0
    return mask


@dataclass(frozen=True)
class Agreement:
    """What a class map and the truth have in common, in counts; those of several volumes add up."""

    scores: Scores
    boundaries: np.ndarray  # see `metrics.boundary_counts`
    n_outside: int  # voxels that would have counted, but are outside in the class map

    def __add__(self, other: Self) -> Agreement:
        return Agreement(
            Scores(self.scores.confusion + other.scores.confusion),
            self.boundaries + other.boundaries,
            self.n_outside + other.n_outside,
        )

    @property
    def comparison(self) -> Comparison:
        """All scores."""
        scores = self.scores
        split, merge = variation_of_information(scores.confusion)
        without = scores.mean_iou_without_first
        return Comparison(
            mean_iou=scores.mean_iou,
            mean_iou_without_class_0=None if np.isnan(without) else without,
            accuracy=scores.accuracy,
            adjusted_rand_index=adjusted_rand_index(scores.confusion),
            variation_of_information_split=split,
            variation_of_information_merge=merge,
            boundary_f_score=f_score(self.boundaries),
            iou=[None if np.isnan(value) else float(value) for value in scores.iou],
            confusion=scores.confusion.tolist(),
            voxels=int(scores.confusion.sum()),
            outside_voxels=self.n_outside,
        )


def agreement(
    truth: np.ndarray,
    found: np.ndarray,
    n_classes: int,
    counted: np.ndarray | None = None,
    *,
    name: str = "the class map",
) -> Agreement:
    """Count how far a class map agrees with the truth.

    Parameters
    ----------
    truth, found
        Class maps (z, y, x), 0 to `n_classes` - 1; what was found may be `OUTSIDE`, too.
    counted
        Bool (z, y, x): voxels that count; all when None.
    name
        Of the class map, for the error.

    Raises
    ------
    OptionError
        If all voxels that count are outside.
    """
    n_outside = 0
    outside = found == OUTSIDE
    if outside.any():
        n_outside = int(np.count_nonzero(outside if counted is None else outside & counted))
        counted = ~outside if counted is None else counted & ~outside
        if not counted.any():
            raise OptionError(f"{name}: no voxel is left to score: all that count are outside in it (label {OUTSIDE})")
    del outside  # of the size of the class maps
    scores = score(truth, found, n_classes, counted)
    if counted is not None:  # where nothing counts, there shall be no boundary of the one and not of the other
        truth, found = np.where(counted, truth, 0), np.where(counted, found, 0)
    return Agreement(scores, boundary_counts(truth, found), n_outside)


def compare(
    truth: np.ndarray, found: np.ndarray, n_classes: int, counted: np.ndarray | None = None
) -> tuple[Scores, Comparison]:
    """Score a class map; parameters and what it raises are those of `agreement`.

    Returns
    -------
    scores : Scores
    comparison : Comparison
        All scores.
    """
    common = agreement(truth, found, n_classes, counted)
    return common.scores, common.comparison


def as_table(compared: Sequence[tuple[str, Comparison]], names: Sequence[str]) -> str:
    """Scores of several class maps side by side, a line each score; below, how many voxels were outside."""
    rows: list[tuple[str, list[float | None]]] = [
        (key.replace("_", " "), [getattr(scores, key) for _, scores in compared]) for key in _SHOWN
    ]
    rows += [(f"IoU {name}", [scores.iou[i] for _, scores in compared]) for i, name in enumerate(names)]
    width = max(len(title) for title, _ in rows)
    columns = [max(len(name), 6) for name, _ in compared]
    lines = [" " * width + "".join(f"  {name:>{n}}" for (name, _), n in zip(compared, columns, strict=True))]
    for title, values in rows:
        cells = ("-" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"{title:<{width}}" + "".join(f"  {cell:>{n}}" for cell, n in zip(cells, columns, strict=True)))
    lines += [
        f"{scores.outside_voxels:,} voxels are outside in {name} and not scored"
        for name, scores in compared
        if scores.outside_voxels
    ]
    return "\n".join(lines)
