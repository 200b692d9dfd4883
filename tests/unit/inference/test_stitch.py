"""Stitching with an identity net: what goes in comes out, through every rule and shape."""

import numpy as np
import pytest

from densecell_batch.inference.stitch import Canvas
from densecell_batch.inference.tiling import TileGrid, published_axis, wide_axis
from densecell_batch.nets.ensemble import answer_of

N_CLASSES = 5


def published_grid(shape):
    return TileGrid(*(published_axis(n, o, m, o // 3) for n, o, m in zip(shape, (5, 24, 24), (0, 2, 2), strict=True)))


def wide_grid(shape, parts=2):
    z, y, x = shape
    axes = [wide_axis(n, parts, 0, 6, 2, 8) for n in (y, x)]
    return TileGrid(published_axis(z, 5, 0, 1), *axes)


def flat_grid(shape):
    z, y, x = shape
    return TileGrid(published_axis(z, 1, 0, 0), published_axis(y, 20, 9, 0), published_axis(x, 20, 9, 0))


def stitch(volume, grid, rule, net, **keep):
    """Run `net` (labels of the output region, tile) -> (probabilities, disagreement) over a volume; all finished
    slices.
    """
    canvas, slices = Canvas(grid, rule, N_CLASSES, **keep), []
    for row in range(len(grid.z.corners)):
        for tile in grid.row(row):
            regions = [
                axis.input_indices(i)[axis.margin : axis.margin + axis.output]
                for axis, i in zip(grid.axes, tile.index, strict=True)
            ]
            canvas.paint(tile, answer_of(*net(volume[np.ix_(*regions)], tile)))
        for s in canvas.finished(row):
            copies = [
                None if a is None else a.copy() for a in (s.labels, s.confidence, s.probabilities, s.disagreement)
            ]
            slices.append((s.z, *copies))
    return slices


def identity(labels, tile):
    one_hot = np.eye(N_CLASSES, dtype=np.float32)[labels]
    return one_hot, labels.astype(np.float32)


@pytest.mark.parametrize("shape", [(9, 60, 50), (10, 24, 25), (1, 40, 30), (3, 7, 9), (6, 100, 1), (23, 30, 30)])
@pytest.mark.parametrize(
    ("rule", "grid"),
    [
        ("crop", wide_grid),
        ("crop", published_grid),
        ("deepest", published_grid),
        ("latest", flat_grid),
        ("crop", flat_grid),
        ("blend", wide_grid),
        ("blend", published_grid),
        ("blend", flat_grid),
    ],
)
def test_identity_net_returns_its_input(shape, rule, grid):
    volume = np.random.default_rng(0).integers(0, N_CLASSES, shape)
    slices = stitch(volume, grid(shape), rule, identity, keep_probabilities=True, keep_disagreement=True)
    assert [s[0] for s in slices] == list(range(shape[0]))
    labels, confidence, probabilities, disagreement = (np.stack([s[k] for s in slices]) for k in (1, 2, 3, 4))
    np.testing.assert_array_equal(labels, volume)
    np.testing.assert_allclose(confidence, 1, atol=1e-5)
    np.testing.assert_allclose(probabilities, np.eye(N_CLASSES)[volume], atol=1e-5)
    np.testing.assert_allclose(disagreement, volume, atol=1e-5)


def brute_force_deepest(grid):
    """The published rule, voxel by voxel: number of the tile that each voxel is taken from."""
    best, owner = np.zeros(grid.shape, int), np.full(grid.shape, -1)
    number = 0
    for row in range(len(grid.z.corners)):
        for tile in grid.row(row):
            starts = [axis.corners[i] for axis, i in zip(grid.axes, tile.index, strict=True)]
            for voxel in np.ndindex(grid.shape):
                offset = [v - s for v, s in zip(voxel, starts, strict=True)]
                if all(0 <= o < n for o, n in zip(offset, grid.output, strict=True)):
                    dz, dy, dx = (min(o + 1, n - o) for o, n in zip(offset, grid.output, strict=True))
                    depth = min(4 * dz, dy, dx)
                    if depth > best[voxel]:
                        best[voxel], owner[voxel] = depth, number
            number += 1
    return owner


def test_deepest_is_the_published_rule_to_the_voxel():
    grid = published_grid((10, 41, 50))

    def number(labels, tile):
        n = tile.index[0] * grid.tiles_per_row + tile.index[1] * len(grid.x.corners) + tile.index[2]
        return np.full((*labels.shape, N_CLASSES), 1 / N_CLASSES, np.float32), np.full(labels.shape, n, np.float32)

    slices = stitch(np.zeros(grid.shape, int), grid, "deepest", number, keep_disagreement=True)
    np.testing.assert_array_equal(np.stack([s[4] for s in slices]), brute_force_deepest(grid))


@pytest.mark.parametrize("rule", ["crop", "deepest", "latest"])
def test_each_voxel_has_one_owner(rule):
    """The tile numbers that voxels carry differ from a blend: no mixture of tiles appears."""
    grid = published_grid((9, 50, 50))
    labels = iter(np.tile(np.arange(N_CLASSES), grid.n_tiles))

    def constant(region, tile):
        return np.broadcast_to(np.eye(N_CLASSES, dtype=np.float32)[next(labels)], (*region.shape, N_CLASSES)), None

    slices = stitch(np.zeros(grid.shape, int), grid, rule, constant, keep_probabilities=True)
    probabilities = np.stack([s[3] for s in slices])
    assert set(np.unique(probabilities)) == {0.0, 1.0}
    assert (probabilities.sum(-1) == 1).all()


def test_slices_leave_as_soon_as_no_later_row_touches_them():
    grid = published_grid((13, 24, 24))
    canvas = Canvas(grid, "crop", N_CLASSES)
    left = []
    for row in range(len(grid.z.corners)):
        for tile in grid.row(row):
            canvas.paint(tile, answer_of(np.full((*grid.output, N_CLASSES), 0.2, np.float32)))
        left.append([s.z for s in canvas.finished(row)])
    assert left == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
