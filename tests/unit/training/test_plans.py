"""What a training is planned to be: windows that fit into the stacks, blocks of the net, numbers that are none."""

import pytest
from phantoms import CLASSES, NET, a_run, phantom

from densecell_batch.errors import OptionError
from densecell_batch.nets.architecture import ResidualUNet, UNet2D
from densecell_batch.training.fit import fit_member
from densecell_batch.training.options import TrainingOptions, fitting, training_run


@pytest.mark.parametrize(
    ("net", "shapes", "window"),
    [
        (ResidualUNet(2), [(20, 512, 512)], (3, 256, 256)),
        (ResidualUNet(2), [(20, 512, 512), (1, 200, 140)], (3, 192, 128)),
        (ResidualUNet(2), [(20, 20, 512)], (3, 32, 256)),  # does not fit: the stack is too small, as will be said
        (ResidualUNet(2, n_blocks=2), [(2, 45, 33)], (3, 40, 32)),
        (NET, [(3, 512, 150)], (3, 256, 144)),
        (UNet2D(2, 4, 3), [(9, 200, 250)], (3, 200, 248)),
    ],
)
def test_windows_fit_into_the_stacks(net, shapes, window):
    assert fitting((3, 256, 256), shapes, net) == window


@pytest.mark.parametrize(
    ("side", "blocks"), [(512, 4), (128, 4), (127, 3), (64, 3), (63, 2), (32, 2), (31, 1), (17, 1)]
)
def test_a_net_has_as_many_blocks_as_its_windows_feed(side, blocks):
    """A batch normalization of few values learns nothing: the bottleneck has 4 x 4 of each window at least."""
    _, run = training_run(CLASSES, TrainingOptions(steps=20), [(4, 300, 300), (2, side, 400)])
    assert run.architecture == ResidualUNet(3, n_blocks=blocks)
    assert run.recipe.window[1] == min(256, side // run.architecture.alignment * run.architecture.alignment)
    assert run.recipe.window[1] // run.architecture.alignment >= 4
    asked = TrainingOptions(steps=20, window=(3, side, 400))
    assert training_run(CLASSES, asked, [(4, 300, 300)])[1].architecture.n_blocks == blocks


def test_small_windows_are_learned_from(tmp_path):
    _, run = training_run(CLASSES, TrainingOptions(steps=120, kernels=8, precision="float32"), [(6, 40, 45)])
    member = fit_member(
        run.architecture, [phantom((6, 40, 45))], [phantom((6, 40, 45), 1)], run.recipe, tmp_path / "a.state", 0
    )
    assert run.recipe.window == (3, 40, 40)
    assert member.scores.mean_iou > 0.5


@pytest.mark.parametrize("change", [{"minutes": float("inf")}, {"steps": 2**31}, {"steps": 20, "seed": 10**20}])
def test_numbers_that_no_run_holds(change):
    with pytest.raises(OptionError, match=f"{[*change][-1]} is .*; expected"):
        TrainingOptions(**change)


@pytest.mark.parametrize("keep", [0, 3])
def test_keep_out_of_range(keep):
    with pytest.raises(OptionError, match="expected 1 to 2"):
        a_run(keep=keep)
