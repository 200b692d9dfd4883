"""One net learns what an ensemble says: shares of classes, from the ensemble to the loss."""

from dataclasses import replace

import numpy as np
import pytest
from phantoms import CLASSES, NET, RECIPE, a_run, phantom, save_phantoms
from scipy.special import log_softmax, softmax

import densecell_batch
from densecell_batch import VoxelSize, load_model, write_stack
from densecell_batch.errors import OptionError, StackError
from densecell_batch.inference.volume import predict_labels
from densecell_batch.measure.metrics import score
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.architecture import ResidualUNet
from densecell_batch.nets.predictor import Predictor
from densecell_batch.training import train as training
from densecell_batch.training.distil import answers_of, check_teacher, taught
from densecell_batch.training.losses import cross_entropy, soft_dice
from densecell_batch.training.options import TrainingOptions
from densecell_batch.training.restarts import train_ensemble
from densecell_batch.training.train import train
from densecell_batch.training.windows import Augmentation, Sampler

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = a_run(recipe=RECIPE.over(60), keep=2)
    return train_ensemble(run, [phantom()], [phantom(seed=1)], tmp_path_factory.mktemp("teacher"))


def test_half_of_what_is_learned_are_the_labels(teacher):
    labelled, other = phantom(), replace(phantom(seed=2), labels=np.zeros((6, 72, 80), np.uint8))
    with_labels, without = taught([labelled], [other], teacher)
    members = [teacher.weights(i) for i in range(2)]
    says = Predictor(NET, members, engine="openvino")
    same = without.labels == predict_labels(other.image, says, teacher.window)
    assert same.mean() > 0.999  # but where two classes are as likely, in 1/255
    np.testing.assert_array_equal(without.labels, without.shares.argmax(-1))
    np.testing.assert_allclose(without.shares.sum(-1, dtype=int), 255, atol=1)
    np.testing.assert_array_equal(with_labels.labels, labelled.labels)
    own = np.take_along_axis(with_labels.shares, labelled.labels[..., None], -1)
    assert own.min() >= 127  # the label's own half, whatever the ensemble says
    assert own.min() < 250  # and the ensemble has a say


def test_shares_are_moved_with_the_image():
    """Windows of shares that are the labels are the labels of the windows, through every turn and bend."""
    volume = phantom()
    shares = (255 * np.eye(3)[volume.labels]).astype(np.uint8)
    for augmentation in (None, Augmentation(), Augmentation(bent=1.0)):
        draw, of_shares = (
            Sampler([v], (5, 32, 32), 2, 3, augmentation=augmentation) for v in (volume, replace(volume, shares=shares))
        )
        for step in range(5):
            (image, labels, weights), (same, soft, alike) = draw(step), of_shares(step)
            np.testing.assert_array_equal(image, same)
            np.testing.assert_array_equal(weights, alike)
            np.testing.assert_array_equal(soft, np.eye(3, dtype=np.float32)[labels])


def test_shares_of_a_single_class_are_shares():
    volume = replace(phantom(), labels=np.zeros((6, 72, 80), np.uint8), shares=np.full((6, 72, 80, 1), 255, np.uint8))
    for augmentation in (None, Augmentation()):
        _, shares, _ = Sampler([volume], (5, 32, 32), 2, 1, augmentation=augmentation)(0)
        assert shares.shape == (2, 5, 32, 32, 1)
        assert (shares == 1).all()


def test_losses_of_shares_by_hand():
    logits = RNG.standard_normal((2, 3, 4, 5, 3)).astype(np.float32)
    shares = softmax(RNG.standard_normal(logits.shape), -1).astype(np.float32)
    wanted = -(shares * log_softmax(logits, -1)).sum(-1)
    np.testing.assert_allclose(np.asarray(cross_entropy(shares, logits)), wanted, rtol=1e-5)
    p, weights = softmax(logits, -1), np.ones(logits.shape[:-1], np.float32)
    both, each = (p * shares).sum((0, 1, 2, 3)), (p + shares).sum((0, 1, 2, 3))
    dice = np.mean(1 - (2 * both + 1) / (each + 1))
    np.testing.assert_allclose(float(soft_dice(shares, logits, weights)), dice, rtol=1e-5)


def test_a_net_learns_without_labels(teacher, tmp_path):
    """A net of another family, from what the ensemble says of a stack that nobody labelled, finds what it finds."""
    other, judge = replace(phantom(seed=2), labels=np.zeros((6, 72, 80), np.uint8)), phantom(seed=1)
    volumes = taught([], [other], teacher)
    recipe = replace(RECIPE, window=(3, 32, 32)).over(120)
    run = a_run(architecture=ResidualUNet(3, 8, 2), recipe=recipe, restarts=1, keep=1, taught_by=("a", "b"))
    student = train_ensemble(run, volumes, [judge], tmp_path)
    assert student.provenance["taught_by"] == ["a", "b"]
    of_teacher = score(judge.labels, predict_labels(judge.image, _net(teacher), teacher.window), 3).mean_iou
    assert student.scores["evaluation"]["mean_iou"] > 0.9 * of_teacher > 0.4
    with pytest.raises(OptionError, match="taught_by"):
        train_ensemble(replace(run, taught_by=("a", "c")), volumes, [judge], tmp_path)


def _net(bundle):
    return Predictor(bundle.architecture, [bundle.weights(i) for i in range(len(bundle.members))], engine="openvino")


def test_files_in_a_bundle_out(teacher, tmp_path):
    files = save_phantoms(tmp_path)
    options = {"distil": str(teacher.path), "kernels": 4, "window": (3, 32, 32), "steps": 20, "floor": 0.0}
    made = densecell_batch.train(
        [files["train-images"]], [files["train-labels"]], (files["eval-images"], files["eval-labels"]),
        tmp_path / "run", None, unlabelled=[files["eval-images"]], **options,
    )  # fmt: skip
    again = load_bundle(made.path)
    assert again.architecture.family == "residual"
    assert again.provenance["taught_by"] == [*(member.sha256 for member in teacher.members), "window 5,32,32"]
    assert [len(sums) for sums in again.provenance["train"]] == [2, 1]  # image and labels; an image alone


def test_what_does_not_go_together(teacher, tmp_path):
    check_teacher(teacher, CLASSES)
    with pytest.raises(OptionError, match="knows outside, cell, dot; --classes are cell, outside, dot"):
        check_teacher(teacher, (CLASSES[1], CLASSES[0], CLASSES[2]))
    for options, message in (
        ({"scale": 0.5}, "--distil takes the voxel size of its bundle"),
        ({"preset": "published"}, "--preset published learns labels alone"),
    ):
        with pytest.raises(OptionError, match=message):
            TrainingOptions(distil=str(teacher.path), steps=20, **options)
    files = save_phantoms(tmp_path)
    evaluation = [(files["eval-images"], files["eval-labels"])]
    with pytest.raises(OptionError, match="--unlabelled is for --distil"):
        train(
            [files["train-images"]], [files["train-labels"]], evaluation, tmp_path / "run", CLASSES,
            TrainingOptions(steps=20), unlabelled=[files["eval-images"]],
        )  # fmt: skip


def test_all_that_decides_its_answers_is_written_down(teacher):
    plain, moved = answers_of(teacher), answers_of(replace(teacher, class_offsets=(0.0, 0.5, -1.0)))
    assert moved == (*plain, "offsets 0,0.5,-1")


class Seen(Exception):  # noqa: N818 # none of an error
    """The shapes of volumes that a teacher would look at."""


def test_stacks_are_brought_to_what_the_teacher_sees(tmp_path, monkeypatch, caplog):
    """A labelled stack of unknown voxel size is taken for one of the teacher's; another of half that is brought there.

    What is ten times too large is refused, and a class that nobody labelled is told by the teacher.
    """
    volume = np.random.default_rng(0).integers(0, 256, (5, 160, 200), dtype=np.uint8)
    labels = (volume[:, :96, :96] > 128).astype(np.uint8)
    write_stack(tmp_path / "a.tif", volume[:, :96, :96])
    write_stack(tmp_path / "labels.tif", labels)
    for name, x in (("half", 4.6), ("tenfold", 92)):
        write_stack(tmp_path / f"{name}.tif", volume, voxel_size=VoxelSize.of(47, x, x, unit="nm"))

    def see(labelled, more, teacher):
        raise Seen([volume.image.shape for volume in (*labelled, *more)])

    monkeypatch.setattr(training, "taught", see)
    a, both = tmp_path / "a.tif", (tmp_path / "a.tif", tmp_path / "labels.tif")
    options = TrainingOptions(distil="fly-vnc-2d3d", window=(3, 64, 64), steps=20, kernels=4)
    classes = load_model("fly-vnc-2d3d").classes

    def learn(*more):
        training.train([a], [both[1]], [both], tmp_path / "run", classes, options, unlabelled=more)

    with pytest.raises(Seen) as seen:
        learn(tmp_path / "half.tif", a)
    assert seen.value.args[0] == [(5, 96, 96), (5, 80, 100), (5, 96, 96)]
    assert f"{a} is what the nets are judged on" in caplog.text
    with pytest.raises(StackError, match=r"tenfold\.tif"):
        learn(tmp_path / "tenfold.tif")
