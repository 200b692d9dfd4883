"""Notes of shards that failed, and what the one who assembles makes of them."""

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from kills import MODEL

from densecell_batch.cli import segment as command
from densecell_batch.data import SAMPLE
from densecell_batch.errors import OutputError, StackError
from densecell_batch.runs import pipeline
from densecell_batch.runs.shard_notes import forget_failures, note_failure, noted_failures


def test_each_reason_is_told_once(tmp_path):
    for index in (1, 2, 10):
        note_failure(tmp_path, "cells", (index, 12), "x.tif: damaged")
    note_failure(tmp_path, "cells", (3, 12), "no room")
    note_failure(tmp_path, "other", (4, 12), "another stack")
    told = "shards 1/12, 2/12, 10/12 failed: x.tif: damaged; shard 3/12 failed: no room"
    assert noted_failures(tmp_path, "cells") == told


def test_a_shard_takes_back_its_own_and_those_of_other_divisions(tmp_path):
    for shard in ((1, 2), (2, 2), (2, 3)):
        note_failure(tmp_path, "cells", shard, "why")
    forget_failures(tmp_path, "cells", (1, 2))
    assert noted_failures(tmp_path, "cells") == "shard 2/2 failed: why"
    forget_failures(tmp_path, "cells")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_noted_there_is_less_to_tell(tmp_path):
    note_failure(tmp_path / "none", "cells", (1, 2), "why")
    forget_failures(tmp_path / "none", "cells")
    assert noted_failures(tmp_path / "none", "cells") == ""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Segment a stack with more options; exit code and verdict lines."""
    volume = np.tile(tifffile.imread(SAMPLE)[:, :48, :48], (2, 1, 1))
    tifffile.imwrite(tmp_path / "cells.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    monkeypatch.setattr("densecell_batch.cli.segment.stop_on_signals", lambda: None)

    def run(*words):
        words = [tmp_path / "cells.tif", "-o", tmp_path / "out", "--model", MODEL, "--tile", "5,48,48", *words]
        done = CliRunner().invoke(command.segment, [*map(str, words), "--precision", "float32", "--no-preview"])
        return done.exit_code, [line.split("\t")[1:] for line in done.stdout.splitlines()]

    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("error", "code"), [(StackError("the stack is at fault"), 0), (OutputError("this node is at fault"), 1)]
)
def test_a_task_fails_for_what_went_wrong_in_it_alone(error, code, run, tmp_path, monkeypatch):
    """And the job after the array tells of both."""

    def broken(*arguments, **options):
        raise error

    assert run("--shard", "1/2")[1][0][0] == "part"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "segment_prepared", broken)
        assert run("--shard", "2/2", "--array-task") == (code, [["failed", str(tmp_path / "cells.tif"), str(error)]])
        assert run("--shard", "2/2")[0] == 1  # by hand every failure counts
    (exit_code, [verdict]) = run("--assemble")
    assert exit_code == 1
    assert f"pieces are missing: shard 2/2 failed: {error}; run the shards that did not finish again" in verdict[2]
    assert not any(".failed-" in name for name in names(tmp_path / "out"))  # told of
    assert run("--shard", "2/2", "--array-task")[1][-1][0] == "ok"
    assert names(tmp_path / "out") == {"cells_labels.tif", "cells_report.json"}


def test_what_a_later_attempt_mended_is_not_told(run, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise OutputError("full")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "segment_prepared", broken)
        run("--shard", "2/2")
    assert ".cells.failed-2-of-2" in names(tmp_path / "out")
    assert run("--shard", "2/2")[1][0][0] == "part"
    assert ".cells.failed-2-of-2" not in names(tmp_path / "out")
