"""What is found in a stack, and what is done to it before the nets see it: a record that all of a run share.

::

    examine.py    one pass over the stack -> Preparation
    prepared.py   stack + Preparation -> slices as the nets see them

The nets see the smallest box that holds all tissue, at the pixel size of their training, with the grey values they
know; where fill reaches into the box they see mirrored tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Struct

from densecell_batch.calibration import VoxelSize
from densecell_batch.prepare.contrast import Curve
from densecell_batch.prepare.defects import Defect
from densecell_batch.prepare.fit import Fit
from densecell_batch.prepare.normalize import Statistics
from densecell_batch.prepare.scale import Resampler, grid_at, triangle

__all__ = ["Aim", "Axis", "Box", "Preparation", "Span", "Steps", "Triple", "whole"]

Triple = tuple[int, int, int]
Span = tuple[int, int]  # [start, stop)
Box = tuple[Span, Span, Span]  # (z, y, x)


@dataclass(frozen=True)
class Steps:
    """What of it is asked for; see `InferenceOptions`."""

    outside: str = "auto"
    contrast: str = "auto"
    defects: str = "report"
    scale: str | tuple[float, float, float] = "auto"
    roi: Box | None = None


@dataclass(frozen=True)
class Aim:
    """What the nets want to see."""

    voxel_size: VoxelSize | None = None  # that they saw in their training
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)  # voxels (z, y, x) for each of a stack that has no voxel size
    greys: tuple[float, ...] | None = None  # quantiles of its grey values, where the model says them
    context: Triple = (0, 0, 0)  # voxels of theirs around a region that decide what it is


class Preparation(Struct, frozen=True, kw_only=True):
    """What was found in a stack, and what is done to it.

    Attributes
    ----------
    statistics
        Of the grey values of the tissue.
    shape
        Of the stack (z, y, x).
    result
        What of it is segmented: all, or the region that was asked for.
    box
        What of it the nets see.
    grid
        Voxels (z, y, x) that they see it as.
    curves
        From grey values to what the nets see: of each slice, or one for all.
    fit
        Whether it looks like the model's own data; None where nobody knows.
    remedy
        What would make it look so; "" for nothing known.
    remedied
        Whether that was done.
    outside
        Voxels of each slice that are no tissue; empty where there are none in any.
    stand_ins
        Slices, each with the one whose voxels the nets see in its place.
    defects
        Slices that are damaged, and how.
    warnings
        What whoever uses the results should know.
    """

    statistics: Statistics
    shape: Triple
    result: Box
    box: Box
    grid: Triple
    curves: tuple[Curve, ...]
    fit: Fit | None = None
    remedy: str = ""
    remedied: bool = False
    outside: tuple[int, ...] = ()
    stand_ins: tuple[tuple[int, int], ...] = ()
    defects: tuple[Defect, ...] = ()
    warnings: tuple[str, ...] = ()

    def is_empty(self, z: int) -> bool:
        """Whether a slice has no tissue."""
        return bool(self.outside) and self.outside[z] >= self.shape[1] * self.shape[2]

    @property
    def gaps(self) -> tuple[int, ...]:
        """Slices of the result without tissue that have some before and behind them."""
        some = [z for z in range(*self.result[0]) if not self.is_empty(z)]
        return tuple(z for z in range(some[0], some[-1]) if self.is_empty(z)) if some else ()

    @property
    def is_sound(self) -> bool:
        """Whether it can be what `examine` finds: what was read from a file may be anything."""
        spans = [*zip(self.shape, self.box, strict=True), *zip(self.shape, self.result, strict=True)]
        found = self.statistics
        return (
            all(0 <= start < stop <= side for side, (start, stop) in spans)
            and all(0 < side < 2**31 for side in (*self.grid, *self.shape))
            and all(n <= 101 * (stop - start) for n, (start, stop) in zip(self.grid, self.box, strict=True))
            and len(self.outside) in (0, self.shape[0])
            and len(self.curves) in (1, self.shape[0])
            and all(curve.std != 0 and len(curve.raw) == len(curve.normalized) for curve in self.curves)
            and all(0 <= z < self.shape[0] for pair in self.stand_ins for z in pair)
            and self._stands_in()
            and found.minimum <= found.mean <= found.maximum
            and 0 < found.std <= found.maximum - found.minimum
        )

    def _stands_in(self) -> bool:
        """Whether each slice without tissue that the nets see has a stand-in with some."""
        stand_ins = dict(self.stand_ins)
        empty = {z for z in range(*self.box[0]) if self.is_empty(z)}
        return empty <= stand_ins.keys() and not any(z in stand_ins or self.is_empty(z) for z in stand_ins.values())

    def of_all(self, scale: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Preparation:
        """The same, but the nets see all of the stack, as labels that belong to it have it, at some scale (z, y, x)."""
        grid = grid_at(self.shape, scale)
        return msgspec.structs.replace(self, result=whole(self.shape), box=whole(self.shape), grid=grid)

    @property
    def has_fill(self) -> bool:
        """Whether there is fill in what the nets see, so that whole slices are in memory when rows of them are read."""
        (_, (top, bottom), (left, right)), (_, height, width) = self.box, self.shape
        around = height * width - (bottom - top) * (right - left)
        return any(n not in (around, height * width) for n in self.outside)

    @property
    def zoom(self) -> float:
        """How many times as many voxels the nets see within the slice, along the axis where that is further from 1."""
        zooms = [n / (stop - start) for n, (start, stop) in zip(self.grid[1:], self.box[1:], strict=True)]
        return max(zooms, key=lambda zoom: max(zoom, 1 / zoom))

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The ways from the grid of the nets to that of the result (z, y, x)."""
        z, y, x = (
            Axis(Resampler.of(n, stop - start, triangle), start - first, last - first)
            for n, (start, stop), (first, last) in zip(self.grid, self.box, self.result, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class Axis:
    """The way from the samples of the nets to those of the result, along one axis."""

    back: Resampler
    offset: int  # sample of the result at which what the nets see begins; below 0 if they see more
    length: int  # samples of the result

    def owned(self, start: int, stop: int) -> Span:
        """The samples of the result that the samples [start, stop) of the nets are in charge of; the first and the last
        are in charge of what lies beyond them, too.
        """
        return self._border(start), self._border(stop)

    def _border(self, place: int) -> int:
        if place <= 0 or place >= self.back.n_in:
            return 0 if place <= 0 else self.length
        return min(max(round(place * len(self.back) / self.back.n_in) + self.offset, 0), self.length)

    def needed(self, start: int, stop: int) -> Span:
        """The samples of the nets that decide the samples [start, stop) of the result."""
        last = len(self.back) - 1
        low, high = (min(max(place - self.offset, 0), last) for place in (start, stop - 1))
        return self.back.reach(low, high + 1)

    def seen(self, start: int, stop: int) -> Span:
        """Those of the samples [start, stop) of the result that the nets see; none: start == stop."""
        low = min(max(start, self.offset), stop)
        return low, max(low, min(stop, self.offset + len(self.back)))


def whole(shape: Triple) -> Box:
    """All of a stack of this shape."""
    z, y, x = ((0, side) for side in shape)
    return z, y, x
