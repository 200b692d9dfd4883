"""The page of all stacks, as `segment` and watchers write it."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import csv

import pytest
from forked import run
from watched import BUNDLE, save
from watching import drain, folders, segmenter  # noqa: F401

from densecell_batch.runs.summary import SUMMARY


def rows(out):
    with (out / "summary.csv").open(newline="") as stream:
        return {row["stack"]: row["reasons"] for row in csv.DictReader(stream)}


@pytest.fixture
def stacks(tmp_path):
    for i, name in enumerate(("a.tif", "b.tif")):
        save(tmp_path / "in" / name, i)
    (tmp_path / "in/c.tif").write_text("no TIFF")
    return tmp_path / "in"


def test_segment_of_several_stacks_makes_a_page(stacks, tmp_path):
    out = tmp_path / "out"
    words = ("segment", str(stacks / "*.tif"), "-o", out, "--model", BUNDLE)
    assert run(*words, "--no-summary").returncode == 1
    assert not (out / SUMMARY).exists()
    done = run(*words)
    assert done.returncode == 1
    assert "those to look at first on top: " in done.stderr
    found = rows(out)
    assert [*found] == ["c", "a", "b"]
    assert "not a TIFF file" in found["c"]
    assert (out / SUMMARY).read_text().count("data:image/jpeg") == 2
    (out / SUMMARY).write_text("my notes")
    assert "left as it is" in run(*words).stderr
    assert (out / SUMMARY).read_text() == "my notes"


def test_segment_of_one_stack_makes_none(stacks, tmp_path):
    assert run("segment", stacks / "a.tif", "-o", tmp_path / "out", "--model", BUNDLE).returncode == 0
    assert not (tmp_path / "out" / SUMMARY).exists()


def test_watchers_make_one(folders, segmenter):
    inbox, out = folders
    save(inbox / "mouse 1/a.tif", 1)
    (inbox / "bad.tif").write_text("bad")
    assert drain(folders, segmenter, summary=False)[0] == 1
    assert not (out / SUMMARY).exists()
    drain(folders, segmenter)
    assert [*rows(out)] == ["bad", "a"]
    before = (out / SUMMARY).stat()
    drain(folders, segmenter)
    assert (out / SUMMARY).stat().st_mtime_ns == before.st_mtime_ns
    (inbox / "bad.tif").unlink()
    save(inbox / "b.tif", 2)
    drain(folders, segmenter)
    assert {"a", "b"} < {*rows(out)}
