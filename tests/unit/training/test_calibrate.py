"""`models calibrate`: a bundle with offsets that help, or a reason why there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from densecell_batch import Segmenter
from densecell_batch.cli.evaluate import evaluate
from densecell_batch.cli.models import models
from densecell_batch.errors import DensecellError, OptionError, OutputError, StackError
from densecell_batch.models.bundle import ModelBundle, load_bundle, write_bundle
from densecell_batch.models.golden import golden_pair, verify_bundle
from densecell_batch.nets.engines import for_processor
from densecell_batch.training.calibrate import calibrate

OFFSETS = (0.0, 0.0, 1.0, 1.5, -1.0)


def save(path: Path, volume: np.ndarray) -> Path:
    tifffile.imwrite(path, volume, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


def with_offsets(bundle: ModelBundle, path: Path, offsets: tuple[float, ...]) -> ModelBundle:
    weights = [bundle.weights(i) for i in range(len(bundle.members))]
    return write_bundle(
        path, name="moved", version="1", licence="a", citation="b", architecture=bundle.architecture,
        classes=bundle.classes, voxel_size=bundle.voxel_size, window=bundle.window, members=weights,
        golden=golden_pair(bundle.architecture, weights, bundle.window, offsets=offsets, engine=for_processor()),
        scores={}, provenance={}, class_offsets=offsets,
    )  # fmt: skip


def labels_of(model: ModelBundle, volume: np.ndarray) -> np.ndarray:
    return Segmenter(model, precision="float32", fit="off")(volume).labels


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(models, ["calibrate", *map(str, arguments)])
    if isinstance(result.exception, DensecellError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def files(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small model, a crop, the labels it gives, and those it would give with offsets."""
    folder = tmp_path_factory.mktemp("calibrate")
    bundle = load_bundle(data / "fly-vnc-small.zip")
    crop = tifffile.imread(data / "vnc-crop.tif")
    true = labels_of(with_offsets(bundle, folder / "moved", OFFSETS), crop)
    return {
        "bundle": bundle,
        "crop": crop,
        "true": true,
        "images": save(folder / "images.tif", crop),
        "labels": save(folder / "labels.tif", true),
        "own": save(folder / "own.tif", labels_of(bundle, crop)),
    }


def test_offsets_are_found_and_used(files: dict[str, Any], tmp_path: Path):
    out, bundle = tmp_path / "better.zip", files["bundle"]
    done = run(bundle.path, "--images", files["images"], "--labels", files["labels"], "-o", out)
    assert done.exit_code == 0, done.output
    first, *offsets, last = done.stdout.splitlines()
    assert first.startswith("mean IoU, held out: 0.")
    assert [line.split(maxsplit=1)[1] for line in offsets] == [c.name for c in bundle.classes]
    assert last == f"{out}: version 1, 2d3d, 1 member, 5 classes"

    made = load_bundle(out)
    assert made.name == "better"
    assert made.members == bundle.members
    assert made.class_offsets is not None
    assert verify_bundle(made) < 1e-6
    before, after = ((labels_of(model, files["crop"]) == files["true"]).mean() for model in (bundle, made))
    print(f"{before:.4f} of the labels were right, {after:.4f} are")
    assert after > 0.99 > before + 0.01
    scores = tmp_path / "scores.json"
    stacks = ["--images", files["images"], "--labels", files["labels"]]
    assert CliRunner().invoke(evaluate, [*map(str, ["--model", out, *stacks, "--json", scores])]).exit_code == 0
    assert json.loads(scores.read_text())["better"]["accuracy"] == pytest.approx(after, abs=0.01)
    told = made.scores["calibration"]
    assert told["mean_iou_held_out"] > told["mean_iou_before"] + 0.002
    assert made.scores["before_calibration"] == bundle.scores
    fitted = made.provenance["calibrated on"]
    assert (fitted["slices"], fitted["voxels"]) == (len(files["crop"]), files["crop"].size)
    assert made.provenance["calibrated from"]["provenance"] == bundle.provenance

    shown = CliRunner().invoke(models, ["show", str(out)]).stdout
    assert f"{made.class_offsets[3]:+.2f} synapse" in shown
    manifest = json.loads(CliRunner().invoke(models, ["show", str(out), "--json"]).stdout)
    assert manifest["schema_version"] == 2
    with pytest.raises(OptionError, match="offsets do not help better"):  # they are there, and counted in
        run(out, *stacks, "-o", tmp_path / "again.zip")


def test_what_does_not_count(files: dict[str, Any], tmp_path: Path):
    """A few slices are labelled, the others are not; the nets see them all."""
    labels, mask = files["true"].copy(), np.zeros_like(files["true"])
    labels[3:], mask[1:3] = 250, 1
    made = calibrate(
        files["bundle"], files["images"], save(tmp_path / "labels.tif", labels), tmp_path / "made", name="of-two",
        ignore=250, mask=save(tmp_path / "mask.tif", mask),
    )  # fmt: skip
    assert made.bundle.name == "of-two"
    fitted = made.bundle.provenance["calibrated on"]
    assert (fitted["slices"], fitted["voxels"]) == (2, 2 * files["crop"][0].size)
    assert made.held_out.gain > 0


def test_fill_is_not_fitted_to(files: dict[str, Any], tmp_path: Path):
    crop = np.pad(files["crop"], ((0, 0), (0, 0), (40, 0)))
    labels = np.pad(files["true"], ((0, 0), (0, 0), (40, 0)), constant_values=4)
    made = calibrate(
        files["bundle"], save(tmp_path / "images.tif", crop), save(tmp_path / "labels.tif", labels), tmp_path / "made"
    )
    assert made.bundle.provenance["calibrated on"]["voxels"] == pytest.approx(files["crop"].size, rel=0.01)


def test_what_does_not_help_is_not_written(files: dict[str, Any], tmp_path: Path):
    with pytest.raises(OptionError, match=r"do not help fly-vnc-small .*held out.* nothing was written") as caught:
        run(files["bundle"].path, "--images", files["images"], "--labels", files["own"], "-o", tmp_path / "x.zip")
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda labels: labels[:, 1:], StackError, r"images\.tif: it is .* what it is compared with is .*the same"),
        (
            lambda labels: labels + 3,
            StackError,
            r"it has the label 7; the classes of fly-vnc-small are 0 glia and .*4 m",
        ),
        (lambda labels: labels * 0 + 1, OptionError, r"all labels that count are 1, 'intracellular'; expected two"),
        (lambda labels: labels.astype(np.float32), StackError, r"the labels are float32"),
    ],
)
def test_labels_that_will_not_do(files, tmp_path, change, error, message):
    labels = save(tmp_path / "labels.tif", change(files["true"]))
    with pytest.raises(error, match=message):
        calibrate(files["bundle"], files["images"], labels, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize(
    ("out", "message"), [("labels.tif", "exists already"), ("no/where.zip", "there is no folder for it")]
)
def test_where_nothing_can_be_written_nothing_is_computed(files, out, message):
    with pytest.raises(OutputError, match=message):
        calibrate("fly-vnc-2d3d", files["images"], files["labels"], files["labels"].parent / out, name="x")


def test_names_that_are_none(files, tmp_path):
    with pytest.raises(DensecellError, match=r"name is 'a b'; expected"):
        calibrate("fly-vnc-2d3d", files["images"], files["labels"], tmp_path / "a b.zip")
