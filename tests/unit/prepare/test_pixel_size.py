"""How large pixels look, where nobody says so."""

import msgspec
import numpy as np
import pytest
from scipy import ndimage
from windows import normalized, tissue

from densecell_batch.prepare.fit import OwnData, features, judge, record
from densecell_batch.prepare.pixel_size import FACTORS, learn_size
from densecell_batch.prepare.texture import texture

AGREED = np.full((3, 64, 64), 0.02, np.float32)


def window(seed, factor):
    """64 x 64 pixels, each `factor` times as large as those of the tissue."""
    side = round(64 * factor)
    return normalized(ndimage.zoom(tissue(seed, (3, side, side)), (1, 64 / side, 64 / side), order=1))


@pytest.fixture(scope="module")
def line():
    found = learn_size({factor: [texture(window(seed, factor)) for seed in range(16)] for factor in FACTORS})
    assert found is not None
    return found


def looks(line, factor, change=lambda image: image):
    return 2 ** np.median([line(texture(change(window(seed, factor)))) for seed in range(100, 104)])


@pytest.mark.parametrize("factor", [0.7, 0.84, 1, 1.2, 1.43, 1.7])
def test_pixels_of_another_size_are_measured(line, factor):
    assert looks(line, factor) == pytest.approx(factor, rel=0.15)


CHANGES = {
    "contrast": lambda image: 3 * image + 7,
    "gamma": lambda image: np.exp(image / 3),
    "transposed": lambda image: image.swapaxes(1, 2),
    "a little noise": lambda image: image + 0.15 * np.random.default_rng(1).standard_normal(image.shape),
    "a little blur": lambda image: ndimage.gaussian_filter(image, (0, 0.4, 0.4)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_size(line, name):
    assert looks(line, 1, lambda image: normalized(CHANGES[name](image))) == pytest.approx(1, rel=0.2)


def test_a_stack_of_another_size_is_not_alike_though_nets_are_at_ease_with_it(line):
    def stack(factor):
        return [features(window(seed, factor), AGREED) for seed in range(100, 104)]

    # Own data so diverse that no texture is odd: the size alone tells.
    diverse = [features(window(seed, factor), AGREED) for factor in FACTORS for seed in range(12)]
    assert judge(stack(1.43), record(diverse)).alike
    own = record(diverse, line)
    fit = judge(stack(1.43), own)
    assert not fit.alike
    assert fit.worst == ("pixel_size",)
    assert fit.measured["pixel_size"] == pytest.approx(1.43, rel=0.15)
    assert fit.expected["pixel_size"] == pytest.approx((1 / 1.3, 1.3))
    assert judge(stack(1), own).alike
    assert msgspec.json.decode(msgspec.json.encode(own), type=OwnData) == own


def test_nothing_is_said_of_what_was_enlarged_or_lacks_a_feature(line):
    own = record([features(window(seed, 1), AGREED) for seed in range(12)], line)
    found = [features(window(seed, 1), AGREED) for seed in range(100, 104)]
    assert "pixel_size" in judge(found, own).measured
    assert "pixel_size" not in judge(found, own, finest=8).measured
    assert line({"ridges_4.5px": 1.0}) is None


def test_too_few_windows_make_no_line():
    found = [texture(window(seed, 1)) for seed in range(8)]
    assert learn_size({}) is None
    assert learn_size({0.7: found, 1: found}) is None
    assert learn_size({0.7: found[:7], 1: found, 2: found}) is None
    few = learn_size({0.7: found, 1: found, 1.43: found, 2: found[:7]})
    assert few == learn_size({0.7: found, 1: found, 1.43: found})
    assert few is not None  # of windows all alike: it says nothing, and is finite
    assert abs(few(found[0])) < 0.1


def test_noise_has_no_skewness_and_lines_have():
    noise = texture(normalized(np.random.default_rng(0).standard_normal((5, 160, 160))))
    lines = texture(tissue(0))
    for length in ("4.5px", "6.5px"):
        assert abs(noise[f"skewness_{length}"]) < 0.1
        assert lines[f"skewness_{length}"] > 0.3
    assert noise["lines_4.5px"] > 0.8
    assert sum(lines[f"lines_{length}"] for length in ("4.5px", "6.5px", "13px")) == pytest.approx(1)
