"""The package as a library: what a notebook needs is one import."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import densecell_batch

OPTIONS = {"precision": "float32", "tile": (2, 24, 24), "probabilities": True, "uncertainty": True}


def test_the_import_is_cheap():
    code = "import densecell_batch, sys; print(*{'numpy', 'keras', 'tensorflow', 'click', 'jpype'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_all_names_are_there_and_say_what_they_are():
    names = densecell_batch.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert dir(densecell_batch) == sorted(names)
    for name in names:
        assert getattr(densecell_batch, name) is not None
        assert name.startswith("__") or name.isupper() or getattr(densecell_batch, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'segmnet'"):
        _ = densecell_batch.segmnet


def test_no_name_prints_anything_when_it_is_loaded():
    code = "import sys; from densecell_batch import *; print(*{'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_the_examples_in_the_docstrings_run():
    modules = {getattr(densecell_batch, name).__module__ for name in densecell_batch.__all__ if name[0].isalpha()
               and not name.isupper()}  # fmt: skip
    results = [doctest.testmod(importlib.import_module(module)) for module in modules]
    assert sum(result.attempted for result in results) > 20
    assert sum(result.failed for result in results) == 0


@pytest.fixture(scope="module")
def model(data):
    return densecell_batch.load_model(data / "fly-vnc-small.zip")


@pytest.fixture(scope="module")
def volume():
    with densecell_batch.open_stack(densecell_batch.SAMPLE) as stack:
        return np.asarray(stack)[:5, :50, :60]


def test_a_volume_in_bands_is_the_same(model, volume):
    """As where slices are too large for the memory."""
    whole = densecell_batch.Segmenter(model, **OPTIONS)
    banded = densecell_batch.Segmenter(model, **OPTIONS)
    plan = whole.plan(volume.shape)
    banded.plan_of = lambda prepared: type(plan)(**vars(plan) | {"bands": ((0, 20), (20, 50))})
    one, other = whole(volume), banded(volume)
    for name in ("labels", "confidence", "probabilities", "uncertainty"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def test_stacks_and_batches(model, volume, tmp_path):
    path = densecell_batch.write_stack(tmp_path / "a.tif", volume, voxel_size=model.voxel_size)
    done = densecell_batch.segment_stack(path, tmp_path / "out", model, **OPTIONS)
    assert not done.skipped
    assert densecell_batch.segment_stack(str(path), str(tmp_path / "out"), model, **OPTIONS).skipped
    good, bad = densecell_batch.segment_batch([path, tmp_path / "none.tif"], tmp_path / "out", model, **OPTIONS)
    assert (good.ok, bad.ok) == (True, False)
    with densecell_batch.open_stack(done.labels) as labels:
        assert np.array_equal(labels, densecell_batch.segment(volume, model, **OPTIONS).labels)
    with pytest.raises(densecell_batch.OptionError, match="has its options already"):
        densecell_batch.segment_stack(path, tmp_path, densecell_batch.RunSegmenter(model), stitch="blend")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"the shape \(8, 8\); expected \(z, y, x\)"),
        (np.zeros((1, 0, 8), np.uint8), r"expected \(z, y, x\)"),
        (np.zeros((1, 8, 8)), "float64; expected uint8"),
        (np.zeros((1, 8, 8), np.uint8), "every voxel is 0"),
    ],
)
def test_what_is_no_volume(model, array, message):
    with pytest.raises(densecell_batch.StackError, match=message):
        densecell_batch.segment(array, model)


def test_scores_and_objects():
    truth = np.zeros((2, 6, 6), np.uint8)
    truth[:, :2, :2] = truth[:, 4:, 4:] = 1
    objects = densecell_batch.find_instances(truth, 1)
    assert (objects.dtype, objects.max()) == (np.uint16, 2)
    assert np.array_equal(objects > 0, truth == 1)
    found = truth.copy()
    found[:, 4:, 4:] = 0
    scores = densecell_batch.evaluate(truth, found)
    assert scores.iou == pytest.approx([56 / 64, 1 / 2])
    assert densecell_batch.evaluate(truth, found, counted=found == truth).mean_iou == 1
    with pytest.raises(densecell_batch.OptionError, match="the shapes"):
        densecell_batch.evaluate(truth, found[:1])


def test_what_is_outside_is_not_scored(tmp_path, model):
    face, truth = densecell_batch, np.tile(np.uint8([0, 1]), (1, 4, 3))
    found = truth.copy()
    found[:, :1] = 255
    for dtype in (np.uint8, np.uint16, np.int64):
        scores = face.evaluate(truth, found.astype(dtype))
        assert (scores.mean_iou, scores.voxels, scores.outside_voxels) == (1, 18, 6)
        assert np.shape(scores.confusion) == (2, 2)
    assert face.evaluate(truth, truth).outside_voxels == 0
    scores = face.evaluate(np.where(truth == 1, 255, 0), found, ignore=255)
    assert (scores.voxels, scores.outside_voxels) == (9, 3)
    assert "leave out a label that is no class with ignore" in refused(face.evaluate, found, truth)
    assert "no voxel is left to score" in refused(face.evaluate, truth, np.full_like(truth, 255))
    assert face.find_instances(np.where(found == 255, 255, 0), 1).max() == 0
    path, many = tmp_path / "l.tif", [face.ClassInfo(f"c{i}", (i, i, i)) for i in range(256)]
    assert "expected at most 255" in refused(face.write_stack, path, found, classes=many)
    with face.open_stack(face.write_stack(path, found, classes=model.classes)) as stack:
        assert np.array_equal(np.asarray(stack), found)


@pytest.mark.keras
def test_training(tmp_path, volume):
    classes = [densecell_batch.ClassInfo("dark", (0, 0, 0)), densecell_batch.ClassInfo("bright", (255, 255, 255))]
    image = densecell_batch.write_stack(tmp_path / "image.tif", volume)
    labels = densecell_batch.write_stack(tmp_path / "labels.tif", (volume > 128).astype(np.uint8), classes=classes)
    rows = []
    bundle = densecell_batch.train(
        [image], [labels], (image, labels), tmp_path / "run", classes, kernels=2, window=(3, 32, 32),
        steps=20, floor=0.0, precision="float32", progress=lambda run, seed, row: rows.append((seed, row["step"])),
    )  # fmt: skip
    assert isinstance(bundle, densecell_batch.ModelBundle)
    assert rows
    assert densecell_batch.segment(volume, bundle, precision="float32").labels.max() < 2
    assert Path(bundle.path).is_relative_to(tmp_path)


def refused(call, *arguments, **options):
    with pytest.raises(densecell_batch.OptionError) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'; expected one of auto, cpu, gpu"),
        ({"precision": "f32"}, "precision is 'f32'; expected one of auto, float32, bfloat16, float16"),
        ({"stitch": "best"}, "stitch is 'best'; expected one of crop, deepest, blend"),
        ({"tile": (5, 64)}, "tile is (5, 64); expected `array` of length 3, got 2"),
        ({"tile": (5, 0, 64)}, "tile is (5, 0, 64); expected `int` >= 1 - at `$[...]`"),
        ({"memory": "4G"}, "memory is '4G'; expected `int | None`, got `str`"),
        ({"uncertainty": "yes"}, "uncertainty is 'yes'; expected `bool`, got `str`"),
    ],
)
def test_options_are_checked_where_they_are_given(model, options, message):
    assert message.split(" - at")[0] in refused(densecell_batch.Segmenter, model, **options)
    assert message.split(" - at")[0] in refused(densecell_batch.RunOptions, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net": "unet2d"}, "net is 'unet2d'; expected one of auto, residual, 2d3d, unet"),
        ({"preset": "best"}, "preset is 'best'; expected one of improved, published"),
        ({"steps": 1}, "steps is 1; expected `int` >= 20"),
        ({"floor": 2.0}, "floor is 2.0; expected `float` <= 1.0"),
    ],
)
def test_options_of_training_are_checked(options, message):
    assert message in refused(densecell_batch.TrainingOptions, **options)


def test_what_is_easily_mistaken_is_refused_or_understood(model, volume, tmp_path):
    face, labels = densecell_batch, np.zeros((1, 4, 4), np.uint8)
    assert "expected a whole number" in refused(face.find_instances, labels, "mitochondrion")
    assert "expected whole numbers" in refused(face.find_instances, labels.astype(float), 1)
    assert "such as VoxelSize.of" in refused(face.segment, volume, model, voxel_size=(47, 9, 9))
    assert "instances is 'cell'" in refused(face.RunOptions, instances="cell")
    assert face.RunOptions(instances=["cell"]) == face.RunOptions(instances=("cell",))
    assert "a Segmenter is for arrays" in refused(face.segment_stack, "a.tif", tmp_path, face.Segmenter(model))
    assert "expected 0 to 0" in refused(face.evaluate, labels, labels + 1, n_classes=1)
    assert face.evaluate(np.where(np.arange(4) < 2, 255, labels), labels, ignore=255).voxels == 8
    assert "the name of a TIFF" in refused(face.write_stack, tmp_path / "a.png", labels)
    assert "the name of a TIFF" in refused(face.write_stack, tmp_path / "a.tif", labels[None])
    assert "in uint8" in refused(face.write_stack, tmp_path / "a.tif", labels.astype(np.uint16), classes=model.classes)
    path = face.write_stack(tmp_path / "new" / "a.tif", volume)
    (verdict,) = face.segment_batch(str(path), tmp_path / "out", model, precision="float32", preview=False)
    assert verdict.ok
    with face.open_stack(path) as stack:
        assert np.array_equal(
            face.segment(stack, model, **OPTIONS).labels, face.segment(volume, model, **OPTIONS).labels
        )
