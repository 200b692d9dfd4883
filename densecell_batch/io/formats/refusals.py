"""What kinds of values are refused, in which words, and what helps in Fiji, plain ImageJ or Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.errors import StackError
from densecell_batch.io.formats.chain import TiffDirectory
from densecell_batch.io.stack import DTYPES

__all__ = ["check_samples", "check_values"]

_COLOURS = {
    2: "RGB",
    5: "CMYK",
    6: "YCbCr colour",
    8: "CIELAB colour",
    32803: "raw colour",
}  # by PhotometricInterpretation

# ImageJ opens these, as something that it then saves in a kind that is read here (tried in 1.53t).
_BY_IMAGEJ = {"int32": "32-bit", "uint32": "32-bit", "int8": "8-bit", "bool": "8-bit (0 and 255)"}
_IN_PYTHON = (
    "in Python: tifffile.imwrite('new.tif', tifffile.imread('{name}').astype('{dtype}'), photometric='minisblack')"
)


def check_samples(page: TiffDirectory, path: Path) -> None:
    """Refuse what has other than one value a pixel.

    Raises
    ------
    StackError
        If it has.
    """
    colour = _COLOURS.get(page.photometric)
    if colour is None and page.samples == 2:
        raise StackError(
            f"{path}: it has 2 values a pixel, grey and alpha; expected grey values alone: save it without the alpha "
            "channel (in Python: tifffile.imread(...)[..., 0])"
        )
    if colour is None and page.samples > 1:
        raise StackError(
            f"{path}: it has {page.samples} values a pixel; expected one grey value: save one of the channels alone"
        )
    if colour is not None:
        article = "an" if colour == "RGB" else "a"
        raise StackError(f"{path}: it is {article} {colour} image; expected grey values: in Fiji, Image > Type > 8-bit")


def check_values(dtype: np.dtype[Any] | None, page: TiffDirectory, path: Path, *, stored: bool) -> np.dtype[Any]:
    """Refuse values of a kind that is not read.

    Parameters
    ----------
    dtype
        As tifffile decodes them; None where it cannot.
    page
        The first page of the file.
    path
        The file.
    stored
        Whether they are labels or the like, whose numbers must stay.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    StackError
        If they are not of a dtype in `DTYPES`.
    """
    name = "unknown" if dtype is None else dtype.newbyteorder("=").name
    if dtype is not None and name in DTYPES:
        return dtype
    called = {
        "unknown": f"of {page.bits} bits, a kind that is not known",
        "bool": "bool (1 bit: a mask, or black and white)",
    }.get(name, name)
    if page.bits not in (1, 8, 16, 32, 64, 128) and dtype is not None:
        called = f"{name} ({page.bits} bits)"
    expected = f"{path}: its values are {called}; expected {', '.join(DTYPES)}: "
    if stored:
        in_python = _IN_PYTHON.format(name=path.name, dtype="uint16")
        raise StackError(f"{expected}save the numbers as they are in 8 or 16 bits ({in_python})")
    if name in _BY_IMAGEJ:
        raise StackError(f"{expected}open it in Fiji and save it as TIFF: that makes it {_BY_IMAGEJ[name]}")
    target = "uint8" if name == "bool" else "float32"
    raise StackError(f"{expected}convert it ({_IN_PYTHON.format(name=path.name, dtype=target)})")
