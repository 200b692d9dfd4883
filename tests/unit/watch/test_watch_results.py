"""What is read from and written to the output folder, also where somebody else edited it."""

from __future__ import annotations

import json

import pytest

from densecell_batch.io.discovery import Stamp
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.ownership import foreign
from densecell_batch.runs.report import SCHEMA_VERSION
from densecell_batch.watch.inbox import Sighting
from densecell_batch.watch.place import Place
from densecell_batch.watch.results import Results, error_texts

MODEL = {"name": "m", "version": "1", "licence": "CC0", "members": []}
IDENTITY = Identity.read({"input": None, "model": MODEL, "options": {"stitch": "crop"}})
STAMP = Stamp(1, 10, 1_700_000_000_000_000_001)
SHA = "ab" * 32


@pytest.fixture
def results(tmp_path):
    (tmp_path / "in").mkdir()
    return Results(Place(tmp_path / "out", IDENTITY), tmp_path / "in")


@pytest.fixture
def paths(tmp_path, results):
    return results.paths(tmp_path / "in" / "a.tif")


def report(paths, **changes):
    entry = {"files": 1, "bytes": 10, "mtime_ns": STAMP.mtime_ns, "sha256": SHA, "path": "/data/in/a.tif",
             "shape": [1, 2, 3], "dtype": "uint8", "voxel_size_um": None}  # fmt: skip
    paths.labels.write_bytes(b"labels")
    outputs = {"labels": {"file": "a_labels.tif", "bytes": 6}}
    content = {"schema_version": SCHEMA_VERSION, "input": entry, "model": MODEL, "options": {"stitch": "crop"},
               "outputs": outputs, **changes}  # fmt: skip
    paths.report.write_text(json.dumps(content))


def sighting(tmp_path, stamp=STAMP):
    return Sighting("a.tif", tmp_path / "in" / "a.tif", stamp, 0.0, False, ())


def test_results_are_known_by_size_and_time_or_by_content(results, paths):
    report(paths)
    found = results.of_stamp(paths, STAMP)
    assert (found.labels, found.report, found.sha256) == (paths.labels, paths.report, SHA)
    assert results.of_stamp(paths, Stamp(1, 11, STAMP.mtime_ns)) is None
    assert results.of_content(paths, SHA).report == paths.report
    assert results.of_content(paths, "cd" * 32) is None
    other = results.paths(paths.folder.parent / "in" / "b.tif")
    assert results.of_content(other, SHA) is None
    results.remember(found)
    assert results.of_content(other, SHA).report == paths.report
    paths.labels.unlink()
    assert results.of_content(other, SHA) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"input": None},
        {"input": {"sha256": SHA}},
        {"input": []},
        {"outputs": None},
        {"outputs": {}},
        {"outputs": {"labels": {"file": "another_labels.tif", "bytes": 6}}},
        {"outputs": {"labels": "a_labels.tif"}},
        {"model": MODEL | {"name": "another"}},
        {"model": {"name": "m"}},
        {"schema_version": 2},
        {"outputs": {"labels": {"file": "a_labels.tif", "bytes": 6}, "evil": {"file": "../precious.tif", "bytes": 4}}},
        {"options": {"stitch": "blend"}},
    ],
)
def test_a_report_that_says_something_else_is_no_result(results, paths, changes):
    report(paths, **changes)
    assert results.of_stamp(paths, STAMP) is None
    assert results.of_content(paths, SHA) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_no_report(results, paths, text):
    paths.report.write_text(text, encoding="latin-1")
    assert results.current(paths) is None
    assert results.made_from(paths) == ""
    results.keep_earlier(paths, SHA)


def test_earlier_results_are_kept_but_nothing_else_is_touched(tmp_path, results, paths):
    outputs = {
        "labels": {"file": "a_labels.tif", "bytes": 6},
        "other": {"file": "b_labels.tif", "bytes": 4},
    }
    report(paths, outputs=outputs)
    (paths.folder / "b_labels.tif").write_text("mine")
    results.keep_earlier(paths, SHA)  # the same content
    assert paths.labels.exists()
    results.keep_earlier(paths, "cd" * 32)
    assert not paths.labels.exists()
    assert not paths.report.exists()
    assert len(list(paths.folder.glob("a.old-*"))) == 2
    assert (paths.folder / "b_labels.tif").read_text() == "mine"


def test_files_that_lead_elsewhere_make_a_report_none(tmp_path, results, paths):
    precious = tmp_path / "precious.tif"
    precious.write_text("mine")
    labels = {"file": "a_labels.tif", "bytes": 6}
    report(paths, outputs={"labels": labels, "evil": {"file": "../precious.tif", "bytes": 4}})
    results.keep_earlier(paths, "cd" * 32)
    assert (precious.read_text(), paths.labels.read_bytes()) == ("mine", b"labels")
    assert foreign(paths.report, [paths.labels, paths.report]) == [paths.labels, paths.report]  # so kept as the user's


def test_error_texts_are_of_a_version(tmp_path, results, paths):
    path = results.write_error(paths, sighting(tmp_path), "it is\ntruncated", 3)
    assert "Why: it is truncated\n" in path.read_text()
    assert results.error_of(paths, "a.tif", STAMP) == "it is truncated"
    assert results.error_of(paths, "a.tif", Stamp(1, 10, 5)) is None
    assert results.error_of(paths, "b.tif", STAMP) is None
    assert error_texts(tmp_path / "out") == [path]
    path.write_text("a note of a person")
    assert results.error_of(paths, "a.tif", STAMP) is None
    assert error_texts(tmp_path / "out") == []


def test_notes_that_lead_out_of_the_folder_are_not_followed(tmp_path, results, paths):
    report(paths)
    results.remember(results.current(paths))
    (note,) = (tmp_path / "out" / ".densecell-watch" / "contents").rglob(SHA)
    note.write_text("../in/a_report.json")
    assert results._place.recall(SHA) is None
