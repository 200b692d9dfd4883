"""Small pictures of a preview, for pages of many stacks."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path

from PIL import Image

from densecell_batch.plots.overlay import labelled_slices
from densecell_batch.storage.opening import read_small

__all__ = ["thumbnail"]

_log = logging.getLogger(__name__)

_SIDE = 176  # pixels of the longer side
_QUALITY = 72
# What Pillow raises for what is no PNG, and what comes of a shape that nothing has.
_BAD = (
    OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
_BYTES, _PIXELS = 64 * 2**20, 2**24  # of a preview, at most: the file may be anybody's


def thumbnail(path: Path, shape: tuple[int, int], number: int) -> bytes:
    """The labels over the middle slice of a preview, small.

    Parameters
    ----------
    path
        What `render_preview` drew.
    shape
        (y, x) of the slices that it shows.
    number
        Of these slices.

    Returns
    -------
    bytes
        A JPEG; empty if there is no such picture.
    """
    try:
        stream = io.BytesIO(read_small(path, _BYTES))
        with Image.open(stream, formats=["PNG"]) as sheet:
            if sheet.width * sheet.height > _PIXELS:
                raise ValueError("the picture is too large")
            boxes = labelled_slices(sheet.size, shape, number)
            part = sheet.crop(boxes[len(boxes) // 2]).convert("RGB")
    except _BAD as error:
        _log.debug("%s: no thumbnail: %s", path, error)
        return b""
    part.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    content = io.BytesIO()
    part.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
