"""How right a model stays on what aligners and microscopes do to a stack: mean IoU on slices spoilt on purpose.

    python benchmarks/robustness.py --images eval-images.tif --labels eval-labels.tif [--model NAME] [--rows rim]
        [--pictures FOLDER]

Each row spoils the labelled slices in one way and scores what the model makes of them, on the voxels that are tissue:
prepared as published, and as this tool prepares a stack. Tissue that the tool calls outside is not scored; how much
that is stands beside it. What the tool itself says of the stack follows: whether it looks like the model's own data,
and what would make it look so.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import densecell_batch
from densecell_batch import Segmenter, VoxelSize
from densecell_batch.inference.options import AS_PUBLISHED
from densecell_batch.inference.volume import segment_volume
from densecell_batch.io.stack import Stack
from densecell_batch.labels import OUTSIDE
from densecell_batch.models.classes import ClassInfo
from densecell_batch.plots.png import write_png
from densecell_batch.prepare.preparation import Preparation
from densecell_batch.storage.atomic import make_folder

Change = Callable[[np.ndarray, np.ndarray], "Spoilt"]


@dataclass
class Spoilt:
    """A stack that was spoilt."""

    volume: np.ndarray  # (z, y, x), as the model sees it
    labels: np.ndarray  # (z, y, x), the truth on the same grid
    tissue: np.ndarray  # (z, y, x) bool: what is scored


@dataclass(frozen=True)
class Row:
    """A way to spoil, and what the tool is told."""

    change: Change
    pixel: float | None = 1.0  # edge in y and x, in pixels of the images; None: the file does not say how large any is
    options: Mapping[str, Any] = field(default_factory=dict)  # of the prepared one, beside the defaults


@dataclass(frozen=True)
class Segmented:
    """What a model made of a stack that was spoilt."""

    labels: np.ndarray  # (z, y, x)
    preparation: Preparation
    mean_iou: float
    missed: float  # share of the tissue that was called outside, and so is not scored


def whole(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
    """The slices as they are."""
    return Spoilt(volume, labels, np.ones(volume.shape, bool))


def rim(width: int, value: int) -> Change:
    """Surrounded by a constant, as after alignment."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        around = ((0, 0), (width, width), (width, width))
        tissue = np.pad(np.ones(volume.shape, bool), around)
        return Spoilt(np.pad(volume, around, constant_values=value), np.pad(labels, around), tissue)

    return change


def rotated(degrees: float) -> Change:
    """Turned within the slice, with black corners."""

    def turn(values: np.ndarray, order: int) -> np.ndarray:
        return ndimage.rotate(values, degrees, axes=(1, 2), reshape=True, order=order, cval=0)

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        inside = turn(np.ones(volume.shape, np.uint8), 0).astype(bool)
        turned = np.where(inside, np.clip(turn(volume.astype(np.float32), 1), 1, 255), 0)
        return Spoilt(turned.astype(np.uint8), turn(labels, 0), inside)

    return change


def angles(most: float, depth: int) -> np.ndarray:
    """Another one for each slice, in degrees; not 0 for the middle one."""
    return np.roll(np.linspace(-most, most, depth), 1)


def inside_turned(shape: tuple[int, ...], degrees: float) -> np.ndarray:
    """The pixels (y, x) of a slice in which something is seen after it was turned about its middle."""
    return ndimage.rotate(np.ones(shape, np.uint8), degrees, reshape=False, order=0, cval=0).astype(bool)


def turned_apart(most: float) -> Change:
    """Each slice turned by another angle, as if nobody had aligned them, with black corners."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        spoilt = Spoilt(np.zeros_like(volume), np.zeros_like(labels), np.zeros(volume.shape, bool))
        for z, degrees in enumerate(angles(most, len(volume))):
            turned, truth = (
                ndimage.rotate(values, degrees, reshape=False, order=order, cval=0)
                for values, order in ((volume[z].astype(np.float32), 1), (labels[z], 0))
            )
            spoilt.tissue[z] = inside_turned(volume.shape[1:], degrees)
            spoilt.volume[z] = np.where(spoilt.tissue[z], np.clip(turned, 1, 255), 0)
            spoilt.labels[z] = truth
        return spoilt

    return change


def cut_corners(most: float) -> Change:
    """Black corners, others in each slice: those of slices that were turned, and aligned again."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        inside = np.stack([inside_turned(volume.shape[1:], degrees) for degrees in angles(most, len(volume))])
        return Spoilt(np.where(inside, np.maximum(volume, 1), 0), labels, inside)

    return change


def blank(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
    """The middle slice is black; the others are scored."""
    spoilt = whole(volume.copy(), labels)
    middle = len(volume) // 2
    spoilt.volume[middle], spoilt.tissue[middle] = 0, False
    return spoilt


def destroyed(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
    """The middle slice is noise; the others are scored."""
    spoilt = blank(volume, labels)
    middle = spoilt.volume[len(volume) // 2]
    middle[:] = np.random.default_rng(0).integers(0, 256, middle.shape)
    return spoilt


def grey(function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other grey values, from those between 0 and 1."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        values = function(volume.astype(np.float32) / 255)
        return whole(np.clip(np.rint(255 * values), 0, 255).astype(np.uint8), labels)

    return change


def drift(values: np.ndarray) -> np.ndarray:
    """Brightness and contrast that change from slice to slice."""
    steps = np.linspace(-1, 1, len(values))[:, None, None]
    return 0.5 + (values - 0.5) * (1 + 0.4 * steps) + 0.15 * np.roll(steps, 2, axis=0)


def scaled(factor: float) -> Change:
    """Pixels `factor` times as large."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        zoom = (1, 1 / factor, 1 / factor)
        smooth = ndimage.gaussian_filter(volume.astype(np.float32), (0, *[max(0.0, factor - 1) / 2] * 2))
        resized = np.clip(ndimage.zoom(smooth, zoom, order=1), 0, 255).astype(np.uint8)
        return whole(resized, ndimage.zoom(labels, zoom, order=0))

    return change


def noise(sigma: float) -> Change:
    """Normal noise, in grey values of uint8."""
    random = np.random.default_rng(0)
    return grey(lambda values: values + random.normal(0, sigma / 255, values.shape))


def blur(sigma: float) -> Change:
    """Out of focus, in pixels."""
    return grey(lambda values: ndimage.gaussian_filter(values, (0, sigma, sigma)))


def hot(count: int) -> Change:
    """Hot pixels of a camera of 16 bits."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        wide = volume.astype(np.uint16) * 16
        places = np.random.default_rng(0).choice(wide.size, count, replace=False)
        wide.ravel()[places] = 65535
        return whole(wide, labels)

    return change


def salt(share: float) -> Change:
    """Saturated voxels."""

    def change(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
        hit = np.random.default_rng(0).random(volume.shape) < share
        return whole(np.where(hit, 255, volume).astype(np.uint8), labels)

    return change


UNTOUCHED = "untouched"
ROWS: dict[str, Row] = {
    UNTOUCHED: Row(whole),
    **{f"black rim of {width}": Row(rim(width, 0)) for width in (8, 32, 128, 256)},
    "white rim of 128": Row(rim(128, 255)),
    "rotated by 7 degrees": Row(rotated(7)),
    "rotated, another angle a slice": Row(turned_apart(7)),
    "black corners, others a slice": Row(cut_corners(7)),
    "one slice blank": Row(blank),
    "one slice destroyed": Row(destroyed, options={"defects": "replace"}),
    "gamma 0.5": Row(grey(lambda values: values**0.5)),
    "gamma 2": Row(grey(lambda values: values**2)),
    "drift of contrast": Row(grey(drift)),
    "inverted": Row(grey(lambda values: 1 - values)),
    "inverted, --fit auto": Row(grey(lambda values: 1 - values), options={"fit": "auto"}),
    **{f"pixels {factor:g} times as large": Row(scaled(factor), factor) for factor in (0.5, 0.71, 1.43, 2)},
    **{f"pixels {factor:g} times as large, not told": Row(scaled(factor), None) for factor in (0.5, 0.71, 1.43, 2)},
    "noise, sigma 25": Row(noise(25)),
    "white salt noise, 1 %": Row(salt(0.01)),
    "blur, sigma 1.5": Row(blur(1.5)),
    "200 hot pixels, uint16": Row(hot(200)),
}
_WIDTH = max(map(len, ROWS))

PUBLISHED: dict[str, Any] = {
    option: value for option, value in AS_PUBLISHED.items() if option not in ("stitch", "precision")
}


def segmented(spoilt: Spoilt, voxel_size: VoxelSize | None, segmenter: Segmenter) -> Segmented:
    """What a segmenter makes of a stack, and how right that is."""
    stack, classes = Stack.of_array(spoilt.volume, voxel_size), segmenter.bundle.classes
    preparation = segmenter.examine(stack)
    prepared = segmenter.prepared(stack, preparation)
    plan = segmenter.plan(prepared.shape, resampled=prepared.is_resampled)
    labels = segment_volume(prepared, plan, segmenter.look, classes).labels
    scores = densecell_batch.evaluate(spoilt.labels, labels, n_classes=len(classes), counted=spoilt.tissue)
    missed = scores.outside_voxels / np.count_nonzero(spoilt.tissue)
    return Segmented(labels, preparation, scores.mean_iou, missed)


def rows(
    volume: np.ndarray, labels: np.ndarray, voxel_size: VoxelSize, segmenter: Callable[..., Segmenter], which: str
) -> Iterator[tuple[str, Spoilt, Segmented, Segmented]]:
    """Name of each row, the untouched one always first; the stack; what was made of it as published, and prepared.

    `segmenter` takes options, and remembers whom it made.
    """
    for name, row in ROWS.items():
        if which not in name and name != UNTOUCHED:
            continue
        spoilt = row.change(volume, labels)
        size = None
        if row.pixel is not None:
            size = VoxelSize(voxel_size.z, voxel_size.y * row.pixel, voxel_size.x * row.pixel)
        without, with_it = (segmented(spoilt, size, segmenter(**options)) for options in (PUBLISHED, row.options))
        yield name, spoilt, without, with_it


def line(name: str, without: Segmented, with_it: Segmented, best: float) -> str:
    """A line of the table; `best` is the mean IoU of the untouched slices."""
    found = with_it.preparation
    alike = "-" if found.fit is None else "yes" if found.fit.alike else "no"
    score = "-" if found.fit is None else f"{found.fit.score:.3f}"
    remedy = found.remedy + (", taken" if found.remedied else "")
    return (
        f"{name:<{_WIDTH}}  {without.mean_iou:12.3f}  {with_it.mean_iou:8.3f}  {with_it.mean_iou - best:+10.3f}"
        f"  {with_it.missed:6.1%}  {alike:>5}  {score:>6}  {remedy}"
    ).rstrip()


_SIDE, _BESIDE, _GAP = 256, 64, 4  # pixels of a picture: side; what is seen beside the tissue; between two of them


def picture(spoilt: Spoilt, without: np.ndarray, with_it: np.ndarray, classes: tuple[ClassInfo, ...]) -> np.ndarray:
    """A corner of the tissue, in the scored slice nearest to the middle, side by side: the image, its labels as
    published, its labels prepared, the truth; (y, x, 3) uint8. What is outside, or is not scored, is black.
    """
    scored = np.flatnonzero(spoilt.tissue.any(axis=(1, 2)))
    z = int(scored[np.abs(scored - len(spoilt.volume) // 2).argmin()])
    y, x = (max(int(spoilt.tissue[z].any(axis=axis).argmax()) - _BESIDE, 0) for axis in (1, 0))
    place = (z, slice(y, y + _SIDE), slice(x, x + _SIDE))
    image = spoilt.volume[place].astype(np.float32)
    limits = (0, 255) if spoilt.volume.dtype == np.uint8 else np.percentile(image, [0.5, 99.5])
    grey_levels = np.interp(image, limits, (0, 255)).astype(np.uint8)
    colours = np.zeros((OUTSIDE + 1, 3), np.uint8)
    colours[: len(classes)] = [one.colour for one in classes]
    truth = np.where(spoilt.tissue, spoilt.labels, OUTSIDE)
    parts = [
        np.repeat(grey_levels[..., None], 3, axis=2),
        *(colours[found[place]] for found in (without, with_it, truth)),
    ]
    gap = np.full((len(image), _GAP, 3), 255, np.uint8)
    return np.concatenate([part for one in parts for part in (one, gap)][:-1], axis=1)


def file_name(row: str) -> str:
    """Of the picture of a row: its words, and hyphens."""
    return "-".join(re.findall(r"[\w.]+", row)) + ".png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="labelled slices, uint8, with their voxel size")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--model", default="fly-vnc-2d3d")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", default="", help="only rows whose names hold this text, and the untouched one")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="a picture of each row goes there")
    options = parser.parse_args()
    with densecell_batch.open_stack(options.images) as stack:
        volume, voxel_size = np.asarray(stack), stack.info.voxel_size
    if volume.dtype != np.uint8 or voxel_size is None:
        parser.error(f"{options.images}: it is {volume.dtype}, voxel size {voxel_size}; expected uint8, and to know it")
    with densecell_batch.open_stack(options.labels, stored=True) as stack:
        labels = np.asarray(stack).astype(np.uint8)
    if options.pictures is not None:
        make_folder(options.pictures)
    model = densecell_batch.load_model(options.model)

    @cache
    def segmenter(**others: Any) -> Segmenter:
        return Segmenter(model, precision=options.precision, **others)

    print(f"{'':<{_WIDTH}}  mean IoU:                              called    fit:")
    print(
        f"{'the same slices':<{_WIDTH}}  as published  prepared  difference  outside  alike   score  would be alike as"
    )
    best = None
    for name, spoilt, without, with_it in rows(volume, labels, voxel_size, segmenter, options.rows):
        best = with_it.mean_iou if best is None else best
        print(line(name, without, with_it, best), flush=True)
        if options.pictures is not None:
            drawn = picture(spoilt, without.labels, with_it.labels, model.classes)
            write_png(options.pictures / file_name(name), drawn)


if __name__ == "__main__":
    main()
