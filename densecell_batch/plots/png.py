"""Pictures as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from densecell_batch.storage.atomic import write_file

__all__ = ["as_png", "write_png"]


def as_png(picture: np.ndarray) -> bytes:
    """A picture (height, width, 3) uint8 as the content of a PNG file."""
    stream = io.BytesIO()
    # Nothing packs the noise of tissue: level 1 makes smaller files than the default, three times as fast.
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture (height, width, 3) uint8 as PNG, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_file(path, as_png(picture))
