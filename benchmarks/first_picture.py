"""The picture of the first page: a slice of the package's own sample, its labels, its mitochondria one by one.

    python benchmarks/first_picture.py docs/pictures/first.png

It shows what `densecell-batch demo` finds. What lies between the panels is transparent, for light and dark pages.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from densecell_batch.data import SAMPLE
from densecell_batch.io.writing import instance_colours
from densecell_batch.models.registry import DEFAULT_MODEL
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import segment_stack
from densecell_batch.storage.atomic import write_file

Z = 7
SIDE, GAP = 400, 16  # pixels


def enlarged(plane: np.ndarray, method: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
    """A slice (y, x) as large as a panel, of the same kind of numbers."""
    return np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), method))


def over(grey: np.ndarray, colours: np.ndarray, opacity: np.ndarray | float, levels: int) -> np.ndarray:
    """Colours (y, x, 3) over a slice (y, x) from 0 to 1, as uint8 (y, x, 3). Few grey levels make a small file."""
    grey = np.round(grey * (levels - 1)) / (levels - 1) * 255
    opacity = np.broadcast_to(opacity, grey.shape)[..., None]
    return ((1 - opacity) * grey[..., None] + opacity * colours).astype(np.uint8)


def panels() -> list[np.ndarray]:
    """The slice, the labels over it, the objects over it: (y, x, 3) uint8, of 256 colours together at most."""
    with tempfile.TemporaryDirectory() as folder:
        segmenter = RunSegmenter(DEFAULT_MODEL, RunOptions(instances=("mitochondrion",), split=True, min_volume=0.001))
        done = segment_stack(SAMPLE, Path(folder), segmenter)
        labels = enlarged(tifffile.imread(done.labels)[Z])
        (instances,) = Path(folder).glob("*_mitochondrion_instances.tif")
        objects = enlarged(tifffile.imread(instances)[Z])
    classes = np.array([c.colour for c in segmenter.bundle.classes])
    grey = enlarged(tifffile.imread(SAMPLE)[Z].astype(np.float32), Image.Resampling.BICUBIC)
    low, high = np.percentile(grey, [0.5, 99.5])
    grey = np.clip((grey - low) / (high - low), 0, 1)
    here = objects > 0
    return [
        over(grey, np.zeros(3), 0.0, 40),
        over(grey, classes[labels], 0.45, 16),
        over(np.where(here, grey, 0.3 + 0.7 * grey), instance_colours()[objects], np.where(here, 0.75, 0.0), 8),
    ]


def sheet(pictures: list[np.ndarray]) -> bytes:
    """The panels side by side as PNG with a palette, of which the first colour is transparent: the gaps."""
    numbers = np.zeros((SIDE, len(pictures) * (SIDE + GAP) - GAP), np.uint8)
    colours, found = np.unique(np.stack(pictures).reshape(-1, 3), axis=0, return_inverse=True)
    for i, picture in enumerate(found.reshape(len(pictures), SIDE, SIDE)):
        numbers[:, i * (SIDE + GAP) :][:, :SIDE] = picture + 1
    image = Image.fromarray(numbers, "P")
    image.putpalette([0, 0, 0, *colours.ravel().tolist()])
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, transparency=0)
    return stream.getvalue()


def main() -> None:
    """Segment, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    write_file(parser.parse_args().picture, sheet(panels()))


if __name__ == "__main__":
    main()
