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

__all__ = ["Statistics", "measure", "normalize"]

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


def measure(stack: Stack, on_slice: Callable[[int], None] | None = None) -> Statistics:
    """Mean, standard deviation and range of a stack in one pass, a block of rows at a time.

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
    exact = np.issubdtype(np.dtype(stack.info.dtype), np.integer)
    total = squares = 0  # whole numbers of any size
    count, mean, spread = 0, 0.0, 0.0  # of float values: spread is the sum of squared deviations
    low, high = float("inf"), float("-inf")
    depth, height, width = stack.info.shape
    step = max(1, _BLOCK // width)
    for z in range(depth):
        for row in range(0, height, step):
            block = stack.read(z, (row, min(row + step, height)))
            if exact:
                wide = block.astype(np.int64)
                total += int(wide.sum())
                squares += int(np.square(wide).sum())
            else:
                _check_finite(block, z, row, stack)
                n, block_mean = block.size, float(block.mean(dtype=np.float64))
                block_spread = float(np.square(np.subtract(block, block_mean, dtype=np.float64)).sum())
                delta = block_mean - mean
                spread += block_spread + delta * delta * count * n / (count + n)
                mean += delta * n / (count + n)
                count += n
            low, high = min(low, float(block.min())), max(high, float(block.max()))
        if on_slice is not None:
            on_slice(z)
    n = stack.info.n_voxels
    if exact:
        mean, spread = total / n, (n * squares - total * total) / n
    if low == high:
        raise StackError(
            f"{stack.info.path}: every voxel is {low:g}; expected an image with contrast: was an empty channel "
            "exported, or a mask instead of the image?"
        )
    return Statistics(mean, sqrt(spread / n), low, high)


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
