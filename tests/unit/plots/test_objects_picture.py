"""The picture of objects: what is seen from above, colours, sizes; that nothing is clipped."""

import numpy as np
import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.io.writing import instance_colours
from densecell_batch.plots.objects import Projection, render_objects

SIZE = VoxelSize(0.05, 0.01, 0.01)
COLOURS = instance_colours(300)
WHITE = 255


def squares(n, height=300, width=400):
    """A projection with n objects of equal size, in rows."""
    y, x = np.mgrid[:height, :width]
    side = max(2, int((height * width / max(n, 1)) ** 0.5) - 1)
    number = y // side * (width // side) + x // side + 1
    return np.where((number <= n) & (y % side > 0) & (x % side > 0), number, 0).astype(np.uint32)


def test_the_first_object_along_z_is_seen():
    projection = Projection()
    assert projection.numbers is None
    first = np.array([[0, 1, 0]], np.uint16)
    projection.add(first)
    projection.add(np.array([[0, 2, 3]], np.uint16))
    projection.add(np.array([[0, 4, 4]], np.uint16))
    assert projection.numbers.tolist() == [[0, 1, 3]]
    assert projection.numbers.dtype == np.uint16
    assert first.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("voxel_size", [SIZE, None], ids=["calibrated", "no voxel size"])
@pytest.mark.parametrize("n", [0, 1, 2, 30, 10_000])
def test_nothing_is_clipped(n, voxel_size):
    volumes = np.random.default_rng(0).lognormal(6, 2, n).astype(np.int64) + 1
    picture = render_objects(squares(n), volumes, COLOURS, voxel_size, "a title " * 40).copy()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    border = np.concatenate(
        [picture[:6].ravel(), picture[-6:].ravel(), picture[:, :6].ravel(), picture[:, -6:].ravel()]
    )
    assert (border == WHITE).all()


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (3, 3), (3000, 50)])
def test_slices_of_any_shape(shape):
    picture = render_objects(np.ones(shape, np.uint16), np.array([5]), COLOURS, SIZE, "x")
    assert max(picture.shape) < 1400
    assert (picture == COLOURS[1]).all(-1).any()


def test_colours_of_the_objects_and_no_others():
    picture = render_objects(squares(50), np.full(50, 9), COLOURS, SIZE, "x")
    found = {tuple(c) for c in picture[46:400, 14:494].reshape(-1, 3).tolist()}
    assert found == {tuple(c) for c in COLOURS[:51].tolist()}


def test_colours_repeat_without_black():
    numbers = np.array([[299, 300, 598, 599]], np.uint32)
    picture = render_objects(numbers, np.full(4, 9), COLOURS, SIZE, "x")
    row = picture[100]
    assert [row[14 + 60 + 120 * k].tolist() for k in range(4)] == [COLOURS[i].tolist() for i in (299, 1, 299, 1)]


def test_the_histogram_shows_the_counts():
    """Two sizes, three objects of one and one of the other: bars of height 3 to 1."""
    picture = render_objects(squares(4), np.array([10, 10, 10, 1000]), COLOURS, None, "x")
    bars = (picture == (70, 120, 170)).all(-1)
    heights = bars.sum(0)
    tall, short = np.unique(heights[heights > 0])[[-1, 0]]
    assert tall / short == pytest.approx(3, rel=0.03)


def test_same_bytes():
    pictures = [render_objects(squares(30), np.arange(1, 31), COLOURS, SIZE, "x") for _ in range(2)]
    np.testing.assert_array_equal(*pictures)
