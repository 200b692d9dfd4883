"""Does a model know its own tissue from others? How often a stack of its own is called another, and who is.

    python benchmarks/fit.py --images eval-images.tif [--others FILE ...] [--crops 50] [--strangers FILE ...]

Crops of its own tissue, at random places, should not raise an alarm; strangers should. Nothing is segmented: only the
few windows are tried by which the tool tells before it begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import densecell_batch
from densecell_batch import Segmenter
from densecell_batch.io.stack import Stack
from densecell_batch.prepare.fit import Fit

CROP = (5, 256, 256)  # (z, y, x), or as much of it as there is


def crops(stack: Stack, count: int) -> Iterator[Stack]:
    """Parts of a stack, anywhere in it; the same ones each time."""
    random = np.random.default_rng(0)
    for _ in range(count):
        spans = []
        for length, side in zip(stack.shape, CROP, strict=True):
            start = int(random.integers(max(length - side, 0) + 1))
            spans.append((start, min(start + side, length)))
        z, y, x = spans
        yield stack.part((z, y, x))


def verdict(stack: Stack, segmenter: Segmenter) -> tuple[Fit, str]:
    """What the tool says of a stack, and what would make it alike; "" for nothing known."""
    preparation = segmenter.examine(stack)
    assert preparation.fit is not None  # the model knows its own data
    return preparation.fit, preparation.remedy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="slices of the model's own tissue")
    parser.add_argument("--others", type=Path, nargs="+", default=[], metavar="FILE", help="more of its own tissue")
    parser.add_argument("--strangers", type=Path, nargs="+", default=[], metavar="FILE", help="stacks of others")
    parser.add_argument("--crops", type=int, default=50, help="of each stack of its own tissue")
    parser.add_argument("--model", default="fly-vnc-2d3d")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    segmenter = Segmenter(options.model, precision=options.precision)
    if segmenter.bundle.known.fit is None:
        parser.error(f"--model {options.model}: it does not know what its own data are like")
    own = [options.images, *options.others]
    width = max(len(str(path)) for path in [*own, *options.strangers])
    if options.crops > 0:
        print(f"{'own tissue':<{width}}  crops  not alike  highest score")
        for path in own:
            with densecell_batch.open_stack(path) as stack:
                found = [verdict(crop, segmenter)[0] for crop in crops(stack, options.crops)]
            alarms, highest = sum(not fit.alike for fit in found), max(fit.score for fit in found)
            print(f"{path!s:<{width}}  {len(found):5}  {alarms:9}  {highest:13.3f}", flush=True)
    if options.strangers:
        print(f"{'strangers':<{width}}  alarm   score  would be alike as")
        for path in options.strangers:
            with densecell_batch.open_stack(path) as stack:
                fit, remedy = verdict(stack, segmenter)
            print(
                f"{path!s:<{width}}  {'no' if fit.alike else 'yes':>5}  {fit.score:6.3f}  {remedy}".rstrip(), flush=True
            )


if __name__ == "__main__":
    main()
