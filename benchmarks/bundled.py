"""The models of the package side by side: whole pipeline, whole command, memory.

    python benchmarks/bundled.py [--images STACK] [--repeats 3] [--quick]

Warm: the pipeline in a process that has segmented the stack once. Command: `densecell-batch segment` from its start to
its end, where the rates of the precisions are known from an earlier run, of the stack and of one of 3 x 64 x 64 voxels.
Medians, in seconds. Without --images the package's sample is mirrored to 20 x 512 x 512 voxels. The rows of TensorFlow
are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fresh import measured_in_child, of_shape

import densecell_batch as d
from densecell_batch.nets.engines import is_installed

ROWS = (
    ("fly-vnc-2d3d", "tensorflow", "bfloat16"),
    ("fly-vnc-2d3d", "openvino", "int8"),
    ("fly-vnc", "openvino", "int8"),
    ("fly-vnc-fast", "openvino", "int8"),
)
SHAPE, TINY = (20, 512, 512), (3, 64, 64)
Row = tuple[str, str, str]


def write_stacks(folder: Path, images: Path | None, quick: bool) -> tuple[Path, Path]:
    """The stack that is measured, and a tiny one."""
    with d.open_stack(images or d.SAMPLE) as stack:
        volume, size = np.asarray(stack), stack.info.voxel_size
    if images is None or quick:
        volume = of_shape(volume, (5, 96, 96) if quick else SHAPE)
    return (
        d.write_stack(folder / "whole.tif", volume, voxel_size=size),
        d.write_stack(folder / "tiny.tif", of_shape(volume, TINY), voxel_size=size),
    )


def warm(row: Row, stack: Path, repeats: int) -> dict[str, float]:
    """Seconds of the pipeline in this process, and its peak of memory in GiB."""
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import segment_stack

    model, engine, precision = row
    times = []
    with tempfile.TemporaryDirectory() as out:
        segmenter = RunSegmenter(model, RunOptions(engine=engine, precision=precision, overwrite=True))
        for _ in range(repeats + 1):
            start = time.perf_counter()
            segment_stack(stack, Path(out), segmenter)
            times.append(time.perf_counter() - start)
    return {"warm": statistics.median(times[1:]), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def command(row: Row, stack: Path, repeats: int) -> float:
    """Seconds of the whole command."""
    model, engine, precision = row
    times = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            words = ["segment", stack, "-o", out, "--model", model, "--engine", engine, "--precision", precision]
            start = time.perf_counter()
            whole = [sys.executable, "-m", "densecell_batch", *map(str, words)]
            subprocess.run(whole, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="STACK")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small stack, to see that it works")
    parser.add_argument("--warm", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.warm:
        print(json.dumps(warm(tuple(options.warm), options.images, options.repeats)))
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as scratch:
        whole, tiny = write_stacks(Path(scratch), options.images, options.quick)
        with d.open_stack(whole) as stack:
            z, y, x = stack.shape
        print(f"| {z} x {y} x {x} | warm, s | voxels/s | times | peak GiB | command, s | 3 x 64 x 64, s |")
        print("|---|---|---|---|---|---|---|", flush=True)
        first = 0.0
        for row in (row for row in ROWS if is_installed(row[1])):
            found = measured_in_child(__file__, "--warm", *row, "--images", whole, "--repeats", options.repeats)
            first = first or found["warm"]
            cold = [f"{command(row, stack, options.repeats):.1f}" for stack in (whole, tiny)]
            rate, times = z * y * x / found["warm"], first / found["warm"]
            cells = [f"{found['warm']:.2f}", f"{rate:,.0f}", f"{times:.2f}", f"{found['peak']:.2f}", *cold]
            print(f"| {', '.join(row)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
