"""Objects in a class map: connected components in 3D, slice by slice, in the memory of a few slices.

Components are 6-connected: voxels belong together when they share a face. With slices several times thicker than a
pixel is wide, a shared edge or corner between slices says little, and two touching organelles should rather stay two;
18 and 26 are there for those who want them.

References
----------
.. [1] Rosenfeld, Pfaltz 1966, "Sequential operations in digital picture processing", J ACM 13:471: provisional
   numbers first, then equivalences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label

from densecell_batch.errors import OptionError

__all__ = ["CONNECTIVITIES", "Instances", "find_instances"]

CONNECTIVITIES = (6, 18, 26)

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
    """

    voxels: np.ndarray
    dropped: int
    _read: Callable[[int], np.ndarray]
    _numbers: tuple[np.ndarray, ...]  # of each slice: provisional number -> instance, 0 for background and dropped
    _class_index: int
    _connectivity: int

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def dtype(self) -> str:
        """The smallest of "uint16" and "uint32" that holds all numbers."""
        return "uint16" if len(self) <= 65535 else "uint32"

    def slices(self) -> Iterator[np.ndarray]:
        """The numbers of each slice, (y, x) of `dtype`, 0 outside; reads the labels once more."""
        for z, numbers in enumerate(self._numbers):
            provisional = _components(self._read(z), self._class_index, self._connectivity)
            yield numbers[provisional].astype(self.dtype)


def find_instances(
    read: Callable[[int], np.ndarray], depth: int, class_index: int, *, min_voxels: int = 1, connectivity: int = 6
) -> Instances:
    """Find the connected objects of a class.

    Parameters
    ----------
    read
        z -> class map (y, x) of any integer dtype.
    depth
        Number of slices.
    class_index
        The class.
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
        components = _components(read(z), class_index, connectivity)
        sizes = np.bincount(components.ravel())[1:]
        if before is not None:
            pairs.append(_touching(before, components, connectivity) + np.array([[starts[-1] - 1], [first - 1]]))
        starts.append(first)
        counts.append(sizes)
        first, before = first + len(sizes), components
    voxels = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    objects = _joined(len(voxels), pairs)
    n_objects = int(objects.max(initial=-1)) + 1
    sizes = np.bincount(objects, voxels, minlength=n_objects).astype(np.int64)
    # Objects by their first provisional part: provisional numbers rise with z and, within a slice, in raster order.
    _, order = np.unique(objects, return_index=True)
    kept = [o for o in objects[np.sort(order)] if sizes[o] >= min_voxels]
    number = np.zeros(n_objects, np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    numbers = number[objects] if n_objects else np.zeros(0, np.int64)
    per_slice = tuple(
        np.concatenate([[0], numbers[start : start + len(c)]]).astype(np.uint32)
        for start, c in zip(starts, counts, strict=True)
    )
    return Instances(sizes[kept], n_objects - len(kept), read, per_slice, class_index, connectivity)


def _components(labels: np.ndarray, class_index: int, connectivity: int) -> np.ndarray:
    """Connected objects of a class within a slice, numbered from 1 in raster order."""
    numbered: np.ndarray = label(  # type: ignore[no-untyped-call]
        labels == class_index, connectivity=1 if connectivity == 6 else 2
    )
    return numbered


def _touching(lower: np.ndarray, upper: np.ndarray, connectivity: int) -> np.ndarray:
    """Pairs (2, n) of numbers, one of each slice, that are neighbours; each pair once."""
    height, width = lower.shape
    found = []
    for dy, dx in _LINKS[connectivity]:
        a = lower[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        b = upper[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
        both = (a > 0) & (b > 0)
        found.append(np.unique(np.stack([a[both], b[both]]).astype(np.int64), axis=1))
    return np.unique(np.concatenate(found, axis=1), axis=1)


def _joined(n: int, pairs: list[np.ndarray]) -> np.ndarray:
    """Object of each of n provisional numbers, given the pairs that belong together."""
    a, b = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    if n == 0:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(n, n))
    objects: np.ndarray = connected_components(graph, directed=False)[1]
    return objects.astype(np.int64)
