"""Whether a stack looks like a model's own data: told on synthetic tissue, and on windows made by hand."""

import math

import msgspec
import numpy as np
import pytest
from scipy import ndimage
from windows import normalized, tissue

from densecell_batch.prepare.fit import Fit, OwnData, choose_remedy, features, judge, record, spread_windows

AGREED = np.full((3, 64, 64), 0.02, np.float32)


def matched(image, reference):
    """With the histogram of another image of the same size."""
    values = np.empty(image.size, np.float32)
    values[np.argsort(image, axis=None)] = np.sort(reference, axis=None)
    return values.reshape(image.shape)


@pytest.fixture(scope="module")
def own():
    return record([features(tissue(seed), AGREED) for seed in range(24)])


def stack(change=lambda image: image, disagreement=AGREED):
    return [features(normalized(change(tissue(seed))), disagreement) for seed in range(100, 104)]


CHANGES = {
    "inverted": lambda image: -image,
    "inverted, with the histogram of the own data": lambda image: matched(-image, tissue(0)),
    "blurred": lambda image: ndimage.gaussian_filter(image, (0, 1.5, 1.5)),
    "noise": lambda image: image + np.random.default_rng(1).standard_normal(image.shape),
    "pixels half as large": lambda image: ndimage.zoom(image, (1, 2, 2)),
    "pixels twice as large": lambda image: image.reshape(3, 32, 2, 32, 2).mean((2, 4)),
    "a slice three times": lambda image: np.repeat(image[:1], 3, axis=0),
    "slices out of place": lambda image: np.stack([np.roll(image[z], 20 * z, 1) for z in range(3)]),
    "another texture": lambda image: np.random.default_rng(2).standard_normal(image.shape),
}


def test_own_data_are_alike(own):
    fit = judge(stack(), own)
    assert fit.alike
    assert fit.score < 0.8
    assert fit.worst == ()
    assert all(low <= fit.measured[name] <= high for name, (low, high) in fit.expected.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda image: 3 * image + 7,
        lambda image: np.exp(image / 3),
        lambda image: image[:, ::-1],
        lambda image: image.swapaxes(1, 2),
        lambda image: image[::-1],
    ],
    ids=["contrast", "gamma", "flipped", "transposed", "from below"],
)
def test_what_does_not_matter(own, change):
    assert judge(stack(change), own).alike


@pytest.mark.parametrize("name", CHANGES)
def test_changed_stacks_are_not_alike(own, name):
    fit = judge(stack(CHANGES[name]), own)
    assert not fit.alike
    assert fit.score > 1
    assert fit.worst


def test_worst_names_what_was_changed(own):
    assert judge(stack(CHANGES["inverted"]), own).worst[0].startswith("ridges")
    assert judge(stack(CHANGES["blurred"]), own).worst[0].startswith("power")
    assert judge(stack(CHANGES["a slice three times"]), own).worst[0].startswith("coherence")


def test_disagreement_alone_makes_an_alarm(own):
    fit = judge(stack(disagreement=3 * AGREED), own)
    assert not fit.alike
    assert fit.worst == ("disagreement",)
    assert judge(stack(disagreement=0 * AGREED), own).alike


def test_one_odd_window_makes_none(own):
    odd = features(normalized(tissue(8) ** 3), 10 * AGREED)
    assert judge([odd, *stack()], own).alike


def test_one_slice_says_nothing_about_neighbours(own):
    found = stack(lambda image: image[:1])
    assert not any(name.startswith("coherence") for name in found[0])
    fit = judge(found, own)
    assert fit.alike
    assert set(fit.measured) == set(fit.expected) == {*own.names, "disagreement"} & set(found[0])


def test_windows_are_compared_by_what_all_have(own):
    fit = judge([features(tissue(3), AGREED), features(tissue(4)[:1], AGREED)], own)
    assert not any(name.startswith("coherence") for name in fit.measured)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 9), (3, 5, 5), (5, 32, 48)])
@pytest.mark.parametrize("value", [0, 1])
def test_features_are_finite_for_small_and_empty_windows(shape, value):
    found = features(np.full(shape, value, np.float32), np.zeros(shape, np.float32))
    assert all(math.isfinite(x) for x in found.values())


def test_coherence_of_equal_slices_is_1():
    found = features(np.repeat(tissue(0)[:1], 3, axis=0), AGREED)
    assert [x for name, x in found.items() if name.startswith("coherence")] == pytest.approx([1] * 6, abs=1e-4)


def test_ridges_change_their_sign_with_the_image():
    found, inverted = features(tissue(0), AGREED), features(-tissue(0), AGREED)
    assert found["ridges_6.5px"] == pytest.approx(-inverted["ridges_6.5px"], abs=1e-4)
    assert found["ridges_6.5px"] > 0.5


def test_power_of_a_wave_is_in_its_band():
    rows = np.sin(2 * np.pi * np.arange(96) / 8)[None, :, None]
    found = features(np.broadcast_to(rows, (2, 96, 96)).astype(np.float32), AGREED)
    powers = {name: x for name, x in found.items() if name.startswith("power")}
    assert max(powers, key=powers.get) == "power_10px"
    assert min(powers, key=powers.get) == "power_7px"


def test_record_outlives_json(own):
    again = msgspec.json.decode(msgspec.json.encode(own), type=OwnData)
    assert again == own
    assert judge(stack(), again) == judge(stack(), own)
    assert own.windows == 24
    assert "disagreement" not in own.names


def test_windows_all_the_same_still_leave_some_room():
    window = features(tissue(0), AGREED)
    assert judge([{**window, "ridges_6.5px": window["ridges_6.5px"] + 0.1}], record([window] * 2)).alike


@pytest.mark.parametrize(
    "change",
    [
        {"names": ()},
        {"names": ("a", "a")},
        {"centre": (1.0,)},
        {"covariance": ((1.0, 0.0),)},
        {"covariance": ((1.0, 0.0), (0.0,))},
        {"covariance": ((1.0, 0.5), (0.0, 1.0))},
        {"covariance": ((1.0, 2.0), (2.0, 1.0))},
        {"centre": (math.nan, 0.0)},
        {"disagreement": math.inf},
        {"disagreement": -1.0},
        {"size": {"names": ("a",), "weights": (), "offset": 0.0}},
        {"size": {"names": (), "weights": (), "offset": 0.0}},
        {"size": {"names": ("a", "a"), "weights": (1.0, 1.0), "offset": 0.0}},
        {"size": {"names": ("a",), "weights": (math.nan,), "offset": 0.0}},
    ],
    ids=str,
)
def test_records_that_make_no_sense_are_refused(change):
    fields = {
        "windows": 9,
        "names": ("a", "b"),
        "centre": (0.0, 0.0),
        "covariance": ((1.0, 0.0), (0.0, 1.0)),
        "disagreement": 0.1,
    }
    OwnData(**fields)
    with pytest.raises(ValueError, match="expected"):
        msgspec.convert(fields | change, OwnData)


@pytest.mark.parametrize("windows", [[], [{"a": 1.0, "disagreement": 0.0}], [{"a": 1.0}, {"b": 1.0}]], ids=str)
def test_too_few_or_unlike_windows_make_no_record(windows):
    with pytest.raises(ValueError, match="expected at least two"):
        record(windows)


def test_no_windows_are_no_stack(own):
    with pytest.raises(ValueError, match="no windows"):
        judge([], own)


def outcome(score):
    return Fit(alike=score <= 1, score=score, measured={}, expected={}, worst=())


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"as is": 0.9, "inverted": 0.1}, None),
        ({"as is": 3, "inverted": 0.9, "twice": 0.7, "half": 8}, "twice"),
        ({"as is": 3, "inverted": 1.2}, None),
        ({"as is": 1.1, "inverted": 0.9}, None),
        ({"as is": 5}, None),
    ],
)
def test_remedy_is_the_change_that_clearly_helps(scores, expected):
    assert choose_remedy({name: outcome(score) for name, score in scores.items()}) == expected


def test_remedies_of_changed_stacks(own):
    spoiled = lambda image: -image.repeat(2, 1).repeat(2, 2)
    half = lambda image: image[:, ::2, ::2]
    fits = {
        "as is": judge(stack(spoiled), own),
        "inverted": judge(stack(lambda image: -spoiled(image)), own),
        "half": judge(stack(lambda image: half(spoiled(image))), own),
        "inverted, half": judge(stack(lambda image: -half(spoiled(image))), own),
    }
    assert choose_remedy(fits) == "inverted, half"


def test_enlarged_stacks_are_judged_without_the_detail_that_they_lack(own):
    coarse = [tissue(seed, (3, 128, 128)).reshape(3, 64, 2, 64, 2).mean((2, 4)) for seed in range(100, 104)]
    enlarged = [normalized(ndimage.zoom(image, (1, 2, 2))[:, 32:96, 32:96]) for image in coarse]
    windows = [features(image, AGREED) for image in enlarged]
    fits = {
        "as is": judge([features(normalized(image), AGREED) for image in coarse], own),
        "enlarged": judge(windows, own, finest=8),
    }
    assert not judge(windows, own).alike
    assert choose_remedy(fits) == "enlarged"
    assert "power_3.5px" not in fits["enlarged"].measured


def test_windows_are_spread_and_inside():
    found = spread_windows((30, 1000, 700), (5, 160, 160), 8)
    assert found == spread_windows((30, 1000, 700), (5, 160, 160), 8)
    assert len(set(found)) == 8
    assert found[0] == (12, 420, 270)  # in the middle
    for axis, room in enumerate((25, 840, 540)):
        corners = [corner[axis] for corner in found]
        assert min(corners) >= 0
        assert max(corners) <= room
        assert max(corners) - min(corners) > room / 2


def test_a_volume_smaller_than_a_window_has_one():
    assert spread_windows((1, 100, 160), (5, 160, 160), 8) == [(0, 0, 0)]


def test_windows_that_are_not_usable_are_passed_over():
    asked = []
    found = spread_windows((5, 1000, 1000), (5, 160, 160), 4, lambda corner: asked.append(corner) or corner[1] > 400)
    assert len(found) == 4
    assert all(corner[1] > 400 for corner in found)
    assert len(asked) == len(set(asked)) > 4
    assert spread_windows((5, 1000, 1000), (5, 160, 160), 4, lambda corner: False) == []
