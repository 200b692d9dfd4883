"""A picture of the result: a few slices, the labels over them, a legend with the class names and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densecell_batch.calibration import VoxelSize
from densecell_batch.labels import OUTSIDE

__all__ = ["labelled_slices", "render_preview", "side_by_side"]

_SIDE = 400  # pixels of the longer side of a picture, at most
_GAP = 12
_TOP = _GAP + 18 + _GAP  # above the first slice: the title
_BELOW = 2 * _GAP + 6  # from a slice to the next one
_LEGEND = 210
_OPACITY = 0.45
_SHADE = 0.75  # how opaque the black is over what lies outside
_BLACK = (0, 0, 0)
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)


def render_preview(
    images: Sequence[tuple[int, np.ndarray]],
    labels: Sequence[np.ndarray],
    classes: Sequence[tuple[str, tuple[int, int, int]]],
    voxel_size: VoxelSize | None,
    title: str,
) -> np.ndarray:
    """Draw the picture.

    Parameters
    ----------
    images
        Slice number and grey values (y, x), at least one.
    labels
        Class index (y, x), or `OUTSIDE`, of the same slices; uint8.
    classes
        Name and colour of each class.
    voxel_size
        For the scale bar; without it the picture says so.
    title
        Written above.

    Returns
    -------
    numpy.ndarray
        (height, width, 3) uint8.
    """
    # No more of a large slice than the picture can show: in colour it would take twelve times its memory.
    step = _step(images[0][1].shape)
    images = [(z, image[::step, ::step]) for z, image in images]
    labels = [here[::step, ::step] for here in labels]
    rows = side_by_side([image for _, image in images], labels, classes)
    if any((here == OUTSIDE).any() for here in labels):
        classes = [*classes, ("outside", _BLACK)]
    width, height = rows[0][0].size
    title_font, font = ImageFont.load_default(18), ImageFont.load_default(13)
    top = _TOP
    size = (
        2 * width + 3 * _GAP + _LEGEND,
        max(top + len(rows) * (height + _BELOW), top + 60 + 22 * len(classes)),
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP - 2), title, fill=_INK, font=title_font)
    for i, ((z, _), row) in enumerate(zip(images, rows, strict=True)):
        y = top + i * (height + _BELOW)
        for k, picture in enumerate(row):
            sheet.paste(picture, (_GAP + k * (width + _GAP), y))
        draw.text((_GAP, y + height + 2), f"slice {z + 1}", fill=_FAINT, font=font)
    left = 2 * width + 3 * _GAP
    scale = width / images[0][1].shape[1] / step
    y = _scale_bar(draw, (left, top), voxel_size, scale, font)
    for name, colour in classes:
        draw.rectangle((left, y, left + 14, y + 14), fill=colour, outline=_FAINT)
        draw.text((left + 22, y - 1), name if len(name) < 26 else name[:24] + "...", fill=_INK, font=font)
        y += 22
    return np.asarray(sheet)


def labelled_slices(size: tuple[int, int], shape: tuple[int, int], number: int) -> list[tuple[int, int, int, int]]:
    """Where in a preview the slices are that have the labels over them.

    Parameters
    ----------
    size
        Width and height of the preview.
    shape
        (y, x) of the slices.
    number
        Of the slices.

    Returns
    -------
    list of tuple
        (left, top, right, bottom) of each.

    Raises
    ------
    ValueError
        If no preview of such slices has this size.
    """
    step = _step(shape)
    width, height = _size((-(-shape[0] // step), -(-shape[1] // step)))
    tops = [_TOP + i * (height + _BELOW) for i in range(number)]
    if size[0] != 2 * width + 3 * _GAP + _LEGEND or size[1] < tops[-1] + height:
        raise ValueError(f"it is {size[0]} x {size[1]} pixels, which is no preview of {shape[1]} x {shape[0]} voxels")
    left = 2 * _GAP + width
    return [(left, top, left + width, top + height) for top in tops]


def _step(shape: tuple[int, ...]) -> int:
    """Every how many voxels of a slice (y, x) are shown."""
    return max(1, max(shape) // (2 * _SIDE))


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a picture of a slice (y, x)."""
    factor = _SIDE / max(shape)
    height, width = (max(1, round(side * factor)) for side in shape)
    return width, height


def side_by_side(
    images: Sequence[np.ndarray], labels: Sequence[np.ndarray], classes: Sequence[tuple[str, tuple[int, int, int]]]
) -> list[list[Image.Image]]:
    """Each slice as it is, and with the labels over it."""
    low, high = _limits(images, labels)
    colours, opacities = np.zeros((OUTSIDE + 1, 3), np.uint8), np.zeros(OUTSIDE + 1)
    for i, (name, colour) in enumerate(classes):
        colours[i], opacities[i] = colour, _OPACITY * (name.lower() != "background")
    colours[OUTSIDE], opacities[OUTSIDE] = _BLACK, _SHADE
    rows = []
    for image, here in zip(images, labels, strict=True):
        grey = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1) * 255
        plain = np.repeat(grey[..., None], 3, axis=-1)
        opacity = opacities[here][..., None]
        over = (1 - opacity) * plain + opacity * colours[here]
        rows.append([_scaled(picture) for picture in (plain, over)])
    return rows


def _limits(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """Grey values to show as black and white: percentiles of the tissue; of all where all is outside."""
    for step in (4, 1):  # few values will do, but the tissue may lie between them
        parts = zip(images, labels, strict=True)
        values = np.concatenate([image[::step, ::step][here[::step, ::step] != OUTSIDE] for image, here in parts])
        if values.size:
            break
    else:
        values = np.concatenate([image[::4, ::4].ravel() for image in images])
    return np.percentile(values, [0.5, 99.5])


def _scaled(picture: np.ndarray) -> Image.Image:
    """Shrink or enlarge (y, x, 3) so that the longer side has `_SIDE` pixels."""
    method = Image.Resampling.BOX if max(picture.shape[:2]) > _SIDE else Image.Resampling.NEAREST
    return Image.fromarray(np.round(picture).astype(np.uint8)).resize(_size(picture.shape[:2]), method)


def _scale_bar(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    voxel_size: VoxelSize | None,
    scale: float,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> int:
    """Draw a bar of a round length near a third of the legend's width; where to go on below it."""
    left, y = place
    if voxel_size is None:
        draw.text((left, y), "no voxel size", fill=_FAINT, font=font)
        return y + 34
    wanted = voxel_size.x / scale * _LEGEND / 2  # micrometres
    power = 10.0 ** floor(log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    # The font that Pillow carries has no µ.
    text = f"{length:g} um" if length >= 1 else f"{length * 1000:g} nm"
    draw.rectangle((left, y + 4, left + max(1, round(length / voxel_size.x * scale)), y + 9), fill=_INK)
    draw.text((left, y + 12), text, fill=_INK, font=font)
    return y + 46
