"""Tiles from memory and options."""

import random
import time
import tracemalloc
from itertools import pairwise, product
from math import ceil

import numpy as np
import pytest

from densecell_batch.errors import OptionError
from densecell_batch.inference.planning import plan_tiles
from densecell_batch.inference.tiling import TileGrid, published_axis, wide_axis
from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet, UNet2D, live_channels, published

FULL = published("2d3d")
WINDOW = (5, 300, 300)


def test_a_slice_that_fits_is_one_tile():
    plan = plan_tiles((21, 400, 400), FULL, WINDOW, budget=4 * 2**30)
    assert plan.grid.output == (5, 408, 408)
    assert plan.grid.tiles_per_row == 1
    assert plan.grid.redundancy < 1.25
    assert plan.memory < 4 * 2**30


@pytest.mark.parametrize("stitch", ["crop", "blend"])
@pytest.mark.parametrize("gigabytes", [3, 6, 12])
def test_tiles_keep_within_the_memory_and_use_it(stitch, gigabytes):
    budget = gigabytes * 2**30
    plan = plan_tiles((100, 3000, 3000), FULL, WINDOW, stitch=stitch, budget=budget)
    assert plan.memory <= budget
    more = plan_tiles((100, 3000, 3000), FULL, WINDOW, stitch=stitch, budget=2 * budget)
    assert more.grid.redundancy < plan.grid.redundancy


def test_memory_does_not_depend_on_the_number_of_slices():
    few, many = (plan_tiles((n, 1024, 1024), FULL, WINDOW) for n in (20, 2000))
    assert few.memory == many.memory


def test_deepest_is_the_published_grid():
    grid = plan_tiles((9, 130, 110), Hybrid2D3D(7, 8), (5, 60, 60), stitch="deepest").grid
    assert grid.input == (5, 60, 60)
    assert (grid.z.corners, grid.y.corners, grid.x.corners) == ((0, 4), (0, 38, 74), (0, 38, 54))


def test_deepest_redundancy_at_full_size():
    grid = plan_tiles((50, 800, 800), FULL, WINDOW, stitch="deepest").grid
    assert grid.redundancy == pytest.approx(2.79, abs=0.06)


def test_2d_nets_lose_nothing_to_overlap():
    plan = plan_tiles((9, 1000, 1000), UNet2D(7, 8), (1, 284, 284), budget=2 * 2**30)
    assert plan.grid.z.output == 1
    assert plan.grid.redundancy < 1.1


@pytest.mark.parametrize("stitch", ["crop", "blend"])
def test_slices_of_a_2d_net_are_computed_once(stitch):
    grid = plan_tiles((20, 400, 400), UNet2D(3, 8, 3), (5, 252, 252), stitch=stitch).grid
    assert (grid.z.output, grid.n_tiles) == (5, 4)


def test_slices_of_a_residual_net_are_computed_once():
    net = ResidualUNet(5)
    for depth in (1, 5, 8, 9, 20, 100):
        grid = plan_tiles((depth, 500, 500), net, (3, 256, 256)).grid
        assert grid.z.margin == 1
        assert grid.z.output <= 8
        assert len(grid.z.corners) == ceil(depth / 8)
        assert grid.n_tiles * grid.z.output < depth + len(grid.z.corners)
        assert grid.tiles_per_row == 1
    assert plan_tiles((20, 500, 500), net, (3, 256, 256), tile=(3, 256, 256)).grid.z.output == 3


def test_tiles_of_a_residual_net_are_flatter_where_memory_is_short():
    """Fewer slices at a time cost nothing; smaller tiles within them compute their surroundings twice."""
    net = ResidualUNet(5)
    plenty, short = (plan_tiles((40, 2000, 2000), net, (3, 256, 256), budget=n * 2**30) for n in (64, 4))
    assert plenty.grid.z.output == 8
    assert short.grid.z.output < 8
    assert short.memory <= 4 * 2**30
    assert short.grid.redundancy < 1.1


def test_a_tile_that_is_asked_for():
    grid = plan_tiles((9, 1000, 1000), FULL, WINDOW, tile=(5, 512, 512)).grid
    assert grid.output[1] <= 512
    assert grid.output[1] > 300


@pytest.mark.parametrize("window", [(5, 3000, 3000), (500, 300, 300), (5, 300, 12_000)])
def test_windows_of_a_bundle_that_the_memory_does_not_hold(window):
    net = Hybrid2D3D(n_classes=7)
    with pytest.raises(OptionError, match=r"1\.00 GiB of memory do not suffice for the windows of .* --stitch crop"):
        plan_tiles((50, 800, 800), net, window, stitch="deepest", budget=2**30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stitch": "mean"}, "--stitch is 'mean'"),
        ({"tile": (7, 512, 512)}, "defined only for the 5 slices"),
        ({"tile": (5, 512, 512), "stitch": "deepest"}, "does not go with"),
        ({"budget": 2**20}, "do not suffice for slices of 400 x 400"),
    ],
)
def test_what_cannot_be_planned(options, message):
    with pytest.raises(OptionError, match=message):
        plan_tiles((21, 400, 400), FULL, WINDOW, **options)


def plain_owners(axis):
    """Voxels of each tile that owns any, by asking each voxel how deep it is in each tile."""
    owner = np.argmax([axis.depth(i) for i in range(len(axis.corners))], axis=0)
    return [
        (int(found[0]), int(found[-1]) + 1)
        for i in range(len(axis.corners))
        if len(found := np.flatnonzero(owner == i))
    ]


def plain_rows_read(axis, band):
    """Rows from the lowest to the highest that tiles with a voxel in the band see, mirrored ones included."""
    tiles = [i for i, c in enumerate(axis.corners) if max(c, 0) < band[1] and c + axis.output > band[0]]
    ends = np.concatenate([axis.input_indices(i) for i in (tiles[0], tiles[-1])])
    first, last = (axis.corners[i] - axis.margin for i in (tiles[0], tiles[-1]))
    return max(int(ends.max()) + 1, min(axis.length, last + axis.input)) - min(int(ends.min()), max(0, first))


def plain_plan(shape, net, depth, stitch, precision, budget, keep):
    """Corners along y and x, bands and memory of the right plan, found by trying every one; None if none fits."""
    blend, edge = stitch == "blend", 0 if net.margin else 2
    z = published_axis(shape[0], depth, 0, depth // 2 if blend else depth // 3)
    ways = []
    for length in shape[1:]:
        halos = [max(net.halo, length // (8 * n) if blend and n > 1 else 0) for n in range(1, ceil(length / 64) + 1)]
        lattice = (edge, net.alignment, net.residue)
        ways.append([wide_axis(length, n, net.margin, halo, *lattice) for n, halo in enumerate(halos, start=1)])
    grids = [TileGrid(z, y, x) for y, x in product(*ways)]
    grids.sort(key=lambda grid: (grid.redundancy, grid.n_tiles))
    owners = {y.corners: plain_owners(y) for y in ways[0]}
    keep, known = keep or blend, {}
    for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256):
        for grid in grids:
            y = grid.y
            if (y.corners, n) not in known:
                spans = owners[y.corners]
                cuts = [len(spans) * i // n for i in range(n + 1)]
                bands = [(spans[a][0], spans[b - 1][1]) for a, b in pairwise(cuts) if b > a]
                read = max(plain_rows_read(y, band) for band in bands) if len(bands) > 1 else y.length
                known[y.corners, n] = tuple(bands), max(b - a for a, b in bands), read
            bands, rows, read = known[y.corners, n]
            voxels, outputs = float(np.prod(grid.input)), 4 * net.n_classes * float(np.prod(grid.output))
            tiles = voxels * live_channels(net) * {"float32": 4, "bfloat16": 2}[precision] + 4 * outputs
            slab = min(z.output, z.length) * float(rows) * shape[2]
            canvas = slab * (9 + 4 * net.n_classes * keep)
            source = float(read) * shape[2] * 4 * (z.input + 1) + 2 * 4 * voxels
            assembly = float(shape[1]) * shape[2] * (20 + 8 * net.n_classes * keep)
            if int(900 * 2**20 + max(tiles + canvas + source, assembly)) <= budget:
                return y.corners, y.output, grid.x.corners, grid.x.output, bands
    return None


NETS = [
    Hybrid2D3D(7, 64), Hybrid2D3D(3, 4), Hybrid2D3D(5, 8, n_blocks=1, pyramid_convs=(3,)),
    Hybrid2D3D(2, 16, n_blocks=2), UNet2D(7, 64), UNet2D(3, 8), UNet2D(2, 4, n_blocks=2),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(len(NETS)))
def test_the_plan_is_that_of_trying_every_one(seed):
    chance, net, found = random.Random(seed), NETS[seed], []
    depth = 1 if isinstance(net, UNet2D) else 5
    for _ in range(25):
        largest = chance.choice([20, 300, 1200])
        shape = (chance.choice([1, 5, 12]), chance.randint(1, largest), chance.randint(1, largest))
        keep, precision = chance.random() < 0.3, chance.choice(["float32", "bfloat16"])
        stitch = chance.choice(["crop", "blend"])
        budget = 900 * 2**20 + int(10 ** chance.uniform(5, 9.7))
        right = plain_plan(shape, net, depth, stitch, precision, budget, keep)
        options = {"stitch": stitch, "precision": precision, "budget": budget, "keep_probabilities": keep}
        found.append(right)
        if right is None:
            with pytest.raises(OptionError, match="do not suffice"):
                plan_tiles(shape, net, (depth, 300, 300), **options)
            continue
        plan = plan_tiles(shape, net, (depth, 300, 300), **options)
        grid = plan.grid
        assert (grid.y.corners, grid.y.output, grid.x.corners, grid.x.output, plan.bands) == right, (shape, options)
        assert plan.memory <= budget
    assert sum(right is not None for right in found) > 5


def plan_or_refuse(side, gigabytes, stitch="crop"):
    try:
        return plan_tiles((20, side, side), FULL, WINDOW, stitch=stitch, budget=gigabytes * 2**30)
    except OptionError:
        return None


@pytest.mark.parametrize("stitch", ["crop", "blend"])
@pytest.mark.parametrize("gigabytes", [32, 512, 8000])  # too little, many tiles, one
def test_very_large_slices_are_planned_in_no_time(stitch, gigabytes):
    begun = time.process_time()
    assert (plan_or_refuse(65536, gigabytes, stitch) is None) == (gigabytes == 32)
    assert time.process_time() - begun < 3  # half a second, where nobody else is at work


def test_very_large_slices_are_planned_in_little_memory():
    tracemalloc.start()
    assert plan_or_refuse(24576, 32) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
