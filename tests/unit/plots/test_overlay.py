"""The picture of the result: the right colours in the right place, and a scale bar of the right length."""

import numpy as np
import pytest
from PIL import Image

from densecell_batch.calibration import VoxelSize
from densecell_batch.labels import OUTSIDE
from densecell_batch.plots.overlay import render_preview
from densecell_batch.plots.png import write_png

CLASSES = [
    ("background", (0, 0, 0)),
    ("membrane", (255, 0, 0)),
    ("a name that is far too long for the legend", (0, 0, 255)),
]
LEGEND = 836  # left edge of the legend beside pictures of 400 pixels


def picture(shape=(100, 200), voxel_size=None, slices=1, image=None, labels=None):
    ramp = np.broadcast_to(np.linspace(0, 255, shape[1]), shape).astype(np.uint8) if image is None else image
    if labels is None:
        labels = np.zeros(shape, np.uint8)
        labels[:, shape[1] // 2 :] = 1
    return render_preview([(3 * i, ramp) for i in range(slices)], [labels] * slices, CLASSES, voxel_size, "cells")


def test_labels_lie_over_the_right_half_only():
    drawn = picture().astype(int)
    plain, over = drawn[42:242, 12:412], drawn[42:242, 424:824]
    np.testing.assert_array_equal(over[:, :199], plain[:, :199])  # background stays as it is
    redder = over[:, 201:, 0] - over[:, 201:, 1]
    assert redder.min() > 100
    assert (plain[..., 0] == plain[..., 2]).all()


def test_legend_has_the_class_colours():
    drawn = picture()
    colours = {tuple(c) for c in drawn[:, LEGEND : LEGEND + 15].reshape(-1, 3).tolist()}
    assert {(255, 0, 0), (0, 0, 255)} <= colours


@pytest.mark.parametrize("edge", [0.001, 0.0092, 0.35, 7.0])
def test_scale_bar_has_a_round_length(edge):
    drawn = picture(voxel_size=VoxelSize(edge, edge, edge))
    row = drawn[42 + 6, LEGEND:, :]
    pixels = int((row == 30).all(-1).sum()) - 1  # the rectangle includes its last pixel
    length = pixels / 2 * edge  # each voxel is 2 pixels wide
    mantissa = length / 10 ** np.floor(np.log10(length * 1.01))
    assert min(abs(mantissa - m) / m for m in (1, 2, 5)) < 0.03
    assert 40 <= pixels <= 106


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (900, 3), (700, 650)])
@pytest.mark.parametrize("slices", [1, 3])
def test_any_shape_of_slice(shape, slices):
    drawn = picture(shape, slices=slices)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] <= LEGEND + 210
    assert drawn.shape[0] >= 60


@pytest.mark.parametrize("value", [-3e4, 0, 1e-12, 3e9])
def test_images_of_one_value(value):
    """Black, and the labels over it; no number that is none."""
    drawn = picture(image=np.full((100, 200), value, np.float32))
    plain, over = drawn[42:242, 12:412], drawn[42:242, 424:824]
    assert not plain.any()
    assert not over[:, :200].any()
    assert (over[:, 200:] == (round(0.45 * 255), 0, 0)).all()


def legend_rows(drawn):
    """Colours of the boxes of the legend, from above."""
    return [tuple(drawn[42 + 34 + 22 * i + 7, LEGEND + 7].tolist()) for i in range((drawn.shape[0] - 90) // 22)]


def test_outside_is_dark_and_in_the_legend():
    labels = np.zeros((100, 200), np.uint8)
    labels[:, 50:100], labels[:, 150:] = 1, OUTSIDE
    drawn = picture(labels=labels).astype(int)
    plain, over = drawn[42:242, 12:412], drawn[42:242, 424:824]
    np.testing.assert_array_equal(over[:, :99], plain[:, :99])
    assert (over[:, 101:199, 0] - over[:, 101:199, 1]).min() > 100
    np.testing.assert_allclose(over[:, 301:], plain[:, 301:] / 4, atol=1)
    names = [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
    assert legend_rows(drawn)[:4] == [*names, (0, 0, 0)]
    assert legend_rows(picture())[:4] == [*names, (255, 255, 255)]


def test_contrast_is_that_of_the_tissue():
    """Padding of 0 and of 65,535 about a narrow range of greys, which would be one shade."""
    image, labels = np.zeros((100, 200), np.uint16), np.full((100, 200), OUTSIDE, np.uint8)
    image[:, 100:] = 65_535
    image[1::4, 50:150], labels[1::4, 50:150] = np.linspace(3000, 3100, 100), 0
    drawn = picture(image=image, labels=labels).astype(int)
    tissue = drawn[42:242, 12:412][2::8, 100:300, 0]
    assert (tissue.min(), tissue.max()) == (0, 255)
    assert np.unique(tissue).size > 90


def test_all_is_outside():
    labels = np.full((100, 200), OUTSIDE, np.uint8)
    drawn = picture(labels=labels).astype(int)
    plain, over = drawn[42:242, 12:412], drawn[42:242, 424:824]
    np.testing.assert_array_equal(plain, picture()[42:242, 12:412])
    assert over.max() <= 64
    assert legend_rows(drawn)[3] == (0, 0, 0)


def test_png_is_what_was_drawn(tmp_path):
    drawn = picture()
    write_png(tmp_path / "p.png", drawn)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), drawn)
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
