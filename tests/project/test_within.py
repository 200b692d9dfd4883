"""Runs of the tests: when none is begun any more (`--within`), several processes, names that are no text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STOPS = """
import os, pathlib

def test_a():
    pathlib.Path("over").touch()
    os._exit(1)

def test_b():
    pass
"""


def run(*words, cwd=ROOT):
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd).stdout


@pytest.mark.parametrize("processes", [[], ["-n", "2", "--dist", "loadfile"]], ids=["one process", "two processes"])
def test_those_not_begun_are_skipped_and_counted(processes, tmp_path):
    here = [
        "tests/unit/test_printable.py",
        "tests/unit/storage/test_strict_json.py",
        "--basetemp",
        tmp_path / "b",
        *processes,
    ]
    said = run(*here, "--within", 0)
    (skipped,) = re.findall(r"^SKIPPED \[(\d+)\] .*: not begun: 0 minutes were over$", said, re.M)
    assert re.search(rf"=+ {skipped} skipped in ", said), said
    assert re.search(rf"=+ {skipped} passed in ", run(*here, "--within", 5))


def test_a_process_that_takes_the_place_of_another_counts_from_the_beginning_of_them_all(tmp_path):
    ours = (ROOT / "tests/conftest.py").read_text()
    assert ours.count("time.monotonic()") == 2
    clock = "(1000.0 if Path('over').exists() else 0.0)"  # by which all is over once the first test was
    (tmp_path / "conftest.py").write_text(ours.replace("time.monotonic()", clock))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_that_stops.py").write_text(STOPS)
    said = run("-n", 1, "--within", 5, "--basetemp", tmp_path / "b", cwd=tmp_path)
    assert "replacing crashed worker" in said
    assert re.search(r"^SKIPPED \[1\] .*: not begun: 5 minutes were over$", said, re.M), said
    assert re.search(r"=+ 1 failed, 1 skipped in ", said), said


def test_what_is_no_text_does_not_end_the_run(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = "import logging\n\n\ndef test_a():\n    logging.error('\\udcff.tif')\n    assert '\\udcff.tif' == 'a.tif'\n"
    (tmp_path / "test_a.py").write_text(words + "\n\ndef test_b():\n    pass\n")
    said = run("-n", 1, "--basetemp", tmp_path / "b", cwd=tmp_path)
    assert re.search(r"=+ 1 failed, 1 passed in ", said), said
