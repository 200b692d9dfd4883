"""The geometry of tiles: coverage, ownership, mirroring."""

import random
import time

import numpy as np
import pytest

from densecell_batch.errors import OptionError
from densecell_batch.inference.tiling import Axis, TileGrid, flush_corners, gather, mirror, published_axis, wide_axis


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        # From -5 to 8; what leaves at the other end is folded there, as often as needed.
        (4, [2, 3, 3, 2, 1, 0, 1, 2, 3, 3, 2, 1, 0, 1]),
        (1, [0] * 14),
        (2, [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1]),
    ],
)
def test_mirror_reflects_below_and_repeats_the_edge_above(length, expected):
    assert mirror(np.arange(-5, 9), length).tolist() == expected


def test_mirror_is_that_of_numpy():
    row = np.arange(4)
    both = np.concatenate([np.pad(row, (3, 0), "reflect")[:3], row, np.pad(row, (0, 4), "symmetric")[4:]])
    assert mirror(np.arange(-3, 8), 4).tolist() == both.tolist()


@pytest.mark.parametrize(
    ("length", "output", "stride", "corners"),
    [
        (9, 5, 4, (0, 4)),
        (10, 5, 4, (0, 4, 5)),
        (21, 5, 4, (0, 4, 8, 12, 16)),
        (130, 56, 38, (0, 38, 74)),
        (110, 56, 38, (0, 38, 54)),
        (5, 5, 4, (0,)),
        (1, 5, 4, (-2,)),
        (2, 5, 4, (-1,)),
    ],
)
def test_flush_corners(length, output, stride, corners):
    assert flush_corners(length, output, stride) == corners


def test_published_windows_are_reproduced(data, published_input):
    """Corners and mirrored inputs of all 18 windows as the published code made them."""
    reference = np.load(data / "genenet/input-windows.npz")
    grid = TileGrid(published_axis(9, 5, 0, 1), published_axis(130, 56, 2, 18), published_axis(110, 56, 2, 18))
    tiles = [tile for row in range(len(grid.z.corners)) for tile in grid.row(row)]
    assert len(tiles) == len(reference["input"]) == 18
    for tile, corner, window in zip(tiles, reference["corners"], reference["input"][..., 0], strict=True):
        assert [axis.corners[i] for axis, i in zip(grid.axes, tile.index, strict=True)] == corner.tolist()
        regions = [axis.input_indices(i) for axis, i in zip(grid.axes, tile.index, strict=True)]
        np.testing.assert_allclose(published_input[np.ix_(*regions)], window, atol=1e-6)


def wide(length, parts, **changes):
    options = {"margin": 0, "halo": 20, "edge": 2, "alignment": 8, "residue": 0} | changes
    return wide_axis(length, parts, **options)


@pytest.mark.parametrize("length", [1, 7, 64, 100, 333, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("changes", [{}, {"margin": 92, "halo": 0, "edge": 0, "alignment": 16, "residue": 4}])
def test_wide_axes_cover_own_and_align(length, parts, changes):
    axis = wide(length, parts, **changes)
    step, residue = changes.get("alignment", 8), changes.get("residue", 0)
    assert axis.output % step == residue
    assert {(c - axis.corners[0]) % step for c in axis.corners} == {0}
    for spans in (axis.deepest, axis.latest):
        assert np.array_equal(np.concatenate([np.arange(a, b) for a, b in spans]), np.arange(length))
    for (start, stop), corner in zip(axis.deepest, axis.corners, strict=True):
        if start == stop or length < 100:
            continue
        # Context at the sides that border on another tile.
        assert start == 0 or start - corner >= changes.get("halo", 20)
        assert stop == length or corner + axis.output - stop >= changes.get("halo", 20)


def test_deepest_gives_ties_to_the_earlier_tile():
    assert published_axis(9, 5, 0, 1).deepest == ((0, 5), (5, 9))
    assert published_axis(9, 5, 0, 1).latest == ((0, 4), (4, 9))


@pytest.mark.parametrize("corners", [(), (1,), (0, 6), (0,)])
def test_uncovered_axes_are_refused(corners):
    with pytest.raises(OptionError, match="do not cover"):
        Axis(10, 5, 0, corners)


def test_redundancy_of_the_benchmark_stack():
    grid = TileGrid(published_axis(21, 5, 0, 1), wide(400, 1), wide(400, 1))
    assert grid.redundancy == pytest.approx(25 * 408**2 / (21 * 400**2))
    assert grid.n_tiles == 5


def test_owners_and_what_they_read_are_those_of_asking_each_voxel():
    chance = random.Random(0)
    for _ in range(300):
        length, output, margin = chance.randint(1, 120), chance.randint(1, 60), chance.choice([0, 3, 40])
        corners = [-chance.randint(0, 80)]
        while corners[-1] + output < length or chance.random() < 0.3:
            corners.append(corners[-1] + chance.randint(1, output))
        axis = Axis(length, output, margin, tuple(corners))
        depths = np.array([axis.depth(i) for i in range(len(corners))])
        owners = {
            "crop": (np.argmax(depths, axis=0), axis.deepest),
            "latest": (len(corners) - 1 - np.argmax(depths[::-1] > 0, axis=0), axis.latest),
        }
        start = chance.randrange(length)
        stop = chance.randint(start + 1, length)
        for rule, (owner, spans) in owners.items():
            for i, (a, b) in enumerate(spans):
                assert np.flatnonzero(owner == i).tolist() == list(range(a, b))
            touching = axis.touching(rule, start, stop)
            assert set(owner[start:stop].tolist()) <= set(touching)
            assert {touching[0], touching[-1]} <= set(owner[start:stop].tolist())
        inside = axis.touching("inside", start, stop)
        assert list(inside) == np.flatnonzero((depths[:, start:stop] > 0).any(axis=1)).tolist()
        low, high = axis.read_by(inside)
        read = np.concatenate([axis.input_indices(i) for i in inside])
        assert low <= read.min()
        assert high > read.max()


def test_axes_of_very_long_stacks_are_small():
    begun = time.process_time()
    axis = published_axis(100_000, 5, 0, 1)
    assert len(axis.deepest) == len(axis.latest) == len(axis.inside) == 25_000
    assert axis.deepest[-1] == (99_996, 100_000)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_gathering_is_indexing(length):
    """Whatever is mirrored, at one end, at both, or many times over."""
    rng = np.random.default_rng(length)
    plane = rng.random((length, 30), np.float32)
    for _ in range(50):
        rows, columns = (
            mirror(np.arange(start := int(rng.integers(-9, 9)), start + int(rng.integers(1, 60))), side)
            for side in plane.shape
        )
        found = np.full((len(rows), len(columns)), np.nan, np.float32)
        gather(plane, rows, columns, found)
        np.testing.assert_array_equal(found, plane[np.ix_(rows, columns)])
