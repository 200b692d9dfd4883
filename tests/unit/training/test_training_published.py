"""The published training, against what the published code computed."""

import numpy as np
import pytest

from densecell_batch.models.published import read_published
from densecell_batch.nets.architecture import layer_name
from densecell_batch.nets.backend import compiled, value_and_gradients
from densecell_batch.nets.build import build_net
from densecell_batch.training.adam import PUBLISHED
from densecell_batch.training.error_weights import border_weights, class_balance_weights, diffuse, error_weights
from densecell_batch.training.losses import published_loss, published_penalty
from densecell_batch.training.published_windows import (
    PublishedSampler,
    corners,
    elastic_map,
    expand_knots,
    window_at,
)
from densecell_batch.training.volumes import LabelledVolume


@pytest.fixture(scope="module")
def probe(data):
    with np.load(data / "genenet/probe-S-loss-and-adam-step.npz") as arrays:
        return dict(arrays)


def of(probe, kind, name):
    """A tensor of the probe; those of kernels have their y axis last."""
    tensor = probe[f"{kind}|2D3D/{name}"]
    return np.moveaxis(tensor, -1, 1) if tensor.ndim == 5 else tensor


@pytest.fixture(scope="module")
def step(data, probe):
    """Parts of the loss, gradients and weights after one step of Adam, all by canonical name."""
    model = read_published(data / "published/2d3d-small_S")
    net = build_net(model.architecture, (5, 60, 60))
    layers = {variable.path: (variable, layer) for layer in net.layers for variable in layer.trainable_variables}
    names = {}
    for name in model.weights:
        layer, part = name.rsplit("/", 1)
        variable = getattr(net.get_layer(layer_name(layer)), part)
        assert variable.path in layers
        names[id(variable)] = name
    order = [names[id(variable)] for variable in net.trainable_variables]
    start = [of(probe, "before", name) for name in order]
    labels, weights, image = probe["label"], probe["weight"], probe["input"]

    @compiled  # outside of a graph, TensorFlow's pooling gives gradients to every tied maximum
    def everything(variables):
        def loss(variables):
            outputs, _ = net.stateless_call(variables, [], image, training=True)
            first, second = published_loss(labels, weights, outputs)
            penalty = published_penalty(dict(zip(order, variables, strict=True)), weights)
            return first + 0.33 * second + penalty, first, second, penalty

        value, gradients = value_and_gradients(lambda v: loss(v)[0], variables)
        zeros = [0 * v for v in variables]
        after, _, _ = PUBLISHED.step(variables, gradients, zeros, zeros, 1e-3, 1.0)
        return value, loss(variables)[1:], gradients, after

    from keras import ops

    value, parts, gradients, after = everything([ops.convert_to_tensor(v) for v in start])
    named = (dict(zip(order, map(np.asarray, tensors), strict=True)) for tensors in (gradients, after))
    return float(value), [float(part) for part in parts], *named


def test_parts_of_the_loss(step, probe):
    value, (first, second, penalty), *_ = step
    assert first == pytest.approx(float(probe["sum_xentropy_3d"]), rel=1e-5)
    assert second == pytest.approx(float(probe["sum_xentropy_2d"]), rel=1e-5)
    counted = float((probe["weight"] != 0).mean())  # the recorded penalty is the one before this factor
    assert penalty / counted == pytest.approx(float(probe["regularization"]), rel=1e-5)
    assert value == pytest.approx(float(probe["loss"]), rel=1e-5)


def test_gradients(step, probe):
    *_, gradients, _ = step
    worst = {}
    for name, gradient in gradients.items():
        expected = of(probe, "grad", name)
        worst[name] = np.abs(gradient - expected).max() / np.abs(expected).max()
    print(f"largest difference, relative to the largest gradient of its tensor: {max(worst.values()):.2g}")
    assert len(worst) == 66
    assert max(worst.values()) < 1e-4


def test_weights_after_a_step_of_adam(step, probe):
    *_, after = step
    worst = max(np.abs(tensor - of(probe, "after", name)).max() for name, tensor in after.items())
    print(f"largest difference of a weight: {worst:.2g}")
    assert worst < 1e-5


# Windows: the random streams are not those of the published code, but what is done with the numbers is


@pytest.fixture(scope="module")
def reference(data):
    """An epoch of the published code over a volume of 160 x 160: elastic map, bent volume, some of its windows."""
    with np.load(data / "genenet/train-reference-crop.npz") as arrays:
        return dict(arrays)


def test_elastic_map_is_a_spline_through_its_knots(reference):
    """The published map follows from its 16 knots (found by least squares), where it is not held within the slice."""
    unit = np.stack([expand_knots(knots.reshape(4, 4), (160, 160)) for knots in np.eye(16)], axis=-1)
    own = np.indices((160, 160))
    for axis, name in enumerate(("map_x", "map_y")):  # its x counts rows
        found = reference[name].reshape(160, 160)
        free = (found > 0) & (found < 159)
        knots, *_ = np.linalg.lstsq(unit[free], (found - own[axis])[free], rcond=None)
        whole = np.clip(own[axis] + unit @ knots, 0, 159)
        np.testing.assert_allclose(whole, found, atol=1e-3)


def test_elastic_maps_bend_as_much_as_the_published_one(reference):
    own = np.indices((160, 160))
    spread = [np.std(np.array(elastic_map((160, 160), np.random.default_rng(i))) - own) for i in range(50)]
    published = np.std([reference[name].reshape(160, 160) - own[i] for i, name in enumerate(("map_x", "map_y"))])
    assert min(spread) < published < max(spread)


def test_corners_are_one_a_bin(reference):
    """The published corners of windows 5 x 56 x 56 in 12 x 160 x 160 have bins of 2, 25 and 25; so have ours."""
    for name, length, side, spacing in (("z", 12, 5, 2), ("x", 160, 56, 25), ("y", 160, 56, 25)):
        for found in (reference[f"corners_{name}"], corners(length, side, spacing, np.random.default_rng(1))):
            np.testing.assert_array_equal(np.array(found) // spacing, np.arange(len(found)))
            assert max(found) <= length - side
        assert len(found) == len(reference[f"corners_{name}"])


def test_windows_are_cut_as_published(reference):
    """Labels and weights are equal; the image is, but for brightness and contrast within the published limits."""
    volume = tuple(reference[f"deformed_{kind}"] for kind in ("image", "label", "weight"))
    order = [(z, y, x) for z in reference["corners_z"] for y in reference["corners_x"] for x in reference["corners_y"]]
    for i, index in enumerate(reference["windows"]):
        image, labels, weights = window_at(volume, order[index], (5, 60, 60), (5, 56, 56))
        np.testing.assert_array_equal(labels[:, 2:-2, 2:-2], reference["label_first20"][i])
        np.testing.assert_array_equal(weights[:, 2:-2, 2:-2], reference["weight_first20"][i])
        expected = reference["input_first20"][i, ..., 0]
        contrast, brightness = np.polyfit(image.ravel(), expected.ravel(), 1)
        np.testing.assert_allclose(contrast * image + brightness, expected, atol=1e-5)
        assert 0.8 <= contrast <= 1.2
        assert abs(brightness) <= 0.12 * 4.6  # range of the whole volume


def a_volume(shape=(6, 90, 110)):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    return LabelledVolume(labels.astype(np.float32), labels, None, ("", ""), labels + np.float32(0.5))


def test_an_epoch_has_one_window_a_bin_and_the_next_is_bent_anew():
    sampler = PublishedSampler([a_volume(), a_volume()], (5, 60, 60), (5, 56, 56), spacing=(2, 20, 30), seed=3)
    assert sampler.epoch == 2 * 1 * 2 * 2
    first, later = sampler(1), sampler(1 + sampler.epoch)
    again = PublishedSampler([a_volume(), a_volume()], (5, 60, 60), (5, 56, 56), spacing=(2, 20, 30), seed=3)
    again(2 * sampler.epoch)
    for a, b, c in zip(first, again(1), later, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    images, labels, weights = first
    assert (images.shape, labels.shape, weights.shape) == ((1, 5, 60, 60, 1), (1, 5, 60, 60), (1, 5, 60, 60))
    np.testing.assert_array_equal(weights, labels + np.float32(0.5))
    assert abs(np.corrcoef(images[..., 0].ravel(), labels.ravel())[0, 1]) > 1 - 1e-5


def test_reflections_really_reflect():
    """The published code drops the flipped array. A corner of the volume is met at all 8 corners of the window."""
    image = np.zeros((5, 56, 56), np.float32)
    image[0] += 1
    image[:, 0] += 2
    image[:, :, 0] += 4
    volume = LabelledVolume(image, image.astype(np.uint8), None, ("", ""), np.ones_like(image))
    sampler = PublishedSampler([volume], (5, 56, 56), (5, 56, 56), spacing=(2, 100, 100))
    seen = set()
    for step in range(100):
        labels = sampler(step)[1][0]
        seen.add(tuple(bool(labels[i].mean() > labels[j].mean()) for i, j in (
            (0, -1), (np.s_[:, :3], np.s_[:, -3:]), (np.s_[:, :, :3], np.s_[:, :, -3:])
        )))  # fmt: skip
    assert len(seen) == 8


# Error weights


def test_class_balance_by_hand():
    labels = np.repeat([0, 1, 3], [6, 3, 1]).reshape(1, 2, 5)
    np.testing.assert_allclose(class_balance_weights(labels), [1 / 6, 1 / 3, 0, 1])


def test_a_step_of_diffusion_by_hand():
    sources = np.zeros((7, 7), bool)
    sources[3, 3] = True
    expected = np.zeros((7, 7))
    expected[2:5, 2:5] = 0.98 * 0.2 * np.array([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])
    expected[3, 3] = 1
    np.testing.assert_allclose(diffuse(sources, 1), expected, rtol=1e-6)


def test_nothing_flows_through_the_edge():
    sources = np.zeros((40, 40), bool)
    sources[:, 0] = True
    heat = diffuse(sources)
    assert heat[:, -1].max() < 0.01
    np.testing.assert_allclose(heat, np.broadcast_to(heat[:1], heat.shape), rtol=1e-5)


def test_border_weights_fall_off_on_both_sides():
    labels = np.zeros((2, 60, 60), np.uint8)
    labels[0, :, 30:] = 1
    weights = border_weights(labels)
    assert not weights[1].any()  # slices do not touch
    row = weights[0, 30]
    np.testing.assert_allclose(row, row[::-1], rtol=1e-5)
    assert row.max() == pytest.approx(25)
    assert (np.diff(row[:30]) >= 0).all()
    assert row[0] == 0
    assert (error_weights(labels) > 0).all()
