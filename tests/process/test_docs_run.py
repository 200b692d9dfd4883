"""The blocks of the documentation, run as they stand there, in a folder with the files that they name.

A block that cannot be run says why, in a comment above it (`doc_blocks`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from doc_blocks import all_blocks
from images import ROOT
from watched import BUNDLE, save

SHAPE = (5, 96, 96)
STACKS = ("cells", "stacks/1", "stacks/2", "a", "b", "few", "some", "train", "eval")
LABELS = ("a-labels", "b-labels", "few-labels", "some-labels", "train-labels", "eval-labels", "truth")
BEFORE = f"""
import numpy as np
import tifffile

volume = tifffile.imread("cells.tif")
tissue = np.ones({SHAPE}, np.uint8)
"""


def environment(place):
    """That of a user whose home is the folder, and who has `densecell-batch` on the path."""
    found = os.environ | {"HOME": str(place), "DENSECELL_CACHE": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    return found | {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def shell(place, text):
    """Run lines in a folder; what stands below /shared in them lies below it, too."""
    return run(place, "bash", "-euo", "pipefail", "-c", text.replace("/shared/", f"{place}/shared/"))


def run(place, *words):
    """Run a program in a folder. What takes minutes, or never ends, fails."""
    options = {"capture_output": True, "text": True, "cwd": place, "env": environment(place)}
    return subprocess.run(["timeout", "--kill-after=60", "240", *words], check=False, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files that the blocks name, small."""
    place = tmp_path_factory.mktemp("files")
    (place / "bin").mkdir()
    tool = place / "bin/densecell-batch"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m densecell_batch "$@"\n')
    tool.chmod(0o755)
    for i, name in enumerate(STACKS):
        save(place / f"{name}.tif", i, SHAPE)
    for i, name in enumerate(LABELS):
        labels = np.random.default_rng(i).integers(0, 5, (SHAPE[0], 12, 12), dtype=np.uint8)
        labels = labels.repeat(8, 1).repeat(8, 2) % (3 if name == "train-labels" else 5)
        tifffile.imwrite(place / f"{name}.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    for name in ("mine.zip", "run/my-cells.zip"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(BUNDLE, place / name)
    (place / "Fiji.app/plugins").mkdir(parents=True)
    (place / "Fiji.app/ij.jar").touch()
    done = shell(place, "densecell-batch segment cells.tif -o out --model fly-vnc-fast")
    assert done.returncode == 0, done.stderr
    for name in ("mouse-1", "mouse-2"):
        shutil.copytree(place / "out", place / name)
    return place


@pytest.fixture
def folder(files, tmp_path):
    return Path(shutil.copytree(files, tmp_path / "here", symlinks=True))


def runnable(language):
    """The blocks that are run."""
    blocks = [block for block in all_blocks(language) if block.not_run is None]
    needs = [[pytest.mark.keras] if "densecell-batch train " in block.text else [] for block in blocks]
    return [pytest.param(b, id=str(b), marks=marks) for b, marks in zip(blocks, needs, strict=True)]


@pytest.mark.parametrize("block", runnable("bash"))
def test_lines_for_a_shell(block, folder):
    if "models export" in block.text:
        pytest.importorskip("onnx")
    done = shell(folder, block.text)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("block", runnable("python"))
def test_python(block, folder):
    done = run(folder, sys.executable, "-W", "error", "-c", BEFORE + block.text)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_fails_is_seen(folder):
    assert shell(folder, "densecell-batch segment cells.tif -o out --modle x\ntrue").returncode == 2
    assert shell(folder, "densecell-batch segment nothing.tif -o out | cat").returncode != 0
