"""Where a slice is tissue: as it shows by itself, and as a mask says."""

from __future__ import annotations

from typing import Self

import numpy as np

from densecell_batch.errors import StackError
from densecell_batch.io.stack import Stack
from densecell_batch.prepare.outside import find_outside

__all__ = ["Mask", "outside_of"]

Triple = tuple[int, int, int]


class Mask:
    """Where a stack is tissue, as somebody says: a stack of the same shape, or one slice for all; 0 is outside.

    Raises
    ------
    StackError
        If it is of another shape.
    """

    @classmethod
    def of_array(cls, mask: np.ndarray, stack: Stack) -> Self:
        """That of an array of any dtype that can be compared with 0."""
        return cls(Stack.of_array((np.asarray(mask) != 0).view(np.uint8)), stack.shape)

    def __init__(self, mask: Stack, shape: Triple) -> None:
        if mask.shape not in (shape, (1, *shape[1:])):
            by = [" x ".join(map(str, sides)) for sides in (mask.shape, shape)]
            raise StackError(
                f"{mask.info.path}: the mask is {by[0]} (z, y, x), the stack is {by[1]}; expected the same shape, or "
                "one slice for all: draw it on this very stack"
            )
        self._mask = mask

    def outside(self, z: int) -> np.ndarray:
        """(y, x) bool."""
        return self._mask.read(z if len(self._mask) > 1 else 0) == 0


def outside_of(plane: np.ndarray, z: int, find: bool, mask: Mask | None) -> np.ndarray | None:
    """Bool (y, x), or None where all is tissue."""
    found = find_outside(plane) if find else None
    if mask is None:
        return found
    masked = mask.outside(z)
    if found is not None:
        masked |= found
    return masked if masked.any() else None
