"""How close segmentation comes to what the processor can do, and whether memory stays flat.

    python benchmarks/inference.py [--quick] [--free-nets] [--json FILE]

Each row is measured in a process of its own, all in one run: the rate of a matrix product, the bare rate of one tile
through the net, the rate of the whole pipeline (measure, read, predict, stitch, write; the graph traced before), the
redundancy of the tiles, the efficiency (useful operations over the matrix rate) and the peak of resident memory. The
net is the published 2D-3D net at full size with random weights; the stack is 21 x 400 x 400 uint8. A second table
segments 20 and 200 slices of 1024 x 1024 with a small net. Where PyTorch and
MONAI are installed, the same net runs under MONAI's sliding window, too. `--free-nets` shows instead what is left when
the nets cost nothing, on 20 x 2048 x 2048 voxels, and where that time goes (parts that run beside each other overlap).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from fresh import measured_in_child

# The published code (TensorFlow 1.15 graph, 10x400x400 uint8), on 2 cores with this rate of the float32 matrix product.
PUBLISHED_VOXELS, PUBLISHED_GFLOP = 11_500, 197
ROWS = [
    ("openvino", "int8", "crop"),
    ("openvino", "bfloat16", "crop"),
    ("openvino", "float32", "crop"),
    ("openvino", "float32", "deepest"),
    ("tensorflow", "bfloat16", "crop"),
    ("tensorflow", "float32", "crop"),
    ("tensorflow", "float32", "deepest"),
]


def seconds(function, repeats: int) -> float:
    """Median time of a call, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak() -> float:
    """Peak of resident memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matmul_rate(precision: str) -> float:
    """GFLOP/s of a matrix product, by TensorFlow; of int8 that of bfloat16, to be compared with."""
    import keras

    from densecell_batch.nets.backend import compiled

    dtype = "bfloat16" if precision == "int8" else precision
    matrix = keras.ops.cast(np.random.default_rng(0).standard_normal((4096, 4096)), dtype)
    product = compiled(lambda a: keras.ops.sum(keras.ops.matmul(a, a)))
    return 2 * 4096**3 / seconds(lambda: float(product(matrix)), 5) / 1e9


def random_bundle(folder: Path, n_kernels: int, window: tuple[int, int, int]):
    """A bundle with one member of random weights."""
    from densecell_batch.models.bundle import write_bundle
    from densecell_batch.models.classes import ClassInfo
    from densecell_batch.models.manifest import Quantization
    from densecell_batch.nets.architecture import Hybrid2D3D, tensor_shapes
    from densecell_batch.nets.engines.openvino import observed_ranges

    architecture = Hybrid2D3D(7, n_kernels, pyramid_kernels=n_kernels)
    classes = tuple(ClassInfo(f"class {i}", (36 * i, 255 - 36 * i, 128)) for i in range(7))
    rng, shapes = np.random.default_rng(0), tensor_shapes(architecture)
    weights = {
        n: rng.standard_normal(s, np.float32) * np.sqrt(2 / np.prod(s[:-1]), dtype=np.float32)
        for n, s in shapes.items()
    }
    golden = np.zeros(window, np.float32), np.zeros((*architecture.output_shape(window), 7), np.float32)
    noise = np.random.default_rng(0).standard_normal((window[0], 64, 64)).astype(np.float32)
    quantization = Quantization(ranges=(observed_ranges(architecture, weights, [noise]),), agreement=1.0)
    return write_bundle(
        folder / "bundle", name="random", version="0", licence="none", citation="none", architecture=architecture,
        classes=classes, voxel_size=None, window=window, members=[weights], golden=golden, scores={}, provenance={},
        quantization=quantization,
    )  # fmt: skip


def random_stack(path: Path, shape: tuple[int, int, int]) -> Path:
    """A uint8 stack of smooth noise, written slice by slice."""
    import tifffile

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (shape[1] // 8, shape[2] // 8), np.uint8).repeat(8, 0).repeat(8, 1)

    def slices():
        for _ in range(shape[0]):
            yield coarse ^ rng.integers(0, 16, shape[1:], np.uint8)

    tifffile.imwrite(path, slices(), shape=shape, dtype=np.uint8, photometric="minisblack")
    return path


def inference_row(engine: str, precision: str, stitch: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """One row of the first table."""
    from densecell_batch.nets.architecture import flop_per_voxel
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import segment_stack

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        segmenter = RunSegmenter(
            random_bundle(folder, 64, (5, 300, 300)),
            RunOptions(stitch=stitch, engine=engine, precision=precision, overwrite=True),
        )
        stack = random_stack(folder / "stack.tif", shape)
        side = 300 if stitch == "deepest" else 296
        tile = np.random.default_rng(0).standard_normal((5, side, side)).astype(np.float32)
        start = time.perf_counter()
        segment_stack(stack, folder / "out", segmenter)  # traces the graph of the tile
        cold = np.prod(shape) / (time.perf_counter() - start)
        whole = np.prod(shape) / seconds_once(lambda: segment_stack(stack, folder / "out", segmenter))
        plan, used = segmenter.plan(shape), peak()
        bare = 5 * 296**2 / seconds(lambda: next(segmenter.predictor(tile)), 3)  # a graph of its own: after the peak
    matmul = matmul_rate(precision)  # last: it takes TensorFlow, whose memory is not that of the row
    published = PUBLISHED_VOXELS * matmul_rate("float32") / PUBLISHED_GFLOP
    return {
        "matmul GFLOP/s": matmul,
        "bare voxels/s": bare,
        "pipeline voxels/s": whole,
        "with tracing": cold,
        "redundancy": plan.grid.redundancy,
        "of bare/redundancy": whole * plan.grid.redundancy / bare,
        "efficiency": whole * flop_per_voxel(segmenter.bundle.architecture) / matmul / 1e9,
        "times published": whole / published,
        "peak GiB": used,
        "estimated GiB": plan.memory / 2**30,
    }


def sliding_window_row(precision: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """A row for the same net in PyTorch under MONAI's sliding window: of a volume in memory, nothing but the net."""
    from torch_graph import SlidingWindow

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = random_bundle(Path(scratch), 64, (5, 300, 300))
        net = SlidingWindow(bundle.architecture, bundle.weights(0), (5, 296, 296), precision)
        bare = 5 * 296**2 / seconds(lambda: net(rng.standard_normal((5, 296, 296)).astype(np.float32)), 3)
        volume = rng.standard_normal(shape).astype(np.float32)
        return {"bare voxels/s": bare, "pipeline voxels/s": np.prod(shape) / seconds_once(lambda: net(volume)),
                "peak GiB": peak()}  # fmt: skip


def seconds_once(function) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def growth_row(slices: int, side: int) -> dict[str, float]:
    """One row of the second table."""
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import segment_stack

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = RunOptions(precision="float32", memory=4 * 2**30, preview=False)
        segmenter = RunSegmenter(random_bundle(folder, 4, (5, 60, 60)), options)
        stack = random_stack(folder / "stack.tif", (slices, side, side))
        spent = seconds_once(lambda: segment_stack(stack, folder / "out", segmenter))
        estimate = segmenter.plan((slices, side, side)).memory / 2**30
    return {"microseconds/voxel": 1e6 * spent / (slices * side * side), "peak GiB": peak(), "estimated GiB": estimate}


class FreeNets:
    """In the place of a `Predictor`: an answer that lies ready."""

    def __init__(self, segmenter) -> None:
        self._bundle, self._answers = segmenter.bundle, {}

    def __len__(self) -> int:
        return len(self._bundle.members)

    def together(self, tile, with_probabilities=False, *, rule="mean", with_disagreement=False):
        """What `Predictor.together` says of a tile."""
        from densecell_batch.nets.ensemble import Answer

        if tile.shape not in self._answers:
            shape = self._bundle.architecture.output_shape(tile.shape)
            labels = np.indices(shape, np.uint8).sum(0, dtype=np.uint8) // 16 % len(self._bundle.classes)
            full = np.full(shape, 0.9, np.float32)
            self._answers[tile.shape] = Answer(labels, full, None, full / 9 if with_disagreement else None)
        return self._answers[tile.shape]


def free_row(uncertainty: bool, shape: tuple[int, int, int]) -> dict[str, float]:
    """The rate of all but the nets, and the seconds of its parts."""
    from densecell_batch.inference import streaming
    from densecell_batch.inference.stitch import Canvas
    from densecell_batch.io.stack import Stack
    from densecell_batch.prepare.prepared import Prepared
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.outputs import StackOutputs
    from densecell_batch.runs.pieces import PieceWriter
    from densecell_batch.runs.pipeline import segment_stack

    spent: dict[str, float] = {}

    def meter(owner, method: str, part: str) -> None:
        whole = getattr(owner, method)

        def metered(*words, **options):
            start = time.perf_counter()
            try:
                return whole(*words, **options)
            finally:
                spent[part] = spent.get(part, 0.0) + time.perf_counter() - start

        setattr(owner, method, metered)

    for owner, method, part in (
        (Stack, "sha256", "hash"), (RunSegmenter, "examine", "statistics"), (Prepared, "read", "read"),
        (streaming, "gather", "tile"), (Canvas, "paint", "stitch"), (PieceWriter, "__call__", "pieces"),
        (StackOutputs, "write", "write"), (StackOutputs, "_make_preview", "preview"),
    ):  # fmt: skip
        meter(owner, method, part)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = RunOptions(overwrite=True, uncertainty=uncertainty, fit="off", precision="float32")
        segmenter = RunSegmenter("fly-vnc-2d3d", options)
        segmenter.__dict__["predictor"] = FreeNets(segmenter)  # the cached property
        stack = random_stack(folder / "stack.tif", shape)
        rates = []
        for _ in range(4):
            spent.clear()
            rates.append(np.prod(shape) / seconds_once(lambda: segment_stack(stack, folder / "out", segmenter)))
    return {"voxels/s": statistics.median(rates[1:]), **{f"{part} s": value for part, value in spent.items()}}


def table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print rows of numbers under their names."""
    columns = max((list(row) for row in rows.values()), key=len)
    width = max(map(len, rows)) + 2
    print(f"\n{title}\n" + " " * width + "  ".join(columns))
    for name, row in rows.items():
        cells = (f"{row[c]:>{len(c)}.{0 if row[c] >= 1000 else 3}f}" if c in row else " " * len(c) for c in columns)
        print(f"{name:<{width}}" + "  ".join(cells), flush=True)


measured_row = partial(measured_in_child, __file__, "--row")


def main() -> None:
    """Measure all rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller stacks, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--free-nets", action="store_true", help="what is left when the nets cost nothing")
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        kind, *rest = options.row
        values = [int(v) if v.isdigit() else v for v in rest]
        measures = {
            "growth": lambda: growth_row(*values),
            "free": lambda: free_row(bool(values[0]), tuple(values[1:])),
            "monai": lambda: sliding_window_row(values[0], tuple(values[1:])),
            "inference": lambda: inference_row(*values[:3], tuple(values[3:])),
        }
        row = measures[kind]()
        print(json.dumps(row))
        return
    if options.free_nets:
        shape = (5, 256, 256) if options.quick else (20, 2048, 2048)
        rows = {name: measured_row("free", i, *shape) for i, name in enumerate(("labels", "with --uncertainty"))}
        table(f"fly-vnc-2d3d whose nets cost nothing, {' x '.join(map(str, shape))} uint8", rows)
        return
    shape = (5, 96, 96) if options.quick else (21, 400, 400)
    side, counts = (256, (5, 20)) if options.quick else (1024, (20, 200))
    speed = {" ".join(row): measured_row("inference", *row, *shape) for row in ROWS}
    if importlib.util.find_spec("monai"):
        speed |= {f"MONAI {p}": measured_row("monai", p, *shape) for p in ("bfloat16", "float32")}
    table(f"Published 2D-3D net, full size, {' x '.join(map(str, shape))} uint8", speed)
    print("times published: as if the published code gained from this processor what the float32 matrix product gains")
    growth = {f"{n} slices": measured_row("growth", n, side) for n in counts}
    table(f"Small net, slices of {side} x {side}", growth)
    few, many = growth.values()
    print(
        "many over few: " + ", ".join(f"{key} {many[key] / few[key]:.3f}" for key in ("microseconds/voxel", "peak GiB"))
    )
    if options.json:
        options.json.write_text(json.dumps({"inference": speed, "growth": growth}, indent=1))


if __name__ == "__main__":
    main()
