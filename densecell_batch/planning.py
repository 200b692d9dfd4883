"""From a stack, a net and a memory budget to tiles: decided before any voxel is read.

Under `crop` and `blend` the tiles are as wide in y and x as the memory allows: a whole slice where it fits. The wider
the tile, the less is computed twice and the more context each voxel has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil

import numpy as np

from densecell_batch.architecture import Architecture, UNet2D, flop_per_voxel, live_channels
from densecell_batch.errors import OptionError
from densecell_batch.tiling import Axis, TileGrid, published_axis, wide_axis

__all__ = ["STITCHES", "Plan", "plan_tiles"]

STITCHES = ("crop", "deepest", "blend")

Triple = tuple[int, int, int]

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PROGRAM_BYTES = 900 * 2**20  # Python, TensorFlow and its kernels before any tile
_SMALLEST = 64  # voxels in y and x that a tile adds to its halo, at least
_BANDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)  # numbers of bands that are tried, in this order
_EDGE = 2  # mirrored voxels at the ends of the volume, as in the published windows


@dataclass(frozen=True)
class Plan:
    """How a stack will be segmented."""

    grid: TileGrid
    rule: str  # of `stitch.Canvas`
    precision: str  # "float32", "bfloat16" or "float16"
    bands: tuple[tuple[int, int], ...]  # rows [start, stop) along y that are computed at a time; all, if memory allows
    memory: int  # bytes, estimate of the peak
    gflop: float  # billions of floating-point operations of all members on all tiles


def plan_tiles(
    shape: Triple,
    architecture: Architecture,
    window: Triple,
    *,
    stitch: str = "crop",
    precision: str = "float32",
    members: int = 1,
    budget: int = 4 * 2**30,
    tile: Triple | None = None,
    keep_probabilities: bool = False,
) -> Plan:
    """Choose the tiles of a volume.

    Parameters
    ----------
    shape
        Voxels of the volume (z, y, x).
    architecture, window
        The nets, and the input window (z, y, x) of their training.
    stitch
        "crop", "blend", or "deepest" for the published windows.
    precision, members
        What the nets compute in, and how many there are.
    budget
        Bytes that the process may take.
    tile
        Output region (z, y, x) wanted instead of the one that fits the memory; sides are rounded up to what the net
        takes.
    keep_probabilities
        Whether the canvas carries probabilities.

    Returns
    -------
    Plan

    Raises
    ------
    OptionError
        If the net does not allow the tile that is asked for, or the memory does not suffice for the smallest one.
    """
    if stitch not in STITCHES:
        raise OptionError(f"--stitch is {stitch!r}; expected one of {', '.join(STITCHES)}")
    keep = keep_probabilities or stitch == "blend"
    costs = partial(_memory, architecture=architecture, precision=precision, keep_probabilities=keep)
    if stitch == "deepest":
        if tile is not None:
            raise OptionError("--tile does not go with --stitch deepest, whose windows are those of the training")
        grids, rule = [_published_grid(shape, architecture, window)], "deepest"
        if isinstance(architecture, UNet2D):
            rule = "latest"
    else:
        depth = _depth(architecture, window, tile)
        z = published_axis(shape[0], depth, 0, depth // 2 if stitch == "blend" else depth // 3)
        grids, rule = _wide_grids(shape, architecture, z, stitch, tile), stitch
    plans = (
        Plan(
            grid,
            rule,
            precision,
            bands,
            costs(grid, bands),
            members * _voxels(grid) * flop_per_voxel(architecture) / 1e9,
        )
        for n_bands in _BANDS
        for grid in grids
        for bands in [_bands(grid.y, n_bands)]
    )
    smallest: Plan | None = None
    for plan in plans:
        if plan.memory <= budget:
            return plan
        smallest = plan if smallest is None or plan.memory < smallest.memory else smallest
    assert smallest is not None
    if tile is not None or (stitch == "deepest" and smallest.memory <= 2 * budget):
        return smallest  # as it was asked for; tiles are cut further when memory runs out
    least = smallest.memory / 2**30
    if stitch == "deepest":  # the window is what the bundle says it is
        raise OptionError(
            f"{budget / 2**30:.2f} GiB of memory do not suffice for the windows of {list(window)} voxels (z, y, x) of "
            f"the model's training: they need about {least:.2f} GiB; give --memory {ceil(least)}G, or use --stitch crop"
        )
    raise OptionError(
        f"{budget / 2**30:.2f} GiB of memory do not suffice for slices of {shape[1]} x {shape[2]} voxels: the smallest "
        f"tiles need about {least:.2f} GiB; give --memory {ceil(least)}G or more, on a machine that has it"
    )


@lru_cache(maxsize=10_000)
def _bands(y: Axis, n: int) -> tuple[tuple[int, int], ...]:
    """Cut the rows of a slice into at most `n` bands, each of whole tiles."""
    if n == 1:
        return ((0, y.length),)
    spans = [span for span in y.deepest if span[0] < span[1]]
    groups = [spans[len(spans) * i // n : len(spans) * (i + 1) // n] for i in range(n)]
    return tuple((group[0][0], group[-1][1]) for group in groups if group)


@lru_cache(maxsize=10_000)
def _rows_read(y: Axis, bands: tuple[tuple[int, int], ...]) -> int:
    """Rows that the largest band needs to see."""
    if len(bands) == 1:
        return y.length
    spans = (y.read_by(y.touching("inside", *band)) for band in bands)
    return max(stop - start for start, stop in spans)


def _voxels(grid: TileGrid) -> float:
    return grid.n_tiles * float(np.prod(grid.output))


def _published_grid(shape: Triple, architecture: Architecture, window: Triple) -> TileGrid:
    output = architecture.output_shape(window)
    margins = [(i - o) // 2 for i, o in zip(window, output, strict=True)]
    flat = isinstance(architecture, UNet2D)
    overlaps = [0 if flat else side // 3 for side in output]
    z, y, x = (
        published_axis(length, side, margin, overlap)
        for length, side, margin, overlap in zip(shape, output, margins, overlaps, strict=True)
    )
    return TileGrid(z, y, x)


def _depth(architecture: Architecture, window: Triple, tile: Triple | None) -> int:
    """Slices of a tile: those of the training window, unless asked otherwise and the net allows it."""
    if tile is None or tile[0] == window[0]:
        return window[0]
    if architecture.fixed_depth:
        raise OptionError(
            f"--tile asks for {tile[0]} slices, but this net is defined only for the {window[0]} slices of its "
            "training window"
        )
    return tile[0]


def _wide_grids(shape: Triple, architecture: Architecture, z: Axis, stitch: str, tile: Triple | None) -> list[TileGrid]:
    """Grids of wide tiles, the one that computes least twice first; just one when the tile is asked for."""
    edge = 0 if architecture.margin else _EDGE

    def axis(length: int, parts: int) -> Axis:
        shared = length // (8 * parts) if stitch == "blend" and parts > 1 else 0
        halo = max(architecture.halo, shared)
        return wide_axis(length, parts, architecture.margin, halo, edge, architecture.alignment, architecture.residue)

    def axes(length: int, wanted: int | None) -> list[Axis]:
        choices = [axis(length, parts) for parts in range(1, ceil(length / _SMALLEST) + 1)]
        if wanted is None:
            return choices
        return [next((choice for choice in choices if choice.output <= wanted), choices[-1])]

    wanted = (None, None) if tile is None else tile[1:]
    grids = [TileGrid(z, y, x) for y in axes(shape[1], wanted[0]) for x in axes(shape[2], wanted[1])]
    return sorted(grids, key=lambda grid: (grid.redundancy, grid.n_tiles))


def _memory(
    grid: TileGrid,
    bands: tuple[tuple[int, int], ...],
    *,
    architecture: Architecture,
    precision: str,
    keep_probabilities: bool,
) -> int:
    """Peak bytes of a run, estimated (docs/benchmarks.md compares it with what is measured)."""
    voxels = float(grid.input[0]) * grid.input[1] * grid.input[2]
    outputs = 4 * architecture.n_classes * float(grid.output[0]) * grid.output[1] * grid.output[2]
    rows = max(stop - start for start, stop in bands)
    rows_read = _rows_read(grid.y, bands)
    net = voxels * live_channels(architecture) * _ITEM_BYTES[precision]
    slab = min(grid.z.output, grid.z.length) * float(rows) * grid.x.length
    canvas = slab * (9 + 4 * architecture.n_classes * keep_probabilities)
    source = float(rows_read) * grid.x.length * 4 * (grid.z.input + 1) + 2 * 4 * voxels
    # A slice at a time is put together of its bands, and its objects are found.
    assembly = float(grid.y.length) * grid.x.length * (20 + 8 * architecture.n_classes * keep_probabilities)
    return int(_PROGRAM_BYTES + max(net + 4 * outputs + canvas + source, assembly))
