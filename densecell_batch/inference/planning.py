"""From a stack, a net and a memory budget to tiles: decided before any voxel is read.

Under `crop` and `blend` the tiles are as wide in y and x as the memory allows: a whole slice where it fits. The wider
the tile, the less is computed twice and the more context each voxel has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np

from densecell_batch.errors import OptionError
from densecell_batch.inference.tiling import Axis, TileGrid, published_axis, wide_axis, wide_sizes
from densecell_batch.nets.architecture import Architecture, ResidualUNet, UNet2D, flop_per_voxel, live_channels

__all__ = ["STITCHES", "Plan", "plan_tiles"]

STITCHES = ("crop", "deepest", "blend")

Triple = tuple[int, int, int]
Bands = tuple[tuple[int, int], ...]

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 2}
_PROGRAM_BYTES = {"openvino": 600 * 2**20, "keras": 900 * 2**20}  # Python, an engine and its kernels before any tile
_FILL_BYTES = 36  # for each voxel of a slice in which fill is mirrored
_SMALLEST = 64  # voxels in y and x that a tile adds to its halo, at least
_BANDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)  # numbers of bands that are tried, in this order
_DEPTHS = (8, 4, 2, 1)  # slices of a tile, at most, where they are computed each for itself
_EDGE = 2  # mirrored voxels at the ends of the volume, as in the published windows


@dataclass(frozen=True)
class Plan:
    """How a stack will be segmented."""

    grid: TileGrid
    rule: str  # of `stitch.Canvas`
    precision: str  # of `device.PRECISIONS`
    bands: Bands  # rows [start, stop) along y that are computed at a time; all, if memory allows
    memory: int  # bytes, estimate of the peak
    gflop: float  # billions of floating-point operations of all members on all tiles


def plan_tiles(
    shape: Triple,
    architecture: Architecture,
    window: Triple,
    *,
    stitch: str = "crop",
    precision: str = "float32",
    engine: str = "keras",
    members: int = 1,
    budget: int = 4 * 2**30,
    tile: Triple | None = None,
    keep_probabilities: bool = False,
    fill: bool = False,
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
    precision, engine, members
        What the nets compute in, what computes them, and how many there are.
    budget
        Bytes that the process may take.
    tile
        Output region (z, y, x) wanted instead of the one that fits the memory: sides along y and x are the largest that
        the net takes and are no larger, or the smallest that it takes.
    keep_probabilities
        Whether the canvas carries probabilities.
    fill
        Whether whole slices are in memory while rows of them are read, as where fill becomes mirrored tissue.

    Returns
    -------
    Plan

    Raises
    ------
    OptionError
        If the net does not allow the tile that is asked for, or the memory does not suffice for the smallest one. The
        tiles of "deepest" are those that were published, whatever they need up to twice the memory, or 2 GiB.
    """
    if stitch not in STITCHES:
        raise OptionError(f"--stitch is {stitch!r}; expected one of {', '.join(STITCHES)}")
    keep = keep_probabilities or stitch == "blend"
    if stitch == "deepest":
        if tile is not None:
            raise OptionError("--tile does not go with --stitch deepest, whose windows are those of the training")
        z, y, x = _published_axes(shape, architecture, window)
        zs, ys, xs, rule = [z], [y], [x], "latest" if isinstance(architecture, UNet2D) else "deepest"
    else:
        zs = _deep_axes(shape[0], architecture, window, stitch, tile)
        wanted = (None, None) if tile is None else tile[1:]
        ys = _wide_axes(shape[1], architecture, stitch, wanted[0])
        xs, rule = _undominated(_wide_axes(shape[2], architecture, stitch, wanted[1])), stitch
    program = _PROGRAM_BYTES.get(engine, _PROGRAM_BYTES["keras"])
    held = members + 3 if engine == "openvino" else 4  # probabilities of a tile, of all classes, at a time
    costs = partial(
        _memory, architecture=architecture, precision=precision, program=program, held=held,
        keep_probabilities=keep, fill=fill,
    )  # fmt: skip
    grid, bands, memory = _best([_first_fitting(z, ys, xs, partial(costs, z), budget) for z in zs], budget)
    if tile is None:  # else it is as it was asked for
        _check_memory(memory, budget, stitch, shape, window)
    # Tiles are cut further when memory runs out.
    gflop = members * _voxels(grid) * flop_per_voxel(architecture) / 1e9
    return Plan(grid, rule, precision, bands, memory, gflop)


def _check_memory(memory: int, budget: int, stitch: str, shape: Triple, window: Triple) -> None:
    if stitch == "deepest" and memory > max(2 * budget, 2 * 2**30):  # the window is what the bundle says it is
        raise OptionError(
            f"{budget / 2**30:.2f} GiB of memory do not suffice for the windows of {list(window)} voxels (z, y, x) of "
            f"the model's training: they need about {memory / 2**30:.2f} GiB; give --memory {ceil(memory / 2**30)}G, "
            "or use --stitch crop"
        )
    if stitch != "deepest" and memory > budget:
        raise OptionError(
            f"{budget / 2**30:.2f} GiB of memory do not suffice for slices of {shape[1]} x {shape[2]} voxels: the "
            f"smallest tiles need about {memory / 2**30:.2f} GiB; give --memory {ceil(memory / 2**30)}G or more, on a "
            "machine that has it"
        )


Found = tuple[TileGrid, Bands, int]  # and the memory that it takes


def _best(found: list[Found], budget: int) -> Found:
    """Of plans with tiles of several depths, the one that computes least twice within slices in the fewest bands, the
    first of such; the one that takes the least memory if none keeps within the budget.
    """
    fitting = [plan for plan in found if plan[2] <= budget]
    if not fitting:
        return min(found, key=lambda plan: plan[2])
    return min(fitting, key=lambda plan: (len(plan[1]), plan[0].redundancy_within))


def _first_fitting(z: Axis, ys: list[Axis], xs: list[Axis], costs: Callable[..., int], budget: int) -> Found:
    """The grid, bands and memory of the plan with the fewest bands that keeps within the budget, and of those with as
    many the one that computes least twice; the one that takes the least memory if none does.
    """
    smallest: Found | None = None
    tried = 0
    for n_bands in _BANDS:
        fitting = []
        for y in ys:
            if len(y.corners) <= tried:
                continue  # each tile was a band of its own before
            share = ceil(y.length / n_bands)  # the largest band has no fewer rows
            least = costs(y, xs[-1], rows=share, rows_read=share)
            if least > budget and smallest is not None and least >= smallest[2]:
                continue
            bands = _bands(y, n_bands)
            rows = max(stop - start for start, stop in bands)
            cost = partial(costs, y, rows=rows, rows_read=_rows_read(y, bands))
            x = _widest(xs, cost, budget)
            found = TileGrid(z, y, x), bands, cost(x)
            if found[2] <= budget:
                fitting.append(found)
            elif smallest is None or found[2] < smallest[2]:
                smallest = found
        if fitting:
            return min(fitting, key=lambda found: (found[0].redundancy, found[0].n_tiles))
        tried = n_bands
    assert smallest is not None
    return smallest


def _widest(xs: list[Axis], cost: Callable[[Axis], int], budget: int) -> Axis:
    """The first of ways to cut x, each with smaller tiles than the one before, that fits; the last if none does."""
    return xs[min(bisect_left(xs, True, key=lambda x: cost(x) <= budget), len(xs) - 1)]


def _bands(y: Axis, n: int) -> Bands:
    """Cut the rows of a slice into at most `n` bands, each of whole tiles."""
    if n == 1:
        return ((0, y.length),)
    spans = [span for span in y.deepest if span[0] < span[1]]
    groups = [spans[len(spans) * i // n : len(spans) * (i + 1) // n] for i in range(n)]
    return tuple((group[0][0], group[-1][1]) for group in groups if group)


def _rows_read(y: Axis, bands: Bands) -> int:
    """Rows that the largest band needs to see."""
    if len(bands) == 1:
        return y.length
    spans = (y.read_by(y.touching("inside", *band)) for band in bands)
    return max(stop - start for start, stop in spans)


def _voxels(grid: TileGrid) -> float:
    return grid.n_tiles * float(np.prod(grid.output))


def _published_axes(shape: Triple, architecture: Architecture, window: Triple) -> tuple[Axis, Axis, Axis]:
    output = architecture.output_shape(window)
    margins = [(i - o) // 2 for i, o in zip(window, output, strict=True)]
    flat = isinstance(architecture, UNet2D)
    overlaps = [0 if flat else side // 3 for side in output]
    z, y, x = (
        published_axis(length, side, margin, overlap)
        for length, side, margin, overlap in zip(shape, output, margins, overlaps, strict=True)
    )
    return z, y, x


def _deep_axes(length: int, architecture: Architecture, window: Triple, stitch: str, tile: Triple | None) -> list[Axis]:
    """Ways to cut z. Tiles of a 3D net are as deep as it was trained and overlap; slices that are computed each for
    itself need not. Of a residual net, whose windows have one, as many are taken at a time as the memory allows.
    """
    if not isinstance(architecture, ResidualUNet):
        depth = _depth(architecture, window, tile)
        overlap = 0 if isinstance(architecture, UNet2D) else depth // 2 if stitch == "blend" else depth // 3
        return [published_axis(length, depth, 0, overlap)]
    numbers = [ceil(length / depth) for depth in (_DEPTHS if tile is None else tile[:1])]
    depths = dict.fromkeys(ceil(length / n) for n in numbers)  # evenly, so that few are computed twice
    return [published_axis(length, depth, architecture.context, 0) for depth in depths]


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


def _wide_axes(length: int, architecture: Architecture, stitch: str, wanted: int | None) -> list[Axis]:
    """Ways to cut an axis into wide tiles, fewest first; just one when the side of a tile is asked for."""
    edge = 0 if architecture.margin else _EDGE
    # Tiles of all grids end at one place; where any will do, right behind the edge.
    residue = (length + 2 * edge) % architecture.alignment if architecture.any_side else architecture.residue

    def halo(parts: int) -> int:
        return max(architecture.halo, length // (8 * parts) if stitch == "blend" and parts > 1 else 0)

    def sizes(parts: int) -> tuple[int, int]:
        return wide_sizes(length, parts, halo(parts), edge, architecture.alignment, residue)

    numbers = range(1, ceil(length / _SMALLEST) + 1)
    if wanted is not None:
        chosen = [next((parts for parts in numbers if sizes(parts)[0] <= wanted), numbers[-1])]
    else:
        different: dict[tuple[int, int], int] = {}
        for parts in numbers:
            different.setdefault(sizes(parts), parts)
        chosen = list(different.values())
    return [wide_axis(length, n, architecture.margin, halo(n), edge, architecture.alignment, residue) for n in chosen]


def _undominated(axes: list[Axis]) -> list[Axis]:
    """Those that compute least twice first, without those that do not make the tiles smaller by computing more."""
    kept: list[Axis] = []
    for axis in sorted(axes, key=lambda axis: (len(axis.corners) * axis.output, len(axis.corners))):
        if not kept or axis.output < kept[-1].output:
            kept.append(axis)
    return kept


def _memory(
    z: Axis,
    y: Axis,
    x: Axis,
    *,
    rows: int,
    rows_read: int,
    architecture: Architecture,
    precision: str,
    program: int,
    held: int,
    keep_probabilities: bool,
    fill: bool,
) -> int:
    """Peak bytes of a run whose largest band has so many rows and needs to see `rows_read`, estimated
    (docs/benchmarks.md compares it with what is measured). Larger tiles never take less.
    """
    voxels = float(z.input) * y.input * x.input
    outputs = 4 * architecture.n_classes * float(z.output) * y.output * x.output
    computed = float(z.output) * y.input * x.input  # slices that serve as context are read, but not computed
    net = computed * live_channels(architecture) * _ITEM_BYTES[precision]
    slab = min(z.output, z.length) * float(rows) * x.length
    canvas = slab * (9 + 4 * architecture.n_classes * keep_probabilities)
    source = float(rows_read) * x.length * 4 * (z.input + 1) + 2 * 4 * voxels
    source += _FILL_BYTES * float(y.length) * x.length * fill
    # A slice at a time is put together of its bands, and its objects are found.
    assembly = float(y.length) * x.length * (20 + 8 * architecture.n_classes * keep_probabilities)
    return int(program + max(net + held * outputs + canvas + source, assembly))
