"""Learning curves as a picture: loss and mean IoU against the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densecell_batch.published import jet_colours

__all__ = ["render_curves"]

_WIDTH, _HEIGHT, _MARGIN = 460, 300, 50
_INK, _FAINT = (30, 30, 30), (200, 200, 200)


def render_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> np.ndarray:
    """Draw the loss (left) and the mean IoU (right) of each member.

    Parameters
    ----------
    histories
        Name of a member -> its rows, each with "step", "loss" and "mean_iou".

    Returns
    -------
    numpy.ndarray
        (height, width, 3) uint8.
    """
    sheet = Image.new("RGB", (2 * (_WIDTH + 2 * _MARGIN), _HEIGHT + 2 * _MARGIN), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    colours = jet_colours(len(histories) + 2)[1:-1]
    rows = [row for history in histories.values() for row in history]
    last = max((row["step"] for row in rows), default=1)
    for i, (key, title) in enumerate((("loss", "loss"), ("mean_iou", "mean IoU"))):
        left, top = i * (_WIDTH + 2 * _MARGIN) + _MARGIN, _MARGIN
        highest = 1.0 if key == "mean_iou" else max((row[key] for row in rows), default=1.0)
        draw.text((left, top - 24), title, fill=_INK, font=font)
        for share in np.linspace(0, 1, 6):
            y = top + _HEIGHT * (1 - share)
            draw.line((left, y, left + _WIDTH, y), fill=_FAINT)
            draw.text((left - 40, y - 8), f"{share * highest:.2g}", fill=_INK, font=font)
        draw.text((left + _WIDTH - 70, top + _HEIGHT + 8), f"{last:g} steps", fill=_INK, font=font)
        for (name, history), colour in zip(histories.items(), colours, strict=True):
            points = [(left + _WIDTH * row["step"] / last, top + _HEIGHT * (1 - row[key] / highest)) for row in history]
            if len(points) > 1:
                draw.line(points, fill=colour, width=2)
            if i and points:
                draw.text((points[-1][0] + 4, points[-1][1] - 8), name.split()[-1], fill=colour, font=font)
    return np.asarray(sheet)
