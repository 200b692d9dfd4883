"""`densecell-batch fiji install` and what it leaves in an ImageJ folder; that the macros are in the package."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import densecell_batch
from densecell_batch.errors import OptionError
from densecell_batch.imagej.find import find_folder
from densecell_batch.imagej.install import Runner
from densecell_batch.imagej.install import install as install_macros

ROOT = Path(densecell_batch.__file__).parents[1]
MACROS = ["Batch", "Labels_To_ROIs", "Link_Objects", "Load_Labels", "Measure", "Objects", "Segment", "View"]
FILES = {*(f"DenseCell_{name}.ijm" for name in MACROS), "runner.txt"}


@pytest.fixture
def imagej(tmp_path):
    folder = tmp_path / "ImageJ é"
    (folder / "plugins").mkdir(parents=True)
    (folder / "ij.jar").write_bytes(b"")
    return folder


def fiji(*arguments, **environment):
    command = [sys.executable, "-m", "densecell_batch", "fiji", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_install_is_idempotent_and_uninstall_leaves_nothing(imagej):
    first = fiji("install", imagej)
    assert first.returncode == 0, first.stderr
    folder = imagej / "plugins" / "DenseCell"
    assert first.stdout == f"{folder}\n"
    before = content(folder)
    assert set(before) == FILES
    (folder / "DenseCell_Of_An_Older_Version.ijm").write_bytes(before["DenseCell_Measure.ijm"])
    assert fiji("install", imagej).returncode == 0
    assert content(folder) == before
    mine = {"mine.ijm", "DenseCell_Of_My_Own.ijm"}
    for name in mine:
        (folder / name).write_text("// mine")
    assert fiji("install", imagej).returncode == 0
    assert fiji("install", imagej, "--uninstall").returncode == 0
    assert set(content(folder)) == mine
    for name in mine:
        (folder / name).unlink()
    fiji("install", imagej)
    assert fiji("install", imagej, "--uninstall").returncode == 0
    assert list((imagej / "plugins").iterdir()) == []
    again = fiji("install", imagej, "--uninstall")
    assert again.returncode == 0
    assert "no macros of ours" in again.stderr


def test_uninstall_where_the_folder_is_a_link(imagej, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (imagej / "plugins" / "DenseCell").symlink_to(tmp_path / "elsewhere")
    assert fiji("install", imagej).returncode == 0
    assert fiji("install", imagej, "--uninstall").returncode == 0
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_installed_macros_stand_alone(imagej):
    """Each has the shared functions in front; ImageJ reads macros as ISO 8859-1, so all is ASCII."""
    install_macros(imagej, Runner(command=sys.executable))
    for name in MACROS:
        text = (imagej / "plugins" / "DenseCell" / f"DenseCell_{name}.ijm").read_text(encoding="ascii")
        assert "function segmentStacks(" in text
        defined = re.findall(r"^function (\w+)\(", text, re.MULTILINE)
        assert len(defined) == len(set(defined))
        # In the macro language a word that names a function names nothing else: no variable, and no Dialog.show().
        assert not [f for f in defined if re.search(rf"^\s*{f} \+?= |\w\.{f}\(", text, re.MULTILINE)]


def test_the_runner_is_written_in_ascii(imagej, tmp_path):
    tool = tmp_path / "tööl 100% 漢 𝒳"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    install_macros(imagej, Runner("docker", str(tool), "host/densecell:1", "--gpus all"))
    text = (imagej / "plugins" / "DenseCell" / "runner.txt").read_text(encoding="ascii")
    lines = dict(line.split("=", 1) for line in text.splitlines())
    units = bytes.fromhex("".join(re.findall("%u(....)", lines["command"])))
    assert units.decode("utf-16-be") == "öö%漢𝒳"
    assert lines["target"] == "host/densecell:1"
    assert lines["words"] == "--gpus all"


def test_this_installation_is_the_default_runner(imagej):
    fiji("install", imagej)
    text = (imagej / "plugins" / "DenseCell" / "runner.txt").read_text()
    assert f"command={Path(sys.executable).with_name('densecell-batch')}\n" in text


@pytest.mark.parametrize("place", ["jars/ij-1.54p.jar", "ImageJ.app/Contents/Java/ij.jar"])
def test_fiji_and_mac_folders_are_known(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(b"")
    assert install_macros(tmp_path, Runner(command=sys.executable)).is_dir()


BAD = [
    (["{tmp}/none"], 2, "no such folder; expected the folder of Fiji or ImageJ"),
    (["{tmp}"], 2, "is no Fiji or ImageJ: no ij.jar in it"),
    (["{ij}", "--runner", "cloud"], 2, "'cloud' is not one of"),
    (["{ij}", "--runner", "docker"], 2, "--runner docker needs --target: the name of the image"),
    (["{ij}", "--runner", "ssh"], 2, "--runner ssh needs --target: the host"),
    (["{ij}", "--target", "x"], 2, "--runner local takes no --target"),
    (["{ij}", "--runner", "docker", "--target", "-v"], 2, "--target is '-v'"),
    (["{ij}", "--runner", "docker", "--target", "a\nb"], 2, "expected no line breaks"),
    (["{ij}", "--runner", "apptainer", "--target", "{tmp}/none.sif"], 2, "none.sif: no such image"),
    (["{ij}", "--command", "{tmp}/none"], 2, "none: no such program, or not executable"),
    (["{ij}", "--command", "no-such-densecell"], 2, "no-such-densecell: no such program"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_bad_input(imagej, tmp_path, arguments, code, message):
    done = fiji("install", *(text.format(tmp=tmp_path, ij=imagej) for text in arguments))
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (imagej / "plugins" / "DenseCell").exists()


def test_a_folder_that_cannot_be_written(imagej):
    (imagej / "plugins").rmdir()
    (imagej / "plugins").write_text("a file")
    done = fiji("install", imagej)
    assert done.returncode == 1
    assert f"{imagej}/plugins/DenseCell: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_usual_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OptionError, match="no Fiji or ImageJ in the usual places"):
        find_folder()
    for folder in (tmp_path / "Fiji.app", tmp_path / "Desktop" / "Fiji"):
        (folder / "jars").mkdir(parents=True)
        (folder / "jars" / "ij-1.54f.jar").write_bytes(b"")
        if folder.parent == tmp_path:
            assert find_folder() == folder
            done = fiji("install", HOME=str(tmp_path))
            assert done.stdout == f"{folder}/plugins/DenseCell\n"
    with pytest.raises(OptionError, match=r"there are several: .*Fiji\.app, .*Fiji; give the folder"):
        find_folder()


def test_log_takes_what_would_go_to_stderr(tmp_path):
    log = tmp_path / "log é.txt"
    command = [sys.executable, "-m", "densecell_batch", "--log", str(log)]
    done = subprocess.run([*command, "models", "show", "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert log.read_text().startswith("densecell-batch: error: ")
    subprocess.run([*command, "models", "show", "none"], check=False)
    assert log.read_text().count("densecell-batch: error: ") == 1
    worker = {**os.environ, "DENSECELL_WORKER_SHARD": "1/2"}  # shares the log with the others
    subprocess.run([*command, "models", "show", "none"], check=False, env=worker)
    assert log.read_text().count("densecell-batch: error: ") == 2
    command[-1] = str(tmp_path / "none" / "log")
    done = subprocess.run([*command, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written: No such file or directory; choose another file" in done.stderr


def test_every_package_is_named():
    """They are listed, since the folder of the macros cannot be found automatically; and that of templates, for what
    setuptools warns of.
    """
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(file.relative_to(ROOT).parts[:-1]) for file in ROOT.glob("densecell_batch/**/__init__.py")}
    assert {*named} == there | {"densecell_batch.macros", "densecell_batch.pages.templates"}


@pytest.mark.slow
def test_a_wheel_has_the_macros(tmp_path, imagej):
    """Installed elsewhere, without this clone."""
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("densecell_batch", "macros"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source]
    subprocess.run(list(map(str, build)), check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.rmtree(source)
    code = "import densecell_batch; print(densecell_batch.__file__); from densecell_batch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "fiji", "install", str(imagej)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert set(content(imagej / "plugins" / "DenseCell")) == FILES
