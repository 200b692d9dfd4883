"""Volumes of things that touch, and how well they were told apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import binary_dilation

from densecell_batch.calibration import VoxelSize


@dataclass
class Scene:
    """A volume that pairs of touching solids are put into; pairs keep apart."""

    shape: tuple[int, int, int]
    voxel_size: VoxelSize
    objects: np.ndarray = field(init=False)

    def __post_init__(self):
        self.objects = np.zeros(self.shape, np.int32)
        self._taken = np.zeros(self.shape, bool)

    def around(self, centre, reach):
        """The part of the volume within reach of a place, and the centres (z, y, x, 3) of its voxels in micrometres."""
        edges = np.array(self.voxel_size.edges)
        first = np.maximum(0, np.floor((centre - reach) / edges).astype(int))
        last = np.minimum(self.shape, np.ceil((centre + reach) / edges).astype(int))
        axes = [(np.arange(a, b) + 0.5) * edge for a, b, edge in zip(first, last, edges, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        return box, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

    @property
    def extent(self):
        return np.array(self.shape) * self.voxel_size.edges

    def add(self, box, first, second, hollow=0.0):
        """Add two solids, given as functions of a part of the volume that are below 1 inside; whether there was
        room.
        """
        inside = (first < 1) | (second < 1)
        if self._taken[box][inside].any():
            return False
        pair = np.where((first < 1) & (first <= second), 1, np.where(second < 1, 2, 0))
        pair[np.minimum(first, second) < hollow] = 0
        if min((pair == 1).sum(), (pair == 2).sum()) < 30:
            return False
        self._taken[box] |= binary_dilation(inside, iterations=2)
        self.objects[box][pair > 0] = pair[pair > 0] + self.objects.max()
        return True


def _direction(rng):
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def touching_ellipsoids(shape, voxel_size, size, n, seed, *, gap=0.93, hollow=0.0):
    """Pairs of ellipsoids of about this radius, in any direction, that overlap a little."""
    rng, scene = np.random.default_rng(seed), Scene(shape, voxel_size)
    for _ in range(30 * n):
        if scene.objects.max() >= n:
            break
        radii = size * rng.uniform(0.6, 1.2, (2, 3))
        axes = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2)]
        centre, towards = rng.uniform(0.2, 0.8, 3) * scene.extent, _direction(rng)
        reach = [1 / np.linalg.norm((towards @ a) / r) for a, r in zip(axes, radii, strict=True)]
        centres = centre, centre + towards * sum(reach) * gap
        box, places = scene.around(centre, 4 * size)
        scene.add(
            box,
            *(((((places - c) @ a) / r) ** 2).sum(axis=-1) for c, a, r in zip(centres, axes, radii, strict=True)),
            hollow=hollow,
        )
    return scene.objects


def touching_tubes(shape, voxel_size, radius, n, seed):
    """Pairs of straight tubes, ten radii long, that cross and touch."""
    rng, scene = np.random.default_rng(seed), Scene(shape, voxel_size)
    for _ in range(30 * n):
        if scene.objects.max() >= n:
            break
        centre, along = rng.uniform(0.2, 0.8, 3) * scene.extent, _direction(rng)
        across = np.cross(along, _direction(rng))
        across /= np.linalg.norm(across)

        box, places = scene.around(centre, 8 * radius)

        def tube(centre, axis, places=places):
            to = places - centre
            way = np.clip(to @ axis, -5 * radius, 5 * radius)
            return np.linalg.norm(to - way[..., None] * axis, axis=-1) / radius

        scene.add(box, tube(centre, along), tube(centre + 1.85 * radius * np.cross(along, across), across))
    return scene.objects


def panoptic_quality(true, found):
    """Sum of the IoU of objects that match (IoU above 0.5) over the mean number of objects [Kirillov 2019]."""
    n = int(found.max()) + 1
    both, counts = np.unique(true.astype(np.int64) * n + found, return_counts=True)
    t, f = np.divmod(both, n)
    sizes_true, sizes_found = np.bincount(true.ravel()), np.bincount(found.ravel())
    iou = counts / (sizes_true[t] + sizes_found[f] - counts)
    matched = iou[(t > 0) & (f > 0) & (iou > 0.5)].sum()
    return matched / ((np.count_nonzero(sizes_true[1:]) + np.count_nonzero(sizes_found[1:])) / 2)
