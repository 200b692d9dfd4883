"""An ensemble as ONNX says what ours says: by onnxruntime, and by OpenVINO reading the file."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from random_nets import random_member

from densecell_batch.errors import DeviceError, OptionError
from densecell_batch.models.published import read_published
from densecell_batch.nets import onnx_graph
from densecell_batch.nets.architecture import Architecture, Hybrid2D3D, ResidualUNet, UNet2D
from densecell_batch.nets.engines import for_processor
from densecell_batch.nets.onnx_graph import INPUT, OPSET, OUTPUT, answers, onnx_bytes, rim
from densecell_batch.nets.predictor import Predictor

onnx = pytest.importorskip("onnx")
NEAR = 1e-5  # of a probability; what is promised is 1e-4

NETS = [
    (Hybrid2D3D(3, 4, 2, 1, (1, 2), 6), (5, 16, 24)),
    (Hybrid2D3D(3, 4, 2, 1, (1, 2), 6), (5, 19, 26)),  # loses voxels to pooling
    (Hybrid2D3D(3, 4, 3, 2, (2, 1, 1), 6, relu_on_logits=False, pyramid_unpools_z=False), (4, 32, 24)),
    (Hybrid2D3D(2, 2, 1, 1, (1,), 2), (3, 8, 8)),
    (UNet2D(4, 3, 2), (3, 52, 60)),
    (ResidualUNet(3, 4, 2), (5, 32, 40)),
    (ResidualUNet(3, 4, 2), (3, 29, 35)),  # odd sides
    (ResidualUNet(2, 3, 1, neighbours=0), (2, 8, 8)),
]


def said(architecture: Architecture, members: list, volume: np.ndarray, offsets: list[float] | None) -> np.ndarray:
    predictor = Predictor(architecture, members, offsets=offsets, engine=for_processor())
    found = predictor.together(volume, with_probabilities=True).probabilities
    assert found is not None
    return found


def by_onnxruntime(content: bytes, volume: np.ndarray) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: volume[None, None]})
    return np.moveaxis(found[0], 0, -1)


@pytest.mark.parametrize(("architecture", "shape"), NETS)
@pytest.mark.parametrize("computed", [answers, by_onnxruntime])
def test_onnx_says_what_ours_says(architecture, shape, computed) -> None:
    members = [random_member(architecture) for _ in range(3)]
    offsets = [0.5, -0.25, *[0.0] * (architecture.n_classes - 2)]
    volume = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = said(architecture, members, volume, offsets)
    found = computed(onnx_bytes(architecture, members, shape, offsets), volume)
    assert found.shape == expected.shape == (*architecture.output_shape(shape), architecture.n_classes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR)


@pytest.mark.parametrize(("architecture", "shape"), [NETS[4], NETS[5]])
@pytest.mark.parametrize("computed", [answers, by_onnxruntime])
def test_what_is_padded_has_the_sides_of_what_goes_in(architecture, shape, computed) -> None:
    member = random_member(architecture)
    volume = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = said(architecture, [member], volume, None)
    found = computed(onnx_bytes(architecture, [member], shape, padded=True), volume)
    assert found.shape == (*shape, architecture.n_classes)
    beyond = [(side, side) for side in (*rim(architecture), 0)]
    np.testing.assert_allclose(found, np.pad(expected, beyond, "edge"), rtol=0, atol=NEAR)


def test_onnx_says_what_the_published_code_says(data) -> None:
    model = read_published(data / "published/2d3d-small_S")
    probe = np.load(data / "genenet/probe-S-window-tensors.npz")
    volume = probe["input"][0, ..., 0]
    content = onnx_bytes(model.architecture, [model.weights], volume.shape)
    np.testing.assert_allclose(by_onnxruntime(content, volume), probe["probabilities"][0], atol=2e-5)


def test_the_file_is_of_an_opset_that_others_read_and_says_what_it_is() -> None:
    architecture, shape = NETS[0]
    member = random_member(architecture)
    content = onnx_bytes(architecture, [member, member], shape, records={"name": "x", "licence": "CC0-1.0"})
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert OPSET <= 18
    assert {p.key: p.value for p in model.metadata_props} == {"name": "x", "licence": "CC0-1.0"}
    assert [i.name for i in model.graph.input] == [INPUT]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, *shape]
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 3, 5, 16, 24]
    assert content == onnx_bytes(architecture, [member, member], shape, records={"name": "x", "licence": "CC0-1.0"})


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, shape = NETS[0]
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DeviceError, match=r"pip install 'densecell-batch\[export\]'"):
        onnx_bytes(architecture, [random_member(architecture)], shape)


def test_weights_that_no_file_of_onnx_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, shape = NETS[0]
    monkeypatch.setattr(onnx_graph, "_LARGEST", 100)
    with pytest.raises(OptionError, match="a file of ONNX holds at most 100"):
        onnx_bytes(architecture, [random_member(architecture)], shape)
