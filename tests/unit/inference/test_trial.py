"""Windows of a stack that are tried before all of it."""

import numpy as np
import pytest

from densecell_batch.inference.trial import _remedies, describe_fit, resized_windows, try_windows
from densecell_batch.nets.architecture import Hybrid2D3D, UNet2D
from densecell_batch.nets.ensemble import answer_of, combine
from densecell_batch.prepare.fit import Fit


class Seen:
    def __init__(self, shape, outside=None):
        self.image = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.shape, self.outside, self.read_slices = shape, outside, []

    def read(self, z, rows):
        self.read_slices.append(z)
        return self.image[z, slice(*rows)]

    def has_outside(self, region):
        return self.outside is not None and bool(self.outside[region].any())


class Nets:
    """Answers that differ with the orientation of what is seen, as those of a single net do."""

    architecture = Hybrid2D3D(n_classes=2, n_kernels=2)

    def __init__(self, members):
        self.members, self.tiles = members, []

    def __len__(self):
        return self.members

    def __call__(self, tile):
        self.tiles.append(tile)
        for i in range(self.members):
            share = 1 / (1 + np.exp(-tile * (np.arange(tile.shape[1]) + i + 1)[:, None] / tile.shape[1]))
            yield np.stack([share, 1 - share], axis=-1).astype(np.float32)

    def together(self, tile, *, with_disagreement=False):
        return answer_of(*combine(self(tile), with_disagreement=with_disagreement))


class Certain(Nets):
    """The same answer, whatever is seen."""

    def __call__(self, tile):
        yield np.full((*tile.shape, 2), 0.5, np.float32)


def test_a_stack_smaller_than_a_window_is_mirrored_for_the_nets_alone():
    nets = Nets(2)
    (row,) = try_windows(Seen((1, 20, 70)), nets, (5, 32, 64), 1)
    assert nets.tiles[0].shape == (5, 32, 64)
    assert not any(name.startswith("coherence") for name in row)  # of the one slice that there is


def test_a_single_net_is_asked_about_the_window_turned():
    nets = Nets(1)
    (row,) = try_windows(Seen((5, 40, 40)), nets, (5, 32, 32), 1)
    assert len(nets.tiles) == 3
    assert row["disagreement"] > 0
    assert try_windows(Seen((5, 40, 40)), Certain(1), (5, 32, 32), 1)[0]["disagreement"] == 0


def test_nets_are_asked_about_the_middle_of_a_large_window():
    nets = Nets(2)
    try_windows(Seen((5, 200, 200)), nets, (5, 160, 160), 1)
    assert nets.tiles[0].shape == (5, 88, 88)
    nets.architecture = UNet2D(n_classes=2, n_kernels=2)
    try_windows(Seen((5, 300, 300)), nets, (5, 252, 252), 1)
    assert nets.tiles[1].shape == (5, 252, 252)  # what is left of it has 68 voxels
    nets.architecture = UNet2D(n_classes=2, n_kernels=2, n_blocks=3)
    try_windows(Seen((5, 300, 300)), nets, (5, 252, 252), 1)
    side, net = nets.tiles[2].shape[1], nets.architecture
    assert 88 <= side - 2 * net.margin < 88 + net.alignment + net.residue + 1
    assert (side - net.residue - 2 * net.margin) % net.alignment == 0


def test_windows_with_fill_are_passed_over_where_others_are():
    outside = np.zeros((5, 40, 200), bool)
    outside[:, :, :120] = True
    nets = Nets(2)
    seen = Seen(outside.shape, outside)
    seen.image[outside] = 99
    assert try_windows(seen, nets, (5, 32, 32), 3)
    assert max(float(tile.max()) for tile in nets.tiles) < 99
    assert try_windows(Seen(outside.shape, np.ones_like(outside)), nets, (5, 32, 32), 3)  # else those


def test_windows_of_larger_and_smaller_pixels():
    outside = np.zeros((5, 64, 100), bool)
    outside[:, :, 80:] = True
    seen = Seen(outside.shape, outside)
    seen.image *= 0.1
    seen.image += np.sin(np.arange(100) * 2 * np.pi / 8).astype(np.float32)
    seen.image[outside] = np.nan
    for factor, band in ((2, "power_5px"), (1.43, "power_7px")):
        found = resized_windows(seen, (5, 32, 32), factor, 4)
        assert 1 < len(found) <= 4
        assert all(np.isfinite(list(row.values())).all() for row in found)
        powers = {name: value for name, value in found[0].items() if name.startswith("power")}
        assert max(powers, key=powers.get) == band  # where the wave is
    as_it_is = try_windows(seen, Nets(2), (5, 32, 32), 4)
    for resized, row in zip(resized_windows(seen, (5, 32, 32), 1, 4), as_it_is, strict=True):
        assert resized == {name: value for name, value in row.items() if name != "disagreement"}
    assert resized_windows(seen, (5, 32, 32), 2.1, 4) == []  # 68 rows are needed
    assert resized_windows(seen, (5, 32, 32), 0.01, 1)


@pytest.mark.parametrize(
    ("size", "off", "expected"),
    [
        (None, False, {"inverted", "of half the size (--scale 0.5)", "of twice the size (--scale 2)"}),
        (0.55, True, {"inverted", "of half the size (--scale 0.5)", "of 0.55 times the size (--scale 0.55)"}),
        (1.94, True, {"inverted", "of twice the size (--scale 2)", "of 1.9 times the size (--scale 1.9)"}),
        (1.48, True, {"inverted", "of 1.5 times the size (--scale 1.5)"}),
        (0.72, True, {"inverted", "of 0.72 times the size (--scale 0.72)"}),
        (1.1, False, {"inverted"}),
    ],
)
def test_what_may_be_wrong_with_a_stack(size, off, expected):
    measured = {} if size is None else {"pixel_size": size}
    fit = Fit(alike=False, score=2, measured=measured, expected={}, worst=("pixel_size",) if off else ())
    assert set(_remedies(fit, 1.0)) == expected
    # What is said is what the option takes: of the stack, not of what nets see of it already.
    assert ("of half the size (--scale 0.25)" in _remedies(fit, 0.5)) == ("of half the size (--scale 0.5)" in expected)


def test_what_is_said_is_said_in_words():
    worst = ("power_10px", "power_5px", "disagreement")
    told = describe_fit(worst, "inverted", taken=False)
    assert told.count("its sharpness, noise or pixel size") == 1
    assert "the nets disagree more than about their own data" in told
    assert "--fit auto" in told
    assert "its texture" in describe_fit(("lines_4.5px",), "", taken=False)  # of a bundle of others
    assert "so it was taken as inverted" in describe_fit(worst, "inverted", taken=True)
    assert "another model" in describe_fit(worst, "", taken=False)
