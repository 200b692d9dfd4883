"""What can be said of each object, added up slice by slice: a table in calibrated units.

The objects of a class may as well be the classes themselves: all the voxels of a class are then one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.surface import crossings, direction_areas
from densecell_batch.printable import printable

__all__ = ["Columns", "ObjectSums"]

Columns = dict[str, np.ndarray]  # by name, one value a row; NaN where nothing can be said

_AXES = ("z", "y", "x")
_ROWS = 1000
_PIXEL = VoxelSize(1.0, 1.0, 1.0)  # where there is no voxel size: what touches is told, but no area


class ObjectSums:
    """Running sums of each object of a label image.

    Parameters
    ----------
    n_objects
        They are numbered from 1; 0 is none.
    classes
        Names of the classes that they may touch.
    voxel_size
        None where it is not known: what needs it is then NaN.
    """

    def __init__(self, n_objects: int, classes: Sequence[str], voxel_size: VoxelSize | None) -> None:
        self._n, self._classes, self._voxel_size = n_objects, [*classes], voxel_size
        self._sums = {name: np.zeros(n_objects + 1) for name in ("n", *_AXES, "zz", "yy", "xx", "zy", "zx", "yx")}
        self._means: dict[str, np.ndarray] = {}
        self._least = np.full((3, n_objects + 1), np.iinfo(np.int64).max)
        self._most = np.full((3, n_objects + 1), -1)
        self._at_border = np.zeros(n_objects + 1, bool)
        self._contact = np.zeros((n_objects + 1, len(classes) + 1))  # the last column is what lies outside
        self._above: tuple[np.ndarray, np.ndarray] | None = (
            None  # numbers of the slice before, and columns of `_contact`
        )
        self._z = 0

    def add(self, numbers: np.ndarray, labels: np.ndarray, **values: np.ndarray | None) -> None:
        """Add the next slice.

        Parameters
        ----------
        numbers
            (y, x) whole numbers, 0 where there is no object.
        labels
            (y, x) uint8, the class map.
        values
            More of the slice, (y, x): their means over the objects become columns of these names.
        """
        where = np.flatnonzero(numbers)
        number = numbers.ravel()[where].astype(np.int64)
        y, x = np.divmod(where, numbers.shape[1])
        n, sum_y, sum_x = self._total(number), self._total(number, y), self._total(number, x)
        for name, sums in (
            ("n", n), ("z", self._z * n), ("y", sum_y), ("x", sum_x),
            ("zz", self._z**2 * n), ("zy", self._z * sum_y), ("zx", self._z * sum_x),
            ("yy", self._total(number, y * y)), ("yx", self._total(number, y * x)), ("xx", self._total(number, x * x)),
        ):  # fmt: skip
            self._sums[name] += sums
        for name, plane in values.items():
            if plane is not None:
                self._means.setdefault(name, np.zeros(self._n + 1))
                self._means[name] += self._total(number, plane.ravel()[where])
        there = np.flatnonzero(n)
        self._least[0, there] = np.minimum(self._least[0, there], self._z)
        self._most[0, there] = self._z
        for axis, place in ((1, y), (2, x)):
            np.minimum.at(self._least[axis], number, place)
            np.maximum.at(self._most[axis], number, place)
        for side in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
            self._at_border[side] = True
        self._touch(numbers, labels)
        self._z += 1

    def _total(self, number: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(number, None if values is None else values.astype(float), self._n + 1)

    def _touch(self, numbers: np.ndarray, labels: np.ndarray) -> None:
        """Add the areas between the objects of a slice and what is beside and before them."""
        areas = direction_areas(self._voxel_size or _PIXEL)
        width, size = len(self._classes) + 1, self._contact.size
        kinds = np.where(labels == OUTSIDE, width - 1, labels)
        for step, first, second, dz in crossings(None if self._above is None else self._above[0], numbers):
            number, kind = (numbers, kinds) if not dz or self._above is None else self._above
            met = [
                number.ravel()[first].astype(np.int64) * width + kinds.ravel()[second],
                numbers.ravel()[second].astype(np.int64) * width + kind.ravel()[first],
            ]
            found = np.bincount(np.concatenate(met), minlength=size)
            self._contact += (found * areas[step]).reshape(self._contact.shape)
        self._above = numbers, kinds

    def columns(self) -> Columns:
        """What there is to say of objects 1, 2, ..., each an array of (n_objects,).

        ============================== =====================================================================
        voxels                         their number
        volume_um3                     voxels times the volume of one
        surface_um2                    area of the surface inside the stack (`measure.surface`)
        sphericity                     surface of a ball of this volume over that surface; 1 for a ball; NaN for what
                                       the border cuts
        longest_axis_um                of the ellipsoid with the same second moments
        centroid_x_um, _y_um, _z_um    mean place of the centres of the voxels; that of the first voxel is 0
        x_start, x_stop, ... z_stop    bounding box in voxels from 0, ends not included
        slices                         in how many it is
        touches_border                 1 if a voxel lies at a side of the stack, or in the first or last slice of
                                       several
        touches_outside                1 if it touches what is no tissue
        mean_...                       of the values that were added
        contact_CLASS_um2              area of the surface that is shared with each class; with the own class where
                                       it touches another object
        contact_outside_um2            and with what is no tissue; a class of that name is "outside (class)"
        ============================== =====================================================================

        A touch is by a face, an edge or a corner of a voxel.
        """
        sums = {name: values[1:] for name, values in self._sums.items()}
        n, size = sums["n"], self._voxel_size
        nothing = np.full(self._n, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = {axis: sums[axis] / n for axis in _AXES}
            means = {f"mean_{name}": values[1:] / n for name, values in self._means.items()}
        edges = dict(zip(_AXES, (np.nan,) * 3 if size is None else size.edges, strict=True))
        contact = self._contact[1:] * (np.nan if size is None else 1.0)
        volume, surface = n * np.prod([*edges.values()]), contact.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            sphericity = np.where(
                (surface > 0) & ~self._cut, np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2 / surface, np.nan
            )
        columns = {
            "voxels": n.astype(np.int64),
            "volume_um3": volume,
            "surface_um2": surface,
            "sphericity": sphericity,
            "longest_axis_um": nothing if size is None else self._longest_axis(sums, centre, edges),
            **{f"centroid_{axis}_um": centre[axis] * edges[axis] for axis in "xyz"},
        }
        for axis in "xyz":
            i = _AXES.index(axis)
            columns |= {f"{axis}_start": self._least[i, 1:], f"{axis}_stop": self._most[i, 1:] + 1}
        columns |= {
            "slices": self._most[0, 1:] + 1 - self._least[0, 1:],
            "touches_border": self._cut.astype(np.int64),
            "touches_outside": (self._contact[1:, -1] > 0).astype(np.int64),
            **means,
        }
        names = [*("outside (class)" if name == "outside" else name for name in self._classes), "outside"]
        return columns | {f"contact_{name}_um2": contact[:, i] for i, name in enumerate(names)}

    @property
    def _cut(self) -> np.ndarray:
        """Whether objects 1, 2, ... reach a side of the stack, its first or its last slice; all reach the only one."""
        found = self._at_border[1:]
        if self._z > 1:
            found = found | (self._least[0, 1:] == 0) | (self._most[0, 1:] == self._z - 1)
        return found

    def _longest_axis(self, sums: Columns, centre: Columns, edges: dict[str, float]) -> np.ndarray:
        """2 sqrt(5 v) with v the largest variance of the places of the voxels along any line; 0 of a single voxel."""
        covariance = np.empty((self._n, 3, 3))
        with np.errstate(invalid="ignore", divide="ignore"):
            for i, a in enumerate(_AXES):
                for j, b in enumerate(_AXES[i:], start=i):
                    found = (sums[a + b] / sums["n"] - centre[a] * centre[b]) * edges[a] * edges[b]
                    covariance[:, i, j] = covariance[:, j, i] = found
        known = sums["n"] > 0
        result = np.full(self._n, np.nan)
        largest = np.linalg.eigvalsh(covariance[known])[:, -1] if known.any() else np.zeros(0)
        result[known] = 2 * np.sqrt(5 * np.maximum(largest, 0))
        return result


def _text(value: Any) -> str:
    """A value as it stands in a table: empty for NaN, six digits of what is no whole number."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.6g}"
    return plain(printable(value))


def plain(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: an apostrophe goes before what could begin one."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


def rows_of(columns: Columns, **same: Any) -> Iterable[list[str]]:
    """The rows of a table as text, after values that are the `same` in all of them."""
    before = [_text(value) for value in same.values()]
    for first in range(0, max(map(len, columns.values())), _ROWS):  # as Python's own numbers, a few at a time
        for values in zip(*(column[first : first + _ROWS].tolist() for column in columns.values()), strict=True):
            yield [*before, *map(_text, values)]
