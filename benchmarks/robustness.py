"""How right a model stays on what aligners and microscopes do to a stack: mean IoU on slices spoilt on purpose.

    python benchmarks/robustness.py --images eval-images.tif --labels eval-labels.tif [--model NAME] [--rows rim]

Each row spoils the labelled slices in one way and scores what the model makes of them, on the voxels that are tissue.
Confidence and disagreement are their means over the same voxels: what the tool itself could see.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

import densecell_batch
from densecell_batch import Segmenter

Change = Callable[[np.ndarray, np.ndarray], "Spoilt"]


@dataclass
class Spoilt:
    """A stack that was spoilt."""

    volume: np.ndarray  # (z, y, x), as the model sees it
    labels: np.ndarray  # (z, y, x), the truth on the same grid
    tissue: np.ndarray  # (z, y, x) bool: what is scored


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


def blank(volume: np.ndarray, labels: np.ndarray) -> Spoilt:
    """The middle slice is black; the others are scored."""
    spoilt = whole(volume.copy(), labels)
    middle = len(volume) // 2
    spoilt.volume[middle], spoilt.tissue[middle] = 0, False
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
    """Pixels `factor` times as large, which the file does not say."""

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


ROWS: dict[str, Change] = {
    "untouched": whole,
    **{f"black rim of {width}": rim(width, 0) for width in (8, 32, 128, 256)},
    "white rim of 128": rim(128, 255),
    "rotated by 7 degrees": rotated(7),
    "one slice blank": blank,
    "gamma 0.5": grey(lambda values: values**0.5),
    "gamma 2": grey(lambda values: values**2),
    "drift of contrast": grey(drift),
    "inverted": grey(lambda values: 1 - values),
    **{f"pixels {factor:g} times as large": scaled(factor) for factor in (0.5, 0.71, 1.43, 2)},
    "noise, sigma 25": noise(25),
    "blur, sigma 1.5": blur(1.5),
    "200 hot pixels, uint16": hot(200),
}


def rows(volume: np.ndarray, labels: np.ndarray, segmenter: Segmenter, which: str) -> Iterator[tuple[str, list[float]]]:
    """Name of each row; mean IoU, mean confidence, mean disagreement in bits."""
    for name, change in ROWS.items():
        if which not in name:
            continue
        spoilt = change(volume, labels)
        found = segmenter(spoilt.volume)
        scores = densecell_batch.evaluate(
            spoilt.labels, found.labels, n_classes=len(found.classes), counted=spoilt.tissue
        )
        means = [float(values[spoilt.tissue].mean()) for values in (found.confidence, found.uncertainty)]
        yield name, [scores.mean_iou, *means]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="labelled slices, uint8")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--model", default="fly-vnc-2d3d")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", default="", help="only rows whose names hold this text")
    options = parser.parse_args()
    with densecell_batch.open_stack(options.images) as stack:
        volume = np.asarray(stack)
    with densecell_batch.open_stack(options.labels, stored=True) as stack:
        labels = np.asarray(stack).astype(np.uint8)
    segmenter = Segmenter(options.model, precision=options.precision, uncertainty=True)
    print(f"{'the same slices':<28}  mean IoU  confidence  disagreement")
    for name, (iou, confidence, disagreement) in rows(volume, labels, segmenter, options.rows):
        print(f"{name:<28}  {iou:8.3f}  {confidence:10.3f}  {disagreement:12.3f}", flush=True)


if __name__ == "__main__":
    main()
