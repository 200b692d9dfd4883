"""Training windows as published: bins, an elastic map for each epoch, brightness and contrast.

Everything follows from (seed, step); the random streams are not those of the published code.

References
----------
.. [1] Guay et al. 2021, Sci Rep 11:2561, Methods; constants are those of the published code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from densecell_batch.training.volumes import LabelledVolume
from densecell_batch.training.windows import Batch

__all__ = ["PublishedSampler", "bend_volume", "corners", "elastic_map", "expand_knots", "window_at"]

_KNOT_SPACING = 40  # voxels
_KNOT_SIGMA = 0.6  # knots over which the displacement is smoothed
_DISPLACEMENT = 20.0  # voxels, largest before smoothing
_BRIGHTNESS = 0.12  # of the range of the volume
_CONTRAST = 0.2

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, labels, weights


class _Epoch(NamedTuple):
    number: int
    volumes: list[Arrays]  # bent
    windows: list[tuple[int, tuple[int, int, int]]]  # volume and corner of each


class PublishedSampler:
    """Draws epochs of single windows: one from each bin, in the order of the bins.

    Parameters
    ----------
    volumes
        To draw from, with error weights.
    window, output
        Input and output window of the net (z, y, x); input beyond the edge of a volume is mirrored.
    spacing
        Sides of the bins (z, y, x) in which the corners of output windows are drawn.
    seed
        Of all random numbers.
    """

    def __init__(
        self,
        volumes: list[LabelledVolume],
        window: tuple[int, int, int],
        output: tuple[int, int, int],
        *,
        spacing: tuple[int, int, int],
        seed: int = 0,
    ) -> None:
        self._volumes, self._window, self._output, self._spacing, self._seed = volumes, window, output, spacing, seed
        self._ranges = [float(np.ptp(volume.image)) for volume in volumes]
        self._epoch: _Epoch | None = None

    @property
    def epoch(self) -> int:
        """Windows of an epoch."""
        return len(self._epoch_at(0).windows) if self._epoch is None else len(self._epoch.windows)

    def __call__(self, step: int) -> Batch:
        """The window of a step: images (1, z, y, x, 1) float32, labels int32 and weights float32 (1, z, y, x)."""
        number, index = divmod(step, self.epoch)
        epoch = self._epoch_at(number)
        which, corner = epoch.windows[index]
        image, labels, weights = window_at(epoch.volumes[which], corner, self._window, self._output)
        rng = np.random.default_rng((self._seed, number, index))
        brightness = rng.uniform(-1, 1) * _BRIGHTNESS * self._ranges[which]
        image = image * np.float32(1 + _CONTRAST * rng.uniform(-1, 1)) + np.float32(brightness)
        turned = tuple(slice(None, None, -1 if flip else 1) for flip in rng.integers(2, size=3))
        return image[turned][None, ..., None], labels[turned][None].astype(np.int32), weights[turned][None]

    def _epoch_at(self, number: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != number:
            rng = np.random.default_rng((self._seed, number))
            bent, windows = [], []
            for which, volume in enumerate(self._volumes):
                assert volume.weights is not None, "the published loss has error weights"
                rows, columns = elastic_map(volume.labels.shape[1:], rng)
                image, labels, weights = (
                    bend_volume(array, rows, columns) for array in (volume.image, volume.labels, volume.weights)
                )
                bent.append((image, labels, weights))
                zs, ys, xs = (
                    corners(length, side, spacing, rng)
                    for length, side, spacing in zip(volume.labels.shape, self._output, self._spacing, strict=True)
                )
                windows += [(which, (z, y, x)) for z in zs for y in ys for x in xs]
            self._epoch = _Epoch(number, bent, windows)
        return self._epoch


def corners(length: int, side: int, spacing: int, rng: np.random.Generator) -> list[int]:
    """A corner from each bin of an axis, ascending: a window of `side` lies within `length` at each of them."""
    last = length - side
    return [int(rng.integers(start, min(start + spacing, last + 1))) for start in range(0, last + 1, spacing)]


def elastic_map(sides: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Source row and column (y, x) of each pixel of a slice, within the slice: random knots, splines between them."""
    knots = [max(2, -(-side // _KNOT_SPACING)) for side in sides]
    maps = []
    for axis, side in enumerate(sides):
        drawn = _DISPLACEMENT * gaussian_filter(rng.uniform(-1, 1, knots), _KNOT_SIGMA)
        own = np.arange(side).reshape([-1 if i == axis else 1 for i in range(2)])
        maps.append(np.clip(own + expand_knots(drawn, sides), 0, side - 1))
    return maps[0], maps[1]


def expand_knots(knots: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Cubic spline through knots that lie evenly from the first pixel to the last, of a slice with these sides."""
    factors = [side / n for side, n in zip(sides, knots.shape, strict=True)]
    expanded: np.ndarray = zoom(knots, factors, order=3, mode="mirror")
    return expanded


def bend_volume(volume: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A volume (z, y, x) with the nearest voxel to (row, column) at each place of each slice."""
    bent: np.ndarray = volume[:, np.rint(rows).astype(int), np.rint(columns).astype(int)]
    return bent


def window_at(
    volume: Arrays, corner: tuple[int, int, int], window: tuple[int, int, int], output: tuple[int, int, int]
) -> Arrays:
    """Image, labels and weights of the input window whose output window has a corner, mirrored beyond the edges."""
    margins = [(a - b) // 2 for a, b in zip(window, output, strict=True)]
    places = []
    for first, margin, side, length in zip(corner, margins, window, volume[0].shape, strict=True):
        index = np.arange(first - margin, first - margin + side)
        turn = max(2 * (length - 1), 1)
        index = np.abs(index) % turn
        places.append(np.where(index < length, index, turn - index))
    grid = np.ix_(*places)
    return volume[0][grid], volume[1][grid], volume[2][grid]
