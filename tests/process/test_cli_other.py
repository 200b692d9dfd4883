"""The verbs doctor, demo and completion, and the program's face, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from forked import run

from densecell_batch import __version__
from densecell_batch.data import SAMPLE


def densecell(*arguments, **environment):
    command = [sys.executable, "-m", "densecell_batch", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


def test_version():
    done = densecell("--version")
    assert done.returncode == 0
    assert __version__ in done.stdout


def test_help_is_laid_out():
    said = densecell("--help").stdout
    assert said.startswith("Usage: densecell-batch [OPTIONS] COMMAND")
    assert "Exit codes: 0 all done;" in said
    assert "\\b" not in said


def test_doctor_says_a_line_each(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSECELL_CACHE", str(tmp_path))
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert all(len(row) == 3 and row[0] in ("ok", "warn") for row in rows)
    assert {row[1] for row in rows} >= {
        "Python",
        "backend",
        "device",
        "precision",
        "memory",
        "cache",
        "models",
        "Java",
        "disk",
    }
    assert ["cache", str(tmp_path)] in [row[1:] for row in rows]


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_doctor_fails_without_the_gpu_asked_for():
    done = run("doctor", "--device", "gpu")
    assert done.returncode == 3
    assert "FAIL\tdevice\t" in done.stdout


def without(folder, *modules):
    """The environment of a machine where modules are broken, or not there."""
    for module in modules:
        (folder / f"{module}.py").write_text(f"raise ImportError('No module named {module}')")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def test_doctor_without_a_backend(tmp_path):
    """As on a machine where the installation is broken."""
    done = densecell("doctor", **without(tmp_path, "openvino"))
    assert done.returncode == 3
    assert "FAIL\tdevice\tthe engine openvino is not installed here, or cannot be imported" in done.stdout
    assert "No module named openvino" in done.stdout
    assert "Traceback" not in done.stderr


def test_processors_need_no_tensorflow(tmp_path):
    """Whatever does not train: nothing even tries to import it."""
    nowhere = without(tmp_path, "tensorflow", "keras", "jax")
    quantize = ["models", "quantize", "fly-vnc-2d3d", "--images", SAMPLE, "-o", tmp_path / "eight.zip"]
    demo = ["demo", "-o", tmp_path / "out"]
    for words in (["doctor", "--device", "cpu"], ["models", "verify", "fly-vnc-2d3d"], quantize, demo):
        done = densecell(*words, **nowhere)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/fly-vnc-sample_report.json").read_text())["engine"] == "openvino"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    done = run("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "_DENSECELL_BATCH_COMPLETE" in done.stdout


def test_completion_completes():
    """What bash runs when the user presses the tabulator."""
    words = {"COMP_WORDS": "densecell-batch segment --sti", "COMP_CWORD": "2"}
    code = "import sys; sys.argv[0] = 'densecell-batch'; from densecell_batch.cli import main; main()"
    environment = {**os.environ, **words, "_DENSECELL_BATCH_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "--stitch" in done.stdout


def test_demo_makes_labels_of_the_sample(tmp_path):
    done = run("demo", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    verdict, ok, labels, report = done.stdout.strip().split("\t")
    assert (verdict, ok) == ("DENSECELL", "ok")
    volume = tifffile.imread(labels)
    assert volume.shape == (10, 256, 256)
    written = json.loads(Path(report).read_text())
    assert [row["voxels"] for row in written["classes"]] == np.bincount(
        volume.ravel(), minlength=len(written["classes"])
    ).tolist()
    assert (tmp_path / "fly-vnc-sample_preview.png").exists()
    assert (tmp_path / SAMPLE.name).read_bytes() == SAMPLE.read_bytes()  # to be opened in Fiji


def test_a_log_does_not_replace_an_image(tmp_path):
    image = tmp_path / "cells.tif"
    image.write_bytes(b"II*\0and more")
    done = run("--log", image, "demo", "--help")
    assert done.returncode == 1
    assert "is no text" in done.stderr
    assert image.read_bytes() == b"II*\0and more"


def test_training_without_keras_is_an_error_in_words(tmp_path):
    stacks = [word for what in ("images", "labels", "eval-images", "eval-labels") for word in (f"--{what}", SAMPLE)]
    words = ["train", *stacks, "--classes", "a,b", "--name", "x", "-o", tmp_path / "run", "--minutes", "1"]
    done = densecell(*words, **without(tmp_path, "tensorflow", "keras", "jax"))
    assert done.returncode == 3
    assert "pip install tensorflow keras" in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_is_counted(tmp_path):
    """OpenVINO comes with a package that makes files in the user's home and sends what it counts."""
    (tmp_path / "home").mkdir()
    code = "import densecell_batch.nets.engines.openvino, sys; sys.exit(sys.modules['openvino_telemetry'] is not None)"
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "home")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "home").iterdir())
