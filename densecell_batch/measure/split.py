"""Objects that touch, told apart at their necks, slice by slice.

Inside an object, the distance to its surface has a peak in each thick part, and a saddle in the neck between two. Parts
are one object if the neck is nearly as wide as the narrower of them: if its radius is less than a tolerance below that
part's. This is the watershed of the distance with peaks merged by their height above the saddle [1, 2].

It needs no volume: each slice is cut into basins, one a peak within the slice; the neighbouring basins of a stack, with
the highest saddle between any two, are a graph in which all the saddles and peaks of the volume are [2]. So the result
does not depend on how much of a stack is in memory. Of the graph, too, only what later slices can change is kept
(`merging`); what is left of a slice is the number of the part of each voxel, in a scratch file.

Cavities of an object count as its inside, so that hollow things (labels with holes, vesicles, the sheath of a nerve)
are parted like full ones.

References
----------
.. [1] Grimaud 1992, "A new measure of contrast: the dynamics", Proc SPIE 1769:292.
.. [2] Chazal, Guibas, Oudot, Skraba 2013, "Persistence-based clustering in Riemannian manifolds", J ACM 60:41.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import skimage  # its parts are loaded when they are first used

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.measure.distance import distances
from densecell_batch.measure.instances import Instances, Read, find_instances, numbered
from densecell_batch.measure.merging import Merging

__all__ = ["default_tolerance", "split_instances"]

_LIMIT = 20  # tolerances that a distance may be; thicker parts are as if they were of this radius


def default_tolerance(voxel_size: VoxelSize) -> float:
    """The tolerance in micrometres that suits smooth objects on a grid. Below one and a half pixels, or half a slice,
    the steps of the voxels make necks of their own.
    """
    return max(1.5 * voxel_size.y, 1.5 * voxel_size.x, voxel_size.z / 2)


def split_instances(
    read: Read,
    depth: int,
    voxel_size: VoxelSize,
    scratch: BinaryIO,
    *,
    tolerance: float | None = None,
    min_voxels: int = 1,
    folder: Path | None = None,
) -> Instances:
    """Find objects, and part those that touch at necks.

    Parameters
    ----------
    read
        z -> voxels (y, x) bool that may be of an object; it is asked for all slices several times.
    depth
        Number of slices.
    voxel_size
        Of the voxels.
    scratch
        A file for 4 bytes a voxel of the objects; it stays open as long as the instances are read.
    tolerance
        In micrometres: parts are one object if the neck's radius is less than this below the radius of the narrower
        part; None for `default_tolerance`.
    min_voxels
        Objects with fewer voxels are dropped.
    folder
        As in `distances`.

    Returns
    -------
    Instances
        Each lies within one connected component (6 neighbours).

    Raises
    ------
    OptionError
        If the tolerance is not above 0.
    """
    tolerance = default_tolerance(voxel_size) if tolerance is None else tolerance
    if not 0 < tolerance < np.inf:
        raise OptionError(f"the tolerance is {tolerance:g}; expected micrometres above 0")
    height, width = read(0).shape if depth else (1, 1)
    limit = _LIMIT * max(tolerance, min(voxel_size.y, voxel_size.x))
    limit = min(limit, float(np.hypot(height * voxel_size.y, width * voxel_size.x)))
    whole, hollow = _without_cavities(read, depth)
    basins = _Basins(voxel_size, scratch, tolerance)
    for z, (where, distance) in enumerate(distances(whole, depth, voxel_size, limit, folder)):
        basins.add(read(z), where, distance)
    parts = basins.parts()
    # Through a cavity a part may reach into another component.
    components = find_instances(read, depth) if hollow else None

    def keys(z: int) -> tuple[np.ndarray, np.ndarray]:
        where = np.flatnonzero(read(z))
        found = parts[basins.read(z)]
        if components is not None:
            found = found + components.read(z).ravel()[where].astype(np.int64) * len(parts)
        return where, found

    return _numbered(read, depth, keys, min_voxels)


def _numbered(
    read: Read, depth: int, keys: Callable[[int], tuple[np.ndarray, np.ndarray]], min_voxels: int
) -> Instances:
    """Instances of voxels that have a key each: where they are in slice z, and their keys."""
    found, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for z in range(depth):
        known, first, n = np.unique(keys(z)[1], return_index=True, return_counts=True)
        order = np.argsort(first)
        found.append(known[order])
        counts.append(n[order])
    known, objects = np.unique(np.concatenate(found), return_inverse=True)
    number_of_part, voxels, dropped = numbered(objects, np.concatenate(counts), min_voxels)
    number = np.zeros(len(known), np.int64)
    number[objects] = number_of_part

    def numbers(z: int) -> np.ndarray:
        result = np.zeros(read(z).shape, np.uint32)
        where, found = keys(z)
        result.ravel()[where] = number[np.searchsorted(known, found)]
        return result

    return Instances(voxels, dropped, depth, numbers)


def _without_cavities(read: Read, depth: int) -> tuple[Read, bool]:
    """The objects with their cavities filled, and whether there are any.

    A cavity is what the objects close off from the outer space: it reaches none of the four edges of the stack along z,
    and is not the largest space. Where the stack ends, so do cavities: one that is cut by a side is one.
    """
    spaces = find_instances(lambda z: ~read(z), depth)
    outer = np.zeros(len(spaces) + 1, bool)
    if len(spaces):
        outer[1 + int(spaces.voxels.argmax())] = True
    for z in range(depth):
        outer[spaces.read(z)[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    outer[0] = False
    if outer[1:].all():
        return read, False
    return lambda z: ~outer[spaces.read(z)], True


# Of a slice, (y, x): the basin of each voxel, from 1, 0 where there is none; its distance; the height that a saddle has
# to be above to join it to others.
_Layers = tuple[np.ndarray, np.ndarray, np.ndarray]


class _Basins:
    """The basins of the slices of a volume, and of which part they are."""

    def __init__(self, voxel_size: VoxelSize, scratch: BinaryIO, tolerance: float) -> None:
        self._voxel_size, self._scratch, self._tolerance = voxel_size, scratch, tolerance
        self._merging = Merging(tolerance)
        # Of the last slice: its layers, how many basins it has, and the basins of the voxels of objects.
        self._before: tuple[_Layers, int, np.ndarray] | None = None
        self._starts = [0]  # of each slice in the scratch file, in voxels

    def add(self, mask: np.ndarray, where: np.ndarray, distance: np.ndarray) -> None:
        """Add a slice: the objects without cavities (y, x), and where they are with them, and the distances there."""
        height = np.zeros(mask.shape, np.float32)
        height.ravel()[where] = distance
        basin, peaks = _basins_of(height, where, self._voxel_size)
        number = np.zeros(mask.shape, np.int32)
        number.ravel()[where] = basin + 1
        # A saddle that is lower than both peaks by the tolerance or more joins nothing.
        least = np.full(mask.shape, np.inf, np.float32)
        least.ravel()[where] = peaks[basin] - np.float32(self._tolerance)
        here = number, height, least
        meetings = [_meetings(here, here, 0, 1), _meetings(here, here, 1, 0)]
        if self._before is not None:
            before, n_before, _ = self._before
            across = [
                _meetings(before, here, y, x, n_before)
                for y, x in _sideways(self._voxel_size)
                if abs(y) < mask.shape[0] and abs(x) < mask.shape[1]
            ]
            meetings = [*((pairs + n_before, heights) for pairs, heights in meetings), *across]
        self._keep(self._merging.add(peaks, *_highest(meetings)))
        self._before = here, len(peaks), number[mask] - 1

    def _keep(self, parts: np.ndarray) -> None:
        """Write down the parts of the voxels of the last slice, given those of its basins."""
        if self._before is not None:
            kept = parts.astype(np.uint32)[self._before[2]]
            self._scratch.seek(4 * self._starts[-1])
            self._scratch.write(kept.data)
            self._starts.append(self._starts[-1] + len(kept))

    def parts(self) -> np.ndarray:
        """What `read` counts as one or several numbers, (n,) int64: the part of each, once all slices are added."""
        self._keep(self._merging.add(np.zeros(0), np.zeros((2, 0), np.int64), np.zeros(0)))
        self._before = None
        return self._merging.parts()

    def read(self, z: int) -> np.ndarray:
        """The number of each voxel of objects in a slice, (n,) uint32, along x, then y; see `parts`."""
        self._scratch.seek(4 * self._starts[z])
        return np.frombuffer(self._scratch.read(4 * (self._starts[z + 1] - self._starts[z])), np.uint32)


def _basins_of(height: np.ndarray, where: np.ndarray, voxel_size: VoxelSize) -> tuple[np.ndarray, np.ndarray]:
    """Cut a slice where its height (y, x) falls: each voxel belongs to the peak that the steepest way up leads to.

    Returns
    -------
    basins : numpy.ndarray
        (n,) int64 of the voxels `where`, from 0.
    peaks : numpy.ndarray
        Height of each basin's peak, float32.
    """
    padded = np.pad(height, 1)
    width = padded.shape[1]
    y, x = np.divmod(where, height.shape[1])
    at = (y + 1) * width + x + 1
    flat = padded.ravel()
    own = flat[at]
    steepest, up = np.zeros(len(at), np.float32), at.copy()
    for step, edge in ((-width, voxel_size.y), (-1, voxel_size.x), (1, voxel_size.x), (width, voxel_size.y)):
        slope = (flat[at + step] - own) / np.float32(edge)
        better = slope > steepest
        steepest[better], up[better] = slope[better], at[better] + step
    is_peak = steepest == 0
    levels = np.zeros(flat.shape, np.int64)  # neighbouring peaks of the same height are one
    levels[at[is_peak]] = own[is_peak].view(np.int32)  # equal for equal numbers only, and above 0
    plateaus = skimage.measure.label(levels.reshape(padded.shape), background=0, connectivity=1)  # type: ignore[no-untyped-call]
    peak: np.ndarray = plateaus.ravel()
    place = np.zeros(flat.shape, np.int64)
    place[at] = np.arange(len(at))
    way = place[up]
    while not np.array_equal(further := way[way], way):
        way = further
    peaks = np.zeros(int(peak.max(initial=0)), np.float32)
    peaks[peak[at[is_peak]] - 1] = own[is_peak]
    return peak[at[way]] - 1, peaks


def _sideways(voxel_size: VoxelSize) -> list[tuple[int, int]]:
    """Steps (y, x) in pixels that go with one to the next slice: none, and two fifths of its thickness to each side.

    What runs obliquely through thick slices jumps sideways from one to the next, and would have a neck in each if the
    way led straight up. Where one looks farther aside, true necks are overlooked: with half the thickness, one of four
    in mitochondria of the fly nerve cord.
    """
    y, x = (round(0.4 * voxel_size.z / edge) for edge in (voxel_size.y, voxel_size.x))
    return [(0, 0), *([(y, 0), (-y, 0)] if y else []), *([(0, x), (0, -x)] if x else [])]


def _shifted(before: np.ndarray, here: np.ndarray, y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """Parts of two slices such that (0, 0) of the second lies a step (y, x) from (0, 0) of the first."""
    height, width = here.shape
    first = before[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    second = here[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    return first, second


def _meetings(before: _Layers, here: _Layers, y: int, x: int, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Where voxels a step (y, x) apart are of different basins, and may join them: pairs (2, n) of these, which count
    from 1 in the layers, where there are any, and from 0 in the pairs, those of a slice after the other from `offset`;
    and how high one may stay on the way, (n,).
    """
    (first, second), heights, limits = (_shifted(a, b, y, x) for a, b in zip(before, here, strict=True))
    height = np.minimum(*heights)
    met = (first > 0) & (second > 0) & (height > np.minimum(*limits))
    if before is here:
        met &= first != second
    a, b = first[met].astype(np.int64) - 1, second[met].astype(np.int64) - 1 + offset
    return np.stack([np.minimum(a, b), np.maximum(a, b)]), height[met]


def _highest(meetings: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Saddles: each pair once, with the highest of its meetings."""
    pairs = np.concatenate([pairs for pairs, _ in meetings], axis=1)
    heights = np.concatenate([heights for _, heights in meetings])
    n = pairs.max(initial=0) + 1
    pair = pairs[0] * n + pairs[1]
    order = np.lexsort((heights, pair))
    pair, heights = pair[order], heights[order]
    last = np.append(pair[1:] != pair[:-1], np.ones(len(pair[:1]), bool))
    return np.stack(np.divmod(pair[last], n)), heights[last]
