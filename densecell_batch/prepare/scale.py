"""From the pixel size of a stack to that of the nets, and back: one axis at a time, band-limited.

A net knows structures at the size they had in its training. Grey values are resampled with a cubic kernel (ref. 1),
probabilities with a triangle, which keeps them between 0 and 1 and their sum at 1. Where samples become fewer the
kernel is as much wider, so that nothing is seen that the coarser grid cannot hold. Each value is a sum of few others in
a fixed order: a part of an axis gives the very numbers that the whole gives.

References
----------
.. [1] Keys 1981, "Cubic convolution interpolation for digital image processing", IEEE Trans ASSP 29:1153, eq. 15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Self

import numpy as np

__all__ = ["Resampler", "cubic", "grid_at", "triangle"]

Kernel = tuple[Callable[[np.ndarray], np.ndarray], float]  # of the distance in samples; and where it ends


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


cubic: Kernel = (_cubic, 2.0)
triangle: Kernel = (_triangle, 1.0)


def grid_at(shape: tuple[int, ...], scale: tuple[float, float, float]) -> tuple[int, int, int]:
    """The grid (z, y, x) of a volume of some shape that has `scale` voxels for each of its own."""
    z, y, x = (max(1, round(side * factor)) for side, factor in zip(shape, scale, strict=True))
    return z, y, x


@dataclass(frozen=True, eq=False)
class Resampler:
    """An axis of `n_in` samples as one of other samples that cover the same length.

    Attributes
    ----------
    n_in
        Samples that there are.
    first
        (n_out,) int: the first sample that each new one is made of; may lie before the axis, with the weight 0.
    weights
        (n_out, taps) float32: of that sample and the next ones; each row sums to 1.
    """

    n_in: int
    first: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, n_in: int, n_out: int, kernel: Kernel = cubic) -> Self:
        """The one from `n_in` to `n_out` samples."""
        function, radius = kernel
        if n_in == n_out:
            return cls(n_in, np.arange(n_in), np.ones((n_in, 1), np.float32))
        ratio = n_in / n_out
        reach = radius * max(1.0, ratio)
        centres = (np.arange(n_out) + 0.5) * ratio - 0.5
        first = np.floor(centres - reach).astype(int) + 1
        samples = first[:, None] + np.arange(ceil(2 * reach))
        weights = function((samples - centres[:, None]) / max(1.0, ratio))
        weights[(samples < 0) | (samples >= n_in)] = 0
        return cls(n_in, first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))

    def __len__(self) -> int:
        return len(self.first)

    @property
    def does_nothing(self) -> bool:
        """Whether the samples stay as they are."""
        return self.weights.shape[1] == 1

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """The samples [first, last) that the new samples [start, stop) are made of."""
        taps = self.weights.shape[1]
        return max(0, int(self.first[start])), min(self.n_in, int(self.first[stop - 1]) + taps)

    def __call__(self, values: np.ndarray, start: int, stop: int, axis: int) -> np.ndarray:
        """The new samples [start, stop).

        Parameters
        ----------
        values
            Those of `reach(start, stop)` along `axis`.
        start, stop
            Which.
        axis
            Along which they lie.

        Returns
        -------
        numpy.ndarray
            float32, `stop - start` along the axis.
        """
        if self.does_nothing:
            return values
        low, high = self.reach(start, stop)
        sides = [1] * values.ndim
        sides[axis] = stop - start
        total: np.ndarray | None = None
        for tap in range(self.weights.shape[1]):
            places = np.clip(self.first[start:stop] + tap, low, high - 1) - low
            part = values.take(places, axis) * self.weights[start:stop, tap].reshape(sides)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total
