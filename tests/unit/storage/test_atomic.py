"""Files whole or not at all; the remains of runs that were killed."""

import os
import subprocess
import sys
import time

import pytest

from densecell_batch.errors import OutputError
from densecell_batch.storage.atomic import remove_remains, replacing, temporary_name, write_file


def test_what_stood_there_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, may_exist=True) as temporary:
        temporary.write_text(f"{path.read_text()} {1 / 0}")
    assert path.read_text() == "old"
    write_file(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_replaced_unasked(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputError, match="exists already"), replacing(tmp_path / "a"):
        pass


@pytest.fixture(scope="module")
def dead_process():
    """Number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def left(folder, pid, host=None, age=0):
    """A temporary file of process `pid`."""
    path = temporary_name(folder / "cells_labels.tif")
    name = path.name.replace(f".{os.getpid()}.tmp", f".{pid}.tmp")
    if host is not None:
        name = f".cells_labels.tif.{host}.{pid}.tmp"
    path = path.with_name(name)
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_remains_of_a_dead_process_are_removed(tmp_path, dead_process):
    left(tmp_path, dead_process)
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("pid", "host", "age"), [("me", None, 0), ("dead", "another-node", 3600), (1, None, 3600)])
def test_what_may_be_in_use_stays(tmp_path, dead_process, pid, host, age):
    path = left(tmp_path, {"me": os.getpid(), "dead": dead_process}.get(pid, pid), host, age)
    remove_remains(tmp_path)
    assert path.exists()


def test_remains_of_another_machine_go_after_a_day(tmp_path):
    left(tmp_path, 1, "another-node", 25 * 3600)
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["notes.tmp", ".hidden.tmp", ".a.b.tmp", "cells.host.12.tmp", ".cells.host.12.tif"])
def test_other_files_stay(tmp_path, name):
    path = tmp_path / name
    path.write_text("mine")
    os.utime(path, (0, 0))
    remove_remains(tmp_path)
    assert path.exists()


def test_no_folder(tmp_path):
    remove_remains(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
