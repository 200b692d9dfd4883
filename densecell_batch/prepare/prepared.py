"""A stack as the nets see it: slices on their grid, read in any order, whole or some rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import ceil, floor
from typing import Protocol

import numpy as np

from densecell_batch.io.stack import Stack
from densecell_batch.prepare.contrast import apply
from densecell_batch.prepare.mask import Mask, outside_of
from densecell_batch.prepare.outside import box_of, mirrored
from densecell_batch.prepare.preparation import Axis, Preparation, Span, Triple
from densecell_batch.prepare.scale import Resampler, triangle

__all__ = ["Prepared", "SeenArray", "SeenVolume"]

_ODD = 0.2  # voxels of fill in the box of the tissue, for each of half its outline
_KEPT = 32  # slices whose outside is kept, a bit a voxel


class SeenVolume(Protocol):
    """A volume that nets can see, slice by slice."""

    @property
    def shape(self) -> Triple:
        """(z, y, x)."""

    def read(self, z: int, rows: Span) -> np.ndarray:
        """Rows [start, stop) of a slice: (y, x) float32, normalized."""

    def has_outside(self, region: tuple[slice, slice, slice]) -> bool:
        """Whether a part of a region is no tissue."""


class Prepared:
    """A stack as the nets see it. Slices may be read from any thread.

    Parameters
    ----------
    stack
        Open.
    preparation
        What `examine` found.
    find
        Whether fill is outside, as it was when it was examined.
    mask
        What is tissue, as then.

    Attributes
    ----------
    axes : tuple of Axis
        The ways back (z, y, x).
    shape : tuple of int
        What the nets see (z, y, x).
    path : Path
        Of the stack.
    has_fill : bool
        Whether there is fill in what the nets see.
    """

    def __init__(self, stack: Stack, preparation: Preparation, *, find: bool = True, mask: Mask | None = None) -> None:
        self._stack, self._found, self._find, self._mask = stack, preparation, find, mask
        self.axes, self.shape, self.path = preparation.axes, preparation.grid, stack.info.path
        self.has_fill, self._stand_ins = preparation.has_fill, dict(preparation.stand_ins)
        box = preparation.box
        self._z, self._y, self._x = (
            Resampler.of(stop - start, n) for (start, stop), n in zip(box, self.shape, strict=True)
        )
        self._lock = threading.Lock()
        self._packed: dict[int, np.ndarray] = {}  # outside of the last slices, a bit a voxel

    @property
    def is_resampled(self) -> bool:
        """Whether the nets see other voxels than those of the stack."""
        return not all(axis.back.does_nothing for axis in self.axes)

    @property
    def result_shape(self) -> Triple:
        """What is segmented (z, y, x)."""
        z, y, x = (axis.length for axis in self.axes)
        return z, y, x

    def read(self, z: int, rows: Span) -> np.ndarray:
        """Rows [start, stop) of a slice, on the grid of the nets: (y, x) float32."""
        low, high = self._z.reach(z, z + 1)
        top, bottom = self._y.reach(*rows)
        first, left = self._found.box[0][0], self._found.box[1][0]
        planes = [self._values(first + i, (left + top, left + bottom)) for i in range(low, high)]
        plane = planes[0] if self._z.does_nothing else self._z(np.stack(planes), z, z + 1, 0)[0]
        return self._x(self._y(plane, *rows, 0), 0, self.shape[2], 1)

    def _values(self, z: int, rows: Span) -> np.ndarray:
        """Normalized rows of a slice of the stack within the box, mirrored where they are outside."""
        z = self._stand_ins.get(z, z)
        (top, bottom), columns = self._found.box[1], slice(*self._found.box[2])
        if self._found.outside and self._found.outside[z]:
            everywhere = self._outside_of(z)
            assert everywhere is not None
            outside = everywhere[top:bottom, columns]
            if outside.all():  # of a region, whose tissue is in other slices
                return np.zeros((rows[1] - rows[0], outside.shape[1]), np.float32)
            if outside.any():
                # Who pads cuts at voxels; who rotates blends tissue and fill along the edge.
                blended = 0 if _is_rectangle(outside) else 2
                filled = mirrored(self._normalized(self._stack.read(z, (top, bottom))[:, columns], z), outside, blended)
                return filled[rows[0] - top : rows[1] - top]
        return self._normalized(self._stack.read(z, rows)[:, columns], z)

    def _normalized(self, values: np.ndarray, z: int) -> np.ndarray:
        curves = self._found.curves
        return apply(values, curves[z if len(curves) > 1 else 0])

    def outside(self, z: int, rows: Span) -> np.ndarray | None:
        """Which voxels of some rows of a slice of the result are no tissue: (y, x) bool, or None where all are some."""
        first, top, left = (start for start, _ in self._found.result)
        count = self._found.outside[first + z] if self._found.outside else 0
        if not count:
            return None
        where = self._outside_of(first + z)
        assert where is not None
        return where[top + rows[0] : top + rows[1], left : self._found.result[2][1]]

    def _outside_of(self, z: int) -> np.ndarray | None:
        """Of a whole slice of the stack."""
        height, width = self._found.shape[1:]
        if self._found.outside[z] == height * width:
            return np.ones((height, width), bool)
        with self._lock:
            packed = self._packed.get(z)
        if packed is not None:
            return np.unpackbits(packed, axis=1, count=width).view(bool)
        found = outside_of(self._stack.read(z), z, self._find, self._mask)
        if found is not None:
            with self._lock:
                self._packed[z] = np.packbits(found, axis=1)
                while len(self._packed) > _KEPT:
                    del self._packed[next(iter(self._packed))]
        return found

    def is_empty(self, region: tuple[slice, slice, slice]) -> bool:
        """Whether no voxel of the result that a region of the nets' grid has a part in is tissue."""
        return bool(self._found.outside) and all(
            where is not None and bool(where.all()) for where in self._outside_in(region)
        )

    def has_outside(self, region: tuple[slice, slice, slice]) -> bool:
        """Whether a voxel of the result that a region of the nets' grid has a part in is no tissue."""
        return bool(self._found.outside) and any(
            where is not None and bool(where.any()) for where in self._outside_in(region)
        )

    def _outside_in(self, region: tuple[slice, slice, slice]) -> Iterator[np.ndarray | None]:
        """What is outside of the result where a region of the nets' grid has a part in it, slice by slice."""
        spans = []
        for axis, part in zip(self.axes, region, strict=True):
            start, stop = max(part.start, 0), min(part.stop, axis.back.n_in)
            # A voxel beyond the border has a part in it, too, where it is resampled.
            more = 0 if axis.back.does_nothing else 1
            low = floor((start - more) * len(axis.back) / axis.back.n_in) + axis.offset - more
            high = ceil((stop + more) * len(axis.back) / axis.back.n_in) + axis.offset + more
            spans.append((max(low, 0), min(high, axis.length) if start < stop else 0))
        slices, rows, columns = spans
        if all(start < stop for start, stop in spans):
            for z in range(*slices):
                where = self.outside(z, rows)
                yield where if where is None else where[:, slice(*columns)]


class SeenArray:
    """A volume in memory as the nets see it, all of it tissue: (z, y, x) float32, normalized.

    `result` is the shape (z, y, x) of what is wanted of it, which may have other voxels.
    """

    has_fill = False

    def __init__(self, image: np.ndarray, result: tuple[int, ...]) -> None:
        self._image = image
        z, y, x = (Axis(Resampler.of(a, b, triangle), 0, b) for a, b in zip(image.shape, result, strict=True))
        self.axes = z, y, x

    @property
    def shape(self) -> Triple:
        """What the nets see (z, y, x)."""
        z, y, x = self._image.shape
        return z, y, x

    @property
    def result_shape(self) -> Triple:
        """What is wanted (z, y, x)."""
        z, y, x = (axis.length for axis in self.axes)
        return z, y, x

    @property
    def is_resampled(self) -> bool:
        """Whether these have other voxels."""
        return not all(axis.back.does_nothing for axis in self.axes)

    def read(self, z: int, rows: Span) -> np.ndarray:
        """Rows [start, stop) of a slice."""
        return self._image[z, rows[0] : rows[1]]

    def outside(self, z: int, rows: Span) -> None:
        """Nothing is."""

    def is_empty(self, region: tuple[slice, slice, slice]) -> bool:
        """It never is."""
        return False


def _is_rectangle(outside: np.ndarray) -> bool:
    """Whether the tissue of a slice (y, x), of which there is some, fills its box, but for some voxels at its edge that
    happen to have the value of the fill.
    """
    box = box_of(outside, (outside.shape[0], outside.shape[1]))
    if box is None:
        return False
    top, bottom, left, right = box
    return bool(np.count_nonzero(outside[top:bottom, left:right]) <= _ODD * (bottom - top + right - left))
