"""Grey values to what the nets expect: mean 0, standard deviation 1 over the whole stack, as in the published code.

The statistics are exact for integers (sums in whole numbers) and merged slice by slice in float64 for float32 (ref.
1), so that one pass over a stack of any size gives what NumPy would give for the whole volume in float64.

References
----------
.. [1] Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", Am Stat 37:242, eq. 1.5.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Self

import numpy as np

from densecell_batch.errors import StackError
from densecell_batch.io.stack import Stack

__all__ = ["Moments", "Statistics", "StatisticsOf", "normalize"]

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


@dataclass(frozen=True)
class Moments:
    """Number, mean and spread of grey values, to be added up."""

    count: int = 0
    mean: float = 0.0
    spread: float = 0.0  # sum of squared deviations from the mean
    sums: tuple[int, int] | None = None  # of values and of squares, for integers: whole numbers of any size

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Those of an array of any shape."""
        n = values.size
        if n == 0:
            return cls()
        if np.issubdtype(values.dtype, np.integer):
            return cls._of_sums(n, *_whole_sums(values))
        mean = float(values.mean(dtype=np.float64))
        return cls(n, mean, float(np.square(np.subtract(values, mean, dtype=np.float64)).sum()))

    @classmethod
    def _of_sums(cls, n: int, total: int, squares: int) -> Self:
        return cls(n, total / n, (n * squares - total * total) / n, (total, squares))

    def __add__(self, other: Moments) -> Moments:
        if not (self.count and other.count):
            return self if self.count else other
        n = self.count + other.count
        if self.sums is not None and other.sums is not None:
            return Moments._of_sums(n, self.sums[0] + other.sums[0], self.sums[1] + other.sums[1])
        delta = other.mean - self.mean
        spread = self.spread + other.spread + delta * delta * self.count * other.count / n
        return Moments(n, self.mean + delta * other.count / n, spread)

    def __neg__(self) -> Moments:
        """Those of the negatives of the values."""
        return replace(self, mean=-self.mean, sums=self.sums and (-self.sums[0], self.sums[1]))

    @property
    def std(self) -> float:
        """Population standard deviation; 0 of no values."""
        return sqrt(self.spread / self.count) if self.count else 0.0


class StatisticsOf:
    """Adds up the grey values of a stack, slice by slice.

    Parameters
    ----------
    stack
        Whose slices they are; it is named in errors.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack, self._all = stack, Moments()
        self._low, self._high = float("inf"), float("-inf")

    def add(self, z: int, plane: np.ndarray, outside: np.ndarray | None = None) -> Moments:
        """Take a slice (y, x), and say what it has; voxels that are `outside` (bool) do not count.

        Raises
        ------
        StackError
            If a value that counts is NaN or infinite.
        """
        here, step = Moments(), max(1, _BLOCK // plane.shape[1])
        for row in range(0, len(plane), step):
            block = plane[row : row + step]
            inside = None if outside is None else ~outside[row : row + step]
            if not np.issubdtype(plane.dtype, np.integer):
                _check_finite(block if inside is None else np.where(inside, block, 0), z, row, self._stack)
            values = block if inside is None else block[inside]
            if values.size:
                found = Moments.of(values)
                here, self._all = here + found, self._all + found
                self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        return here

    def found(self) -> Statistics:
        """Of all that was added.

        Raises
        ------
        StackError
            If all values are the same.
        """
        low, high = self._low, self._high
        if not low < high:
            what = "every voxel" if self._all.count == self._stack.info.n_voxels else "every voxel that is not outside"
            raise StackError(
                f"{self._stack.info.path}: {what} is {low:g}; expected an image with contrast: was an empty channel "
                "exported, or a mask instead of the image?"
            )
        return Statistics(self._all.mean, self._all.std, low, high)


def _whole_sums(values: np.ndarray) -> tuple[int, int]:
    """Sum of integers and of their squares, exact."""
    if values.dtype == np.uint8:  # several times as fast
        counts = np.bincount(values.ravel(), minlength=256)
        greys = np.arange(256)
        return int(counts @ greys), int(counts @ np.square(greys))
    wide = values.astype(np.int64)
    return int(wide.sum()), int(np.square(wide).sum())


def normalize(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """(values - mean) / standard deviation, float32, of the same shape."""
    # In float64: a mean that is large against the contrast must not eat the digits.
    return (np.subtract(values, mean, dtype=np.float64) / std).astype(np.float32)


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
