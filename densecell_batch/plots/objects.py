"""A picture of the objects of a class: as they lie in the stack, seen from above, and how large they are."""

from __future__ import annotations

from math import floor, log10

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densecell_batch.calibration import VoxelSize

__all__ = ["Projection", "render_objects"]

_SIDE = 480  # pixels of the longer side of the projection, at most
_GAP = 14
_CHART = (460, 380)  # width and height of the histogram
_MARGIN = 56  # left of it, for the numbers of the axis
_BAR = 18  # pixels of a bar, at least
_DECADE = (1, 2, 5)
_PAPER, _INK, _FAINT, _BARS, _GRID = (255, 255, 255), (30, 30, 30), (110, 110, 110), (70, 120, 170), (225, 225, 225)

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


class Projection:
    """Object numbers as seen from above: of each pixel the first along z, in the memory of one slice.

    Attributes
    ----------
    numbers : numpy.ndarray or None
        (y, x) of the dtype of the slices, 0 where no slice has an object; None before the first.
    """

    def __init__(self) -> None:
        self.numbers: np.ndarray | None = None

    def add(self, numbers: np.ndarray) -> None:
        """Lay the next slice, (y, x) object numbers, under those before."""
        if self.numbers is None:
            self.numbers = numbers.copy()
        else:
            np.copyto(self.numbers, numbers, where=self.numbers == 0)


def render_objects(
    projection: np.ndarray,
    volumes: np.ndarray,
    colours: np.ndarray,
    voxel_size: VoxelSize | None,
    title: str,
) -> np.ndarray:
    """Draw the picture.

    Parameters
    ----------
    projection
        Object numbers (y, x), 0 where there is none; of large ones every second, third, ... pixel is shown.
    volumes
        (n,) voxels of each object.
    colours
        (n, 3) uint8, the colour of each object by its number; they repeat from 1 where there are more objects.
    voxel_size
        For the scale bar and volumes in µm³; without it the picture says so, and volumes are in voxels.
    title
        Written above.

    Returns
    -------
    numpy.ndarray
        (height, width, 3) uint8.
    """
    picture = _coloured(projection, colours)
    title_font, font = ImageFont.load_default(18), ImageFont.load_default(13)
    top, left = _GAP + 18 + _GAP, _GAP + max(picture.width, 200) + 2 * _GAP
    size = (left + _MARGIN + _CHART[0] + 2 * _GAP, top + max(picture.height + 50, _CHART[1] + 106) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP - 2), _fitting(title, size[0] - 2 * _GAP, title_font), fill=_INK, font=title_font)
    sheet.paste(picture, (_GAP, top))
    draw.rectangle((_GAP - 1, top - 1, _GAP + picture.width, top + picture.height), outline=_FAINT)
    _scale_bar(draw, (_GAP, top + picture.height + 8), voxel_size, picture.width / projection.shape[1], font)
    sizes = volumes.astype(np.float64) * (1 if voxel_size is None else voxel_size.volume)
    # The font that Pillow carries has neither µ nor ³.
    _histogram(draw, (left + _MARGIN, top + 58), sizes, "voxels" if voxel_size is None else "um^3", font)
    return np.asarray(sheet)


def _coloured(projection: np.ndarray, colours: np.ndarray) -> Image.Image:
    """The projection in colours, shrunk or enlarged to at most `_SIDE`; no colour comes in between."""
    height, width = projection.shape
    factor = _SIDE / max(height, width)
    rows, columns = (
        np.minimum(((np.arange(max(1, round(side * factor))) + 0.5) / factor).astype(np.int64), side - 1)
        for side in (height, width)
    )
    numbers = projection[rows[:, None], columns].astype(np.int64)
    return Image.fromarray(colours[np.where(numbers < len(colours), numbers, (numbers - 1) % (len(colours) - 1) + 1)])


def _fitting(text: str, width: int, font: _Font) -> str:
    """As much of a text as there is room for."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _scale_bar(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], voxel_size: VoxelSize | None, scale: float, font: _Font
) -> None:
    """A bar of a round length, at most 120 pixels; `scale` is pixels of the picture for one of the stack."""
    left, y = place
    if voxel_size is None:
        draw.text((left, y), "no voxel size", fill=_FAINT, font=font)
        return
    wanted = voxel_size.x / scale * 120  # micrometres
    power = 10.0 ** floor(log10(wanted))
    length = max(step * power for step in _DECADE if step * power <= wanted)
    draw.rectangle((left, y, left + max(1, round(length / voxel_size.x * scale)), y + 5), fill=_INK)
    draw.text((left, y + 10), f"{length:g} um" if length >= 1 else f"{length * 1000:g} nm", fill=_INK, font=font)


def _histogram(draw: ImageDraw.ImageDraw, place: tuple[int, int], sizes: np.ndarray, unit: str, font: _Font) -> None:
    """How many objects are how large, in logarithmic bins."""
    (left, top), (width, height) = place, _CHART
    n, bottom = len(sizes), place[1] + _CHART[1]
    words = f"{n:,} object{'' if n == 1 else 's'}" + (f", median {_short(float(np.median(sizes)))} {unit}" if n else "")
    draw.text((left, top - 58), words, fill=_INK, font=font)
    if not n:
        return
    edges = _bins(sizes)
    counts = np.histogram(sizes, edges)[0]
    step = _count_step(int(counts.max()))
    highest = step * -(-int(counts.max()) // step)
    for count in range(0, highest + 1, step):
        y = bottom - round(height * count / highest)
        draw.line((left, y, left + width, y), fill=_GRID)
        draw.text((left - 8, y), f"{count:,}", fill=_FAINT, font=font, anchor="rm")
    low, high = np.log10(edges[[0, -1]])

    def across(value: float) -> float:
        return left + float((np.log10(value) - low) / (high - low)) * width

    for count, begin, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            y = min(bottom - round(height * count / highest), bottom - 1)  # a single one can be seen, too
            draw.rectangle((round(across(begin)) + 1, y, round(across(end)) - 1, bottom), fill=_BARS)
    draw.line((left, bottom, left + width, bottom), fill=_INK)
    free = float(left - _MARGIN)  # where the next number may begin
    for value in _round_values(low, high):
        x, text = across(value), _short(value)
        half = font.getlength(text) / 2
        draw.line((x, bottom, x, bottom + 4), fill=_INK)
        if x - half >= free and x + half <= left + width + _GAP:
            draw.text((x, bottom + 7), text, fill=_INK, font=font, anchor="ma")
            free = x + half + 10
    draw.text((left + width / 2, bottom + 26), f"volume of an object ({unit})", fill=_INK, font=font, anchor="ma")
    draw.text((left - 8, top - 20), "objects", fill=_FAINT, font=font, anchor="rm")


def _bins(sizes: np.ndarray) -> np.ndarray:
    """Edges of bins of equal logarithmic width, about the square root of the number of objects but no finer than can
    be drawn; they enclose all sizes.
    """
    low, high = np.log10(sizes.min()), np.log10(sizes.max())
    if high - low < 0.5:  # of one size, or nearly so
        low, high = (low + high) / 2 - 0.25, (low + high) / 2 + 0.25
    n = int(np.clip(round(len(sizes) ** 0.5), 5, _CHART[0] // _BAR))
    edges: np.ndarray = 10 ** np.linspace(low, high, n + 1)
    edges[0], edges[-1] = min(edges[0], sizes.min()), max(edges[-1], sizes.max())  # whatever was rounded
    return edges


def _count_step(highest: int) -> int:
    """A round step that leads to the highest count in at most six."""
    power = 10 ** max(0, len(str(highest)) - 2)
    return next(step * power for step in (1, 2, 5, 10, 20, 50) if step * power * 6 >= highest)


def _round_values(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two powers of ten; only 1, 10, 100, ... where there are many."""
    steps = _DECADE if high - low < 3 else (1,)
    every = [step * 10.0**power for power in range(floor(low), floor(high) + 1) for step in steps]
    return [value for value in every if low <= log10(value) <= high]


def _short(value: float) -> str:
    """Three digits that say how much it is: 0.00123, 1.2e-05, 45,600."""
    digits = float(f"{value:.3g}")
    return f"{digits:,.0f}" if 100 <= digits < 1e7 else f"{digits:g}"
