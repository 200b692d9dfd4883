"""What holds of every stitch, tried on many grids: a known field comes back, and slices leave once and in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import axes, grids

from densecell_batch.inference.stitch import Canvas
from densecell_batch.inference.tiling import TileGrid, published_axis
from densecell_batch.nets.ensemble import answer_of

OWNING = ["crop", "deepest", "latest"]  # each voxel is taken from one tile
RULES = [*OWNING, "blend"]
N_CLASSES = 3


def field(shape, seed):
    """Probabilities of each voxel, float32."""
    logits = np.random.default_rng(seed).standard_normal((*shape, N_CLASSES))
    return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)


def output_of(volume, tile):
    """What a net that knows the volume says of a tile."""
    axes = zip(tile.grid.axes, tile.index, strict=True)
    seen = [axis.input_indices(i)[axis.margin : axis.margin + axis.output] for axis, i in axes]
    return volume[np.ix_(*seen)]


def number_of(tile):
    """Of a tile, in the order in which they are painted."""
    grid, (z, y, x) = tile.grid, tile.index
    return (z * len(grid.y.corners) + y) * len(grid.x.corners) + x


def stitched(grid, rule, net, rows=None, ys=None, **options):
    """Slices that leave the canvas: (row of tiles after which, copies of z, labels, confidence, probabilities and
    disagreement).
    """
    canvas, left = Canvas(grid, rule, N_CLASSES, keep_probabilities=True, keep_disagreement=True, **options), []
    for row in range(len(grid.z.corners)) if rows is None else rows:
        for tile in grid.row(row, ys):
            canvas.paint(tile, answer_of(*net(tile)))
        for s in canvas.finished(row):
            arrays = (s.labels, s.confidence, s.probabilities, s.disagreement)
            left.append((row, s.z, *(array.copy() for array in arrays)))
    return left


def whole(left):
    """Labels, confidence, probabilities and disagreement of the volume."""
    return [np.stack([row[k] for row in left]) for k in range(2, 6)]


def knowing(volume):
    """A net whose disagreement is the probability of class 0."""

    def net(tile):
        probabilities = output_of(volume, tile)
        return probabilities, probabilities[..., 0].copy()

    return net


def numbering(tile):
    """A net that says of each tile which one it is, as disagreement."""
    even = np.full((*tile.grid.output, N_CLASSES), 1 / N_CLASSES, np.float32)
    return even, np.full(tile.grid.output, number_of(tile), np.float32)


@pytest.mark.parametrize("rule", OWNING)
@given(grids(), st.integers(0, 9))
@settings(max_examples=180)
def test_a_field_comes_back_to_the_bit(rule, grid, seed):
    volume = field(grid.shape, seed)
    labels, confidence, probabilities, disagreement = whole(stitched(grid, rule, knowing(volume)))
    np.testing.assert_array_equal(probabilities, volume)
    np.testing.assert_array_equal(labels, volume.argmax(-1))
    np.testing.assert_array_equal(confidence, volume.max(-1))
    np.testing.assert_array_equal(disagreement, volume[..., 0])


@given(grids(), st.integers(0, 9))
@settings(max_examples=180)
def test_a_field_comes_back_from_a_blend(grid, seed):
    """To the rounding of weights; to the bit where no two tiles overlap."""
    volume = field(grid.shape, seed)
    labels, confidence, probabilities, disagreement = whole(stitched(grid, "blend", knowing(volume)))
    np.testing.assert_allclose(probabilities, volume, rtol=2e-6)
    np.testing.assert_allclose(disagreement, volume[..., 0], rtol=2e-6)
    np.testing.assert_array_equal(labels, probabilities.argmax(-1))
    np.testing.assert_array_equal(confidence, probabilities.max(-1))
    alone = np.zeros(grid.shape, int)
    for row in range(len(grid.z.corners)):
        for tile in grid.row(row):
            alone[tile.inside] += 1
    np.testing.assert_array_equal(probabilities[alone == 1], volume[alone == 1])


@pytest.mark.parametrize("rule", RULES)
@given(grids(), st.lists(st.floats(1 / 64, 1, width=32), min_size=N_CLASSES, max_size=N_CLASSES))
@settings(max_examples=150)
def test_what_all_tiles_say_is_the_answer(rule, grid, values):
    """Labels exactly, the probabilities too where each voxel is of one tile; a blend's weights sum to one."""
    same = np.broadcast_to(np.array(values, np.float32), (*grid.output, N_CLASSES))
    labels, _, probabilities, disagreement = whole(
        stitched(grid, rule, lambda tile: (same, np.ones(grid.output, np.float32)))
    )
    expected = np.broadcast_to(np.array(values, np.float32), (*grid.shape, N_CLASSES))
    np.testing.assert_allclose(disagreement, 1, rtol=0 if rule in OWNING else 2e-6)
    np.testing.assert_allclose(probabilities, expected, rtol=0 if rule in OWNING else 2e-6)
    best = np.sort(values)
    if rule in OWNING or best[-1] > best[-2] * (1 + 1e-5):
        assert (labels == int(np.argmax(values))).all()


def owners(grid, rule):
    """Number of the tile that each voxel is to be taken from, by asking each voxel how deep it is in each tile."""
    if rule == "deepest":
        best, owner = np.zeros(grid.shape, int), np.full(grid.shape, -1)
        for row in range(len(grid.z.corners)):
            for tile in grid.row(row):
                dz, dy, dx = (axis.depth(i) for axis, i in zip(grid.axes, tile.index, strict=True))
                depth = np.minimum(4 * dz[:, None, None], np.minimum(dy[:, None], dx))
                owner[depth > best] = number_of(tile)
                best = np.maximum(best, depth)
        return owner
    each = []
    for axis in grid.axes:
        depths = np.array([axis.depth(i) for i in range(len(axis.corners))])
        last = len(depths) - 1 - np.argmax(depths[::-1] > 0, axis=0)
        each.append(np.argmax(depths, axis=0) if rule == "crop" else last)
    z, y, x = np.ix_(*each)
    return (z * len(grid.y.corners) + y) * len(grid.x.corners) + x


@pytest.mark.parametrize("rule", OWNING)
@given(grids(depth=6, side=40))  # so large that a tile can be deeper along y and x than along z
@settings(max_examples=180)
def test_each_voxel_is_taken_from_the_tile_that_the_rule_names(rule, grid):
    *_, disagreement = whole(stitched(grid, rule, numbering))
    np.testing.assert_array_equal(disagreement, owners(grid, rule))


@given(grids())
@settings(max_examples=180)
def test_a_blend_is_the_mean_under_gaussians(grid):
    """About the middle of each tile, of a standard deviation of an eighth of its side, as nnU-Net blends."""
    total, weights = np.zeros(grid.shape), np.zeros(grid.shape)
    for row in range(len(grid.z.corners)):
        for tile in grid.row(row):
            weight = np.ones(())
            for axis, i in zip(grid.axes, tile.index, strict=True):
                distance = np.arange(axis.length) - axis.corners[i] - (axis.output - 1) / 2
                bell = np.exp(-((distance / (axis.output / 8)) ** 2) / 2) * (axis.depth(i) > 0)
                weight = weight[..., None] * bell
            weights += weight
            total += weight * number_of(tile)
    *_, disagreement = whole(stitched(grid, "blend", numbering))
    np.testing.assert_allclose(disagreement, total / weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@given(axes(20))
def test_slices_leave_once_in_order_and_as_soon_as_they_can(rule, z):
    """When no later row of tiles has a say in them, and not a row later."""
    grid = TileGrid(z, published_axis(3, 2, 0, 0), published_axis(3, 3, 0, 0))
    left = stitched(grid, rule, numbering)
    assert [row[1] for row in left] == list(range(z.length))
    spans = {"crop": z.deepest, "latest": z.latest}.get(rule, z.inside)
    for row, slice_, *_ in left:
        assert all(start > slice_ for start, stop in spans[row + 1 :] if start < stop)
        if row > 0:  # after the row before it could not leave yet
            assert spans[row][0] <= slice_


@pytest.mark.parametrize("rule", RULES)
@given(grids(), st.data())
@settings(max_examples=180)
def test_a_part_is_stitched_as_in_the_whole(rule, grid, data):
    """The tiles that decide some slices and rows make of these what all tiles make, to the bit: shards and bands."""

    def part(length):
        start = data.draw(st.integers(0, length - 1))
        return start, data.draw(st.integers(start + 1, length))

    slices, band = part(grid.z.length), part(grid.y.length)

    def net(tile):
        """Other values in each tile."""
        made = field(grid.output, number_of(tile))
        return made, made[..., 1].copy()

    rows, ys = grid.z.touching(rule, *slices), grid.y.touching(rule, *band)
    left = [
        row
        for row in stitched(grid, rule, net, rows, ys, first_row=rows[0], band=band)
        if slices[0] <= row[1] < slices[1]
    ]
    assert [row[1] for row in left] == list(range(*slices))
    for found, all_ in zip(whole(left), whole(stitched(grid, rule, net)), strict=True):
        np.testing.assert_array_equal(found, all_[slice(*slices), slice(*band)])


@given(grids(), st.integers(0, 9))
@settings(max_examples=60)
def test_what_is_not_kept_changes_nothing(grid, seed):
    """Labels and confidence are the same whether probabilities are kept or not."""
    volume = field(grid.shape, seed)
    for rule in RULES:
        canvas, found = Canvas(grid, rule, N_CLASSES), []
        for row in range(len(grid.z.corners)):
            for tile in grid.row(row):
                canvas.paint(tile, answer_of(output_of(volume, tile), with_probabilities=rule == "blend"))
            for s in canvas.finished(row):
                assert s.probabilities is None
                assert s.disagreement is None
                found.append((s.labels.copy(), s.confidence.copy()))
        labels, confidence, *_ = whole(stitched(grid, rule, knowing(volume)))
        np.testing.assert_array_equal(np.stack([a for a, _ in found]), labels)
        np.testing.assert_array_equal(np.stack([b for _, b in found]), confidence)
