"""Processes that the tool starts take no code from the working folder, whatever lies there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from densecell_batch.own_python import python_command, python_environment

PACKAGE = Path(sys.modules["densecell_batch"].__file__).parent


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", None),
        (":", None),
        (".", None),
        ("lib", None),
        (":/opt/mine", "/opt/mine"),
        ("/opt/mine:", "/opt/mine"),
        ("/a:./b:../c::/d", "/a:/d"),
        ("/a:/b", "/a:/b"),
    ],
)
def test_only_absolute_folders_are_searched(monkeypatch, before, after):
    for name in ("PYTHONPATH", "CLASSPATH"):
        monkeypatch.setenv(name, before)
    found = python_environment(MORE="1")
    assert (found.get("PYTHONPATH"), found.get("CLASSPATH"), found["MORE"]) == (after, after, "1")
    assert os.environ["PYTHONPATH"] == before


@pytest.fixture
def handed_over(tmp_path, monkeypatch):
    """The working folder, in which modules lie that say that they were imported."""
    for name in ("json", "secrets", "numpy", "click", "densecell_batch", "encodings", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'RAN')!r}, 'a').write(__name__)\nraise SystemExit(7)\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", [None, "", ":", ".:"])
def test_modules_of_the_working_folder_are_not_run(handed_over, monkeypatch, path):
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run(
        python_command("densecell_batch", "--version"),
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout[:15]) == (0, "densecell-batch"), done.stderr
    assert not (handed_over / "RAN").exists()


def test_workers_and_macros_are_started_so(handed_over, monkeypatch):
    """The real starts, with the process itself looked at: what it would be asked to run, where."""
    from densecell_batch.cli import workers
    from densecell_batch.imagej import macro

    started = []

    class Started:
        returncode = pid = 0

        def __init__(self, words, env=None, **options):
            started.append((words, env))

        def communicate(self):
            return ("",)

        def poll(self):
            return 0

        wait = terminate = poll

    for module in (macro, workers):
        monkeypatch.setattr(module.subprocess, "Popen", Started)
        monkeypatch.setattr(macro, "_end", lambda worker: None)
    monkeypatch.setenv("PYTHONPATH", ".")
    workers.run_workers(2)
    macro._wait(handed_over, macro.MacroTask(macro.Macro("m.ijm", "x", "")), None, 1.0)
    assert len(started) == 3
    for words, env in started:
        assert words[:3] == [sys.executable, "-P", "-m"]
        assert "PYTHONPATH" not in env


def test_no_other_part_starts_python_modules():
    """`runs.slurm` writes scripts, which have a start of their own."""
    starts = [
        path.name for path in sorted(PACKAGE.rglob("*.py")) if "sys.executable" in path.read_text(encoding="utf-8")
    ]
    assert set(starts) <= {"own_python.py", "slurm.py", "install.py"}
