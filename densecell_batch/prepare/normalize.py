"""Grey values to what the nets expect: mean 0, standard deviation 1 over the whole stack, as in the published code.

The statistics are exact for integers (sums in whole numbers) and merged slice by slice in float64 for float32 (ref.
1), so that one pass over a stack of any size gives what NumPy would give for the whole volume in float64.

References
----------
.. [1] Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", Am Stat 37:242, eq. 1.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np

from densecell_batch.errors import StackError
from densecell_batch.io.stack import Stack

__all__ = ["Statistics", "StatisticsOf", "measure", "normalize", "whole_sums"]

# For ImageJ's *Process > Math > Macro*: what is NaN or infinite becomes 0.
FINITE_MACRO = "if (isNaN(v-v)) v=0"

_BLOCK = 2**24  # voxels that are held in memory as int64 or float64


@dataclass(frozen=True)
class Statistics:
    """Of all grey values of a stack."""

    mean: float
    std: float  # population standard deviation, above 0
    minimum: float
    maximum: float

    def as_dict(self) -> dict[str, float]:
        """The values by name, for the report."""
        return asdict(self)


class StatisticsOf:
    """Adds up the grey values of a stack, slice by slice.

    Parameters
    ----------
    stack
        Whose slices they are; it is named in errors.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._exact = np.issubdtype(np.dtype(stack.info.dtype), np.integer)
        self._total = self._squares = 0  # whole numbers of any size
        self._count, self._mean, self._spread = 0, 0.0, 0.0  # spread is the sum of squared deviations
        self._low, self._high = float("inf"), float("-inf")

    def add(self, z: int, plane: np.ndarray, outside: np.ndarray | None = None) -> None:
        """Take a slice (y, x); voxels that are `outside` (bool) do not count.

        Raises
        ------
        StackError
            If a value that counts is NaN or infinite.
        """
        step = max(1, _BLOCK // plane.shape[1])
        for row in range(0, len(plane), step):
            block = plane[row : row + step]
            inside = None if outside is None else ~outside[row : row + step]
            if not self._exact:
                _check_finite(block if inside is None else np.where(inside, block, 0), z, row, self._stack)
            values = block if inside is None else block[inside]
            if values.size:
                self._add(values)

    def _add(self, values: np.ndarray) -> None:
        n = values.size
        if self._exact:
            total, squares = whole_sums(values)
            self._total += total
            self._squares += squares
        else:
            mean = float(values.mean(dtype=np.float64))
            delta = mean - self._mean
            self._spread += float(np.square(np.subtract(values, mean, dtype=np.float64)).sum())
            self._spread += delta * delta * self._count * n / (self._count + n)
            self._mean += delta * n / (self._count + n)
        self._count += n
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    def found(self) -> Statistics:
        """Of all that was added.

        Raises
        ------
        StackError
            If all values are the same.
        """
        low, high, n = self._low, self._high, self._count
        if not low < high:
            what = "every voxel" if n == self._stack.info.n_voxels else "every voxel that is not outside"
            raise StackError(
                f"{self._stack.info.path}: {what} is {low:g}; expected an image with contrast: was an empty channel "
                "exported, or a mask instead of the image?"
            )
        mean, spread = self._mean, self._spread
        if self._exact:
            mean, spread = self._total / n, (n * self._squares - self._total * self._total) / n
        return Statistics(mean, sqrt(spread / n), low, high)


def measure(stack: Stack, on_slice: Callable[[int], None] | None = None) -> Statistics:
    """Mean, standard deviation and range of a stack in one pass.

    Parameters
    ----------
    stack
        An open stack.
    on_slice
        Called with the index of each slice that was read.

    Returns
    -------
    Statistics

    Raises
    ------
    StackError
        If a value is NaN or infinite, or all values are the same.
    """
    statistics = StatisticsOf(stack)
    for z in range(len(stack)):
        statistics.add(z, stack.read(z))
        if on_slice is not None:
            on_slice(z)
    return statistics.found()


def whole_sums(values: np.ndarray) -> tuple[int, int]:
    """Sum of integers and of their squares, exact."""
    if values.dtype == np.uint8:  # several times as fast
        counts = np.bincount(values.ravel(), minlength=256)
        greys = np.arange(256)
        return int(counts @ greys), int(counts @ np.square(greys))
    wide = values.astype(np.int64)
    return int(wide.sum()), int(np.square(wide).sum())


def normalize(values: np.ndarray, statistics: Statistics) -> np.ndarray:
    """(values - mean) / standard deviation, float32, of the same shape."""
    # In float64: a mean that is large against the contrast must not eat the digits.
    centred = np.subtract(values, statistics.mean, dtype=np.float64)
    return (centred / statistics.std).astype(np.float32)


def _check_finite(block: np.ndarray, z: int, row: int, stack: Stack) -> None:
    finite = np.isfinite(block)
    if finite.all():
        return
    y, x = np.argwhere(~finite)[0]
    raise StackError(
        f"{stack.info.path}: slice {z} has {np.count_nonzero(~finite)} values that are NaN or infinite, the "
        f"first at y={row + y}, x={x}; "
        f"expected finite grey values: replace them (in Fiji: Process > Math > Macro, with the code {FINITE_MACRO})"
    )
