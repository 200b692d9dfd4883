"""The Keras nets against tensors that the published code produced."""

import keras
import numpy as np
import pytest

from densecell_batch.errors import OptionError
from densecell_batch.models.published import read_published
from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet, UNet2D, published, tensor_shapes
from densecell_batch.nets.build import assign_weights, build_net, extract_weights
from densecell_batch.nets.layers import BatchNorm

# Where in our net each tensor of the published window of probe S is. The pyramid tensors that are missing here are
# only computed as far as the output needs them; the sum that follows them is compared.
PROBES = {
    "enc0_3dinit": "net.encoder.encode_block_0.comp_3dinit_0.conv",
    "enc0": "net.encoder.encode_block_0.comp_1.conv",
    "enc1": "net.encoder.encode_block_1.comp_1.conv",
    "enc2": "net.encoder.encode_block_2.comp_1.conv",
    "bottleneck": "net.decoder.decode_block_3.comp_1.conv",
    "dec2": "net.decoder.decode_block_2.comp_1.conv",
    "dec1": "net.decoder.decode_block_1.comp_1.conv",
    "dec0": "net.decoder.decode_block_0.comp_1.conv",
    "logits_2d_relu": "predictor_2d.logits",
    "pyr0": "spatialpyramid.conv_block_0.comp_2.conv",
    "logits_3d_relu": "predictor_3d.logits",
}


@pytest.fixture(scope="module")
def probe(data):
    return np.load(data / "genenet/probe-S-window-tensors.npz")


@pytest.fixture(scope="module")
def net_s(data):
    model = read_published(data / "published/2d3d-small_S")
    net = build_net(model.architecture, model.window)
    assign_weights(net, model.weights)
    return net


def run(net, image, *outputs):
    return [np.asarray(t) for t in keras.tree.flatten(keras.Model(net.input, list(outputs))(image))]


@pytest.mark.parametrize(("tensor", "layer"), PROBES.items())
def test_tensors_of_probe_s(net_s, probe, tensor, layer):
    (ours,) = run(net_s, probe["input"], net_s.get_layer(layer).output)
    np.testing.assert_allclose(ours, probe[tensor], atol=2e-5)


def test_merge_and_pyramid_of_probe_s(net_s, probe):
    merge = net_s.get_layer("net.decoder.decode_block_1.comp_3dinit_2.conv").input
    path_end = net_s.get_layer("spatialpyramid.conv_block_1.path_end_1.conv").output
    unpooled = net_s.get_layer("spatialpyramid.path_combine.residual_1.upsample_conv").output
    combined = net_s.get_layer("predictor_3d.logits").input
    ours = run(net_s, probe["input"], merge, path_end, unpooled, combined)
    np.testing.assert_allclose(ours[0], probe["dec1_merge"], atol=2e-5)
    # Slices 0 and 4 of the path are cropped away again after unpooling: ours leaves them out.
    np.testing.assert_allclose(ours[1], probe["pyr1_path_end"][:, 1:4], atol=2e-5)
    np.testing.assert_allclose(ours[2], probe["pyr1_upsampled_z10"][:, 2:8], atol=2e-5)
    np.testing.assert_allclose(ours[3], probe["combined"], atol=2e-5)


def test_probabilities_of_probe_s(net_s, probe):
    probabilities = np.asarray(keras.ops.softmax(net_s(probe["input"])[0]))
    np.testing.assert_allclose(probabilities, probe["probabilities"], atol=2e-5)


@pytest.mark.parametrize(
    "architecture",
    [
        Hybrid2D3D(3, 4, 2, 1, (1, 2), 6),
        Hybrid2D3D(2, 2, 1, 1, (1,), 2),
        UNet2D(4, 3, 2),
        published("2d3d", 5, 2),
        ResidualUNet(3, 4, 2),
        ResidualUNet(5, 3, 1, 5, 2),
        ResidualUNet(2, 2, 2, neighbours=0),
    ],
)
def test_nets_have_exactly_the_canonical_tensors(architecture):
    side = architecture.residue + 2 * architecture.margin + 2 * architecture.alignment
    net = build_net(architecture, (5, side, side))
    weights = extract_weights(net, architecture)
    assert {name: w.shape for name, w in weights.items()} == tensor_shapes(architecture)
    assert len(net.weights) == len(weights)
    output = net.output[0].shape[-4:-1] if len(net.output[0].shape) == 5 else (5, *net.output[0].shape[1:3])
    assert output == architecture.output_shape((5, side, side))


def test_weights_round_trip():
    architecture = Hybrid2D3D(3, 4, 2, 1, (1, 2), 6)
    first, second = (build_net(architecture, (5, 16, 16)) for _ in range(2))
    assign_weights(second, extract_weights(first, architecture))
    image = np.random.default_rng(0).standard_normal((1, 5, 16, 16, 1))
    np.testing.assert_array_equal(np.asarray(first(image)[0]), np.asarray(second(image)[0]))


@pytest.mark.parametrize("quirk", ["relu_on_logits", "pyramid_unpools_z"])
def test_quirks_are_options(quirk):
    net = build_net(Hybrid2D3D(3, 4, **{quirk: False}), (5, 32, 32))
    logits = np.asarray(net(np.random.default_rng(0).standard_normal((1, 5, 32, 32, 1)))[0])
    assert (logits.min() < 0) == (quirk == "relu_on_logits")
    kernel = net.get_layer("spatialpyramid.path_combine.residual_1.upsample_conv").kernel.shape
    assert kernel[0] == (1 if quirk == "pyramid_unpools_z" else 2)


@pytest.mark.parametrize(
    "architecture", [Hybrid2D3D(3, 4, pyramid_unpools_z=False), UNet2D(3, 4, 2), ResidualUNet(3, 4, 2)]
)
def test_nothing_beyond_the_reach_matters(architecture):
    side = architecture.residue + 2 * architecture.margin + 24 * architecture.alignment
    net = build_net(architecture, (5, side, side))
    image = np.random.default_rng(0).standard_normal((1, 5, side, side, 1)).astype(np.float32)
    if isinstance(architecture, UNet2D):
        image = image[0]
    changed = image.copy()
    changed[..., : side // 2, :, :] += 1
    before, after = (np.asarray(net(i)[0]) for i in (image, changed))
    reach = architecture.reach[1]
    first_untouched = side // 2 - architecture.margin + reach
    np.testing.assert_array_equal(after[..., first_untouched:, :, :], before[..., first_untouched:, :, :])
    # The bound is not idle: half of it is touched.
    edge = side // 2 - architecture.margin + reach // 4
    assert np.abs(after - before)[..., edge, :, :].max() > 0


@pytest.mark.parametrize(
    ("net", "shape"), [(Hybrid2D3D(3, 4), (5, 7, 40)), (UNet2D(3, 4), (1, 180, 284)), (ResidualUNet(3, 4), (2, 64, 64))]
)
def test_inputs_that_are_too_small(net, shape):
    with pytest.raises(OptionError, match="too small"):
        build_net(net, shape)


def test_a_slice_of_a_residual_net_depends_on_its_neighbours_alone():
    net = build_net(ResidualUNet(3, 4, 2), (7, 32, 32))
    image = np.random.default_rng(0).standard_normal((1, 7, 32, 32, 1)).astype(np.float32)
    changed = image.copy()
    changed[:, 3] += 1
    before, after = (run(net, i, *net.outputs)[0][0] for i in (image, changed))
    assert before.shape == (5, 32, 32, 3)
    assert [not np.allclose(a, b) for a, b in zip(before, after, strict=True)] == [False, True, True, True, False]


def test_odd_sides_come_out_whole():
    net = build_net(ResidualUNet(3, 4, 2), (3, 37, 43), normalized=True)
    assert [output.shape for output in net.output] == [(None, 1, 37, 43, 3)] * 2


def test_odd_sides_are_halved_as_those_of_larger_tiles():
    """What a window whose sides can't be halved evenly says of its first voxels is what a larger one says of them."""
    config = ResidualUNet(3, 4, 2)
    small, large = build_net(config, (3, 100, 92)), build_net(config, (3, 136, 136))
    assign_weights(large, extract_weights(small, config))
    image = np.random.default_rng(0).standard_normal((1, 3, 136, 136, 1)).astype(np.float32)
    (a,), (b,) = (run(net, part, *net.outputs) for net, part in ((small, image[:, :, :100, :92]), (large, image)))
    whole = 100 - config.halo, 92 - config.halo
    assert min(whole) > 30
    np.testing.assert_allclose(a[:, :, : whole[0], : whole[1]], b[:, :, : whole[0], : whole[1]], atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 9, 8, 5), (2, 3, 6, 7, 5)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_batch_normalization_against_numpy(shape, dtype):
    x = (3 + 2 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    layer = BatchNorm(dtype=dtype)
    y = np.asarray(layer(x), np.float32)
    axes, exact = tuple(range(len(shape) - 1)), dtype == "float32"
    mean, variance = x.mean(axes), x.var(axes)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + layer.epsilon), atol=1e-5 if exact else 0.03)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5 if exact else 1e-2)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5 if exact else 2e-2)
    assert layer.gamma.dtype == layer.moving_variance.dtype == "float32"


def test_gradients_of_batch_normalization_are_those_of_the_formula():
    from densecell_batch.nets.backend import value_and_gradients

    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((2, 3, 4, 5, 3)).astype(np.float32) for _ in range(2))
    layer = BatchNorm()
    layer.build(x.shape)

    def formula(x):
        mean, variance = keras.ops.moments(x, (0, 1, 2, 3))
        return (x - mean) * keras.ops.rsqrt(variance + layer.epsilon)

    def gradient(function):
        return value_and_gradients(lambda v: keras.ops.sum(function(v[0]) * weight), [keras.ops.convert_to_tensor(x)])

    (value, (ours,)), (expected, (theirs,)) = gradient(layer), gradient(formula)
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
