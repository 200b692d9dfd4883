"""Where a net looks: the tiles of a volume, as integers only.

One axis of a tile, with a volume that begins inside the tile's output region (a tile may stick out at both ends)::

            input region: what the net sees; mirrored outside the volume
      |<------------------------------------------------------------->|
      |  margin  |                output region             |  margin  |
                 |<---------------------------------------->|
                      |<----------- owned ----------->|
                 ^corner                                    ^corner + output
    - - - - - - - - - |==== volume =========================...

The net loses `margin` voxels at each side. Where output regions of neighbouring tiles overlap, the stitch decides;
under `crop` each voxel belongs to the tile in which it is deepest, so that the owned regions partition the volume.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import ceil

import numpy as np

from densecell_batch.errors import OptionError

__all__ = ["Axis", "Tile", "TileGrid", "flush_corners", "gather", "mirror", "published_axis", "wide_axis", "wide_sizes"]

Triple = tuple[int, int, int]


def mirror(indices: np.ndarray, length: int) -> np.ndarray:
    """Fold voxel indices into 0 .. length - 1: below the volume without repeating the edge (-1 is 1), above it
    repeating the edge (`length` is `length - 1`), as often as needed.

    Parameters
    ----------
    indices
        Integers of any value.
    length
        Voxels along the axis, at least 1.

    Returns
    -------
    numpy.ndarray
        Indices of the same shape, all inside.
    """
    folded = np.asarray(indices).copy()
    while True:
        low, high = folded < 0, folded >= length
        if not (low.any() or high.any()):
            return folded
        folded[low] = -folded[low]
        high = folded >= length
        folded[high] = 2 * length - 1 - folded[high]


def gather(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Write `plane[np.ix_(rows, columns)]` to `out` (y, x); what is not mirrored is copied as the block that it is."""
    (top, bottom), (left, right) = _straight(rows), _straight(columns)
    y, x = rows[top], columns[left]
    out[top:bottom, left:right] = plane[y : y + bottom - top, x : x + right - left]
    for part in (slice(0, top), slice(bottom, None)):
        out[part] = plane[np.ix_(rows[part], columns)]
    for part in (slice(0, left), slice(right, None)):
        out[top:bottom, part] = plane[np.ix_(rows[top:bottom], columns[part])]


def _straight(indices: np.ndarray) -> tuple[int, int]:
    """The longest run [start, stop) in which each index is the next of the one before."""
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    return max(pairwise([0, *ends.tolist(), len(indices)]), key=lambda run: run[1] - run[0])


def flush_corners(length: int, output: int, stride: int) -> tuple[int, ...]:
    """Corners 0, stride, 2 * stride, ... and one flush with the far edge; centred when the tile is larger than the
    axis.
    """
    if length <= output:
        return (-((output - length) // 2),)
    corners = list(range(0, length - output, stride))
    return (*corners, length - output)


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis.

    Raises
    ------
    OptionError
        If the tiles leave a voxel uncovered.
    """

    length: int  # voxels of the volume, at least 1
    output: int  # voxels of a tile's output region, at least 1
    margin: int  # voxels by which the input region is larger, at each side
    corners: tuple[int, ...]  # first voxel of each output region, ascending; below 0 for a tile that sticks out

    def __post_init__(self) -> None:
        ends = [corner + self.output for corner in self.corners]
        gapless = all(a >= b for a, b in zip(ends[:-1], self.corners[1:], strict=True))
        if self.length < 1 or not self.corners or self.corners[0] > 0 or ends[-1] < self.length or not gapless:
            raise OptionError(f"tiles of {self.output} at {self.corners} do not cover an axis of {self.length} voxels")

    @property
    def input(self) -> int:
        """Voxels of the input region."""
        return self.output + 2 * self.margin

    @cached_property
    def inside(self) -> tuple[tuple[int, int], ...]:
        """The part [start, stop) of each output region that lies in the volume; a tile beyond its end has none."""
        stops = self._clipped(c + self.output for c in self.corners)
        return tuple(zip(self._clipped(self.corners), stops, strict=True))

    def depth(self, i: int) -> np.ndarray:
        """Distance to the outside of the output region of tile `i`, for each voxel of the volume: 1 for its outermost
        voxels, 0 or less outside it.
        """
        offset = np.arange(self.length) - self.corners[i]
        return np.minimum(offset + 1, self.output - offset)

    @cached_property
    def deepest(self) -> tuple[tuple[int, int], ...]:
        """The voxels [start, stop) that each tile owns when each goes to the tile in which it is deepest; ties go to
        the earlier tile. Tiles that own nothing have start == stop.
        """
        # Tiles are of one size, so a voxel is deepest in the one whose centre is nearest.
        return self._from((a + b + self.output - 1) // 2 + 1 for a, b in pairwise(self.corners))

    @cached_property
    def latest(self) -> tuple[tuple[int, int], ...]:
        """The voxels [start, stop) that each tile owns when the last tile that covers a voxel wins."""
        return self._from(self.corners[1:])

    def touching(self, rule: str, start: int, stop: int) -> range:
        """The tiles that decide the voxels [start, stop) under a stitch rule."""
        spans = {"crop": self.deepest, "latest": self.latest}.get(rule, self.inside)
        first = bisect_right(spans, start, key=lambda span: span[1])
        return range(first, bisect_left(spans, stop, key=lambda span: span[0]))

    def read_by(self, tiles: range) -> tuple[int, int]:
        """The voxels [start, stop) that the input regions of neighbouring tiles reach, mirrored ones included; all of
        the tiles have to touch the volume.
        """
        low, high = self.corners[tiles[0]] - self.margin, self.corners[tiles[-1]] + self.output + self.margin
        if low >= 0 and high <= self.length:
            return low, high
        reached = np.concatenate([self.input_indices(i) for i in (tiles[0], tiles[-1])])
        return min(max(0, low), int(reached.min())), max(min(self.length, high), int(reached.max()) + 1)

    def _clipped(self, voxels: Iterable[int]) -> list[int]:
        length = self.length
        return [0 if voxel < 0 else length if voxel > length else voxel for voxel in voxels]

    def _from(self, firsts: Iterable[int]) -> tuple[tuple[int, int], ...]:
        """What each tile owns, of the first voxel of each tile but the first one."""
        return tuple(pairwise([0, *self._clipped(firsts), self.length]))

    def input_indices(self, i: int) -> np.ndarray:
        """Volume indices of the input region of tile `i`, mirrored at the edges."""
        start = self.corners[i] - self.margin
        return mirror(np.arange(start, start + self.input), self.length)


def published_axis(length: int, output: int, margin: int, overlap: int) -> Axis:
    """The published grid along one axis: stride = output - overlap, the last tile flush with the edge."""
    return Axis(length, output, margin, flush_corners(length, output, output - overlap))


def wide_axis(length: int, parts: int, margin: int, halo: int, edge: int, alignment: int, residue: int = 0) -> Axis:
    """Cut an axis into at most `parts` tiles of one size on one lattice, as small as their context allows.

    Parameters
    ----------
    length
        Voxels of the volume.
    parts
        Number of tiles, at most: where one as large covers it, there is one.
    margin
        Voxels that the net loses at each side.
    halo
        Context inside the output region, wanted at each side that borders on another tile.
    edge
        Mirrored voxels inside the output region, wanted at each end of the volume.
    alignment, residue
        Corners are multiples of `alignment` less `edge`, so that all tiles of all grids pool alike; output sides are
        `residue` above a multiple of it, so that the net loses no voxel to pooling.
    """
    output, stride = wide_sizes(length, parts, halo, edge, alignment, residue)
    last = wide_sizes(length, 1, halo, edge, alignment, residue)[0] - edge - output
    # Tiles of all grids end at one place: what is padded begins there, and the same voxels are mirrored before it.
    return Axis(length, output, margin, (*range(-edge, last, stride), last))


def wide_sizes(length: int, parts: int, halo: int, edge: int, alignment: int, residue: int = 0) -> tuple[int, int]:
    """Output side and stride of the tiles of a `wide_axis`, without making it."""

    def fitting(n: int) -> int:
        return n + (residue - n) % alignment

    whole = fitting(length + 2 * edge)
    stride = max(ceil((length + 2 * edge - 2 * halo) / parts / alignment), 1) * alignment
    output = fitting(stride + 2 * halo)
    return (whole, whole) if parts == 1 or output >= whole else (output, stride)


@dataclass(frozen=True)
class Tile:
    """One tile of a grid, by its index (z, y, x) along the axes."""

    index: Triple
    grid: TileGrid

    def __repr__(self) -> str:
        regions = (f"{axis.corners[i]}:{axis.corners[i] + axis.output}" for axis, i in self._axes)
        return f"Tile{self.index}[{', '.join(regions)}]"

    @property
    def _axes(self) -> Iterator[tuple[Axis, int]]:
        return zip(self.grid.axes, self.index, strict=True)

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The part of the output region that lies in the volume, as slices of the volume."""
        return self._volume([axis.inside[i] for axis, i in self._axes])

    @property
    def owned(self) -> tuple[slice, slice, slice]:
        """The voxels that are deepest in this tile, axis by axis, as slices of the volume."""
        return self._volume([axis.deepest[i] for axis, i in self._axes])

    @property
    def latest(self) -> tuple[slice, slice, slice]:
        """The voxels for which this is the last tile, as slices of the volume."""
        return self._volume([axis.latest[i] for axis, i in self._axes])

    def within(self, region: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
        """Slices of the volume as slices of this tile's output array."""
        corners = [axis.corners[i] for axis, i in self._axes]
        z, y, x = (slice(s.start - c, s.stop - c) for s, c in zip(region, corners, strict=True))
        return z, y, x

    @staticmethod
    def _volume(spans: list[tuple[int, int]]) -> tuple[slice, slice, slice]:
        z, y, x = (slice(a, b) for a, b in spans)
        return z, y, x


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a volume: the product of three axes, z outermost."""

    z: Axis
    y: Axis
    x: Axis

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The axes (z, y, x)."""
        return (self.z, self.y, self.x)

    @property
    def shape(self) -> Triple:
        """Voxels of the volume (z, y, x)."""
        return (self.z.length, self.y.length, self.x.length)

    @property
    def input(self) -> Triple:
        """Input region of every tile (z, y, x)."""
        return (self.z.input, self.y.input, self.x.input)

    @property
    def output(self) -> Triple:
        """Output region of every tile (z, y, x)."""
        return (self.z.output, self.y.output, self.x.output)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.z.corners) * self.tiles_per_row

    @property
    def tiles_per_row(self) -> int:
        """Number of tiles that share a z."""
        return len(self.y.corners) * len(self.x.corners)

    @property
    def redundancy_within(self) -> float:
        """Output voxels computed per voxel of a slice."""
        return self.tiles_per_row * float(self.y.output * self.x.output) / (self.y.length * self.x.length)

    @property
    def redundancy(self) -> float:
        """Output voxels computed per voxel of the volume."""
        return self.n_tiles * float(np.prod(self.output)) / float(np.prod(self.shape))

    def row(self, z: int, ys: range | None = None) -> Iterator[Tile]:
        """The tiles of row `z`, y before x; of `ys` along y, or of all."""
        for y, x in product(range(len(self.y.corners)) if ys is None else ys, range(len(self.x.corners))):
            yield Tile((z, y, x), self)
