"""Going on from a bundle: what it is worth is found first, and nothing worse comes of it."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from phantoms import CLASSES, NET, RECIPE, a_run, phantom, save_phantoms

from densecell_batch.api import train as train_files
from densecell_batch.errors import Stopped
from densecell_batch.measure.metrics import Scores
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.predictor import Predictor
from densecell_batch.plots.curves import render_curves
from densecell_batch.training.fit import fit_member, judged
from densecell_batch.training.options import TrainingOptions, training_run
from densecell_batch.training.restarts import _is_better, train_ensemble

pytestmark = pytest.mark.keras

TUNING = replace(RECIPE, normalized=False, learning_rate=1e-4)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two members that know the phantom."""
    recipe = replace(RECIPE, learning_rate=5e-3, batch=2).over(100)
    return train_ensemble(a_run(recipe=recipe, keep=2), [phantom()], [phantom(seed=1)], tmp_path_factory.mktemp("good"))


def weights_of(bundle):
    return [bundle.weights(i) for i in range(len(bundle.members))]


def worth(weights, volume):
    return judged(Predictor(NET, weights, "float32"), RECIPE.window, [volume]).mean_iou


def test_the_start_is_kept_where_nothing_beats_it(good, tmp_path):
    """A rate that spoils the net: it is evaluated first, never abandoned, and comes out as it was."""
    start, judge = good.weights(0), phantom(seed=1)
    spoiling = replace(TUNING, learning_rate=0.05, average=0.0, floor=0.99)
    member = fit_member(NET, [phantom()], [judge], spoiling, tmp_path / "a.state", 0, start=start)
    assert not member.abandoned
    assert [row["step"] for row in member.history] == [*range(21)]
    assert member.history[0]["mean_iou"] == pytest.approx(worth([start], judge), abs=1e-4)
    assert max(row["mean_iou"] for row in member.history[1:]) < member.history[0]["mean_iou"]
    for name, tensor in start.items():
        np.testing.assert_array_equal(member.weights[name], tensor)
    assert render_curves({"seed 0": member.history}).shape[-1] == 3  # step 0 has no loss


def test_what_beats_the_start_is_taken(good, tmp_path):
    """On a stack unlike those of before, inverted, there is much to gain."""
    train, judge = (replace(v, image=-v.image) for v in (phantom(), phantom(seed=1)))
    tuning = replace(TUNING, learning_rate=5e-3, batch=2, average=0.9).over(60)
    run = a_run(recipe=tuning, restarts=2, keep=2)
    bundle = train_ensemble(run, [train], [judge], tmp_path, start=weights_of(good))
    before = worth(weights_of(good), judge)
    assert bundle.provenance["mean IoU before fine-tuning"] == pytest.approx(before, abs=1e-3)
    assert bundle.scores["evaluation"]["mean_iou"] > before + 0.1
    assert sorted(bundle.provenance["seeds kept"]) == [0, 1]


def test_an_ensemble_is_never_worse_than_what_it_began_with(good, tmp_path, caplog):
    judge = phantom(seed=1)
    run = a_run(recipe=replace(TUNING, learning_rate=0.05, average=0.0), restarts=2, keep=2)
    bundle = train_ensemble(run, [phantom()], [judge], tmp_path, start=weights_of(good))
    assert bundle.scores["evaluation"]["mean_iou"] == good.scores["evaluation"]["mean_iou"]
    assert bundle.scores["evaluation"]["mean_iou"] == bundle.provenance["mean IoU before fine-tuning"]
    assert bundle.provenance["seeds kept"] == []
    assert [m["mean_iou"] for m in bundle.scores["members"]] == [m["mean_iou"] for m in good.scores["members"]]
    for i in range(2):
        for name, tensor in good.weights(i).items():
            np.testing.assert_array_equal(bundle.weights(i)[name], tensor)
    assert "found nothing better on the evaluation stacks than what it began with" in caplog.text


@pytest.mark.parametrize(("after", "better"), [(9, True), (8, False), (7, False)])
def test_as_good_is_not_better(after, better, caplog):
    caplog.set_level(logging.INFO)
    of_9, of_8 = (Scores(np.diag([n, 10]) + np.array([[0, 10 - n], [0, 0]])) for n in (after, 8))
    assert _is_better(of_9, of_8) is better
    assert ("before, " in caplog.text) is better


def test_fine_tuning_goes_on_after_a_stop(good, tmp_path):
    def stop(row):
        if row["step"] == 1:
            raise Stopped("now")

    arguments = NET, [phantom()], [phantom(seed=1)], TUNING
    whole = fit_member(*arguments, tmp_path / "a.state", 3, start=good.weights(0))
    with pytest.raises(Stopped):
        fit_member(*arguments, tmp_path / "b.state", 3, start=good.weights(0), progress=stop)
    resumed = fit_member(*arguments, tmp_path / "b.state", 3, start=good.weights(0))
    assert [row["mean_iou"] for row in resumed.history] == [row["mean_iou"] for row in whole.history]
    for name, weights in whole.weights.items():
        np.testing.assert_allclose(resumed.weights[name], weights, atol=1e-6, err_msg=name)


def test_defaults_of_fine_tuning(good):
    """A low rate, and as many members as the bundle has."""
    init = str(good.path)
    start, run = training_run(CLASSES, TrainingOptions(init=init, steps=20))
    assert (len(start), run.restarts, run.keep) == (2, 2, 2)
    assert run.recipe.learning_rate == 3e-5
    _, run = training_run(CLASSES, TrainingOptions(init=init, steps=20, restarts=1, learning_rate=1e-3))
    assert (run.restarts, run.keep, run.recipe.learning_rate) == (1, 1, 1e-3)
    _, run = training_run(CLASSES, TrainingOptions(steps=20))
    assert (run.restarts, run.recipe.learning_rate) == (1, 3e-3)


def test_without_a_word_about_classes_or_evaluation(good, tmp_path):
    """From files: classes and colours are those of the bundle, and some slices are held back."""
    files = save_phantoms(tmp_path, (8, 72, 80))
    bundle = train_files([files["train-images"]], [files["train-labels"]], None, tmp_path / "run", None,
                         init=str(good.path), steps=20, precision="float32")  # fmt: skip
    assert bundle.classes == good.classes
    assert bundle.provenance["held_back"] == ["stack 1: slices 7 to 8; trained on 1 to 5"]
    assert bundle.scores["evaluation"]["mean_iou"] >= bundle.provenance["mean IoU before fine-tuning"]
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows if row["step"] == 0] == [0, 1]
    assert load_bundle(bundle.path).architecture == NET
