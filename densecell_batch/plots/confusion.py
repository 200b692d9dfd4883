"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densecell_batch.errors import OptionError

__all__ = ["render_confusion"]

_DRAWN = 64  # classes that a picture has room for


def render_confusion(confusion: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Confusion matrix as a picture (height, width, 3) uint8: each row in shares of the true class, darker for more.

    Where there are many classes, those that do not occur are left out.

    Raises
    ------
    OptionError
        If more classes occur than a picture has room for.
    """
    if len(names) > _DRAWN:
        there = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
        if len(there) > _DRAWN:
            raise OptionError(f"--confusion has room for {_DRAWN} classes, {len(there)} occur; use --json")
        confusion, names = confusion[np.ix_(there, there)], [names[int(i)] for i in there]
    cell, left, top = 74, 190, 60
    n, font = len(names), ImageFont.load_default(13)
    sheet = Image.new("RGB", (left + n * cell + 20, top + n * cell + 20), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 12), "rows: truth, columns: found", fill=(110, 110, 110), font=font)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for i, name in enumerate(names):
        draw.text((12, top + i * cell + cell // 2 - 8), f"{i} {name}"[:24], fill=(30, 30, 30), font=font)
        draw.text((left + i * cell + cell // 2 - 4, top - 20), str(i), fill=(30, 30, 30), font=font)
        for j in range(n):
            share = float(shares[i, j])
            shade = tuple(round(255 - share * (255 - c)) for c in (30, 80, 140))
            x, y = left + j * cell, top + i * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade)
            ink = (255, 255, 255) if share > 0.5 else (30, 30, 30)
            draw.text((x + 18, y + cell // 2 - 8), f"{share:.3f}", fill=ink, font=font)
    return np.asarray(sheet)
