"""Spoilt slices of a crop of real tissue, and of made-up cells that change from slice to slice, are named; good ones
are not.
"""

import re
import sys

import msgspec
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from densecell_batch.prepare.defects import SliceLook, SliceWatcher, find_defects, replacements

SIZE = 160


def cells(depth, *, turn=0.35, seed=0):
    """(z, y, x) uint8: blobs with thin dark borders and grain, which change a little from slice to slice."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 5)
    slices = []
    for _ in range(depth):
        fresh = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 5)
        field = np.cos(turn) * field + np.sin(turn) * fresh
        unit = field / field.std()
        image = 140 + 15 * unit - 70 * np.exp(-((unit / 0.25) ** 2))
        slices.append(ndimage.gaussian_filter(image + 25 * rng.standard_normal(image.shape), 0.7))
    return np.clip(np.round(slices), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def stack():
    return cells(12)


def watch(volume, outside=None):
    watcher = SliceWatcher()
    return [watcher.look(plane, None if outside is None else outside[z]) for z, plane in enumerate(volume)]


def defects(volume, outside=None):
    return find_defects(watch(volume, outside))


def named(volume, outside=None):
    return [(defect.z, defect.kind) for defect in defects(volume, outside)]


def grey(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def torn(plane):
    plane = plane.copy()
    plane[60 : 60 + SIZE // 10] = 230
    return plane


RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def _same_noise(monkeypatch):
    """In each test, whatever ran before it: of some 10 % of the noises, a slice of 96 x 96 voxels looks related."""
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(1))


SPOILERS = {
    "blank": [lambda p: grey(130 + RNG.standard_normal(p.shape)), lambda p: np.full_like(p, 7)],
    "destroyed": [
        lambda p: RNG.integers(0, 256, p.shape).astype(np.uint8),
        lambda p: grey(RNG.normal(p.mean(), p.std(), p.shape)),
    ],
    "torn": [torn],
    "out of focus": [lambda p: ndimage.gaussian_filter(p, 2.5)],
    "inverted": [lambda p: 255 - p],
    "shifted": [lambda p: np.roll(p, 24, 1), lambda p: np.roll(p, (-20, 22), (0, 1))],
    "brighter": [lambda p: grey(p * 1.6), lambda p: grey(p + 60.0)],
    "darker": [lambda p: grey(p - 60.0)],
    "contrast": [lambda p: grey(p.mean() + (p - p.mean()) / 2)],
}
CASES = [(kind, spoiler) for kind, spoilers in SPOILERS.items() for spoiler in spoilers]


def spoilt(volume, spoiler, *slices):
    volume = volume.copy()
    for z in slices:
        volume[z] = spoiler(volume[z])
    return volume


@pytest.mark.parametrize(("kind", "spoiler"), CASES)
@pytest.mark.parametrize(
    ("depth", "bad"), [(5, [2]), (5, [0]), (5, [4]), (10, [4, 5]), (10, [1]), (12, [0]), (12, [11])]
)
def test_a_spoilt_slice_is_named_and_no_other(stack, kind, spoiler, depth, bad):
    assert named(spoilt(stack[:depth], spoiler, *bad)) == [(z, kind) for z in bad]


@pytest.mark.parametrize(("kind", "spoiler"), CASES)
def test_the_type_of_the_grey_values_does_not_matter(stack, kind, spoiler):
    volume = spoilt(stack[:6], spoiler, 3)
    for other in (
        volume.astype(np.uint16) * 200,
        (volume.astype(np.int16) - 128) * 100,
        volume.astype(np.float32) / 255,
        volume.astype(np.float32) * np.float32(1e30),
    ):
        # What is constant but for noise of one grey value stays so.
        assert named(other) == [(3, kind)]


@pytest.mark.parametrize("seed", range(6))
def test_good_stacks_have_no_defects(seed):
    volume = cells(8, turn=0.2 + 0.1 * seed, seed=seed)
    for some in (volume, volume[:1], volume[:2], volume[:3], volume[::2], volume[:, 20:120, 30:110]):
        assert defects(some) == []


def test_real_tissue_has_no_defects(data):
    volume = tifffile.imread(data / "vnc-crop.tif")
    for some in (volume, volume[:1], volume[1:3], volume[:3], volume[:, :64, :64]):
        assert defects(some) == []


@pytest.mark.parametrize("kind", ["blank", "destroyed", "torn", "out of focus", "brighter", "darker", "contrast"])
def test_a_spoilt_slice_of_real_tissue_is_named(data, kind):
    volume = tifffile.imread(data / "vnc-crop.tif")
    assert named(spoilt(volume, SPOILERS[kind][0], 2)) == [(2, kind)]


def test_what_changes_slowly_is_no_defect(stack):
    gain = np.linspace(0.6, 1.2, len(stack))[:, None, None]
    assert defects(grey(stack * gain)) == []
    assert defects(grey(stack + np.linspace(-40, 40, len(stack))[:, None, None])) == []
    assert defects(np.stack([np.roll(plane, 3 * z, 1) for z, plane in enumerate(stack)])) == []
    fading = [grey(128 + (plane - 128.0) * 0.75**z) for z, plane in enumerate(stack)]
    assert not {kind for _, kind in named(np.stack(fading))} & {"blank", "destroyed"}


def test_a_step_of_brightness_is_no_slice_that_stands_out(stack):
    volume = stack.copy()
    volume[6:] = grey(volume[6:] * 0.6)
    assert defects(volume) == []


def test_the_place_of_a_jump_is_named_once(stack):
    volume = stack.copy()
    volume[5:] = np.roll(volume[5:], (0, 25), (1, 2))
    (defect,) = defects(volume)
    assert (defect.z, defect.kind) == (5, "shifted")
    # To a voxel: what is found lies between those of the cells that changed.
    assert re.fullmatch(r"from here on all slices lie 2[456] voxels to the right of those before", defect.detail)


@pytest.mark.parametrize(
    ("by", "way"),
    [
        ((0, 24), "24 voxels to the right of its neighbours"),
        ((0, -24), "24 voxels to the left of its neighbours"),
        ((30, 0), "30 voxels below its neighbours"),
        ((-30, 0), "30 voxels above its neighbours"),
        ((20, 30), "30 voxels to the right of and 20 voxels below its neighbours"),
    ],
)
def test_the_way_of_a_shift(stack, by, way):
    for z in (0, 4, 11):
        (defect,) = defects(spoilt(stack, lambda p: np.roll(p, by, (0, 1)), z))
        assert defect.z == z
        found = [int(word) for word in defect.detail.split() if word.isdigit()]
        expected = [int(word) for word in way.split() if word.isdigit()]
        assert np.abs(np.subtract(found, expected)).max() <= 1
        assert [w for w in defect.detail.split() if not w.isdigit()] == [w for w in way.split() if not w.isdigit()]


def test_the_slice_after_a_blank_one_is_compared_with_the_one_before_it(stack):
    volume = spoilt(stack, np.zeros_like, 4)
    volume[5:] = np.roll(volume[5:], 25, 2)
    assert named(volume) == [(4, "blank"), (5, "shifted")]


def test_what_is_outside_does_not_count(stack):
    outside = np.zeros(stack.shape, bool)
    for z in range(len(stack)):
        outside[z, :, : 40 + 5 * (z % 3)] = True
    outside[7] = True
    volume = np.where(outside, RNG.integers(0, 256, stack.shape), stack).astype(np.uint8)
    assert named(volume, outside) == [(7, "blank")]
    assert defects(volume, outside)[0].detail == "no tissue in it"
    assert named(spoilt(volume, lambda p: 255 - p, 3), outside) == [(3, "inverted"), (7, "blank")]


def test_missing_values_outside_do_not_count(stack):
    outside = np.zeros(stack.shape, bool)
    outside[:, :30] = True
    assert defects(np.where(outside, np.float32(np.nan), stack.astype(np.float32)), outside) == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (4, 1, 50), (4, 50, 1), (4, 7, 9), (4, 15, 300), (0, 5, 5)])
def test_any_shape_can_be_looked_at(shape):
    volume = RNG.integers(0, 256, shape).astype(np.uint8)
    assert {defect.kind for defect in defects(volume)} <= {"blank"}
    assert named(np.zeros(shape, np.uint8)) == [(z, "blank") for z in range(shape[0])]


def test_a_large_slice_is_binned():
    volume = np.tile(cells(6), (1, 4, 3))[:, :601, :437]
    assert named(volume) == []
    assert named(spoilt(volume, lambda p: np.roll(p, 20, 0), 3)) == [(3, "shifted")]
    assert {look.bin for look in watch(volume)} == {3}


def test_noise_of_unrelated_slices_is_not_called_destroyed():
    noise = RNG.integers(0, 256, (8, 64, 64)).astype(np.uint8)
    assert defects(noise) == []


def test_looks_are_small_and_go_through_json(stack):
    looks = watch(spoilt(stack, np.zeros_like, 4))
    text = msgspec.json.encode(looks)
    assert len(text) < 400 * len(looks)
    assert msgspec.json.decode(text, type=list[SliceLook]) == looks
    assert watch(spoilt(stack, np.zeros_like, 4)) == looks


def test_replacements():
    assert replacements(5, {2}) == {2: 1}
    assert replacements(5, {0, 1}) == {0: 2, 1: 2}
    assert replacements(6, {2, 3, 5}) == {2: 1, 3: 4, 5: 4}
    assert replacements(3, set()) == {}
    assert replacements(3, {0, 1, 2}) == {}
