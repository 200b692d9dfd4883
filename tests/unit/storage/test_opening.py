"""Files that somebody else put there."""

from __future__ import annotations

import os

import pytest

from densecell_batch.runs.ownership import compare, foreign
from densecell_batch.runs.report import Input, Model, Report, read_report, write_report
from densecell_batch.storage.claims import claimed, is_claimed, is_mine
from densecell_batch.storage.opening import read_json, read_small
from densecell_batch.storage.records import described


def a_link(path):
    path.with_name("secret").write_text('{"schema_version": 1, "input": {}, "outputs": {}}')
    path.symlink_to("secret")


def a_huge_file(path):
    with path.open("wb") as stream:
        stream.truncate(2**40)


KINDS = {
    "link": a_link,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "huge": a_huge_file,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture(params=KINDS)
def bad(request, tmp_path):
    path = tmp_path / "cells_report.json"
    KINDS[request.param](path)
    return path


@pytest.mark.timeout(30)
def test_what_is_no_small_regular_file_is_not_read(bad):
    with pytest.raises(OSError, match="Errno"):
        read_small(bad)
    assert read_report(bad) is None
    assert foreign(bad, [bad]) == [bad]


@pytest.mark.timeout(30)
def test_such_a_file_is_no_claim_of_ours(bad):
    assert not is_mine(bad)
    is_claimed(bad)
    with claimed(bad) as ours:
        assert not ours


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a":' * 100_000, "nan nan", b"\xff\xfe\x00", "{" * 10])
def test_no_json(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"deep|Expecting|codec|double quotes"):
        read_json(path)
    assert read_report(path) is None


@pytest.mark.timeout(30)
def test_a_pipe_under_the_name_of_an_output_is_not_waited_for(tmp_path):
    report = tmp_path / "cells_report.json"
    os.mkfifo(tmp_path / "cells_labels.tif")
    given = Input(sha256="ab", shape=(3, 4, 5), dtype="uint8", voxel_size_um=None)
    model = Model(name="tiny", version="1", licence="CC0", members=("cd",))
    content = Report(input=given, model=model, options={}, outputs={"labels": described("cells_labels.tif", b"")})
    write_report(report, content)
    assert compare(report, content) == ([tmp_path / "cells_labels.tif"], [])
