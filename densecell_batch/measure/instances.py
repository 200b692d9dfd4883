"""Objects in a class map: connected components in 3D, slice by slice, in the memory of a few slices.

Components are 6-connected: voxels belong together when they share a face. With slices several times thicker than a
pixel is wide, a shared edge or corner between slices says little, and two touching organelles should rather stay two;
18 and 26 are there for those who want them. `split` cuts what still hangs together.

References
----------
.. [1] Rosenfeld, Pfaltz 1966, "Sequential operations in digital picture processing", J ACM 13:471: provisional
   numbers first, then equivalences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy  # its parts, and those of skimage, are loaded when they are first used
import skimage

from densecell_batch.errors import OptionError

__all__ = ["CONNECTIVITIES", "Instances", "Read", "find_instances", "joined", "numbered", "of_class"]

CONNECTIVITIES = (6, 18, 26)

Read = Callable[[int], np.ndarray]  # slice z of a volume, (y, x)

# Steps (dy, dx) to the neighbours of a voxel in the next slice.
_FACE = ((0, 0),)
_EDGES = ((0, 1), (0, -1), (1, 0), (-1, 0))
_CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
_LINKS = {6: _FACE, 18: _FACE + _EDGES, 26: _FACE + _EDGES + _CORNERS}


@dataclass(frozen=True)
class Instances:
    """The objects of one class.

    Attributes
    ----------
    voxels : numpy.ndarray
        (n,) int64, voxels of instance 1, 2, ...; instances are numbered in the order of their first voxel.
    dropped : int
        Objects that were smaller than the limit.
    depth : int
        Slices.
    """

    voxels: np.ndarray
    dropped: int
    depth: int
    _read: Read  # number of each voxel, 0 outside

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def dtype(self) -> str:
        """The smallest of "uint16" and "uint32" that holds all numbers."""
        return "uint16" if len(self) <= 65535 else "uint32"

    def read(self, z: int) -> np.ndarray:
        """The numbers of a slice, (y, x) of `dtype`, 0 outside; reads the labels once more."""
        return self._read(z).astype(self.dtype)

    def slices(self) -> Iterator[np.ndarray]:
        """The numbers of each slice."""
        return map(self.read, range(self.depth))


def of_class(read: Read, class_index: int) -> Read:
    """The voxels (y, x) bool of a class in the slices of a class map."""
    return lambda z: read(z) == class_index


def find_instances(read: Read, depth: int, *, min_voxels: int = 1, connectivity: int = 6) -> Instances:
    """Find connected objects.

    Parameters
    ----------
    read
        z -> voxels (y, x) bool that may be of an object, such as `of_class`.
    depth
        Number of slices.
    min_voxels
        Objects with fewer voxels are dropped.
    connectivity
        6 (faces), 18 (faces and edges) or 26 (corners, too).

    Returns
    -------
    Instances

    Raises
    ------
    OptionError
        If the connectivity is none of these.
    """
    if connectivity not in CONNECTIVITIES:
        raise OptionError(f"connectivity is {connectivity}; expected one of {', '.join(map(str, CONNECTIVITIES))}")
    counts: list[np.ndarray] = []  # voxels of each provisional object, slice after slice
    pairs: list[np.ndarray] = []  # (2, n) provisional objects that touch
    first, before = 0, None
    starts = []
    for z in range(depth):
        components = _components(read(z), connectivity)
        sizes = np.bincount(components.ravel())[1:]
        if before is not None:
            pairs.append(_touching(before, components, connectivity) + np.array([[starts[-1] - 1], [first - 1]]))
        starts.append(first)
        counts.append(sizes)
        first, before = first + len(sizes), components
    voxels = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    number, sizes, dropped = numbered(joined(len(voxels), pairs), voxels, min_voxels)
    per_slice = tuple(
        np.concatenate([[0], number[start : start + len(c)]]).astype(np.uint32)
        for start, c in zip(starts, counts, strict=True)
    )
    return Instances(sizes, dropped, depth, lambda z: per_slice[z][_components(read(z), connectivity)])


def numbered(objects: np.ndarray, voxels: np.ndarray, min_voxels: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Number objects in the order of their first part.

    Parameters
    ----------
    objects
        (n,) int64 from 0, without gaps: the object of each part. Parts are in the order of their first voxel.
    voxels
        (n,) of each part.
    min_voxels
        Objects of fewer are dropped.

    Returns
    -------
    numbers : numpy.ndarray
        (n,) int64 of each part, from 1; 0 of dropped ones.
    voxels : numpy.ndarray
        Of object 1, 2, ..., int64.
    dropped : int
    """
    sizes = np.bincount(objects, voxels).astype(np.int64)
    _, first = np.unique(objects, return_index=True)
    in_order = objects[np.sort(first)]
    kept = in_order[sizes[in_order] >= min_voxels]
    number = np.zeros(len(sizes), np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[objects], sizes[kept], len(sizes) - len(kept)


def _components(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Connected objects within a slice, numbered from 1 in raster order."""
    found: np.ndarray = skimage.measure.label(mask, connectivity=1 if connectivity == 6 else 2)  # type: ignore[no-untyped-call]
    return found


def _touching(lower: np.ndarray, upper: np.ndarray, connectivity: int) -> np.ndarray:
    """Pairs (2, n) of numbers, one of each slice, that are neighbours; each pair once."""
    height, width = lower.shape
    n = int(upper.max(initial=0)) + 1
    found = [np.zeros(0, np.int64)]
    for dy, dx in _LINKS[connectivity]:
        a = lower[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        b = upper[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
        both = (a > 0) & (b > 0)
        found.append(np.unique(a[both].astype(np.int64) * n + b[both]))
    return np.stack(np.divmod(np.unique(np.concatenate(found)), n))


def joined(n: int, pairs: list[np.ndarray]) -> np.ndarray:
    """The object, (n,) int64 from 0, of each of n provisional numbers, given the pairs (2, k) that belong together."""
    a, b = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    if n == 0:
        return np.zeros(0, np.int64)
    graph = scipy.sparse.coo_array((np.ones(len(a), np.int8), (a, b)), shape=(n, n))
    objects: np.ndarray = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    return objects.astype(np.int64)
