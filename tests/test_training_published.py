"""The published training step, against what the published code computed for one window of model S."""

import numpy as np
import pytest

from densecell_batch.nets import build_net, compiled
from densecell_batch.nets.layers import layer_name
from densecell_batch.published import read_published
from densecell_batch.training.adam import PUBLISHED
from densecell_batch.training.losses import published_loss, published_penalty, value_and_gradients


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
