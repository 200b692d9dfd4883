"""`densecell-batch train` as users and scripts start it: verdicts, exit codes, stops, what it writes."""

import json
import signal
import time

import numpy as np
import pytest
import tifffile
from forked import Command, run
from phantoms import NET, a_run, phantom, save_phantoms
from PIL import Image

from densecell_batch.models.bundle import load_bundle
from densecell_batch.nets.architecture import ResidualUNet, UNet2D
from densecell_batch.training.error_weights import error_weights
from densecell_batch.training.restarts import train_ensemble
from densecell_batch.training.volumes import load_labelled

pytestmark = pytest.mark.keras


@pytest.fixture
def files(tmp_path):
    return save_phantoms(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train_ensemble(a_run(restarts=1), [phantom()], [phantom(seed=1)], folder), folder


def arguments(files, out, **more):
    options = {
        "images": files["train-images"], "labels": files["train-labels"], "eval-images": files["eval-images"],
        "eval-labels": files["eval-labels"], "out": out, "classes": "outside,cell=#00ff00,dot", "net": "2d3d",
        "kernels": 4, "window": "5,32,32", "steps": 20, "floor": 0,
        "precision": "float32", **({"pyramid-kernels": 4} if more.get("net", "2d3d") == "2d3d" else {}), **more,
    }  # fmt: skip
    return [str(word) for key, value in options.items() if value is not None for word in (f"--{key}", value)]


def train(*words):
    return run("train", *words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_goes_on_after_a_stop(files, tmp_path, number):
    words = arguments(files, tmp_path / "run", steps=60)
    process = Command("train", *words)
    state = tmp_path / "run/member-0.state"
    until = time.monotonic() + 120
    while not state.exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    assert state.exists()
    done = train(*words)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    bundle = load_bundle(tmp_path / "run/mine.zip")
    assert [c.colour for c in bundle.classes][1] == (0, 255, 0)
    verdict = done.stdout.strip().split("\t")
    assert verdict[:3] == ["DENSECELL", "ok", str(bundle.path)]
    assert float(verdict[3]) == bundle.scores["evaluation"]["mean_iou"]


def test_one_net_is_taught(files, tmp_path, trained):
    """Without a word about classes, by an ensemble, on a stack without labels, too."""
    words = arguments(files, tmp_path / "run", classes=None, distil=trained[0].path, unlabelled=files["eval-images"])
    done = train(*words)
    assert done.returncode == 0, done.stderr
    taught = load_bundle(tmp_path / "run/mine.zip")
    assert [c.name for c in taught.classes] == [c.name for c in trained[0].classes]
    assert taught.provenance["taught_by"] == [*(member.sha256 for member in trained[0].members), "window 5,32,32"]
    other = train(*arguments(files, tmp_path / "run", classes=None, distil=trained[0].path))
    assert other.returncode == 2
    assert "holds a run that was begun otherwise: train was" in other.stderr


def test_minutes_and_fine_tuning(files, tmp_path, trained):
    words = arguments(files, tmp_path / "run", steps=None, minutes=0.02, init=trained[0].path, name="tuned")
    done = train(*words)
    assert done.returncode == 0, done.stderr
    assert "steps in 0.02 minutes" in done.stderr
    tuned = load_bundle(tmp_path / "run/tuned.zip")
    assert tuned.architecture == NET
    start, first = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines()[:2])
    assert start["step"] == 0
    assert tuned.scores["evaluation"]["mean_iou"] >= tuned.provenance["mean IoU before fine-tuning"]
    scratch = json.loads((trained[1] / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] < scratch["loss"]


@pytest.mark.parametrize("preset", ["published", "improved"])
@pytest.mark.parametrize("net", ["unet", "2d3d"])
def test_nets_and_presets(files, tmp_path, net, preset):
    """Every net with every preset, for epochs, to a bundle that segments."""
    window = "5,48,48"
    if net == "unet":  # it loses a margin of 44 voxels, the published one of 92
        window = "2,108,108" if preset == "improved" else "2,204,204"
        save_phantoms(tmp_path, (2, 210, 210))
    words = arguments(files, tmp_path / "run", steps=None, epochs=3, net=net, preset=preset, window=window)
    done = train(*words)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["recipe"]["preset"] == preset
    assert run["recipe"]["steps"] % 3 == 0
    bundle = load_bundle(tmp_path / "run/mine.zip")
    assert bundle.architecture.relu_on_logits == (preset == "published")
    assert isinstance(bundle.architecture, UNet2D) == (net == "unet")


def test_the_default_net(files, tmp_path):
    """A residual one; its window is what fits of the default one. It is stopped and goes on."""
    words = arguments(files, tmp_path / "run", net=None, window=None)
    done = train(*words)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "run/mine.zip")
    assert bundle.architecture == ResidualUNet(3, 4, 3)
    assert bundle.window == (3, 64, 80)
    done = run("segment", files["eval-images"], "-o", tmp_path / "out", "--model", bundle.path, "--outside", "off")
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(tmp_path / "out/eval-images_labels.tif").shape == (6, 72, 80)
    done = train(
        *arguments(
            files,
            tmp_path / "tuned",
            net=None,
            window=None,
            init=bundle.path,
            kernels=None,
        )
    )
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "tuned/mine.zip").architecture == bundle.architecture


def test_stacks_of_several_sizes(files, tmp_path):
    other = {}
    for kind in ("images", "labels"):
        other[kind] = tmp_path / f"other-{kind}.tif"
        plane = tifffile.imread(files[f"train-{kind}"])[:2, :36, :50]
        tifffile.imwrite(other[kind], plane, imagej=True, metadata={"axes": "ZYX"})
    words = arguments(files, tmp_path / "run", net=None, window=None)
    done = train(*words, "--images", str(other["images"]), "--labels", str(other["labels"]))
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "run/mine.zip").window == (3, 32, 48)


def test_make_weights(files, tmp_path):
    words = arguments(files, tmp_path / "run", **{"eval-images": None, "eval-labels": None})
    done = train(*words, "--make-weights")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run/train-labels_weights.tif"
    assert done.stdout == f"DENSECELL\tok\t{path}\n"
    weights = tifffile.imread(path)
    np.testing.assert_array_equal(weights, error_weights(phantom().labels))
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size == (160, 72)
    volume = load_labelled(files["train-images"], files["train-labels"], 3, None, path)
    np.testing.assert_array_equal(volume.weights, weights)


def test_make_weights_of_labels_without_images(files, tmp_path):
    words = arguments(files, tmp_path / "run", **{"eval-images": None, "eval-labels": None})
    done = train(*words, "--make-weights", "--labels", str(files["eval-labels"]))
    assert done.returncode == 2
    assert "1 --images and 2 --labels; expected one --labels for each" in done.stderr


BAD = [
    ({"classes": "one"}, 2, "expected at least two"),
    ({"classes": "a,b=green,c"}, 2, "'green' is no colour"),
    ({"classes": "a,b"}, 1, "has the label 2; expected 0 to 1 for 2 classes"),
    ({"classes": "a,b,a"}, 2, "the class 'a' is named twice"),
    ({"classes": "a,b,c,d"}, 2, "no voxel of class 3, 'd'"),
    ({"minutes": 3}, 2, "one of --steps, --epochs and --minutes"),
    ({"steps": None}, 2, "one of --steps, --epochs and --minutes"),
    ({"eval-labels": None}, 2, "1 --eval-images and 0 --eval-labels"),
    ({"ignore-label": 0, "preset": "published"}, 2, "give --ignore-label with --preset improved"),
    ({"weights": "nowhere.tif"}, 1, "no such file"),
    ({"net": "unet", "window": "5,32,32"}, 2, "too small for a unet2d net"),
    ({"steps": 3}, 2, "3 is not in the range"),
    ({"keep": 2}, 2, "expected 1 to 1"),
    ({"out": "/proc/run"}, 1, "/proc/run: the output folder cannot be made"),
    ({"kernels": 5}, 2, "even number"),
    (
        {"net": "residual", "window": "2,64,64"},
        2,
        "--window 2,64,64 (z, y, x) is too small for a residual net",
    ),
    (
        {"net": "residual", "window": "3,64,96"},
        1,
        "shows 1 x 64 x 96 of it; give a larger stack",
    ),
    ({"net": "residual", "preset": "published", "window": "3,64,64"}, 2, "--preset published has no residual net"),
    ({"net": "unet", "pyramid-kernels": 4}, 2, "--pyramid-kernels are of a 2d3d net; this one is unet2d"),
    ({"window": "5,512,512"}, 1, "smaller than the training window"),
    ({"window": "5,4,4"}, 2, "too small for a 2d3d net"),
    ({"images": "nowhere.tif"}, 1, "no such file"),
    ({"init": "nowhere"}, 3, "no model 'nowhere'"),
    ({"distil": "nowhere"}, 3, "no model 'nowhere'"),
    ({"classes": None}, 2, "give --classes: what the labels 0, 1, 2, ... mean"),
    ({"unlabelled": "more.tif"}, 2, "--unlabelled is for --distil"),
    ({"distil": "fly-vnc-2d3d"}, 2, "--distil fly-vnc-2d3d knows glia and extracellular, intracellular, mitochondrion"),
    ({"distil": "fly-vnc-2d3d", "scale": "0.5"}, 2, "leave --scale and --voxel-size-trained out"),
    ({"distil": "fly-vnc-2d3d", "preset": "published"}, 2, "--preset published learns labels alone"),
    ({"init": "fly-vnc-2d3d"}, 2, "has 5 classes, --classes 3"),
    ({"init": "fly-vnc-2d3d", "classes": "a,b,c,d,e", "net": "unet"}, 2, "is a 2d3d net, --net unet; leave --net out"),
    ({"init": "fly-vnc-2d3d", "classes": "a,b,c,d,e", "kernels": 8}, 2, "has 16 kernels, --kernels 8"),
]


@pytest.mark.parametrize(("change", "code", "message"), BAD, ids=[str(row[0]) for row in BAD])
def test_bad_options(files, tmp_path, change, code, message):
    done = train(*arguments(files, **{"out": tmp_path / "run", **change}))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
