"""The training of a member: it learns, resumes to the same weights, keeps the best evaluation, or says why not."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from phantoms import LEARNS, NET, RECIPE, phantom
from random_nets import random_member

from densecell_batch.errors import OptionError, Stopped
from densecell_batch.nets.architecture import ResidualUNet
from densecell_batch.nets.predictor import Predictor
from densecell_batch.training import fit
from densecell_batch.training.fit import fit_member


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The state of a training of `phantom()` that was stopped half-way."""
    path = tmp_path_factory.mktemp("stopped") / "half.state"

    def stop(row):
        if row["step"] >= 60:
            raise Stopped("now")

    with pytest.raises(Stopped):
        fit_member(NET, [phantom()], [phantom(seed=1)], LEARNS, path, 3, progress=stop)
    return path


def test_learns_and_resumes_to_the_same_weights(stopped, tmp_path):
    train, evaluation = [phantom()], [phantom(seed=1)]
    whole = fit_member(NET, train, evaluation, LEARNS, tmp_path / "a.state", 3)
    assert whole.history[-1]["loss"] < 0.7 * whole.history[0]["loss"]
    assert whole.scores.mean_iou > 0.5
    shutil.copy(stopped, tmp_path / "b.state")
    resumed = fit_member(NET, train, evaluation, LEARNS, tmp_path / "b.state", 3)
    for name, weights in whole.weights.items():
        np.testing.assert_allclose(resumed.weights[name], weights, atol=1e-5, err_msg=name)
    assert [row["step"] for row in resumed.history] == [row["step"] for row in whole.history]


@pytest.mark.parametrize("stop_at", [4, 12])
def test_a_residual_net_resumes_to_the_same_weights(tmp_path, stop_at):
    net, recipe = ResidualUNet(3, 4, 2), replace(RECIPE, window=(3, 32, 32), batch=2).over(16)
    recipe = replace(recipe, evaluate_every=4)
    train, evaluation = [phantom()], [phantom(seed=1)]
    whole = fit_member(net, train, evaluation, recipe, tmp_path / "a.state", 3)

    def stop(row):
        if row["step"] == stop_at:
            raise Stopped("now")

    with pytest.raises(Stopped):
        fit_member(net, train, evaluation, recipe, tmp_path / "b.state", 3, progress=stop)
    resumed = fit_member(net, train, evaluation, recipe, tmp_path / "b.state", 3)
    assert [row["step"] for row in resumed.history] == [4, 8, 12, 16]
    for name, weights in whole.weights.items():
        np.testing.assert_allclose(resumed.weights[name], weights, atol=1e-5, err_msg=name)


def test_an_evaluation_that_is_stopped_is_made_up_for(tmp_path, monkeypatch):
    """The first one, before which there is nothing to keep, and the last, after which there is no step."""
    recipe = replace(RECIPE.over(20), evaluate_every=10)
    train, evaluation = [phantom()], [phantom(seed=1)]
    whole = fit_member(NET, train, evaluation, recipe, tmp_path / "a.state", 3)
    calls, judged = [], fit.judged

    def stopping(*args):
        calls.append(args)
        if len(calls) in (1, 3):
            raise Stopped("now")
        return judged(*args)

    monkeypatch.setattr(fit, "judged", stopping)
    for _ in range(2):
        with pytest.raises(Stopped):
            fit_member(NET, train, evaluation, recipe, tmp_path / "b.state", 3)
    resumed = fit_member(NET, train, evaluation, recipe, tmp_path / "b.state", 3)
    for row, expected in zip(resumed.history, whole.history, strict=True):
        assert row["step"] == expected["step"]
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert row["mean_iou"] == pytest.approx(expected["mean_iou"], abs=1e-3)
    for name, weights in whole.weights.items():
        np.testing.assert_allclose(resumed.weights[name], weights, atol=1e-5, err_msg=name)


def test_the_best_evaluation_is_kept(stopped, tmp_path):
    """Also across a stop: a rate that grows too high spoils the net, but not the member."""
    shutil.copy(stopped, tmp_path / "a.state")
    spoiling = replace(LEARNS, learning_rate=10.0, average=0.0)
    member = fit_member(NET, [phantom()], [phantom(seed=1)], spoiling, tmp_path / "a.state", 3)
    reached = [row["mean_iou"] for row in member.history]
    assert member.scores.mean_iou == pytest.approx(max(reached), abs=1e-4)
    assert reached[-1] < max(reached) - 0.02


def test_a_class_that_the_evaluation_lacks_does_not_decide(monkeypatch):
    """A net that gives it somewhere is as good as one that never does: the latter may not have learned it yet."""
    volume = phantom()
    volume = replace(volume, labels=np.minimum(volume.labels, 1))
    stray = volume.labels.copy()
    stray[0, 0, 0] = 2
    monkeypatch.setattr(fit, "predict_labels", lambda *args: stray)
    found = fit.judged(Predictor(NET, [random_member(NET)], "float32"), (5, 32, 32), [volume])
    assert found.mean_iou > 0.999
    assert np.isnan(found.iou[2])


def test_divergence_is_said(tmp_path):
    with pytest.raises(OptionError, match="diverged; try a lower --learning-rate"):
        fit_member(NET, [phantom()], [phantom()], replace(RECIPE, learning_rate=1e30), tmp_path / "x.state", 0)
