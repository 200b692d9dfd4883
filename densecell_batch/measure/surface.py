"""The area between things in a label image, counted along straight lines.

A line in some direction crosses a surface the more often, the more of the surface faces it. The mean over all
directions gives the area (Cauchy, Crofton) [1]; on a grid there are the 13 directions to the neighbours of a voxel,
each standing for the part of the sphere that is nearest to it [2]. The area of a ball of ten pixels' radius is right
within 2 %; that of a mesh around its voxels is 8 % too large, and 20 % where slices are five pixels thick.

References
----------
.. [1] Ohser, Mücklich 2000, "Statistical analysis of microstructures in materials science", Wiley, chapter 3.
.. [2] Legland, Kiêu, Devaux 2007, "Computation of Minkowski measures on 2D and 3D binary images", Image Anal Stereol
   26:83.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import scipy  # its parts are loaded when they are first used

from densecell_batch.calibration import VoxelSize

__all__ = ["crossings", "direction_areas"]

Step = tuple[int, int, int]

# One of each two opposite steps (dz, dy, dx) to a neighbour; those within the slice first.
_STEPS: tuple[Step, ...] = (
    (0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1),
    *((1, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)),
)  # fmt: skip


@cache
def direction_areas(voxel_size: VoxelSize) -> dict[Step, float]:
    """The area that one crossing stands for, by the step (dz, dy, dx) that crosses, in square micrometres.

    Crossings are counted once for each pair of neighbours that differ, whichever of them is inside.
    """
    edges = np.array(voxel_size.edges)
    vectors = np.array(_STEPS) * edges
    lengths = np.linalg.norm(vectors, axis=1)
    units = vectors / lengths[:, None]
    shares = scipy.spatial.SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()[: len(units)] / (
        2 * np.pi
    )
    return {
        step: float(2 * share * edges.prod() / length)
        for step, share, length in zip(_STEPS, shares, lengths, strict=True)
    }


def crossings(above: np.ndarray | None, here: np.ndarray) -> Iterator[tuple[Step, np.ndarray, np.ndarray, int]]:
    """Pairs of neighbours with different values, of a slice and of it and the one before.

    Parameters
    ----------
    above, here
        Slices (y, x) of a label image; `above` is the one before, None for the first.

    Yields
    ------
    step : tuple of int
        (dz, dy, dx), from the first voxel of each pair to the second.
    first, second : numpy.ndarray
        (n,) int64, where they are in their slices, counted along x, then y.
    dz : int
        0 if both are in `here`; 1 if the first is in `above`.
    """
    height, width = here.shape
    for step in _STEPS:
        dz, dy, dx = step
        if dz and above is None:
            continue
        other = here if not dz or above is None else above
        rows, columns = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
        to_rows, to_columns = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
        differ = np.flatnonzero(other[rows, columns] != here[to_rows, to_columns])
        y, x = np.divmod(differ, width - abs(dx))
        first = (y + rows.start) * width + x + columns.start
        yield step, first, first + dy * width + dx, dz
