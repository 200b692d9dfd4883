"""What the descriptions of all nets are made of: layers, and checks of the numbers that a manifest gives."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from densecell_batch.errors import OptionError
from densecell_batch.labels import OUTSIDE
from densecell_batch.printable import printable

__all__ = ["Layer", "Shape", "check_fields", "short"]

Shape = tuple[int, ...]

# Far above what anybody trains. A manifest from elsewhere must not make us count layers for ever, nor have a class with
# the label of what is no tissue.
_LARGEST = {
    "n_classes": OUTSIDE,
    "n_kernels": 4096,
    "n_blocks": 8,
    "n_convs": 32,
    "pyramid_kernels": 4096,
    "most_kernels": 4096,
}


def check_fields(config: Any, names: tuple[str, ...], flags: tuple[str, ...] = ()) -> None:
    """Hold fields of a configuration to their domains: numbers from 1 to a largest one, and flags.

    Raises
    ------
    OptionError
        If a field is none of what it may be.
    """
    for name in names:
        value, largest = getattr(config, name), _LARGEST[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise OptionError(f"{config.family}: {name} is {short(value)}; expected a whole number from 1 to {largest}")
    for name in flags:
        if not isinstance(getattr(config, name), bool):
            raise OptionError(f"{config.family}: {name} is {short(getattr(config, name))}; expected true or false")


def short(value: Any) -> str:
    """A value from a manifest, as a message quotes it."""
    return printable(repr(value)[:80])


@dataclass(frozen=True)
class Layer:
    """A convolution with bias, or a transposed one whose stride is its kernel."""

    name: str  # canonical: that of the published checkpoints, below the scope
    kernel: Shape  # (z, y, x), or (y, x) in a 2D net
    c_in: int
    c_out: int
    scale: int  # its output has 1 / 2**scale of the resolution in y and x
    transposed: bool = False

    @property
    def flop_per_voxel(self) -> float:
        """Floating-point operations per full-resolution voxel: two a multiply-add, zeros of the padding counted."""
        taps = 1 if self.transposed else prod(self.kernel)
        return 2 * taps * self.c_in * self.c_out / 4**self.scale
