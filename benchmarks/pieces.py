"""What it costs that a run can be resumed and divided, and how much memory large slices take.

    python benchmarks/pieces.py [--repeats 3]

The first tables: the whole pipeline with the bundled ensemble, and with a net of 4 kernels, so that everything around
it weighs most; against the same without pieces on disk, and as 8 shards one after the other. Medians of alternating
runs in one process, in seconds and in seconds of the processor, which other work on the machine does not lengthen. The
last table: peak of resident memory for slices of growing size under one --memory, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from inference import random_bundle, random_stack

MEMORY = 3 * 2**30
SIDES = (1000, 2000, 4000, 8000)


def timed(function) -> tuple[float, float]:
    """Seconds of a call, and seconds of the processor."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def without_pieces(path: Path, folder: Path, segmenter) -> None:
    """The pipeline with its slices written to the outputs at once: it could neither be resumed nor divided."""
    from densecell_batch.inference.volume import segment_prepared
    from densecell_batch.io.reading import open_stack
    from densecell_batch.io.stack import content_sha256
    from densecell_batch.measure.tally import Tally, slice_sums
    from densecell_batch.runs.outputs import StackOutputs
    from densecell_batch.runs.paths import StackPaths
    from densecell_batch.runs.pieces import StoredSlice

    n = len(segmenter.bundle.classes)
    folder.mkdir(exist_ok=True)
    with open_stack(path) as stack:
        content_sha256(stack.files)
        prepared, tally = segmenter.prepared(stack, segmenter.examine(stack)), Tally(n)
        (depth, height, _), plan = prepared.result_shape, segmenter.plan_of(prepared)
        with StackOutputs(StackPaths(folder, path), stack, segmenter.bundle, segmenter.options) as outputs:

            def finish(found) -> None:
                sums = slice_sums(n, found.labels, found.confidence, found.disagreement)
                tally.add(sums)
                outputs.write(StoredSlice(found.z, found.labels, sums, found.probabilities, found.disagreement))

            segment_prepared(prepared, plan, segmenter.look, n, finish, (0, depth), (0, height))
            outputs.commit()


def overhead(kernels: int | None, shape: tuple[int, int, int], repeats: int) -> None:
    """Print a table for a net of so many kernels, or for the bundled ensemble."""
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import segment_stack

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = RunOptions(precision="float32", memory=4 * 2**30, preview=False)
        bundle = random_bundle(folder, kernels, (5, 60, 60)) if kernels else find_bundle("fly-vnc-2d3d")
        segmenter = RunSegmenter(bundle, options)
        stack = random_stack(folder / "stack.tif", shape)
        again = replace(options, overwrite=True)
        segmenter.options = again

        def shards() -> None:
            for path in (folder / "shards").glob("*"):
                path.unlink()
            for i in range(1, 9):
                segmenter.options = replace(options, shard=(i, 8))
                segment_stack(stack, folder / "shards", segmenter)
            segmenter.options = again

        ways = {
            "without pieces": lambda: without_pieces(stack, folder / "plain", segmenter),
            "with pieces": lambda: segment_stack(stack, folder / "pieces", segmenter),
            "8 shards": shards,
        }
        segment_stack(stack, folder / "warm", segmenter)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(timed(way))
        medians = {name: [statistics.median(column) for column in zip(*times[name], strict=True)] for name in ways}
        what = f"{kernels} kernels" if kernels else bundle.name
        size = " x ".join(map(str, shape))
        print(f"{what + ', ' + size:<36}{'seconds':>10}{'of without':>12}{'processor':>12}{'of without':>12}")
        for name, (wall, processor) in medians.items():
            plain = medians["without pieces"]
            row = f"{wall:>10.2f}{wall / plain[0]:>12.3f}{processor:>12.2f}{processor / plain[1]:>12.3f}"
            print(f"{name:<36}{row}", flush=True)


def large_slices(side: int) -> dict[str, float]:
    """Segment 6 slices of side x side; the peak of memory in GiB."""
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import segment_stack

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = RunOptions(precision="float32", memory=MEMORY, preview=True)
        segmenter = RunSegmenter(random_bundle(folder, 4, (5, 60, 60)), options)
        stack = random_stack(folder / "stack.tif", (6, side, side))
        plan = segmenter.plan((6, side, side))
        spent, _ = timed(lambda: segment_stack(stack, folder / "out", segmenter))
    return {
        "bands": len(plan.bands),
        "estimate": plan.memory / 2**30,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "time": 1e6 * spent / (6 * side * side),
    }


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(large_slices(options.side)))
        return
    overhead(None, (80, 256, 256), options.repeats)
    overhead(4, (40, 1024, 1024), options.repeats)
    print(f"\n--memory {MEMORY >> 30}G{'bands':>16}{'estimate GiB':>14}{'peak GiB':>10}{'us/voxel':>10}")
    for side in SIDES:
        command = [sys.executable, __file__, "--side", str(side)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        name = f"6 x {side} x {side}"
        print(
            f"{name:<20}{row['bands']:>7}{row['estimate']:>14.2f}{row['peak']:>10.2f}{row['time']:>10.3f}", flush=True
        )


if __name__ == "__main__":
    main()
