"""Training: windows, losses, steps, resuming, the bundle that comes out."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from phantoms import CLASSES, NET, RECIPE, a_run, phantom, save_phantoms
from PIL import Image
from random_nets import random_member
from scipy.special import log_softmax, softmax

from densecell_batch.errors import OptionError, OutputError, StackError, Stopped
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.architecture import ResidualUNet, UNet2D
from densecell_batch.nets.build import build_net
from densecell_batch.nets.predictor import Predictor
from densecell_batch.plots.curves import _round_up, render_curves
from densecell_batch.plots.overlay import render_preview
from densecell_batch.storage.atomic import temporary_name
from densecell_batch.training import fit
from densecell_batch.training.adam import Adam
from densecell_batch.training.batchnorm import folded, statistics_function
from densecell_batch.training.fit import _fresh, fit_member
from densecell_batch.training.losses import cross_entropy, improved_loss, soft_dice
from densecell_batch.training.options import TrainingOptions, fitting, training_run
from densecell_batch.training.recipes import Improved
from densecell_batch.training.restarts import train_ensemble
from densecell_batch.training.volumes import LabelledVolume, load_labelled
from densecell_batch.training.windows import Augmentation, Sampler

RNG = np.random.default_rng(0)


# Windows


def sampler(volume, window=(5, 32, 32), seed=0, **options):
    return Sampler([volume], window, 2, 3, **{"augmentation": Augmentation(), "seed": seed, **options})


def test_windows_follow_from_seed_and_step():
    volume = phantom()
    first, again, other = (sampler(volume, seed=seed) for seed in (1, 1, 2))
    for step in (7, 0):
        for a, b in zip(first(step), again(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first(3)[0], first(4)[0])
    assert not np.array_equal(first(3)[0], other(3)[0])


def test_image_and_labels_are_moved_together():
    """An image that is its own labels stays so through every turn and bend, but at the seams of interpolation."""
    labels = phantom().labels
    volume = LabelledVolume((labels * 10.0).astype(np.float32), labels, None, ("", ""))
    still = replace(Augmentation(), brightness=0, slice_brightness=0, contrast=0, gamma=0, noise=0, harsh=0)
    draw = sampler(volume, augmentation=still)
    agreement = [np.mean(np.rint(images[..., 0] / 10) == labels) for images, labels, _ in map(draw, range(20))]
    assert np.mean(agreement) > 0.9
    exact = sampler(volume, augmentation=replace(still, bent=0.0))
    for step in range(20):
        images, labels, _ = exact(step)
        np.testing.assert_array_equal(images[..., 0], labels * 10)


def test_flips_really_flip():
    """All 8 ways in which a square can lie, each with both orders of the slices; each window lies in one of them."""
    z, y, x = np.indices((5, 96, 96))
    image = (10_000 * z + 100 * y + x).astype(np.float32)
    labels = np.ones(image.shape, np.uint8)
    labels[2, 48, 48] = 0  # the only class that windows are centred on: none of them reaches an edge
    volume = LabelledVolume(image, labels, None, ("", ""))
    still = Augmentation(bent=0.0, brightness=0, slice_brightness=0, contrast=0, gamma=0, noise=0, harsh=0)
    draw = Sampler([volume], (5, 32, 32), 2, 1, augmentation=still, rare=1.0)
    seen = Counter()
    for step in range(200):
        for window in draw(step)[0][..., 0]:
            steps = [np.unique(np.diff(window, axis=axis)) for axis in range(3)]
            assert [len(found) for found in steps] == [1, 1, 1]
            seen[tuple(int(found[0]) for found in steps)] += 1
    lying = [(a, b) for a in (-100, 100) for b in (-1, 1)]
    assert set(seen) == {(order, *way) for order in (-10_000, 10_000) for a, b in lying for way in ((a, b), (b, a))}
    assert min(seen.values()) > 10  # of 400, 16 ways alike


def test_rare_classes_are_met():
    volume = phantom()
    labels = volume.labels.copy()
    labels[labels == 2] = 1
    labels[2, 30, 30] = 2
    rare = LabelledVolume(volume.image, labels, None, ("", ""))
    share = {r: np.mean([(sampler(rare, rare=r)(s)[1] == 2).any() for s in range(100)]) for r in (0.0, 1.0)}
    assert share[1.0] > share[0.0] + 0.2


def test_windows_as_they_are():
    volume = phantom()
    images, labels, weights = sampler(volume, augmentation=None)(0)
    assert (weights == 1).all()
    assert images.shape == (2, 5, 32, 32, 1)
    assert labels.shape == (2, 5, 32, 32)
    windows = np.lib.stride_tricks.sliding_window_view(volume.image, (5, 32, 32))
    assert (windows == images[0, ..., 0]).all((-3, -2, -1)).any()


def test_slices_that_only_serve_others():
    """Each slice is met in the middle, those at the ends among their mirrored neighbours; classes are met there."""
    volume = phantom((4, 40, 40))
    labels = np.zeros_like(volume.labels)
    labels[3, 5, 5] = 1
    marked = LabelledVolume(
        np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 40, 40)), labels, None, ("", "")
    )
    draw = Sampler([marked], (3, 32, 32), 1, 2, augmentation=None, rare=0.5, context=1)
    seen = Counter(tuple(draw(step)[0][0, :, 0, 0, 0].astype(int)) for step in range(200))
    assert set(seen) == {(1, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)}
    assert seen[2, 3, 3] > 40  # the class that is there alone
    assert draw.epoch == -(-4 * 40 * 40 // (32 * 32))
    (image,), (found,), _ = Sampler([phantom((1, 40, 40))], (3, 32, 32), 1, 3, augmentation=Augmentation(), context=1)(
        0
    )
    assert image.shape == (3, 32, 32, 1)
    np.testing.assert_array_equal(found[0], found[2])


def test_statistics_are_taken_of_windows_that_are_not_varied():
    volume = phantom()
    images, _, _ = RECIPE.plain_sampler([volume], NET, 0)(5)
    windows = np.lib.stride_tricks.sliding_window_view(volume.image, (5, 32, 32))
    assert (windows == images[0, ..., 0]).all((-3, -2, -1)).any()


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


# Losses, against numpy


def test_cross_entropy_and_dice_by_hand():
    logits, labels = RNG.standard_normal((2, 3, 4, 4, 3)).astype(np.float32), RNG.integers(0, 3, (2, 3, 4, 4))
    weights = RNG.uniform(0, 2, labels.shape).astype(np.float32)
    weights[0, 0] = 0
    expected = -np.take_along_axis(log_softmax(logits, -1), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(labels, logits), expected, rtol=1e-5)
    expected *= weights
    p, t = (array * (weights > 0)[..., None] for array in (softmax(logits, -1), np.eye(3)[labels]))
    axes = (0, 1, 2, 3)
    share = np.mean(weights > 0)  # the sums are of a part of the voxels
    dice = np.mean(1 - (2 * (p * t).sum(axes) / share + 1) / ((p.sum(axes) + t.sum(axes)) / share + 1))
    assert float(soft_dice(labels, logits, weights)) == pytest.approx(dice, rel=1e-5)
    both = float(improved_loss(labels, weights, [logits, logits], dice=0.5))
    assert both == pytest.approx(1.33 * (expected[weights > 0].mean() + 0.5 * dice), rel=1e-5)


def test_adam_is_that_of_keras():
    import keras

    start, gradients = RNG.standard_normal((4, 3)).astype(np.float32), RNG.standard_normal((5, 4, 3)).astype(np.float32)
    variable = keras.Variable(start)
    theirs = keras.optimizers.Adam(0.01, 0.9, 0.99, 1e-7)
    theirs.build([variable])
    weights, means, squares = [start], [np.zeros_like(start)], [np.zeros_like(start)]
    for i, gradient in enumerate(gradients):
        theirs.apply([keras.ops.convert_to_tensor(gradient)])
        weights, means, squares = Adam(0.9, 0.99, 1e-7).step(weights, [gradient], means, squares, 0.01, i + 1.0)
    np.testing.assert_allclose(weights[0], variable.numpy(), rtol=1e-5)


def test_decay_shrinks_kernels_only():
    kernel, bias, zeros = (
        np.ones((2, 2), np.float32),
        np.ones(2, np.float32),
        [np.zeros((2, 2), np.float32), np.zeros(2, np.float32)],
    )
    weights, _, _ = Adam(decay=0.1).step([kernel, bias], zeros, zeros, zeros, 0.5, 1.0)
    np.testing.assert_allclose(weights[0], 0.95)
    np.testing.assert_allclose(weights[1], 1)


# Normalization


@pytest.mark.parametrize("architecture", [NET, UNet2D(3, 4, n_blocks=2, relu_on_logits=False), ResidualUNet(3, 4, 2)])
def test_folded_net_does_what_the_normalized_one_does(architecture):
    """With the statistics of one batch, the plain net says of that batch what the normalized one says in training."""
    net, rng = build_net(architecture, (5, 64, 64), normalized=True), np.random.default_rng(0)
    images = rng.standard_normal((5, 64, 64, 1) if isinstance(architecture, UNet2D) else (1, 5, 64, 64, 1))
    images = images.astype(np.float32)
    weights = [w + 0.2 * rng.standard_normal(w.shape).astype(np.float32) for w in _fresh(net).weights]
    fixed = [variable.value for variable in net.non_trainable_variables]
    outputs, _ = net.stateless_call(weights, fixed, images, training=True)
    expected = np.asarray(outputs[0] if isinstance(outputs, list) else outputs)
    plain = folded(net, architecture, weights, [statistics_function(net)(weights, images)])
    found = next(iter(Predictor(architecture, [plain], "float32")(images.reshape(5, 64, 64))))
    np.testing.assert_allclose(found, softmax(expected.reshape(found.shape), -1), atol=5e-5)


def test_statistics_of_batches_are_those_of_all_of_them_together():
    """Two batches of one slice each, and one of both."""
    architecture = UNet2D(3, 4, n_blocks=2, relu_on_logits=False)
    net, rng = build_net(architecture, (2, 64, 64), normalized=True), np.random.default_rng(0)
    images = (rng.standard_normal((2, 64, 64, 1)) + np.array([0, 3])[:, None, None, None]).astype(np.float32)
    weights, measure = _fresh(net).weights, statistics_function(net)
    first = "net/encoder/encode_block_0/comp_0/conv/kernel"  # further on each batch is normalized by itself
    apart = folded(net, architecture, weights, [measure(weights, images[:1]), measure(weights, images[1:])])
    together = folded(net, architecture, weights, [measure(weights, images)])
    np.testing.assert_allclose(apart[first], together[first], rtol=1e-4)


def test_a_plain_net_is_folded_into_itself():
    net = build_net(NET, (5, 32, 32))
    plain = folded(net, NET, _fresh(net).weights, [])
    for layer in net.layers:
        if layer.weights:
            np.testing.assert_array_equal(plain[f"{layer.name.replace('.', '/')}/kernel"], layer.kernel.numpy())


# Steps, resuming


LEARNS = replace(RECIPE, learning_rate=5e-3, batch=2).over(120)


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


def test_learning_rate_rises_and_falls():
    recipe = Improved(steps=1000, warm_up=100, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1, abs=0.05)
    assert rates[-1] < 1e-4
    assert np.argmax(rates) == 99


def test_divergence_is_said(tmp_path):
    with pytest.raises(OptionError, match="diverged; try a lower --learning-rate"):
        fit_member(NET, [phantom()], [phantom()], replace(RECIPE, learning_rate=1e30), tmp_path / "x.state", 0)


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train_ensemble(a_run(), [phantom()], [phantom(seed=1)], folder), folder


def test_bundle_of_the_best(trained):
    bundle, folder = trained
    assert load_bundle(bundle.path).architecture == NET
    scores = [json.loads((folder / f"member-{seed}.json").read_text())["mean_iou"] for seed in (0, 1)]
    assert bundle.scores["members"][0]["mean_iou"] == max(scores)
    assert bundle.provenance["seeds kept"] == [int(np.argmax(scores))]
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2 * 20
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    histories = {f"seed {seed}": [row for row in rows if row["seed"] == seed] for seed in (0, 1)}
    with Image.open(folder / "curves.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), render_curves(histories))
    # What the ensemble says of the evaluation volume, over its first, middle and last slice.
    from densecell_batch.training.fit import predict_labels

    volume, ensemble = phantom(seed=1), Predictor(NET, [bundle.weights(0)], RECIPE.inference_precision)
    labels = predict_labels(volume.image, ensemble, RECIPE.window)
    shown, classes = (0, 3, 5), [(c.name, c.colour) for c in CLASSES]
    drawn = render_preview(
        [(z, volume.image[z]) for z in shown], [labels[z] for z in shown], classes, None, "evaluation volume"
    )
    with Image.open(folder / "sample.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), drawn)


def test_what_is_trained_is_not_trained_again(trained):
    bundle, folder = trained
    before = bundle.path.read_bytes()
    again = train_ensemble(a_run(), [phantom()], [phantom(seed=1)], folder)
    assert again.path.read_bytes() == before
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2 * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": replace(RECIPE, learning_rate=0.1)}, "recipe learning_rate was 0.003, is 0.1"),
        ({"recipe": RECIPE.over(40)}, "recipe steps was 20, is 40"),
        ({"seed": 5}, "seed was 0, is 5"),
        ({"architecture": replace(NET, n_kernels=6)}, "architecture n_kernels was 4, is 6"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(trained, change, message):
    with pytest.raises(OptionError, match=message):
        train_ensemble(a_run(**change), [phantom()], [phantom(seed=1)], trained[1])


def test_other_data_in_the_same_folder_are_refused(trained):
    with pytest.raises(OptionError, match=r"train was .*i0.*, is .*i7"):
        train_ensemble(a_run(), [phantom(seed=7)], [phantom(seed=1)], trained[1])


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"recipe": ' * 100 + b"1" + b"}" * 100,
        b"[]",
        b'{"recipe": 5}',
        b'{"recipe": {"steps": NaN}}',
        b"\xff\xfe",
        b" " * (2**20 + 1),
    ],
)
def test_run_folders_that_somebody_changed(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(OptionError, match=r"run\.json: cannot be read .*; give another run folder"):
        train_ensemble(a_run(), [phantom()], [phantom(seed=1)], tmp_path)


@pytest.mark.parametrize("steps", [None, 0, "many", 2**40])
def test_steps_of_a_run_that_somebody_changed(tmp_path, steps):
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"steps": steps, "evaluate_every": 5}}))
    with pytest.raises(OptionError, match=r"run\.json: steps is no number above 0"):
        train_ensemble(a_run(minutes=1), [phantom()], [phantom(seed=1)], tmp_path)


def test_what_a_run_folder_says_is_shown_in_one_line(trained, tmp_path):
    found = json.loads((trained[1] / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(found | {"a\x1b[2J\nb": 1}))
    with pytest.raises(OptionError, match="holds a run that was begun otherwise") as caught:
        train_ensemble(a_run(), [phantom()], [phantom(seed=1)], tmp_path)
    assert str(caught.value).isprintable()


def test_states_of_which_nothing_says_what_they_are(trained, tmp_path):
    shutil.copy(trained[1] / "member-0.state", tmp_path)
    with pytest.raises(OptionError, match=r"member-0\.state: nothing says of what training it is, .*run\.json is not"):
        train_ensemble(a_run(), [phantom(seed=7)], [phantom(seed=1)], tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_what_a_killed_training_was_writing_is_removed(trained, tmp_path, monkeypatch):
    remains = temporary_name(tmp_path / "member-0.state")
    remains.write_bytes(b"half")
    monkeypatch.setattr("densecell_batch.storage.atomic._in_use", lambda *of: False)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(OptionError, match="cannot be read"):
        train_ensemble(a_run(), [phantom()], [phantom(seed=1)], tmp_path)
    assert not remains.exists()


def test_a_run_that_is_begun_by_two(tmp_path, monkeypatch):
    """Whoever comes later, while the time of steps is measured, leaves the other's run as it is."""

    def measured(run, train):
        (tmp_path / "run.json").write_text("of the other")
        return 20

    monkeypatch.setattr("densecell_batch.training.restarts.steps_in", measured)
    with pytest.raises(OptionError, match="another process began a run there meanwhile"):
        train_ensemble(a_run(minutes=1), [phantom()], [phantom(seed=1)], tmp_path)
    assert (tmp_path / "run.json").read_text() == "of the other"


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"log\.jsonl: cannot be written"):
        train_ensemble(a_run(recipe=replace(RECIPE, evaluate_every=1)), [phantom()], [phantom(seed=1)], tmp_path)


@pytest.mark.parametrize("change", [{"minutes": float("inf")}, {"steps": 2**31}, {"steps": 20, "seed": 10**20}])
def test_numbers_that_no_run_holds(change):
    with pytest.raises(OptionError, match=f"{[*change][-1]} is .*; expected"):
        TrainingOptions(**change)


def _state(folder, change):
    from safetensors.numpy import load_file, save_file

    arrays, metadata = load_file(folder / "member-0.state"), {"step": "20", "history": "[]"}
    change(arrays, metadata)
    save_file(arrays, folder / "member-0.state", metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, metadata: metadata.pop("step"),
        lambda arrays, metadata: metadata.update(step="many"),
        lambda arrays, metadata: metadata.update(history="[" * 100_000),
        lambda arrays, metadata: metadata.update(history='[{"a": 1}]'),
        lambda arrays, metadata: metadata.update(losses='["many"]'),
        lambda arrays, metadata: arrays.pop(min(k for k in arrays if k.startswith("weights/"))),
        lambda arrays, metadata: arrays.update({k: np.zeros(3, np.float32) for k in arrays}),
    ],
)
def test_states_that_are_none_of_this_net(trained, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(trained[1], folder)
    _state(folder, change)
    with pytest.raises(OptionError, match=r"member-0\.state: the state of the training cannot be read"):
        train_ensemble(a_run(), [phantom()], [phantom(seed=1)], folder)


@pytest.mark.parametrize("content", [b"", b"no state", b"\xff" * 100])
def test_states_that_are_no_file_of_tensors(trained, tmp_path, content):
    folder = tmp_path / "run"
    shutil.copytree(trained[1], folder)
    (folder / "member-0.state").write_bytes(content)
    with pytest.raises(OptionError, match=r"member-0\.state: the state of the training cannot be read"):
        train_ensemble(a_run(), [phantom()], [phantom(seed=1)], folder)


@pytest.mark.parametrize("free", [0, 1000, 100_000])
def test_volumes_that_do_not_fit_in_memory_are_not_read(files, free, monkeypatch):
    monkeypatch.setattr("densecell_batch.system.available_memory", lambda: free)
    with pytest.raises(StackError, match=r"train-images\S*: as it describes itself it takes .* GiB of memory"):
        load_labelled(files["train-images"], files["train-labels"], 3)


def test_hopeless_members_are_abandoned(tmp_path):
    run = a_run(recipe=replace(RECIPE, floor=0.99), restarts=1)
    with pytest.raises(OptionError, match=r"every member was abandoned: none reached a mean IoU of 0.99"):
        train_ensemble(run, [phantom()], [phantom(seed=1)], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 10


@pytest.mark.parametrize("keep", [0, 3])
def test_keep_out_of_range(keep):
    with pytest.raises(OptionError, match="expected 1 to 2"):
        a_run(keep=keep)


def test_curves_of_one_point_and_none():
    """A line takes two points; the name takes none."""
    row, plots = {"step": 1, "loss": 2.0, "mean_iou": 0.1}, np.s_[:, :1080]

    def coloured(picture):
        return picture.min(-1) != picture.max(-1)

    assert not coloured(render_curves({})).any()
    for history in ([], [row]):
        drawn = render_curves({"a": history})
        assert not coloured(drawn[plots]).any()
        assert coloured(drawn[:, 1080:]).any()
    drawn = render_curves({"a": [row, row | {"step": 2}]})[plots]
    # From the middle to the right edge of both: at the top of an axis that ends at 2, at a tenth of one that ends at 1.
    for y, left, right in ((50, 280, 510), (320, 840, 1070)):
        assert (drawn[y, left + 1 : right] == (0, 114, 178)).all()
    rows, columns = np.nonzero(coloured(drawn))
    assert set(rows.tolist()) <= {49, 50, 51, 319, 320, 321}
    assert columns.min() >= 278


def test_curves_name_the_best_members_as_far_as_there_is_room():
    """Another worst one changes no name, another best one does."""

    def names(scores):
        rows = [{"step": 1, "loss": 2.0, "mean_iou": score} for score in scores]
        return render_curves({f"seed {i}": [row] for i, row in enumerate(rows)})[:, -140:]

    many = np.linspace(0.5, 0.6, 40)
    assert names(many).shape == names([*many, 0.1]).shape
    assert np.array_equal(names(many), names([*many, 0.1]))
    assert not np.array_equal(names(many), names([*many, 0.9]))


@pytest.mark.parametrize(
    ("highest", "axis"), [(1.9, 2), (2, 2), (0.013, 0.015), (7, 10), (0, 1), (float("nan"), 1), (float("inf"), 1)]
)
def test_ends_of_an_axis(highest, axis):
    assert _round_up(highest) == pytest.approx(axis)


# Weights, and files of volumes


@pytest.fixture
def files(tmp_path):
    return save_phantoms(tmp_path)


def test_weights_of_zero_hide_wrong_labels(files, tmp_path):
    """Labels that are wrong where the weights are 0 do no harm."""
    truth = phantom()
    wrong, weights = truth.labels.copy(), np.ones(truth.labels.shape, np.float32)
    most = slice(None), slice(54)  # of 72 rows
    wrong[most], weights[most] = (wrong[most] + 1) % 3, 0
    ious = {}
    for name, w in (("hidden", weights), ("shown", None)):
        volume = LabelledVolume(truth.image, wrong, None, ("", ""), w)
        ious[name] = fit_member(NET, [volume], [phantom(seed=1)], LEARNS, tmp_path / name, 3).scores.mean_iou
    assert ious["hidden"] > ious["shown"] + 0.1


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("weights", lambda a: a[:2], "the weights are 2 x 72 x 80"),
        ("weights", lambda a: a - 2.0, "the weights run from -2 to -1"),
        ("weights", lambda a: a * 0, "some above 0"),
        ("labels", lambda a: a[:, :40], "the labels are 6 x 40 x 80"),
        ("labels", lambda a: a.astype(np.float32), "the labels are float32"),
        ("labels", lambda a: a.astype(np.int16) - 1, "has the label -1"),
        ("labels", lambda a: a + 9, "has the label 11"),
        ("labels", lambda a: np.where(a == 0, 255, a), "has the label 255"),
        ("images", lambda a: a * 0, "every voxel is 0"),
        ("images", lambda a: np.where(a > 150, np.nan, a).astype(np.float32), "NaN"),
    ],
)
def test_bad_volumes(files, kind, make, message):
    path = files[f"train-{kind}"] = files.get(f"train-{kind}", files["train-labels"].with_name("weights.tif"))
    if kind == "weights":
        tifffile.imwrite(path, phantom().labels.astype(np.float32) % 2)
    tifffile.imwrite(path, make(tifffile.imread(path)), photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(StackError, match=message):
        load_labelled(files["train-images"], files["train-labels"], 3, (5, 32, 32), files.get("train-weights"))
