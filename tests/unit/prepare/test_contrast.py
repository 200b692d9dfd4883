"""Contrast that is wrong is put right; what a stack shows is not taken for its contrast."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from densecell_batch.errors import OptionError
from densecell_batch.io.reading import open_stack
from densecell_batch.prepare.contrast import (
    LEVELS,
    MODES,
    Curve,
    apply,
    describe,
    grey_curves,
    inverted,
    of_negative,
    trained_quantiles,
)
from densecell_batch.prepare.examine import examine
from densecell_batch.prepare.normalize import normalize
from densecell_batch.prepare.preparation import Steps

DEPTH, EDGE = 6, 256


def tissue(seed=0, depth=DEPTH):
    """Bright cells, dark membranes between them, and some noise, continuous along z: (z, y, x) from 0 to 1."""
    random = np.random.default_rng(seed)
    cells = ndimage.gaussian_filter(random.standard_normal((depth, EDGE, EDGE)), (2, 3, 3), mode="wrap")
    membranes = np.exp(-np.square(cells / cells.std() / 0.3))
    fine = ndimage.gaussian_filter(random.standard_normal(cells.shape), (0.5, 1, 1))
    return np.clip(0.68 - 0.42 * membranes + 0.06 * fine / fine.std(), 0, 1)


def grey(values):
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def described(volume, inside=None):
    return [describe(plane, None if inside is None else inside[z]) for z, plane in enumerate(volume)]


def mapped(volume, mode="auto", trained=None, inside=None):
    curves = grey_curves(mode, described(volume, inside), trained)
    assert len(curves) == len(volume)
    return np.stack([apply(plane, curve) for plane, curve in zip(volume, curves, strict=True)])


def apart(volume, other, where=...):
    """Mean distance of values, in standard deviations."""
    return float(np.abs(volume - other)[where].mean())


TISSUE = tissue()
GOOD = grey(TISSUE)
TRAINED = trained_quantiles(described(grey(tissue(1))))
RIGHT = mapped(GOOD, "stack")
STEPS = np.linspace(-1, 1, DEPTH)[:, None, None]
Y, X = np.mgrid[:EDGE, :EDGE] / EDGE - 0.5
DISK = np.hypot(Y, X) < 0.4  # half of the slice

SPOILT = {
    "as it is": GOOD,
    "gamma 0.5": grey(TISSUE**0.5),
    "gamma 2": grey(TISSUE**2),
    "brighter, less contrast": grey(0.3 + 0.5 * TISSUE),
    "drift": grey(0.5 + (TISSUE - 0.5) * (1 + 0.4 * STEPS) + 0.1 * np.roll(STEPS, 2, axis=0)),
    "contrast that jumps": grey(0.3 + 0.6 * TISSUE * np.array([1, 0.4, 1, 0.5, 0.3, 0.8])[:, None, None]),
    "drift of gamma": grey(TISSUE ** (2.0**STEPS)),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_stack_is_as_published(tmp_path, dtype):
    volume = {
        "uint8": GOOD,
        "uint16": 60000 + 20 * GOOD.astype(np.uint16),
        "int16": (GOOD.astype(np.int16) - 128) * 200,
        "float32": (1e4 + TISSUE).astype(np.float32),
    }[dtype]
    tifffile.imwrite(tmp_path / "s.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
    with open_stack(tmp_path / "s.tif") as stack:
        found = examine(stack, Steps(outside="off", defects="off")).preparation().statistics
    published = normalize(volume, found.mean, found.std)
    found = mapped(volume, "stack")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, published)


def test_slice_by_slice():
    wide = SPOILT["drift"].astype(np.float64)
    expected = (wide - wide.mean((1, 2), keepdims=True)) / wide.std((1, 2), keepdims=True)
    np.testing.assert_allclose(mapped(SPOILT["drift"], "slice"), expected, rtol=1e-6, atol=1e-6)


def test_a_slice_without_contrast_goes_with_the_stack():
    volume = GOOD.copy()
    volume[2] = 9
    np.testing.assert_array_equal(mapped(volume, "slice")[2], mapped(volume, "stack")[2])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_none_changes_nothing(dtype):
    np.testing.assert_array_equal(mapped(GOOD.astype(dtype), "none"), GOOD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_table_says_what_the_curve_says(mode, dtype):
    lowest = np.iinfo(dtype).min if dtype != "float32" else -3
    volume = (GOOD.astype(np.float64) ** 1.5 * 8 + lowest).astype(dtype)
    for plane, curve in zip(volume, grey_curves(mode, described(volume), TRAINED), strict=True):
        large = apply(plane, curve)
        pixels = np.concatenate([apply(part, curve) for part in np.array_split(plane, 128)])
        np.testing.assert_array_equal(large, pixels)
        assert large.dtype == np.float32
        assert large.shape == plane.shape


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("mode", ["auto", "match"])
def test_what_was_spoilt_is_put_right(name, mode):
    assert apart(mapped(SPOILT[name], mode, TRAINED), RIGHT) < 0.08


@pytest.mark.parametrize("scale", [1, 0.5])
def test_auto_is_as_published_where_nothing_is_wrong(scale):
    volume = grey(0.1 + scale * (TISSUE - 0.1))
    trained = trained_quantiles(described(GOOD[::-1, :, ::-1]))
    curves = grey_curves("auto", described(volume), trained)
    assert all(curve == curves[0] for curve in curves)
    np.testing.assert_array_equal(mapped(volume, "auto", trained), mapped(volume, "stack"))


def test_slices_alike_share_a_curve():
    curves = grey_curves("auto", described(SPOILT["gamma 2"]), TRAINED)
    assert curves[0].raw
    assert all(curve == curves[0] for curve in curves)


CONTENT = {
    "resin on two slices": (0.86, 0.02, (1, 2)),
    "resin on all": (0.86, 0.02, range(DEPTH)),
    "a nucleus on two slices": (0.4, 0.06, (3, 4)),
    "a nucleus on all": (0.4, 0.06, range(DEPTH)),
}


@pytest.mark.parametrize("spoil", [lambda v: v, lambda v: v**2, lambda v: 0.3 + 0.6 * v * (1 + 0.2 * STEPS)])
@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("mode", ["auto", "match"])
def test_what_a_slice_shows_is_not_its_contrast(name, mode, spoil):
    level, texture, slices = CONTENT[name]
    values, counted = TISSUE.copy(), np.ones(TISSUE.shape, bool)
    noise = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(TISSUE.shape), (0, 2, 2))
    for z in slices:
        values[z][DISK] = level + texture * (noise[z] / noise.std())[DISK]
        counted[z][DISK] = False
    assert apart(mapped(grey(spoil(values)), mode, TRAINED), RIGHT, counted) < 0.18


@pytest.mark.parametrize("mode", ["auto", "match"])
def test_slices_of_a_nucleus_only_are_seen_as_their_neighbours(mode):
    values = 0.3 + 0.6 * tissue(0, 9) ** 1.5
    noise = 0.02 * np.random.default_rng(3).standard_normal(values.shape)
    for z, radius in ((2, 0.3), (3, 0.45), (4, 1), (5, 0.45), (6, 0.3)):
        within = np.hypot(Y, X) < radius
        values[z][within] = (0.6 + noise[z])[within]
    found = mapped(grey(values), mode, TRAINED)[4]
    assert found.std() < 0.4  # not stretched to that of tissue


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_noise_is_not_taken_for_contrast(dtype):
    noise = 0.1 * np.random.default_rng(4).standard_normal(TISSUE.shape)  # as a standard deviation of 25 grey values
    noisy = 255 * (TISSUE + noise) if dtype == np.float32 else grey(TISSUE + noise)
    curves = grey_curves("match", described(noisy.astype(dtype)), TRAINED)
    beneath = np.stack([apply(plane, curve) for plane, curve in zip(GOOD, curves, strict=True)])
    assert 0.93 < beneath.std() / RIGHT.std() < 1  # 0.90 if pixels were taken singly


@pytest.mark.parametrize("shape", [(64, 64), (33, 47), (1, 40), (40, 1), (1, 1), (2, 3)])
def test_slices_of_any_size_are_described(shape):
    plane = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    tiles = describe(plane).tiles
    assert np.isfinite(tiles).all()
    assert plane.min() <= tiles.min()
    assert tiles.max() <= plane.max()
    np.testing.assert_array_equal(describe(plane, np.ones(shape, bool)).tiles, tiles)
    # A gamma changes values, and not which of them are taken.
    np.testing.assert_allclose(describe(plane.astype(np.float32) ** 2).tiles, tiles**2, rtol=0.2, atol=60)


def test_hot_pixels():
    volume = GOOD.astype(np.uint16) * 16
    expected, places = mapped(volume, "auto", TRAINED), np.random.default_rng(0).choice(volume.size, 100, replace=False)
    volume.ravel()[places] = 65535
    found = mapped(volume, "auto", TRAINED)
    cold = np.ones(volume.shape, bool)
    cold.ravel()[places] = False
    assert apart(found, expected, cold) < 0.05
    assert apart(mapped(volume, "stack"), expected, cold) > 0.2
    assert np.abs(found).max() < 6


def test_saturated_voxels_move_nothing():
    volume = GOOD.copy()
    volume.ravel()[np.random.default_rng(0).random(volume.size) < 0.01] = 255
    assert apart(mapped(volume, "auto", TRAINED), RIGHT) < 0.07


def test_what_is_outside_counts_for_nothing():
    inside = np.zeros(GOOD.shape, bool)
    inside[:, 37:, :201] = True
    inside[4] = False
    for volume in (SPOILT["gamma 2"], SPOILT["drift"]):
        for mode in MODES:
            black, white = np.where(inside, volume, 0), np.where(inside, volume, 255)
            found = [grey_curves(mode, described(v.astype(np.uint8), inside), TRAINED) for v in (black, white)]
            assert found[0] == found[1]
        assert apart(mapped(np.where(inside, volume, 0), "auto", TRAINED, inside), RIGHT, inside) < 0.1


@pytest.mark.parametrize("spoilt", ["drift", "gamma 2"])
def test_without_the_training_data_a_stack_is_as_published(spoilt):
    np.testing.assert_array_equal(mapped(SPOILT[spoilt]), mapped(SPOILT[spoilt], "stack"))


def test_dark_and_bright_exchanged():
    negative = 255 - SPOILT["gamma 2"]
    curves = grey_curves("match", inverted(described(negative)), TRAINED)
    found = np.stack([apply(plane, of_negative(curve)) for plane, curve in zip(negative, curves, strict=True)])
    assert np.abs(found - mapped(SPOILT["gamma 2"], "match", TRAINED)).max() < 1e-4
    line = Curve(mean=-3.0, std=2.0, limits=(-1.0, 1.0))
    assert np.array_equal(apply(negative[0], of_negative(line)), apply(-negative[0].astype(np.int16), line))


def test_small_errors_do_not_add_up_over_a_thick_stack():
    thick = grey(np.concatenate([tissue(seed, 16)[:, :96, :96] for seed in range(6)]))
    curves = grey_curves("match", described(thick), TRAINED)
    slopes = np.array([np.polyfit(curve.raw, curve.normalized, 1)[0] for curve in curves])
    assert np.ptp(slopes) / slopes.mean() < 0.35


@pytest.mark.parametrize("mode", MODES)
def test_curves_rise_and_are_plain_numbers(mode):
    saturated = grey(1.4 * TISSUE)
    for curve in grey_curves(mode, described(saturated), TRAINED):
        fields = json.loads(json.dumps(asdict(curve), allow_nan=False))
        limits = fields.pop("limits")
        again = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        assert Curve(**again, limits=limits and tuple(limits)) == curve
        assert np.all(np.diff(curve.raw) > 0)
        assert np.all(np.diff(curve.normalized) >= 0)
        assert np.all(np.diff(apply(np.arange(256, dtype=np.uint8)[None], curve)) >= 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "volume",
    [
        np.full((3, 40, 40), 7, np.uint8),
        np.zeros((1, 3, 5), np.float32),
        np.arange(6, dtype=np.uint16).reshape(1, 2, 3),
        (np.arange(2 * 70 * 70).reshape(2, 70, 70) % 2 * 255).astype(np.uint8),
    ],
)
def test_stacks_that_hold_next_to_nothing(mode, volume):
    for trained in (TRAINED, None):
        if mode != "match" or trained:
            assert np.isfinite(mapped(volume, mode, trained)).all()
    assert np.isfinite(mapped(volume, mode, TRAINED, np.zeros(volume.shape, bool))).all()


def test_nothing_to_remember_of_data_without_contrast():
    assert trained_quantiles(described(np.full((2, 40, 40), 7, np.uint8))) is None
    assert len(TRAINED) == len(LEVELS)
    assert all(isinstance(value, float) for value in TRAINED)


@pytest.mark.parametrize("cut", [np.s_[:, :70, :], np.s_[:1, :9, :9]])
def test_data_of_several_sizes_is_remembered_together(cut):
    """Also slices of which there are no tiles."""
    mixed = trained_quantiles([*described(GOOD), *described(GOOD[cut])])
    np.testing.assert_allclose(mixed, trained_quantiles(described(GOOD)), atol=0.1)


def test_what_cannot_be_done():
    slices = described(GOOD[:1])
    with pytest.raises(OptionError, match="contrast is 'best'; expected one of auto, stack"):
        grey_curves("best", slices)
    with pytest.raises(OptionError, match="does not say which grey values it was trained on"):
        grey_curves("match", slices)
    with pytest.raises(OptionError, match="has 3 quantiles; expected 33"):
        grey_curves("auto", slices, (0, 1, 2))
