"""What a step of a training computes: losses against numpy, Adam against Keras, normalization, the rate."""

import numpy as np
import pytest
from phantoms import NET
from scipy.special import log_softmax, softmax

from densecell_batch.nets.architecture import ResidualUNet, UNet2D
from densecell_batch.nets.build import build_net
from densecell_batch.nets.predictor import Predictor
from densecell_batch.training.adam import Adam
from densecell_batch.training.batchnorm import folded, statistics_function
from densecell_batch.training.fit import _fresh
from densecell_batch.training.losses import cross_entropy, improved_loss, soft_dice
from densecell_batch.training.recipes import Improved

RNG = np.random.default_rng(0)


# Losses and steps


def test_cross_entropy_and_dice_by_hand():
    logits, labels = RNG.standard_normal((2, 3, 4, 4, 3)).astype(np.float32), RNG.integers(0, 3, (2, 3, 4, 4))
    weights = RNG.uniform(0, 2, labels.shape).astype(np.float32)
    weights[0, 0] = 0
    expected = -np.take_along_axis(log_softmax(logits, -1), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(labels, logits), expected, rtol=1e-5)
    expected *= weights
    p, t = (array * (weights > 0)[..., None] for array in (softmax(logits, -1), np.eye(3)[labels]))
    axes = (0, 1, 2, 3)
    share = np.mean(weights > 0)  # the sums are of a part of the voxels
    dice = np.mean(1 - (2 * (p * t).sum(axes) / share + 1) / ((p.sum(axes) + t.sum(axes)) / share + 1))
    assert float(soft_dice(labels, logits, weights)) == pytest.approx(dice, rel=1e-5)
    both = float(improved_loss(labels, weights, [logits, logits], dice=0.5))
    assert both == pytest.approx(1.33 * (expected[weights > 0].mean() + 0.5 * dice), rel=1e-5)


def test_adam_is_that_of_keras():
    import keras

    start, gradients = RNG.standard_normal((4, 3)).astype(np.float32), RNG.standard_normal((5, 4, 3)).astype(np.float32)
    variable = keras.Variable(start)
    theirs = keras.optimizers.Adam(0.01, 0.9, 0.99, 1e-7)
    theirs.build([variable])
    weights, means, squares = [start], [np.zeros_like(start)], [np.zeros_like(start)]
    for i, gradient in enumerate(gradients):
        theirs.apply([keras.ops.convert_to_tensor(gradient)])
        weights, means, squares = Adam(0.9, 0.99, 1e-7).step(weights, [gradient], means, squares, 0.01, i + 1.0)
    np.testing.assert_allclose(weights[0], variable.numpy(), rtol=1e-5)


def test_decay_shrinks_kernels_only():
    kernel, bias, zeros = (
        np.ones((2, 2), np.float32),
        np.ones(2, np.float32),
        [np.zeros((2, 2), np.float32), np.zeros(2, np.float32)],
    )
    weights, _, _ = Adam(decay=0.1).step([kernel, bias], zeros, zeros, zeros, 0.5, 1.0)
    np.testing.assert_allclose(weights[0], 0.95)
    np.testing.assert_allclose(weights[1], 1)


def test_learning_rate_rises_and_falls():
    recipe = Improved(steps=1000, warm_up=100, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1, abs=0.05)
    assert rates[-1] < 1e-4
    assert np.argmax(rates) == 99


# Normalization


@pytest.mark.parametrize("architecture", [NET, UNet2D(3, 4, n_blocks=2, relu_on_logits=False), ResidualUNet(3, 4, 2)])
def test_folded_net_does_what_the_normalized_one_does(architecture):
    """With the statistics of one batch, the plain net says of that batch what the normalized one says in training."""
    net, rng = build_net(architecture, (5, 64, 64), normalized=True), np.random.default_rng(0)
    images = rng.standard_normal((5, 64, 64, 1) if isinstance(architecture, UNet2D) else (1, 5, 64, 64, 1))
    images = images.astype(np.float32)
    weights = [w + 0.2 * rng.standard_normal(w.shape).astype(np.float32) for w in _fresh(net).weights]
    fixed = [variable.value for variable in net.non_trainable_variables]
    outputs, _ = net.stateless_call(weights, fixed, images, training=True)
    expected = np.asarray(outputs[0] if isinstance(outputs, list) else outputs)
    plain = folded(net, architecture, weights, [statistics_function(net)(weights, images)])
    found = next(iter(Predictor(architecture, [plain], "float32")(images.reshape(5, 64, 64))))
    np.testing.assert_allclose(found, softmax(expected.reshape(found.shape), -1), atol=5e-5)


def test_statistics_of_batches_are_those_of_all_of_them_together():
    """Two batches of one slice each, and one of both."""
    architecture = UNet2D(3, 4, n_blocks=2, relu_on_logits=False)
    net, rng = build_net(architecture, (2, 64, 64), normalized=True), np.random.default_rng(0)
    images = (rng.standard_normal((2, 64, 64, 1)) + np.array([0, 3])[:, None, None, None]).astype(np.float32)
    weights, measure = _fresh(net).weights, statistics_function(net)
    first = "net/encoder/encode_block_0/comp_0/conv/kernel"  # further on each batch is normalized by itself
    apart = folded(net, architecture, weights, [measure(weights, images[:1]), measure(weights, images[1:])])
    together = folded(net, architecture, weights, [measure(weights, images)])
    np.testing.assert_allclose(apart[first], together[first], rtol=1e-4)


def test_a_plain_net_is_folded_into_itself():
    net = build_net(NET, (5, 32, 32))
    plain = folded(net, NET, _fresh(net).weights, [])
    for layer in net.layers:
        if layer.weights:
            np.testing.assert_array_equal(plain[f"{layer.name.replace('.', '/')}/kernel"], layer.kernel.numpy())
