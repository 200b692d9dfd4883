"""The command line of `watch`: misuse, status, retry."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner
from forked import run
from watched import BUNDLE, save

from densecell_batch.cli import cli
from densecell_batch.errors import DensecellError, OptionError


def watch(*arguments):
    return CliRunner().invoke(cli, ["watch", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out"], "needs the folder IN"),
        (["missing", "-o", "out"], "no such folder"),
        (["file", "-o", "out"], "no such folder"),
        (["in", "-o", "file"], "is a file"),
        (["in", "-o", "in"], "is the watched folder"),
        (["in", "-o", "in/../in"], "is the watched folder"),
        (["in", "-o", "out", "--move-done", "in"], "moved to where they are"),
        (["in", "-o", "out", "--hook", "'unclosed"], "No closing quotation"),
        (["in", "-o", "out", "--hook", "no-such-program-here x"], "no such program"),
        (["in", "-o", "out", "--hook", " "], "no such program"),
        (["-o", "missing", "--status"], "expected the output folder"),
        (["in", "-o", "out", "--instances", "nonsense", "--once"], "no class 'nonsense'"),
    ],
)
def test_misuse(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("densecell_batch.signals.Stop.install", lambda self: None)
    result = watch(*arguments)
    assert isinstance(result.exception, OptionError), result.output
    assert result.exception.exit_code == 2
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in"], "Missing option '-o'"),
        (["in", "-o", "out", "--quiet"], "requires an argument"),
        (["in", "-o", "out", "--quiet", "-1"], "not in the range"),
        (["in", "-o", "out", "--interval", "0"], "not in the range"),
        (["in", "-o", "out", "--attempts", "0"], "not in the range"),
        (["in", "-o", "out", "--stitch", "glue"], "Invalid value for '--stitch'"),
        (["in", "-o", "out", "--shard", "1/2"], "No such option"),
        (["in", "-o", "out", "--overwrite"], "No such option"),
    ],
)
def test_misuse_that_click_finds(arguments, message):
    result = watch(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_no_such_model(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.setattr("densecell_batch.signals.Stop.install", lambda self: None)
    result = watch(tmp_path / "in", "-o", tmp_path / "out", "--model", "no-such-model")
    assert isinstance(result.exception, DensecellError)
    assert result.exception.exit_code == 3


def test_status_and_retry_of_what_a_run_left(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    save(inbox / "good.tif")
    (inbox / "bad.tif").write_text("bad")
    done = run(
        "watch", inbox, "-o", out, "--model", BUNDLE, "--once", "--quiet", "0.2", "--attempts", "1", "--precision",
        "float32", "--uncertainty", "-q",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert sorted(line.split("\t")[1] for line in done.stdout.splitlines()) == ["failed", "ok"]
    assert (out / "good_uncertainty.tif").exists()
    said = watch("-o", out, "--status")
    assert said.exit_code == 0
    lines = said.output.splitlines()
    assert any(line.startswith("done") and line.endswith("good_labels.tif") for line in lines)
    assert any(line.startswith("failed") and "not a TIFF file" in line for line in lines)
    assert lines[-2:] == ["0 queued; 0 running; 1 failed; 1 done", "watchers: none"]
    assert (out / "bad.error.txt").exists()
    (out / "of a person.error.txt").write_text("mine")
    assert watch("-o", out, "--retry").exit_code == 0
    assert not (out / "bad.error.txt").exists()
    assert (out / "of a person.error.txt").exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys, densecell_batch.cli as c\n"
        "try: c.cli.main(['watch', '--help'], standalone_mode=False)\n"
        "finally: print(sorted({'tensorflow', 'keras', 'numpy', 'watchdog', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--uncertainty" in done.stdout
