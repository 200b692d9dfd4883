"""When a stack counts as done."""

import json

import pytest

from densecell_batch.errors import OutputError
from densecell_batch.runs.report import SCHEMA_VERSION, has_labels, is_same_work, read_report, versions, write_report

WANTED = {
    "schema_version": SCHEMA_VERSION,
    "input": {"sha256": "ab", "shape": (3, 4, 5)},
    "model": {"members": ["cd"]},
    "options": {"stitch": "crop", "tile": None, "instances": ("cell",)},
}


def is_done(path, wanted):
    found = read_report(path)
    return is_same_work(found, wanted) and has_labels(path, found)


@pytest.fixture
def done(tmp_path):
    (tmp_path / "labels.tif").write_bytes(b"12345")
    path = tmp_path / "cells_report.json"
    write_report(path, WANTED | {"outputs": {"labels": {"file": "labels.tif", "bytes": 5}}})
    return path


def test_done(done):
    assert is_done(done, WANTED)
    assert read_report(done)["options"]["instances"] == ["cell"]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": SCHEMA_VERSION + 1},
        {"input": {"sha256": "xx", "shape": (3, 4, 5)}},
        {"model": {"members": ["cd", "ef"]}},
        {"options": WANTED["options"] | {"stitch": "blend"}},
        {"options": WANTED["options"] | {"instances": ()}},
    ],
)
def test_not_done_when_something_else_is_wanted(done, change):
    assert not is_done(done, WANTED | change)


def test_a_preview_shapes_nothing(done):
    assert is_done(done, WANTED | {"options": WANTED["options"] | {"preview": False}})


def test_not_done_without_its_files(done):
    done.with_name("labels.tif").unlink()
    assert not is_done(done, WANTED)


@pytest.mark.parametrize("outputs", [None, [], {}, {"labels": None}, {"labels": {"bytes": 5}}, {"labels": {"file": 5}}])
def test_not_done_by_a_report_without_outputs(done, outputs):
    done.write_text(json.dumps(json.loads(done.read_text()) | {"outputs": outputs}))
    assert not is_done(done, WANTED)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 1}'])
def test_not_done_by_what_is_no_report(done, content):
    done.write_bytes(content)
    assert not is_done(done, WANTED)


def test_no_report(tmp_path):
    assert read_report(tmp_path / "none.json") is None
    assert not is_done(tmp_path / "none.json", WANTED)


def test_a_report_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="none"):
        write_report(tmp_path / "none" / "report.json", WANTED)


def test_versions_name_what_computes():
    assert {"densecell-batch", "python", "keras", "numpy"} <= versions().keys()
