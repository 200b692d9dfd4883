"""How far each voxel of an object is from what is none of it, in micrometres, slice by slice.

The squared distance in 3D is the least, over the slices, of the squared distance within a slice plus that along z [1].
Beyond a limit no distance matters to who asks: so a few slices before and behind are enough, whatever the depth.

References
----------
.. [1] Felzenszwalb, Huttenlocher 2012, "Distance transforms of sampled functions", Theory of Computing 8:415.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path

import numpy as np
import scipy  # its parts are loaded when they are first used

from densecell_batch.calibration import VoxelSize
from densecell_batch.measure.instances import Read

__all__ = ["distances"]

_IN_MEMORY = 2**29  # bytes of slices kept; more of them lie in a file
_STEPS = 65535  # of a distance within a slice, as it is kept


def distances(
    read: Read, depth: int, voxel_size: VoxelSize, limit: float, folder: Path | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distances from the objects to the nearest voxel that is of none, slice by slice.

    What lies beyond the stack is not known, and so is at no distance.

    Parameters
    ----------
    read
        z -> (y, x) bool, voxels of objects.
    depth
        Slices.
    voxel_size
        Of the voxels.
    limit
        In micrometres: what is farther is at this distance.
    folder
        Where a file may be made for slices that are too large to be kept in memory; None for the system's.

    Yields
    ------
    where : numpy.ndarray
        (n,) int64, voxels of objects in the slice, counted along x, then y.
    distance : numpy.ndarray
        (n,) float32 of each.
    """
    dz = voxel_size.z
    reach = max(0, ceil(limit / dz) - 1)
    kept: list[np.ndarray] = []
    after = 0  # the first slice that is not kept yet
    for z in range(depth):
        for z_new in range(after, min(depth, z + reach + 1)):
            plane = _within(read(z_new), voxel_size, limit)
            if not kept:
                kept = list(_room((min(2 * reach + 1, depth), *plane.shape), folder))
            kept[z_new % len(kept)][:] = plane
            after = z_new + 1
        here = kept[z % len(kept)].ravel()
        where = np.flatnonzero(here)
        unit = np.float32((limit / _STEPS) ** 2)
        least = here[where].astype(np.float32) ** 2 * unit
        for step in range(1, reach + 1):
            along_z = np.float32((step * dz) ** 2)
            if not len(least) or along_z >= least.max():
                break
            for other in (z - step, z + step):
                if 0 <= other < depth:
                    within = kept[other % len(kept)].ravel()[where].astype(np.float32) ** 2 * unit
                    np.minimum(least, within + along_z, out=least)
        yield where, np.sqrt(least)


def _within(mask: np.ndarray, voxel_size: VoxelSize, limit: float) -> np.ndarray:
    """Distances within a slice (y, x) uint16, in parts of the limit; at least 1 in the objects."""
    if mask.all():
        return np.full(mask.shape, _STEPS, np.uint16)
    found = scipy.ndimage.distance_transform_edt(mask, sampling=voxel_size.edges[1:])
    steps: np.ndarray = np.clip(np.rint(found * (_STEPS / limit)), mask, _STEPS).astype(np.uint16)
    return steps


def _room(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """Room for slices: memory, or where that is much, a file without a name that ends with its last reader."""
    if 2 * prod(shape) <= _IN_MEMORY:
        return np.empty(shape, np.uint16)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.uint16, "w+", shape=shape)
