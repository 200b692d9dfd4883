"""How fast a net is: measured once, remembered, and never believed from a file that is not ours."""

import json

import pytest

from densecell_batch.data import BUNDLED
from densecell_batch.inference import rates
from densecell_batch.inference.device import DeviceInfo
from densecell_batch.inference.rates import net_rates
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet, UNet2D, published

HERE = DeviceInfo("cpu", "a processor", ("avx2",), 2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSECELL_CACHE", str(tmp_path))
    return tmp_path / "rates"


@pytest.fixture
def bundle(data):
    return load_bundle(data / "fly-vnc-small.zip")


@pytest.fixture
def measured(monkeypatch):
    """How often it was measured."""
    calls, measure = [], rates._measured

    def counted(*arguments):
        calls.append(arguments[-1])
        return measure(*arguments)

    monkeypatch.setattr(rates, "_measured", counted)
    return calls


def test_it_is_measured_once(cache, bundle, measured):
    first = net_rates(bundle, "openvino", HERE, ("float32", "bfloat16"))
    assert {*first} == {"float32", "bfloat16"}
    assert min(first.values()) > 100
    assert net_rates(bundle, "openvino", HERE, ("bfloat16",)) == {"bfloat16": first["bfloat16"]}
    assert measured == [("float32", "bfloat16")]
    other = DeviceInfo("cpu", "another processor", ("avx2",), 2)
    net_rates(bundle, "openvino", other, ("float32",))
    assert len(measured) == len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"float32": "fast"}', b'{"float32": -1}', b'{"float32": 1e999}'])
def test_what_is_not_ours_is_measured_again(cache, bundle, measured, content):
    net_rates(bundle, "openvino", HERE, ("float32",))
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert 100 < net_rates(bundle, "openvino", HERE, ("float32",))["float32"] < 1e12
    assert len(measured) == 2
    assert json.loads(path.read_bytes())["float32"] < 1e12


def test_a_cache_that_cannot_be_written_is_no_error(cache, bundle):
    cache.write_text("a file where the folder would be")
    assert net_rates(bundle, "openvino", HERE, ("float32",))["float32"] > 100


@pytest.mark.parametrize(
    ("architecture", "depth"),
    [
        (published("2d3d"), 5),
        (published("unet2d"), 1),
        (Hybrid2D3D(3, 2, 1, 1, (1,), 2), 9),
        (ResidualUNet(3), 3),
        (UNet2D(2, 4, 2), 4),
    ],
)
def test_nothing_of_the_tile_is_lost_to_pooling(architecture, depth):
    z, y, x = rates._timed_shape(architecture, depth)
    assert z == depth
    inner = y - 2 * architecture.margin
    assert 64 <= inner <= 256 + 64
    assert architecture.output_shape((z, y, x)) == (depth - 2 * architecture.context, inner, inner)


def test_the_bundled_model_has_the_rate_of_one_member(cache):
    bundle = load_bundle(BUNDLED / "fly-vnc-2d3d")
    assert len(bundle.members) == 4
    assert net_rates(bundle, "openvino", HERE, ("float32",))["float32"] > 1000
