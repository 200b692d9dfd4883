"""`models quantize`: a bundle that knows what eight bits need, and says how good they are."""

import json
import re

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from densecell_batch import Segmenter
from densecell_batch.cli.models import models
from densecell_batch.errors import DensecellError, DeviceError, OptionError, OutputError, StackError
from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.quantization import quantized_layers


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    crop = tifffile.imread(data / "vnc-crop.tif")
    bundle = load_bundle(data / "fly-vnc-small.zip")
    found = {"images": folder / "images.tif", "labels": folder / "labels.tif", "model": bundle.path}
    tifffile.imwrite(found["images"], crop, photometric="minisblack", metadata={"axes": "ZYX"})
    labels = Segmenter(bundle, precision="float32", fit="off")(crop).labels
    tifffile.imwrite(found["labels"], labels, photometric="minisblack", metadata={"axes": "ZYX"})
    return found


def run(*words):
    result = CliRunner().invoke(models, ["quantize", *map(str, words)])
    if isinstance(result.exception, DensecellError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_bundle_learns_of_int8(files, tmp_path):
    out, before = tmp_path / "eight.zip", load_bundle(files["model"])
    done = run(files["model"], "--images", files["images"], "--labels", files["labels"], "-o", out)
    made = load_bundle(out)
    assert made.name == "eight"
    assert made.members == before.members
    assert (made.scores, made.classes, made.own_data) == (before.scores, before.classes, before.own_data or made.known)
    found = made.quantization
    assert [{*ranges} for ranges in found.ranges] == [{*quantized_layers(made.architecture)}]
    assert 0.98 < found.agreement < 1
    assert found.mean_iou[0] > 0.99  # the labels are those of float32
    assert 0.8 < found.mean_iou[1] < found.mean_iou[0]
    first, last = done.stdout.splitlines()
    assert re.match(r"in int8 9\d\.\d{3}% of the voxels .* mean IoU of 0\.\d+ instead of ", first)
    assert last == f"{out}: version 1, 2d3d, 1 member, 5 classes"
    assert json.loads(CliRunner().invoke(models, ["show", str(out), "--json"]).stdout)["quantization"]


def test_it_is_used(files, tmp_path):
    run(files["model"], "--images", files["images"], "-o", tmp_path / "eight.zip")
    volume = tifffile.imread(files["images"])
    segmenter = Segmenter(tmp_path / "eight.zip", precision="int8", fit="off", device="cpu")
    eight, true = segmenter(volume).labels, tifffile.imread(files["labels"])
    assert segmenter.bundle.quantization.mean_iou is None
    assert segmenter.precision.name == "int8"
    assert 0.97 < (eight == true).mean() < 1
    assert Segmenter(files["model"], fit="off").precision.name != "int8"
    with pytest.raises(DeviceError, match="models quantize"):
        _ = Segmenter(files["model"], precision="int8").precision


@pytest.mark.keras
def test_another_engine_does_not_compute_it():
    with pytest.raises(DeviceError, match="needs a processor, --engine openvino"):
        _ = Segmenter("fly-vnc-2d3d", precision="int8", engine="tensorflow").precision


def test_what_cannot_be(files, tmp_path):
    images, labels = files["images"], files["labels"]
    with pytest.raises(OptionError, match="1 stacks of labels for 2 of images"):
        run(files["model"], "--images", images, "--images", images, "--labels", labels, "-o", tmp_path / "a.zip")
    with pytest.raises(OutputError, match="there is no folder for it"):
        run(files["model"], "--images", images, "-o", tmp_path / "no" / "a.zip")
    (tmp_path / "there.zip").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        run(files["model"], "--images", images, "-o", tmp_path / "there.zip")
    wrong = tmp_path / "wrong.tif"
    tifffile.imwrite(wrong, np.full((2, 40, 40), 9, np.uint8), photometric="minisblack")
    with pytest.raises(StackError, match="what it is compared with is 2 x 40 x 40"):
        run(files["model"], "--images", images, "--labels", wrong, "-o", tmp_path / "a.zip")
    tifffile.imwrite(wrong, np.full_like(tifffile.imread(labels), 9), photometric="minisblack")
    with pytest.raises(StackError, match=r"wrong\.tif: it has the label 9; the classes of"):
        run(files["model"], "--images", images, "--labels", wrong, "-o", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_what_lies_outside_is_not_counted(files, tmp_path):
    """A stack with a rim of fill: the nets see the tissue, and labels belong to all of it."""
    crop, true = (np.pad(tifffile.imread(files[kind]), ((0, 0), (40, 8), (24, 56))) for kind in ("images", "labels"))
    for name, volume in (("rim.tif", crop), ("labels.tif", true)):
        tifffile.imwrite(tmp_path / name, volume, photometric="minisblack", metadata={"axes": "ZYX"})
    words = ["--images", tmp_path / "rim.tif", "--labels", tmp_path / "labels.tif", "-o", tmp_path / "a.zip"]
    run(files["model"], *words)
    before, after = load_bundle(tmp_path / "a.zip").quantization.mean_iou
    assert before > 0.9  # but for the rim of the tissue, the labels are what float32 gives
    assert after > 0.8
    true[:, 40:] = 9
    tifffile.imwrite(tmp_path / "labels.tif", true, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(StackError, match=r"labels\.tif: no voxel that counts lies in the tissue of"):
        run(files["model"], *words[:-1], tmp_path / "b.zip", "--ignore-label", 9)
