"""The cover of a model."""

import numpy as np

from densecell_batch.plots.cover import render_cover

CLASSES = [("background", (0, 0, 0)), ("cell", (255, 0, 0))]


def test_a_cover_is_twice_as_wide_as_high_and_shows_the_middle():
    image = np.tile(np.linspace(0, 255, 90, dtype=np.float32), (40, 1))
    labels = np.zeros((40, 90), np.uint8)
    labels[:20] = 1
    cover = render_cover(image, labels, CLASSES)
    assert (cover.shape, cover.dtype) == ((256, 512, 3), np.uint8)
    plain, over = cover[:, :256].astype(int), cover[:, 256:].astype(int)
    assert (np.ptp(plain, axis=-1) == 0).all()
    assert (over[:120, :, 0] - over[:120, :, 1]).min() > 50  # red over the upper half
    np.testing.assert_array_equal(over[136:], plain[136:])
