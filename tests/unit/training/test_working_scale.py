"""At which voxel size nets are trained: by hand, by trials, and what comes of it when the bundle is used."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from phantoms import CLASSES, a_run, phantom, save_phantoms
from PIL import Image

from densecell_batch import Segmenter
from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError, Stopped
from densecell_batch.prepare.examine import zoom_to
from densecell_batch.prepare.preparation import Aim
from densecell_batch.training import working_scale
from densecell_batch.training.options import TrainingOptions
from densecell_batch.training.rescaled import classes_at, weights_at
from densecell_batch.training.train import train
from densecell_batch.training.volumes import load_labelled
from densecell_batch.training.working_scale import ONE, Trial, choose, label_ceiling, with_plan

HALF = (1.0, 0.5, 0.5)


# Labels on another grid


def test_a_voxel_has_the_class_that_most_of_it_has():
    labels = np.zeros((2, 4, 6), np.uint8)
    labels[:, :2, :2] = [[1, 1], [1, 2]]
    labels[1, 2:, 2:4] = 2
    half = classes_at(labels, (2, 2, 3), 3)
    assert half[:, 0, 0].tolist() == [1, 1]
    assert half[1, 1, 1] == 2
    assert half[0].sum() == 1
    assert half.dtype == np.uint8
    np.testing.assert_array_equal(classes_at(labels, labels.shape, 3), labels)


def test_what_does_not_count_has_no_say():
    labels, counted = np.ones((1, 2, 2), np.uint8), np.ones((1, 2, 2), bool)
    labels[0, 0, 0] = 2
    assert classes_at(labels, (1, 1, 1), 3, counted) == 1
    counted[0, 0, 1] = counted[0, 1] = False
    assert classes_at(labels, (1, 1, 1), 3, counted) == 2
    weights = np.array([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[2, 2], [2, 2]]], np.float32)
    np.testing.assert_allclose(weights_at(weights, (3, 1, 1)).ravel(), [0.5, 0, 2])


def test_along_z_too():
    labels = np.repeat(np.array([0, 1, 2], np.uint8), 2)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    np.testing.assert_array_equal(classes_at(labels, (3, 4, 4), 3)[:, 0, 0], [0, 1, 2])


def saved(folder: Path, labels, image=None, voxel_size=None) -> tuple[Path, Path]:
    image = (np.random.default_rng(0).integers(50, 200, labels.shape)).astype(np.uint8) if image is None else image
    for name, array in (("image", image), ("labels", labels)):
        size = {} if voxel_size is None else {"spacing": voxel_size[0], "unit": "um"}
        resolution = None if voxel_size is None else (1 / voxel_size[2], 1 / voxel_size[1])
        tifffile.imwrite(
            folder / f"{name}.tif", array, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **size}
        )
    return folder / "image.tif", folder / "labels.tif"


def test_a_volume_at_half_the_scale(tmp_path):
    labels = np.kron(np.random.default_rng(1).integers(0, 3, (3, 20, 25)), np.ones((1, 2, 2))).astype(np.uint8)
    files = saved(tmp_path, labels, voxel_size=(0.04, 0.01, 0.01))
    plain, half = load_labelled(*files, 3), load_labelled(*files, 3, aim=Aim(scale=HALF))
    assert plain.original is None
    assert half.image.shape == half.labels.shape == (3, 20, 25)
    np.testing.assert_array_equal(half.labels, labels[:, ::2, ::2])
    np.testing.assert_array_equal(half.truth[0], labels)
    np.testing.assert_allclose(half.voxel_size.edges, (0.04, 0.02, 0.02), rtol=1e-5)
    # Grey values are remembered as those of stacks are that come later, which are looked at on their own grid.
    for a, b in zip(half.greys, plain.greys, strict=True):
        np.testing.assert_array_equal(a.tiles, b.tiles)
    with pytest.raises(StackError, match=r"3 x 40 x 50 .*, at the voxel size of the nets 3 x 20 x 25, smaller"):
        load_labelled(*files, 3, (3, 32, 32), aim=Aim(scale=HALF))
    # Another stack comes to the same voxel size.
    other = load_labelled(*files, 3, aim=Aim(VoxelSize(0.04, 0.04, 0.04), HALF))
    assert other.image.shape == (3, 10, 12)


def test_fill_does_not_count_at_any_scale(tmp_path):
    labels, image = np.ones((3, 40, 60), np.uint8), np.random.default_rng(0).integers(50, 200, (3, 40, 60), np.uint8)
    image[:, :, :20] = 0
    half = load_labelled(*saved(tmp_path, labels, image), 2, aim=Aim(scale=HALF))
    assert not half.counted[:, :, :10].any()
    assert half.counted[:, :, 10:].all()
    assert half.truth[1].mean() == pytest.approx(2 / 3)


def test_what_is_labelled_is_too_thin(tmp_path):
    labels = np.ones((3, 40, 60), np.uint8)
    weights = np.zeros(labels.shape, np.float32)
    weights[:, ::16] = 1
    tifffile.imwrite(tmp_path / "weights.tif", weights, photometric="minisblack", metadata={"axes": "ZYX"})
    files = saved(tmp_path, labels)
    assert load_labelled(*files, 2, None, tmp_path / "weights.tif").weights.any()
    with pytest.raises(StackError, match="no voxel counts any more"):
        load_labelled(*files, 2, None, tmp_path / "weights.tif", aim=Aim(scale=HALF))


def test_a_stack_that_is_too_far_from_the_others(tmp_path):
    files = saved(tmp_path, np.ones((3, 40, 60), np.uint8), voxel_size=(0.04, 0.08, 0.08))
    with pytest.raises(StackError, match="it is not resampled so far"):
        load_labelled(*files, 2, aim=Aim(VoxelSize(0.04, 0.01, 0.01)))


# What a stack is brought to


@pytest.mark.parametrize(
    ("aim", "found", "scale", "zoom"),
    [
        (Aim(scale=HALF), None, "auto", HALF),
        (Aim(scale=HALF), VoxelSize(1, 1, 1), "auto", HALF),  # the training's had none
        (Aim(scale=HALF), None, "off", ONE),
        (Aim(scale=HALF), None, (1.0, 3.0, 3.0), (1.0, 3.0, 3.0)),
        (Aim(VoxelSize(4, 2, 2), HALF), None, "auto", HALF),
        (Aim(VoxelSize(4, 2, 2), HALF), VoxelSize(4, 1, 1), "auto", HALF),
        (Aim(VoxelSize(4, 2, 2), HALF), VoxelSize(4, 4, 4), "auto", (1.0, 2.0, 2.0)),
        (Aim(VoxelSize(4, 2, 2), (0.5, 0.5, 0.5)), VoxelSize(2, 1, 1), "auto", (0.5, 0.5, 0.5)),
        (Aim(VoxelSize(4, 2, 2), (0.5, 0.5, 0.5)), VoxelSize(4e6, 1, 1), "auto", ONE),
        (Aim(VoxelSize(4, 2, 2), HALF), VoxelSize(9, 1, 1), "auto", HALF),
    ],
)
def test_what_a_stack_is_brought_to(aim, found, scale, zoom):
    assert zoom_to(aim, found, scale)[0] == zoom


# The plan


def trial(scale, mean_iou, ceiling=0.95):
    return Trial(scale=(1.0, scale, scale), ceiling=ceiling, mean_iou=mean_iou, steps=0 if mean_iou is None else 50)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.505, 0.4], 1),
        ([0.5, 0.6, 0.4], 0.5),
        ([0.5, 0.6, 0.7], 0.25),
        ([0.5, 0.6, 0.605], 0.5),
        ([None, None, None], 1),
        ([0.5, None, 0.7], 0.25),
    ],
)
def test_the_finest_that_no_coarser_one_clearly_beats(scores, expected):
    scale, why = choose([trial(factor, score) for factor, score in zip((1, 0.5, 0.25), scores, strict=True)])
    assert scale == (1, expected, expected)
    assert why


def test_thin_things_do_not_survive_coarse_voxels():
    volume = phantom((4, 64, 64))
    assert label_ceiling([volume], 3, ONE) == 1
    half, quarter = (label_ceiling([volume], 3, (1.0, s, s)) for s in (0.5, 0.25))
    assert 1 > half > quarter > 0.3


def planned(tmp_path, run, scores, monkeypatch, calls, load=None):
    def fit(architecture, train, evaluation, recipe, state, seed):
        calls.append((train[0].image.shape, recipe.steps, recipe.floor))
        state.touch()
        score = scores[len(calls) - 1]
        if isinstance(score, BaseException):
            raise score
        return type("Member", (), {"scores": type("Scores", (), {"mean_iou": score})})

    monkeypatch.setattr(working_scale, "fit_member", fit)
    monkeypatch.setattr(working_scale, "steps_in", lambda run, train: 1000)

    def at(scale):
        shape = tuple(round(a * b) for a, b in zip((6, 128, 144), scale, strict=True))
        if min(shape[1:]) < 33:
            raise StackError("too small")
        return [phantom(shape)], [phantom(shape, 1)]

    return with_plan(run, at if load is None else load, at(ONE), tmp_path)


def test_trials_are_made_once_and_go_on(tmp_path, monkeypatch):
    run, calls = a_run(recipe=a_run().recipe.over(1000)), []
    monkeypatch.setattr(working_scale, "_CEILING", 0.1)
    scores = [0.3, Stopped("stopped"), 0.3, 0.5]
    with pytest.raises(Stopped):
        planned(tmp_path, run, scores, monkeypatch, calls)
    assert len(list(tmp_path.glob("trial-*.state"))) == 2
    found, (train, _) = planned(tmp_path, run, scores, monkeypatch, calls)
    assert found.scale == HALF
    assert train[0].image.shape == (6, 64, 72)
    # A quarter of 128 rows is too few for the window; each trial has 8 % of the steps, and none is given up.
    assert calls == [((6, 128, 144), 80, 0), ((6, 64, 72), 80, 0)] * 2
    assert not list(tmp_path.glob("trial-*"))
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [t["mean_iou"] for t in plan["trials"]] == [0.3, 0.5, None]
    assert "0.500" in plan["why"]
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.size[0] > 32
    again, _ = planned(tmp_path, run, [], monkeypatch, calls)
    assert again == found
    planned(tmp_path, a_run(recipe=run.recipe, seed=9), [0.6, 0.5], monkeypatch, others := [])
    assert len(others) == 2  # another run


def test_minutes_hold_the_trials_too(tmp_path, monkeypatch):
    monkeypatch.setattr(working_scale, "_CEILING", 0.1)
    run, _ = planned(tmp_path, a_run(minutes=5, restarts=2), [0.3, 0.2], monkeypatch, [])
    assert run.scale == ONE
    assert run.minutes_as_steps == 1000 - (80 + 80) // 2


def test_short_runs_have_no_trials(tmp_path, monkeypatch):
    run, _ = planned(tmp_path, a_run(recipe=a_run().recipe.over(400)), [], monkeypatch, [])
    assert run.scale == ONE
    assert "no other was tried" in json.loads((tmp_path / "plan.json").read_text())["why"]


@pytest.fixture
def hurried(monkeypatch):
    """A run whose steps see each place less often than they should."""
    run = a_run(recipe=replace(a_run().recipe.over(1000), window=(5, 64, 64)))
    seen = 1000 / run.recipe.sampler([phantom((6, 128, 144))], run.architecture, 0).epoch
    monkeypatch.setattr(working_scale, "_BEARABLE", 0.1)
    monkeypatch.setattr(working_scale, "_SELDOM", seen + 0.1)
    return run, seen


def test_much_tissue_and_few_steps(tmp_path, monkeypatch, hurried):
    run, seen = hurried
    found, _ = planned(tmp_path, run, [], monkeypatch, [])
    assert found.scale == HALF
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert f"{seen:.1f} times" in plan["why"]
    assert [t["steps"] for t in plan["trials"]] == [0, 0, 0]
    assert planned(tmp_path, run, [], monkeypatch, [])[0] == found


@pytest.mark.parametrize(("name", "value"), [("_SELDOM", 0), ("_SHORT", 1000), ("_BEARABLE", 1.0)])
def test_enough_steps_or_labels_that_need_fine_voxels(tmp_path, monkeypatch, hurried, name, value):
    monkeypatch.setattr(working_scale, name, value)
    assert planned(tmp_path, hurried[0], [0.3, 0.3], monkeypatch, [])[0].scale == ONE


@pytest.mark.parametrize("steps", [1000, 4000])
def test_no_class_is_lost_at_half(tmp_path, monkeypatch, hurried, steps, caplog):
    """Also one that the evaluation does not have, of which no mean IoU tells."""
    caplog.set_level("INFO")
    monkeypatch.setattr(working_scale, "_CEILING", 0.1)

    def without(scale):
        volume = phantom((6, 64, 72))
        return [replace(volume, labels=np.minimum(volume.labels, 1))], [volume]

    run = replace(hurried[0], recipe=hurried[0].recipe.over(steps))
    assert planned(tmp_path, run, [], monkeypatch, [], without)[0].scale == ONE
    assert "no voxel of class 2, 'dot', is left to learn from" in caplog.text


def test_what_nobody_labelled_needs_not_be_seen(tmp_path, monkeypatch, hurried):
    """Windows lie in the one slice of six that is labelled, and see it six times as often."""
    weights = np.zeros((6, 128, 144), np.float32)
    weights[2] = 1
    monkeypatch.setattr(working_scale, "_SELDOM", 5 * hurried[1])

    def sparse(scale):
        return [replace(phantom((6, 128, 144)), weights=weights)], [phantom((6, 128, 144), 1)]

    assert working_scale._hurried(hurried[0], 1000, 2 * [trial(0.5, None)], sparse, sparse(ONE)[0]) is None
    assert working_scale._hurried(hurried[0], 1000, 2 * [trial(0.5, None)], sparse, [phantom((6, 128, 144))])


def test_plans_are_of_what_is_learned_and_of_what_judges():
    a, b, c = (phantom(seed=seed) for seed in range(3))
    assert working_scale._digest(a_run(), [a], [b, c]) != working_scale._digest(a_run(), [a, b], [c])


def test_too_small_for_the_window_at_half(tmp_path, monkeypatch, hurried):
    def too_small(scale):
        raise StackError("too small")

    assert planned(tmp_path, hurried[0], [], monkeypatch, [], too_small)[0].scale == ONE


def test_a_run_that_is_begun_has_no_more_trials(tmp_path, monkeypatch):
    """Whoever goes on with another option is refused later, and the plan stays."""
    monkeypatch.setattr(working_scale, "_CEILING", 0.1)
    recipe = a_run().recipe.over(1000)
    planned(tmp_path, a_run(recipe=recipe), [0.3, 0.5], monkeypatch, [])
    (tmp_path / "run.json").write_text(json.dumps({"scale": HALF}))
    before = (tmp_path / "plan.json").read_text()
    run, (train, _) = planned(tmp_path, a_run(recipe=recipe, seed=5), [], monkeypatch, [])
    assert run.scale == HALF
    assert train[0].image.shape == (6, 64, 72)
    assert (tmp_path / "plan.json").read_text() == before
    (tmp_path / "plan.json").write_text("{")  # nobody needs it any more
    assert planned(tmp_path, a_run(recipe=recipe), [], monkeypatch, [])[0].scale == HALF


def test_runs_of_before_go_on_as_they_were(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("{}")
    run, _ = planned(tmp_path, a_run(recipe=a_run().recipe.over(1000)), [], monkeypatch, [])
    assert run.scale == ONE
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"of": "x", "steps": 9, "scale": [1, 99, 1]}', '{"of": "x", "steps": -1}']
)
def test_a_plan_that_cannot_be_read(tmp_path, monkeypatch, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(OptionError, match=r"plan.json: cannot be read"):
        planned(tmp_path, a_run(), [], monkeypatch, [])


# From files to labels


def options(**more):
    return TrainingOptions(**{
        "net": "2d3d", "kernels": 4, "pyramid_kernels": 4, "window": (5, 32, 32), "steps": 20, "floor": 0,
        "precision": "float32", **more,
    })  # fmt: skip


def trained(folder, out, **more):
    files = save_phantoms(folder, (6, 72, 80))
    return train(
        [files["train-images"]], [files["train-labels"]], [(files["eval-images"], files["eval-labels"])], out,
        CLASSES, options(**more),
    ), files  # fmt: skip


@pytest.mark.keras
def test_a_bundle_brings_stacks_to_the_scale_of_its_training(tmp_path):
    bundle, files = trained(tmp_path, tmp_path / "run", scale=0.5)
    assert bundle.known.scale == HALF
    assert json.loads((tmp_path / "run/run.json").read_text())["scale"] == [1, 0.5, 0.5]
    image = tifffile.imread(files["eval-images"])
    segmenter = Segmenter(bundle.path, precision="float32", fit="off")
    assert segmenter(image).labels.shape == image.shape
    assert segmenter.expected_plan is not None
    with pytest.raises(OptionError, match=r"scale was \[1.0, 0.5, 0.5\], is \[1.0, 1.0, 1.0\]"):
        trained(tmp_path, tmp_path / "run", scale="off")
    again, _ = trained(tmp_path, tmp_path / "run", scale=(1, 0.5, 0.5))
    assert again.known.scale == HALF
    # Fine-tuning goes on at the scale of what it begins with.
    fine, _ = trained(tmp_path, tmp_path / "fine", init=str(bundle.path))
    assert fine.known.scale == HALF


@pytest.mark.keras
def test_a_voxel_size_is_asked_for(tmp_path):
    with pytest.raises(OptionError, match="at most 6 times as many or as few"):
        trained(tmp_path, tmp_path / "run", scale=0.05)
    with pytest.raises(OptionError, match="--voxel-size-trained needs stacks with a voxel size"):
        trained(tmp_path, tmp_path / "run", voxel_size_trained=VoxelSize(1, 1, 1))
    with pytest.raises(OptionError, match="not both"):
        options(scale=0.5, voxel_size_trained=VoxelSize(1, 1, 1))
    labels = phantom().labels
    files = saved(tmp_path, labels, (phantom().image * 20 + 128).astype(np.uint8), (0.04, 0.01, 0.01))
    asked = options(voxel_size_trained=VoxelSize(0.04, 0.02, 0.02))
    bundle = train([files[0]], [files[1]], [files], tmp_path / "run", CLASSES, asked)
    np.testing.assert_allclose(bundle.known.scale, HALF, rtol=1e-5)
    np.testing.assert_allclose(bundle.voxel_size.edges, (0.04, 0.02, 0.02), rtol=1e-5)


@pytest.mark.keras
def test_trials_with_real_nets(tmp_path, monkeypatch):
    monkeypatch.setattr(working_scale, "FEWEST", 2)
    monkeypatch.setattr(working_scale, "_SELDOM", 0)
    monkeypatch.setattr(working_scale, "_CEILING", 0.1)
    bundle, _ = trained(tmp_path, tmp_path / "run", steps=40)
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    assert [t["steps"] for t in plan["trials"]] == [3, 3, 0]
    assert bundle.known.scale == tuple(plan["scale"])
    assert (tmp_path / "run/plan.png").exists()
