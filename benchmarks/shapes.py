"""What a batch loses where each stack has another shape: 30 stacks of 30 shapes, and as many voxels in 30 of one shape.

    python benchmarks/shapes.py [--model NAME ...] [--repeats 3] [--quick]

Stacks are 200 to 512 voxels wide and 5 to 20 slices deep, cut from the package's sample (mirrored at its ends), and
segmented with the defaults. Each batch runs in a process of its own, in turns, and is timed from its first stack on,
with all that the nets need to be made ready. Printed are medians of seconds, and of seconds of the processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from fresh import measured_in_child, of_shape

MODELS = ("fly-vnc-fast", "fly-vnc")
Shape = tuple[int, int, int]


def many_shapes(n: int) -> list[Shape]:
    """Other stacks for each index, evenly over the sizes that people have."""
    rng = np.random.default_rng(0)
    depths, heights, widths = (np.linspace(low, high, n).astype(int) for low, high in ((5, 20), (200, 512), (200, 512)))
    return list(zip(*(rng.permutation(sides).tolist() for sides in (depths, heights, widths)), strict=True))


def one_shape(shapes: list[Shape]) -> list[Shape]:
    """As many stacks of one shape, with as many voxels in all, to rounding."""
    voxels = sum(map(np.prod, shapes)) / len(shapes)
    depth = round(statistics.mean(z for z, _, _ in shapes))
    side = round((voxels / depth) ** 0.5)
    return [(depth, side, side)] * len(shapes)


def batch(model: str, shapes: list[Shape], folder: Path) -> dict[str, float]:
    """Seconds, by the clock and of the processor, that the stacks take in this process."""
    import densecell_batch as d
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import segment_stack

    with d.open_stack(d.SAMPLE) as stack:
        sample, size = np.asarray(stack), stack.info.voxel_size
    paths = []
    for i, shape in enumerate(shapes):
        paths.append(folder / f"{i}.tif")
        d.write_stack(paths[-1], of_shape(sample, shape), voxel_size=size)
    segmenter = RunSegmenter(model, RunOptions(overwrite=True))
    segmenter.load()
    clock, processor = time.perf_counter(), time.process_time()
    for path in paths:
        segment_stack(path, folder / "out", segmenter)
    return {"seconds": time.perf_counter() - clock, "processor": time.process_time() - processor}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three stacks, to see that it works")
    parser.add_argument("--batch", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        model, kind, n = options.batch
        shapes = many_shapes(int(n))
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(batch(model, shapes if kind == "many" else one_shape(shapes), Path(scratch))))
        return
    n = 3 if options.quick else 30
    print(
        f"| {n} stacks | one shape: seconds (processor) | {n} shapes | times | of the processor |"
        "\n|---|---|---|---|---|"
    )
    for model in options.model:
        turns = [
            {kind: measured_in_child(__file__, "--batch", model, kind, n) for kind in ("one", "many")}
            for _ in range(options.repeats)
        ]
        one, many = (
            {what: statistics.median(turn[kind][what] for turn in turns) for what in ("seconds", "processor")}
            for kind in ("one", "many")
        )
        cells = [f"{found['seconds']:.1f} ({found['processor']:.1f})" for found in (one, many)]
        ratios = [f"{many[what] / one[what]:.2f}" for what in ("seconds", "processor")]
        print(f"| {model} | {' | '.join([*cells, *ratios])} |", flush=True)


if __name__ == "__main__":
    main()
