"""When a stack counts as done, and what stands in its report."""

import json

import pytest

from densecell_batch.errors import OutputError
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.report import (
    SCHEMA_VERSION,
    Input,
    Model,
    Order,
    Report,
    has_labels,
    read_report,
    versions,
    write_report,
)
from densecell_batch.storage.records import FileRecord

INPUT = Input(sha256="ab", shape=(3, 4, 5), dtype="uint8", voxel_size_um=None)
MODEL = Model(name="tiny", version="1", licence="CC0", members=("cd",))
OPTIONS = {"stitch": "crop", "tile": None, "instances": ["cell"]}


def order(**change):
    return Order(**{"input": INPUT, "model": MODEL, "options": OPTIONS} | change)


def is_done(path, wanted):
    found = read_report(path)
    return found is not None and Identity.of(wanted).is_same(Identity.of(found)) and has_labels(path, found)


@pytest.fixture
def done(tmp_path):
    (tmp_path / "cells_labels.tif").write_bytes(b"12345")
    path = tmp_path / "cells_report.json"
    outputs = {"labels": FileRecord(file="cells_labels.tif", bytes=5)}
    write_report(path, Report(input=INPUT, model=MODEL, options=OPTIONS, outputs=outputs))
    return path


def test_done(done):
    assert is_done(done, order())
    assert read_report(done).options["instances"] == ["cell"]


@pytest.mark.parametrize(
    "change",
    [
        {"input": Input(sha256="xx", shape=(3, 4, 5), dtype="uint8", voxel_size_um=None)},
        {"input": Input(sha256="ab", shape=(3, 4, 6), dtype="uint8", voxel_size_um=None)},
        {"input": Input(sha256="ab", shape=(3, 4, 5), dtype="uint16", voxel_size_um=None)},
        {"input": Input(sha256="ab", shape=(3, 4, 5), dtype="uint8", voxel_size_um=(1, 1, 1))},
        {"model": Model(name="tiny", version="1", licence="CC0", members=("cd", "ef"))},
        {"options": OPTIONS | {"stitch": "blend"}},
        {"options": OPTIONS | {"instances": []}},
        {"pre_macro": "12"},
        {"versions": {"densecell-batch": "9"}},
    ],
)
def test_not_done_when_something_else_is_wanted(done, change):
    assert not is_done(done, order(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"input": Input(path="/elsewhere/b.tif", mtime_ns=3, container="folder", sha256="ab", shape=(3, 4, 5),
                        dtype="uint8", voxel_size_um=None)},
        {"options": OPTIONS | {"preview": False}},
        {"options": OPTIONS | {"device": "cpu"}},
        {"versions": {"python": "3.99"}},
    ],
)  # fmt: skip
def test_where_a_stack_lies_and_who_computes_it_shapes_nothing(done, change):
    assert is_done(done, order(**change))


def test_not_done_without_its_files(done):
    done.with_name("cells_labels.tif").unlink()
    assert not is_done(done, order())


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": SCHEMA_VERSION + 1},
        *({"outputs": outputs} for outputs in (None, [], {}, {"labels": None}, {"labels": {"bytes": 5}})),
        *({"outputs": {"labels": {"file": file, "bytes": 5}}} for file in (5, "", "..", "a/b", "a\0b", "x" * 256)),
        {"input": {"sha256": "ab"}},
        {"options": []},
    ],
)
def test_not_done_by_a_report_that_is_none(done, change):
    done.write_text(json.dumps(json.loads(done.read_text()) | change))
    assert not is_done(done, order())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 1}'])
def test_not_done_by_what_is_no_report(done, content):
    done.write_bytes(content)
    assert not is_done(done, order())


def test_no_report(tmp_path):
    assert read_report(tmp_path / "none.json") is None


def test_a_report_that_cannot_be_written(tmp_path):
    report = Report(input=INPUT, model=MODEL, options=OPTIONS, outputs={})
    with pytest.raises(OutputError, match="none"):
        write_report(tmp_path / "none" / "report.json", report)


def test_what_others_wrote_into_a_report_stays_when_something_is_added(done):
    done.write_text(json.dumps(json.loads(done.read_text()) | {"lab": {"slide": 7}}))
    write_report(done, read_report(done).with_fields(device="cpu"), onto=done, mtime_ns=10**18)
    values = json.loads(done.read_text())
    assert (values["lab"], values["device"]) == ({"slide": 7}, "cpu")
    assert done.stat().st_mtime_ns == 10**18


@pytest.mark.keras
def test_versions_name_what_computes():
    assert {"densecell-batch", "python", "keras", "numpy"} <= versions().keys()
