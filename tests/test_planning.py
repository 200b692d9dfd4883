"""Tiles from memory and options."""

import pytest

from densecell_batch.architecture import Hybrid2D3D, UNet2D, published
from densecell_batch.errors import OptionError
from densecell_batch.planning import plan_tiles

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
