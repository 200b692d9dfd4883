"""Small tiles of any shape share one graph of OpenVINO, and are what graphs of their own make of them."""

from pathlib import Path

import numpy as np
import pytest
from random_nets import random_member

from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet
from densecell_batch.nets.engines import openvino as engines
from densecell_batch.nets.engines.openvino import OpenVinoEngine, observed_ranges
from densecell_batch.nets.quantization import with_ranges

NET = ResidualUNet(n_classes=3, n_kernels=4, n_blocks=3, neighbours=1)
SHAPES = [(3, 64, 64), (5, 97, 61), (4, 33, 130), (9, 71, 70)]


@pytest.fixture
def compiled(monkeypatch):
    """The graphs that were compiled."""
    made, make = [], OpenVinoEngine._compiled

    def recorded(engine, tile, outputs):
        made.append(tile.output(0).partial_shape)
        return make(engine, tile, outputs)

    monkeypatch.setattr(OpenVinoEngine, "_compiled", recorded)
    return made


def noise(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def answers(net, members, precision="float32"):
    """What an engine says of tiles of all shapes."""
    engine = OpenVinoEngine(net, precision, np.linspace(-1, 1, net.n_classes).astype(np.float32))
    engine.load(members)
    found = [engine.compiled(shape).together(noise(shape), True, True) for shape in SHAPES]
    return found, [engine.compiled(shape).member(noise(shape), 1) for shape in SHAPES]


@pytest.mark.parametrize("at_once", [1, 600_000])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_one_graph_for_all_shapes_says_what_one_for_each_says(precision, at_once, compiled, monkeypatch):
    monkeypatch.setattr(engines, "_AT_ONCE", at_once)
    members = [random_member(NET) for i in range(2)]
    members = [with_ranges(m, observed_ranges(NET, m, [noise((5, 96, 96))])) for m in members]
    together, alone = answers(NET, members, precision)
    assert [shape.is_dynamic for shape in compiled] == [True, True]  # for the answer of all, and for that of one
    monkeypatch.setattr(engines, "_SHARED", 0)
    expected, expected_alone = answers(NET, members, precision)
    assert [shape.is_dynamic for shape in compiled[2:]] == [False] * 2 * len(SHAPES)
    for ours, theirs in zip(together, expected, strict=True):
        assert ours.labels.shape == ours.disagreement.shape == theirs.labels.shape
        if precision == "float32":
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=2e-6)
            np.testing.assert_allclose(ours.disagreement, theirs.disagreement, atol=2e-5)
        else:  # a rounding up or down, here and there
            assert np.abs(ours.probabilities - theirs.probabilities).mean() < 1e-3
    for ours, theirs in zip(alone, expected_alone, strict=True):
        assert np.abs(ours - theirs).mean() < (1e-3 if precision == "int8" else 1e-6)


def test_a_shape_says_the_same_whatever_came_before():
    members = [random_member(NET) for i in range(2)]
    first = OpenVinoEngine(NET, "float32", None)
    first.load(members)
    later = OpenVinoEngine(NET, "float32", None)
    later.load(members)
    for shape in SHAPES:
        later.compiled(shape).together(noise(shape), True, False)
    tile = noise(SHAPES[0])
    ours, theirs = (engine.compiled(tile.shape).together(tile, True, False) for engine in (first, later))
    assert ours.probabilities.tobytes() == theirs.probabilities.tobytes()


def test_large_tiles_and_nets_that_lose_voxels_have_graphs_of_their_own(compiled, monkeypatch):
    monkeypatch.setattr(engines, "_SHARED", 3 * 64 * 64)
    hybrid = Hybrid2D3D(n_classes=3, n_kernels=4, n_blocks=2, pyramid_convs=(3,), pyramid_kernels=4)
    for net, shapes in ((NET, [(3, 64, 64), (3, 64, 65), (3, 65, 64)]), (hybrid, [(5, 64, 64), (5, 72, 64)])):
        engine = OpenVinoEngine(net, "float32", None)
        engine.load([random_member(net)])
        for shape in shapes:
            engine.compiled(shape).together(noise(shape), False, False)
    assert [shape.is_dynamic for shape in compiled] == [True, False, False, False, False]


def test_other_members_take_their_place_in_the_shared_graph(compiled):
    engine = OpenVinoEngine(NET, "float32", None)
    first, second, found = random_member(NET), random_member(NET), []
    for member in (first, second, first):
        engine.load([member])
        found.append(engine.compiled(SHAPES[0]).together(noise(SHAPES[0]), True, False).probabilities)
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert len(compiled) == 3


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no resident memory to be read")
def test_the_memory_does_not_grow_with_each_shape():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    engine = OpenVinoEngine(NET, "float32", None)
    engine.load([random_member(NET)])
    sizes = []
    for side in range(20, 40):
        for width in range(20, 40):
            engine.compiled((3, side, width)).together(noise((3, side, width)), False, False)
        sizes.append(resident())
    assert sizes[-1] - sizes[9] < 25e6  # of 200 shapes; 70e6 where all is kept
