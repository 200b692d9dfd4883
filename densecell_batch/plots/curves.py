"""Learning curves as a picture: loss and mean IoU against the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["render_curves"]

_WIDTH, _HEIGHT, _MARGIN = 460, 300, 50
_LISTED = 17  # the best members, as many as have room beside the curves
_INK, _FAINT = (30, 30, 30), (220, 220, 220)
# Of Okabe and Ito (2008), told apart also by those who see colours otherwise; without their yellow, faint on white.
_COLOURS = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (30, 30, 30)]


def render_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> np.ndarray:
    """Draw the loss (left) and the mean IoU (right) of each member; beside them the best mean IoU of the best members.

    Parameters
    ----------
    histories
        Name of a member -> its rows, each with "step" and "mean_iou", all but one of step 0 with "loss".

    Returns
    -------
    numpy.ndarray
        (height, width, 3) uint8.
    """
    sheet = Image.new("RGB", (2 * (_WIDTH + 2 * _MARGIN) + 2 * _MARGIN, _HEIGHT + 2 * _MARGIN), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(histories))]
    rows = [row for history in histories.values() for row in history]
    last = max((row["step"] for row in rows), default=1)
    for i, (key, title) in enumerate((("loss", "loss"), ("mean_iou", "mean IoU"))):
        left, top = i * (_WIDTH + 2 * _MARGIN) + _MARGIN, _MARGIN
        highest = 1.0 if key == "mean_iou" else _round_up(max((row[key] for row in rows if key in row), default=1.0))
        draw.text((left, top - 24), title, fill=_INK, font=font)
        for share in np.linspace(0, 1, 6):
            y = top + _HEIGHT * (1 - share)
            draw.line((left, y, left + _WIDTH, y), fill=_FAINT)
            draw.text((left - 40, y - 8), f"{share * highest:.2g}", fill=_INK, font=font)
        draw.text((left + _WIDTH - 70, top + _HEIGHT + 8), f"{last:g} steps", fill=_INK, font=font)
        for history, colour in zip(histories.values(), colours, strict=True):
            there = [row for row in history if key in row]
            points = [(left + _WIDTH * row["step"] / last, top + _HEIGHT * (1 - row[key] / highest)) for row in there]
            if len(points) > 1:
                draw.line(points, fill=colour, width=2)
    bests = [max((row["mean_iou"] for row in history), default=0.0) for history in histories.values()]
    listed = sorted(zip(bests, histories, colours, strict=True), reverse=True)[:_LISTED]
    for n, (best, name, colour) in enumerate(listed):
        place = (2 * (_WIDTH + 2 * _MARGIN) - _MARGIN + 12, _MARGIN + 18 * n)
        draw.text(place, f"{name}: {best:.3f}", fill=colour, font=font)
    return np.asarray(sheet)


def _round_up(value: float) -> float:
    """The next number from `value` on with which an axis of five parts has short ones."""
    if not value > 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(step for step in (1, 1.5, 2, 2.5, 5, 10) if value <= step * power * (1 + 1e-9))
