"""The folder of a run: the bundle that comes out, what is there already, and what somebody changed or damaged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from phantoms import CLASSES, NET, RECIPE, a_run, phantom
from PIL import Image

from densecell_batch.errors import OptionError, OutputError
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.predictor import Predictor
from densecell_batch.plots.curves import render_curves
from densecell_batch.plots.overlay import render_preview
from densecell_batch.storage.atomic import temporary_name
from densecell_batch.training.restarts import train_ensemble


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


def test_hopeless_members_are_abandoned(tmp_path):
    run = a_run(recipe=replace(RECIPE, floor=0.99), restarts=1)
    with pytest.raises(OptionError, match=r"every member was abandoned: none reached a mean IoU of 0.99"):
        train_ensemble(run, [phantom()], [phantom(seed=1)], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 10
