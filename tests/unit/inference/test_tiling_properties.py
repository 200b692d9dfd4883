"""What holds of all tiles and all plans, tried on many: coverage, ownership, mirroring, overlap, memory."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_axes, axes, grids, published_axes

from densecell_batch.errors import OptionError
from densecell_batch.inference.planning import plan_tiles
from densecell_batch.inference.tiling import flush_corners, mirror, wide_axis, wide_sizes
from densecell_batch.nets.architecture import Hybrid2D3D, UNet2D

# Axes


@given(axes())
def test_tiles_cover_every_voxel_and_lie_where_they_say(axis):
    covered = np.zeros(axis.length, int)
    for i, ((start, stop), corner) in enumerate(zip(axis.inside, axis.corners, strict=True)):
        assert list(range(start, stop)) == [v for v in range(corner, corner + axis.output) if 0 <= v < axis.length]
        covered[start:stop] += 1
        assert np.flatnonzero(axis.depth(i) > 0).tolist() == list(range(start, stop))
    assert covered.min() >= 1


@given(axes())
def test_what_tiles_own_is_disjoint_and_covers_each_voxel_once(axis):
    for spans in (axis.deepest, axis.latest):
        owned = np.zeros(axis.length, int)
        for (start, stop), (first, last) in zip(spans, axis.inside, strict=True):
            owned[start:stop] += 1
            assert start == stop or first <= start < stop <= last  # of what the tile covers, nothing else
        assert owned.tolist() == [1] * axis.length
        assert all(a[1] == b[0] for a, b in pairwise(spans))  # one after the other


@given(axes())
def test_owners_are_the_deepest_and_the_latest(axis):
    depths = np.array([axis.depth(i) for i in range(len(axis.corners))])
    for i, (start, stop) in enumerate(axis.deepest):
        assert (depths[i, start:stop] >= depths[i:, start:stop]).all()
        assert (depths[i, start:stop] > depths[:i, start:stop]).all()  # of a tie, the earlier one
    for i, (start, stop) in enumerate(axis.latest):
        assert (depths[i, start:stop] > 0).all()
        assert (depths[i + 1 :, start:stop] <= 0).all()


@given(axes(), st.data())
def test_tiles_that_touch_a_part_are_those_that_decide_it(axis, data):
    start = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(start + 1, axis.length))
    for rule, spans in (("crop", axis.deepest), ("latest", axis.latest), ("blend", axis.inside)):
        deciding = [i for i, (a, b) in enumerate(spans) if a < b and a < stop and b > start]
        touching = axis.touching(rule, start, stop)
        assert set(deciding) <= set(touching)
        assert [touching[0], touching[-1]] == [deciding[0], deciding[-1]]


@given(axes())
def test_what_a_tile_sees_is_the_volume_and_outside_of_it_the_mirror(axis):
    for i, corner in enumerate(axis.corners):
        seen, places = axis.input_indices(i), np.arange(axis.input) + corner - axis.margin
        assert len(seen) == axis.output + 2 * axis.margin
        inside = (places >= 0) & (places < axis.length)
        assert seen[inside].tolist() == places[inside].tolist()
        assert seen[~inside].tolist() == mirror(places[~inside], axis.length).tolist()


@given(st.integers(1, 12), st.integers(-60, 60))
def test_mirrors_fold_at_the_first_voxel_and_behind_the_last_one(length, index):
    (found,) = mirror(np.array([index]), length)
    assert 0 <= found < length
    if index < 0:
        assert found == mirror(np.array([-index]), length)[0]
    elif index >= length:
        assert found == mirror(np.array([2 * length - 1 - index]), length)[0]
    else:
        assert found == index


@given(axes(), st.data())
def test_rows_that_are_read_hold_all_that_the_tiles_see(axis, data):
    start = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(start + 1, axis.length))
    for rule in ("crop", "latest", "blend"):
        tiles = axis.touching(rule, start, stop)
        low, high = axis.read_by(tiles)
        seen = np.concatenate([axis.input_indices(i) for i in tiles])
        assert 0 <= low <= seen.min()
        assert seen.max() < high <= axis.length


@given(any_axes(), st.integers(1, 5))
def test_axes_with_a_voxel_uncovered_are_refused(axis, missing):
    beyond = axis.corners[-1] + axis.output
    with pytest.raises(OptionError, match="do not cover"):
        type(axis)(beyond + missing, axis.output, axis.margin, axis.corners)
    with pytest.raises(OptionError, match="do not cover"):  # a gap in the middle
        type(axis)(axis.length + axis.output, axis.output, axis.margin, (*axis.corners, beyond + missing))
    with pytest.raises(OptionError, match="do not cover"):
        type(axis)(max(axis.length, missing + 1), axis.output, axis.margin, tuple(c + 40 for c in axis.corners))


# The published grid


@given(published_axes())
def test_published_tiles_overlap_by_what_was_asked_and_end_flush(drawn):
    axis, overlap = drawn
    assert all(a + axis.output - b >= overlap for a, b in pairwise(axis.corners))
    assert all(b - a == axis.output - overlap for a, b in pairwise(axis.corners[:-1]))
    if axis.length >= axis.output:  # none sticks out
        assert (axis.corners[0], axis.corners[-1] + axis.output) == (0, axis.length)
    else:  # in the middle, and by half a voxel towards the end
        (corner,) = axis.corners
        assert -corner - (corner + axis.output - axis.length) in (0, -1)
    assert axis.corners == flush_corners(axis.length, axis.output, axis.output - overlap)


# Wide tiles

wide = st.fixed_dictionaries(
    {"length": st.integers(1, 400), "parts": st.integers(1, 9), "margin": st.sampled_from([0, 3, 92]),
     "halo": st.integers(0, 70), "edge": st.integers(0, 3), "alignment": st.sampled_from([1, 2, 4, 8, 16])}
)  # fmt: skip


@given(wide, st.integers(0, 15))
def test_wide_tiles_have_their_context_on_one_lattice(options, residue):
    residue %= options["alignment"]
    axis = wide_axis(**options, residue=residue)
    halo, edge, alignment = (options[name] for name in ("halo", "edge", "alignment"))
    assert axis.corners[0] == -edge
    assert len(axis.corners) <= options["parts"]
    assert axis.output % alignment == residue
    assert all((b - a) % alignment == 0 for a, b in pairwise(axis.corners))
    assert axis.corners[-1] + axis.output >= axis.length + edge
    whole = wide_axis(**{**options, "parts": 1}, residue=residue)
    assert axis.corners[-1] + axis.output == whole.corners[0] + whole.output  # all end at one place
    assert all(a + axis.output - b >= 2 * halo for a, b in pairwise(axis.corners))
    for i, ((start, stop), corner) in enumerate(zip(axis.deepest, axis.corners, strict=True)):
        if start < stop and i > 0:
            assert start - corner >= halo
        if start < stop < axis.length:
            assert corner + axis.output - stop >= halo
    parts = {name: options[name] for name in ("length", "parts", "halo", "edge", "alignment")}
    output, stride = wide_sizes(**parts, residue=residue)
    assert output == axis.output
    assert all(b - a == stride for a, b in pairwise(axis.corners[:-1]))
    assert len(axis.corners) == 1 or axis.corners[-1] - axis.corners[-2] <= stride
    if len(axis.corners) > 1 and stride > alignment:  # none smaller would do
        assert options["parts"] * (stride - alignment) < options["length"] + 2 * edge - 2 * halo


# Grids


@given(grids())
def test_the_regions_of_a_grid_cover_the_volume(grid):
    covered, owned, latest = (np.zeros(grid.shape, int) for _ in range(3))
    tiles = [tile for row in range(len(grid.z.corners)) for tile in grid.row(row)]
    for tile in tiles:
        for count, region in ((covered, tile.inside), (owned, tile.owned), (latest, tile.latest)):
            count[region] += 1
            part = tile.within(region)
            if count[region].size:  # it lies in what the net says of the tile
                assert all(0 <= s.start < s.stop <= n for s, n in zip(part, grid.output, strict=True))
                assert np.empty(grid.output, bool)[part].shape == count[region].shape
    assert covered.min() >= 1
    assert (owned == 1).all()
    assert (latest == 1).all()
    assert len({tile.index for tile in tiles}) == len(tiles) == grid.n_tiles
    assert covered.sum() <= grid.redundancy * covered.size * (1 + 1e-9)


# Plans

NETS = {"2d3d": Hybrid2D3D(7, 16), "small 2d3d": Hybrid2D3D(3, 4), "unet": UNet2D(2, 8)}
FIRST = 900 * 2**20  # of a program before any tile
plans = st.fixed_dictionaries(
    {"shape": st.tuples(st.integers(1, 40), st.integers(1, 1500), st.integers(1, 1500)),
     "stitch": st.sampled_from(["crop", "blend"]), "precision": st.sampled_from(["float32", "bfloat16"]),
     "keep_probabilities": st.booleans()}
)  # fmt: skip


def planned(name, options, budget):
    """The plan, or what was said against it."""
    net = NETS[name]
    window = (1 if isinstance(net, UNet2D) else 5, 300, 300)
    try:
        return plan_tiles(architecture=net, window=window, budget=budget, **options)
    except OptionError as error:
        return str(error)


budgets = st.floats(20, 32.5).map(lambda power: FIRST + int(2**power))


@given(st.sampled_from(list(NETS)), plans, budgets)
@settings(max_examples=200)
def test_plans_keep_within_the_memory_that_was_given(name, options, budget):
    found = planned(name, options, budget)
    if isinstance(found, str):
        enough = int(re.search(r"do not suffice.* give --memory (\d+)G or more", found)[1])
        assert enough * 2**30 > budget
        found, budget = planned(name, options, enough * 2**30), enough * 2**30
    assert found.memory <= budget
    grid, net = found.grid, NETS[name]
    assert grid.shape == options["shape"]
    assert [row for start, stop in found.bands for row in range(start, stop)] == list(range(grid.y.length))
    for axis in (grid.y, grid.x):  # the whole context of the net, wherever two tiles meet
        assert all(a + axis.output - b >= 2 * net.halo for a, b in pairwise(axis.corners))
    # Each holds at least what the nets give for a tile, and a slice of the labels with their confidence.
    least = 4 * net.n_classes * np.prod(grid.output, dtype=float) + 5 * np.prod(grid.shape[1:], dtype=float)
    assert found.memory >= FIRST + least / len(found.bands)


@given(st.sampled_from(list(NETS)), plans, budgets, budgets)
@settings(max_examples=500)
def test_more_memory_is_never_worse(name, options, budget, other):
    """Fewer bands; of as many, less that is computed twice; and none is refused that less memory sufficed for."""
    less, more = (planned(name, options, each) for each in sorted((budget, other)))
    if isinstance(less, str):
        return
    assert not isinstance(more, str)
    assert (len(more.bands), more.grid.redundancy) <= (len(less.bands), less.grid.redundancy)


@given(st.sampled_from(list(NETS)), st.integers(1, 40), st.integers(41, 3000))
@settings(max_examples=50)
def test_the_memory_of_a_plan_does_not_grow_with_the_stack(name, few, many):
    options = {"stitch": "crop", "precision": "float32", "keep_probabilities": False}
    plans = [planned(name, {"shape": (n, 700, 600), **options}, 8 * 2**30) for n in (few, many)]
    assert plans[0].memory <= plans[1].memory
    assert plans[1].memory == planned(name, {"shape": (40, 700, 600), **options}, 8 * 2**30).memory
