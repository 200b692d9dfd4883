"""Nets in eight bits: near to float32, the same each time, and only where ranges are known."""

import numpy as np
import pytest
import tifffile
from random_nets import random_member

from densecell_batch.errors import DeviceError
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet, UNet2D
from densecell_batch.nets.engines.openvino import OpenVinoEngine, observed_ranges
from densecell_batch.nets.predictor import Predictor
from densecell_batch.nets.quantization import quantized_layers, range_of, with_ranges

NETS = [
    (Hybrid2D3D(3, 8, 2, pyramid_kernels=8), (5, 48, 56)),
    (UNet2D(3, 8, 2), (2, 104, 92)),
    (ResidualUNet(3, 8, 2), (4, 64, 72)),
]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("architecture", "shape"), NETS)
def test_the_first_layer_and_the_logits_stay_as_they_are(architecture, shape):
    names, all_names = quantized_layers(architecture), [layer.name for layer in architecture.layers()]
    left = [name for name in all_names if name not in names]
    assert left[0] == all_names[0]
    assert {name.rpartition("/")[2] for name in left[1:]} == {"logits"}
    ranges = observed_ranges(architecture, random_member(architecture), [noise(*shape)])
    assert [*ranges] == names


@pytest.mark.parametrize(("architecture", "shape"), NETS)
def test_ranges_hold_all_that_was_seen(architecture, shape):
    member, windows = random_member(architecture), [noise(*shape, seed=i) * (i + 1) for i in range(3)]
    alone = [observed_ranges(architecture, member, [window]) for window in windows]
    for name, (low, high) in observed_ranges(architecture, member, windows).items():
        assert low == min(0, *(ranges[name][0] for ranges in alone))
        assert high == max(0, *(ranges[name][1] for ranges in alone))
        assert low < high


@pytest.mark.parametrize(("architecture", "shape"), NETS)
def test_int8_is_near_and_the_same_each_time(architecture, shape):
    member, image = random_member(architecture), noise(*shape)
    rounded = with_ranges(member, observed_ranges(architecture, member, [image]))
    (plain,) = Predictor(architecture, [member], engine="openvino")(image)
    (eight,) = Predictor(architecture, [rounded], "int8", engine="openvino")(image)
    (again,) = Predictor(architecture, [rounded], "int8", engine="openvino")(image)
    np.testing.assert_array_equal(again, eight)
    assert 0 < np.abs(eight - plain).mean() < 0.02  # it is computed otherwise, but not far off
    np.testing.assert_allclose(eight.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(("architecture", "shape"), NETS[:2])
def test_what_is_pooled_cut_or_put_together_is_in_bytes(architecture, shape):
    """As floats it would wait for the layer that rounds it, in four times the memory."""
    member = random_member(architecture)
    engine = OpenVinoEngine(architecture, "int8", None)
    engine.load([with_ranges(member, observed_ranges(architecture, member, [noise(*shape)]))])
    core, graphs = engine._core, []

    class Watched:
        def compile_model(self, *arguments):
            graphs.append(core.compile_model(*arguments))
            return graphs[-1]

    engine._core = Watched()
    engine.together(shape, False, False)
    found = set()
    for node in graphs[0].get_runtime_model().get_ordered_ops():
        features = node.get_output_size() and len(node.output(0).shape) > 3 and node.output(0).shape[1] > 3
        if features:  # and no logits
            kind, precision = (node.get_rt_info()[key].astype(str) for key in ("layerType", "outputPrecisions"))
            found.add((kind, precision))
    moved = {(kind, precision) for kind, precision in found if kind in ("Pooling", "Concatenation", "StridedSlice")}
    assert moved == {(kind, "u8") for kind, _ in moved}
    assert ("Concatenation", "u8") in moved


def test_int8_without_ranges_is_float32():
    architecture, shape = NETS[0]
    member, image = random_member(architecture), noise(*shape)
    found = [next(Predictor(architecture, [member], p, engine="openvino")(image)) for p in ("float32", "int8")]
    np.testing.assert_array_equal(*found)


def test_a_trained_net_gives_the_same_classes(data):
    bundle = load_bundle(data / "fly-vnc-small.zip")
    crop = tifffile.imread(data / "vnc-crop.tif").astype(np.float32)
    image, member = (crop - crop.mean()) / crop.std(), bundle.weights(0)
    rounded = with_ranges(member, observed_ranges(bundle.architecture, member, [image[:5, :64, :64]]))
    assert range_of(rounded, quantized_layers(bundle.architecture)[0]) is not None
    side = image.shape[1] // bundle.architecture.alignment * bundle.architecture.alignment
    tile = np.ascontiguousarray(image[:5, :side, :side])
    plain, eight = (
        Predictor(bundle.architecture, [weights], precision, engine="openvino").together(tile).labels
        for weights, precision in ((member, "float32"), (rounded, "int8"))
    )
    agreement = (plain == eight).mean()
    print(f"int8 agrees on {agreement:.2%}")
    assert 0.99 < agreement < 1


@pytest.mark.keras
def test_keras_has_no_int8():
    with pytest.raises(DeviceError, match="that is for OpenVINO"):
        Predictor(NETS[1][0], [], "int8")
