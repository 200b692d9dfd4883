"""The cover of a model: a piece of an image, and beside it the same with its classes over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from densecell_batch.plots.overlay import side_by_side

__all__ = ["render_cover"]

_SIDE = 256  # pixels: bioimage.io wants covers twice as wide as high, and of less than 500 kB


def render_cover(
    image: np.ndarray, labels: np.ndarray, classes: Sequence[tuple[str, tuple[int, int, int]]]
) -> np.ndarray:
    """Draw it, twice as wide as high; of an image that is no square, the middle.

    Parameters
    ----------
    image
        Grey values (y, x).
    labels
        Class index (y, x) of the same place; uint8.
    classes
        Name and colour of each class.

    Returns
    -------
    numpy.ndarray
        (height, width, 3) uint8.
    """
    height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = (slice(top, top + side), slice(left, left + side))
    pictures = side_by_side([image[middle]], [labels[middle]], classes)[0]
    parts = [picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS) for picture in pictures]
    return np.concatenate([np.asarray(part) for part in parts], axis=1)
