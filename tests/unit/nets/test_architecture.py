"""The configurations: counts, names and geometry of the published nets."""

from math import prod

import pytest

from densecell_batch.errors import OptionError
from densecell_batch.nets.architecture import (
    Hybrid2D3D,
    ResidualUNet,
    UNet2D,
    architecture_from_dict,
    architecture_to_dict,
    flop_per_voxel,
    n_parameters,
    published,
    tensor_shapes,
)


@pytest.mark.parametrize(("family", "tensors", "parameters"), [("2d3d", 66, 10_283_406), ("unet2d", 46, 31_030_983)])
def test_published_nets_have_the_published_size(family, tensors, parameters):
    shapes = tensor_shapes(published(family))
    assert len(shapes) == tensors
    assert sum(map(prod, shapes.values())) == parameters


def test_full_checkpoint_has_exactly_our_tensors(data):
    rows = [line.split("\t") for line in (data / "genenet/full-checkpoint-variables.tsv").read_text().splitlines()[1:]]
    expected = {
        name.removeprefix("2D3D/"): tuple(int(side) for side in shape.strip("[]").split(","))
        for name, _, shape, _ in rows
        if name.startswith("2D3D/") and "adam" not in name
    }
    assert tensor_shapes(published("2d3d")) == expected


def test_published_work_per_voxel():
    # 3.03 MFLOP with biases and activations; the convolutions alone are counted here.
    assert flop_per_voxel(published("2d3d")) == pytest.approx(3.03e6, rel=0.01)


@pytest.mark.parametrize(
    ("net", "given", "out"),
    [
        (published("2d3d"), (5, 300, 300), (5, 296, 296)),
        (published("2d3d"), (5, 304, 408), (5, 304, 408)),
        (Hybrid2D3D(7, 8), (5, 60, 60), (5, 56, 56)),
        (published("unet2d"), (1, 572, 572), (1, 388, 388)),
        (UNet2D(7, 8), (1, 284, 284), (1, 100, 100)),
        (ResidualUNet(7), (3, 100, 96), (1, 100, 96)),
    ],
)
def test_output_shape(net, given, out):
    assert net.output_shape(given) == out


@pytest.mark.parametrize(
    "net", [Hybrid2D3D(3, 4), UNet2D(3, 4), UNet2D(3, 4, 2), UNet2D(3, 4, 3, 1), Hybrid2D3D(3, 4, 2), ResidualUNet(3)]
)
def test_sides_on_the_lattice_lose_only_the_margin(net):
    for k in range(1, 9):
        side = net.residue + k * net.alignment
        given = (1 + 2 * net.context, side + 2 * net.margin, side + 2 * net.margin)
        assert net.output_shape(given) == (1, side, side)


def test_work_of_the_default_net():
    """docs/design/0004: the figures by which it was chosen."""
    net = ResidualUNet(5)
    assert n_parameters(net) == 4_913_189
    assert flop_per_voxel(net) == pytest.approx(76_568)
    assert net.reach == (1, 217, 217)


@pytest.mark.parametrize(
    "net", [Hybrid2D3D(7, 8, relu_on_logits=False, pyramid_convs=(1, 2)), UNet2D(5, 4, 2), ResidualUNet(2, 8, 3, 64, 2)]
)
def test_config_round_trips_through_json_values(net):
    assert architecture_from_dict(architecture_to_dict(net)) == net


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_classes": 7}, "family is None"),
        ({"family": "resnet", "n_classes": 7}, "family is 'resnet'"),
        ({"family": "2d3d"}, "lacks n_classes"),
        ({"family": "2d3d", "n_classes": 7, "depth": 3}, "no field depth"),
        ({"family": "2d3d", "n_classes": 0}, "n_classes is 0"),
        ({"family": "2d3d", "n_classes": 7, "n_kernels": 7}, "even number"),
        ({"family": "2d3d", "n_classes": 7, "pyramid_convs": []}, "pyramid_convs"),
        ({"family": "2d3d", "n_classes": 7, "pyramid_convs": 3}, "malformed"),
        ({"family": "unet2d", "n_classes": True}, "n_classes is True"),
        ({"family": "unet2d", "n_classes": 256}, "n_classes is 256; expected a whole number from 1 to 255"),
        ({"family": "unet2d", "n_classes": 7, "n_convs": 10**9}, "n_convs is 1000000000"),
        ({"family": "2d3d", "n_classes": 7, "pyramid_convs": [10**9]}, "numbers from 1 to 64"),
        ({"family": "2d3d", "n_classes": 7, "pyramid_convs": [1] * 9}, "1 to 8 whole numbers"),
        (
            {"family": "residual", "n_classes": 7, "neighbours": -1},
            "neighbours is -1; expected a whole number from 0 to 8",
        ),
        ({"family": "residual", "n_classes": 7, "most_kernels": 0}, "most_kernels is 0"),
        ({"family": "residual", "n_classes": 7, "n_blocks": 9}, "n_blocks is 9"),
        ({"family": "2d3d", "n_classes": 7, "relu_on_logits": "no"}, "relu_on_logits is 'no'; expected true or false"),
    ],
)
def test_bad_configs(config, message):
    with pytest.raises(OptionError, match=message):
        architecture_from_dict(config)
