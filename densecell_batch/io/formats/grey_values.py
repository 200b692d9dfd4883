"""Stored values to the grey values that a viewer shows: files in which 0 is white, and files with a colour table.

Both are found in electron microscopy: scanners and ImageJ's *Invert LUT* write them. What is stored is then a negative,
or in any order, and a net that was trained on what people see would see something else. Values are turned round so
that a viewer's picture comes out up to scale: 255 - v for uint8, 65535 - v for uint16, -1 - v for int16, -v for
float32. Labels are another matter: there the stored numbers count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from densecell_batch.io.formats.chain import PALETTE, WHITE_IS_ZERO, TiffDirectory

__all__ = ["AS_STORED", "GreyValues", "grey_values_of"]


@dataclass(frozen=True, eq=False)
class GreyValues:
    """What is done to the stored values of a page."""

    note: str = ""  # what the user should know of it
    inverted: bool = False
    bits: int = 8
    table: np.ndarray | None = None  # (2**bits,): the grey value of each stored value

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        """Grey values of a plane, of its dtype and shape."""
        if self.table is not None:
            return np.asarray(self.table[plane])
        if not self.inverted:
            return plane
        if np.issubdtype(plane.dtype, np.floating):
            return np.negative(plane)
        if np.issubdtype(plane.dtype, np.signedinteger):
            return np.invert(plane)
        return np.asarray(plane.dtype.type(2**self.bits - 1) - plane)


AS_STORED = GreyValues()
_COLOURED = GreyValues("the file has a colour table that is not grey; the stored values are taken")


def grey_values_of(pages: Iterable[TiffDirectory]) -> list[GreyValues]:
    """What is to be done to each page, as the file says."""
    known: dict[tuple[int, int, bytes], GreyValues] = {}
    found = []
    for page in pages:
        table = page.colour_table
        key = (page.photometric, page.bits, b"" if table is None else table.tobytes())
        if key not in known:
            known[key] = _of_page(page.photometric, page.bits, table)
        found.append(known[key])
    return found


def _of_page(photometric: int, bits: int, table: np.ndarray | None) -> GreyValues:
    if photometric == WHITE_IS_ZERO:
        return GreyValues("the file says that 0 is white; its values are turned round, as viewers do", True, bits)
    if photometric != PALETTE:
        return AS_STORED
    if table is None:
        return GreyValues("the file has no colour table, though it says so; the stored values are taken")
    red, green, blue = table
    if not ((red == green) & (green == blue)).all():
        return _COLOURED
    if red.min() == red.max():  # says nothing: an empty table
        return AS_STORED
    if bits <= 8:
        red = (red >> 8 if red.max() > 255 else red).astype(np.uint8)  # some write values of 8 bits
    top = 255 if bits <= 8 else 65535
    steps = np.arange(len(red), dtype=np.int64)
    if (red == (steps * top + (len(red) - 1) // 2) // (len(red) - 1)).all():  # the ramp from black to white
        return AS_STORED
    return GreyValues(
        "the file has a grey colour table; its values are those that a viewer shows", bits=bits, table=red
    )
