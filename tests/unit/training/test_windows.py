"""The windows that a training draws: from which places, how they are varied, and that seed and step decide."""

from collections import Counter
from dataclasses import replace

import numpy as np
from phantoms import NET, RECIPE, phantom

from densecell_batch.training.volumes import LabelledVolume
from densecell_batch.training.windows import Augmentation, Sampler


def sampler(volume, window=(5, 32, 32), seed=0, **options):
    return Sampler([volume], window, 2, 3, **{"augmentation": Augmentation(), "seed": seed, **options})


def test_windows_follow_from_seed_and_step():
    volume = phantom()
    first, again, other = (sampler(volume, seed=seed) for seed in (1, 1, 2))
    for step in (7, 0):
        for a, b in zip(first(step), again(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first(3)[0], first(4)[0])
    assert not np.array_equal(first(3)[0], other(3)[0])


def test_image_and_labels_are_moved_together():
    """An image that is its own labels stays so through every turn and bend, but at the seams of interpolation."""
    labels = phantom().labels
    volume = LabelledVolume((labels * 10.0).astype(np.float32), labels, None, ("", ""))
    still = replace(Augmentation(), brightness=0, slice_brightness=0, contrast=0, gamma=0, noise=0, harsh=0)
    draw = sampler(volume, augmentation=still)
    agreement = [np.mean(np.rint(images[..., 0] / 10) == labels) for images, labels, _ in map(draw, range(20))]
    assert np.mean(agreement) > 0.9
    exact = sampler(volume, augmentation=replace(still, bent=0.0))
    for step in range(20):
        images, labels, _ = exact(step)
        np.testing.assert_array_equal(images[..., 0], labels * 10)


def test_flips_really_flip():
    """All 8 ways in which a square can lie, each with both orders of the slices; each window lies in one of them."""
    z, y, x = np.indices((5, 96, 96))
    image = (10_000 * z + 100 * y + x).astype(np.float32)
    labels = np.ones(image.shape, np.uint8)
    labels[2, 48, 48] = 0  # the only class that windows are centred on: none of them reaches an edge
    volume = LabelledVolume(image, labels, None, ("", ""))
    still = Augmentation(bent=0.0, brightness=0, slice_brightness=0, contrast=0, gamma=0, noise=0, harsh=0)
    draw = Sampler([volume], (5, 32, 32), 2, 1, augmentation=still, rare=1.0)
    seen = Counter()
    for step in range(200):
        for window in draw(step)[0][..., 0]:
            steps = [np.unique(np.diff(window, axis=axis)) for axis in range(3)]
            assert [len(found) for found in steps] == [1, 1, 1]
            seen[tuple(int(found[0]) for found in steps)] += 1
    lying = [(a, b) for a in (-100, 100) for b in (-1, 1)]
    assert set(seen) == {(order, *way) for order in (-10_000, 10_000) for a, b in lying for way in ((a, b), (b, a))}
    assert min(seen.values()) > 10  # of 400, 16 ways alike


def test_rare_classes_are_met():
    volume = phantom()
    labels = volume.labels.copy()
    labels[labels == 2] = 1
    labels[2, 30, 30] = 2
    rare = LabelledVolume(volume.image, labels, None, ("", ""))
    share = {r: np.mean([(sampler(rare, rare=r)(s)[1] == 2).any() for s in range(100)]) for r in (0.0, 1.0)}
    assert share[1.0] > share[0.0] + 0.2


def test_windows_as_they_are():
    volume = phantom()
    images, labels, weights = sampler(volume, augmentation=None)(0)
    assert (weights == 1).all()
    assert images.shape == (2, 5, 32, 32, 1)
    assert labels.shape == (2, 5, 32, 32)
    windows = np.lib.stride_tricks.sliding_window_view(volume.image, (5, 32, 32))
    assert (windows == images[0, ..., 0]).all((-3, -2, -1)).any()


def test_slices_that_only_serve_others():
    """Each slice is met in the middle, those at the ends among their mirrored neighbours; classes are met there."""
    volume = phantom((4, 40, 40))
    labels = np.zeros_like(volume.labels)
    labels[3, 5, 5] = 1
    marked = LabelledVolume(
        np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 40, 40)), labels, None, ("", "")
    )
    draw = Sampler([marked], (3, 32, 32), 1, 2, augmentation=None, rare=0.5, context=1)
    seen = Counter(tuple(draw(step)[0][0, :, 0, 0, 0].astype(int)) for step in range(200))
    assert set(seen) == {(1, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)}
    assert seen[2, 3, 3] > 40  # the class that is there alone
    assert draw.epoch == -(-4 * 40 * 40 // (32 * 32))
    (image,), (found,), _ = Sampler([phantom((1, 40, 40))], (3, 32, 32), 1, 3, augmentation=Augmentation(), context=1)(
        0
    )
    assert image.shape == (3, 32, 32, 1)
    np.testing.assert_array_equal(found[0], found[2])


def test_statistics_are_taken_of_windows_that_are_not_varied():
    volume = phantom()
    images, _, _ = RECIPE.plain_sampler([volume], NET, 0)(5)
    windows = np.lib.stride_tricks.sliding_window_view(volume.image, (5, 32, 32))
    assert (windows == images[0, ..., 0]).all((-3, -2, -1)).any()
