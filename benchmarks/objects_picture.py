"""A place of the package's own sample where two mitochondria touch: the slice, and the objects before and after.

    python benchmarks/objects_picture.py docs/pictures/objects-split.png

The labels are those of fly-vnc-2d3d. Beside the picture, it prints how many mitochondria there are.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFont

from densecell_batch.data import SAMPLE
from densecell_batch.io.writing import instance_colours
from densecell_batch.plots.png import as_png
from densecell_batch.runs.measured import measure_labels
from densecell_batch.runs.object_options import ObjectOptions
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import segment_stack

Z, Y, X = 5, slice(136, 226), slice(90, 214)
ZOOM, GAP, ROOM = 3, 12, 26


def objects_of(labels: Path, folder: Path, options: ObjectOptions) -> np.ndarray:
    """The mitochondria (z, y, x)."""
    name = measure_labels(labels, folder, options).table.name.replace("objects.csv", "mitochondrion_instances.tif")
    return tifffile.imread(folder / name)


def coloured(grey: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Objects over the slice, in the colours that their image has."""
    rgb = np.repeat(grey[..., None], 3, axis=2).astype(float)
    colours = instance_colours()[numbers].astype(float)
    return np.where(numbers[..., None] > 0, 0.35 * rgb + 0.65 * colours, rgb).astype(np.uint8)


def main() -> None:
    """Segment, part, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    grey = tifffile.imread(SAMPLE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        labels = segment_stack(SAMPLE, folder, RunSegmenter("fly-vnc-2d3d", RunOptions())).labels
        wanted = ObjectOptions(instances=("mitochondrion",))
        joined = objects_of(labels, folder / "joined", wanted)
        parted = objects_of(labels, folder / "parted", replace(wanted, split=True))
    print(f"connected components: {joined.max()}; with --split: {parted.max()}")
    here = [volume[Z, Y, X] for volume in (grey, joined, parted)]
    panels = [
        ("slice 6 of the sample", np.repeat(here[0][..., None], 3, axis=2)),
        ("connected components", coloured(*here[:2])),
        ("with --split", coloured(here[0], here[2])),
    ]
    height, width = (ZOOM * side for side in here[0].shape)
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height + ROOM), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (title, panel) in enumerate(panels):
        left = i * (width + GAP)
        draw.text((left, 2), title, fill="black", font=font)
        sheet.paste(Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST), (left, ROOM))
    options.picture.write_bytes(as_png(np.asarray(sheet)))


if __name__ == "__main__":
    main()
