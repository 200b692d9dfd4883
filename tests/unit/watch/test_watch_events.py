"""Events of the real file system, and life without them."""

import sys
import threading
import time
from contextlib import contextmanager

import pytest

from densecell_batch.watch.events import Events


@contextmanager
def attended(root, skip=()):
    awake = threading.Event()
    events = Events(root, skip, awake.set)
    events.attend()
    awake.clear()
    try:
        yield events, awake
    finally:
        events.close()


def settle(awake):
    time.sleep(0.3)
    awake.clear()


@pytest.mark.parametrize("folder", [".", "sub", "new"])
def test_changes_wake(tmp_path, folder):
    (tmp_path / "sub").mkdir()
    with attended(tmp_path) as (_, awake):
        (tmp_path / folder).mkdir(exist_ok=True)
        time.sleep(0.3)
        path = tmp_path / folder / "a.tif"
        for change in (
            lambda: path.write_text("1"),
            lambda: path.write_text("12"),
            lambda: path.rename(path.with_name("b.tif")),
            lambda: path.with_name("b.tif").unlink(),
        ):
            settle(awake)
            change()
            assert awake.wait(10)


def test_reading_and_our_own_results_do_not(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "a.tif").write_text("1")
    with attended(tmp_path, [tmp_path / "out"]) as (_, awake):
        settle(awake)
        (tmp_path / "a.tif").read_text()
        list(tmp_path.iterdir())
        (tmp_path / "out" / "a_labels.tif").write_text("1")
        (tmp_path / "out" / "sub").mkdir()
        assert not awake.wait(0.7)
        (tmp_path / "out-of-this").mkdir()  # a name that only begins alike
        assert awake.wait(10)


def test_a_folder_that_was_away_is_attended_again(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    with attended(root) as (events, awake):
        root.rename(tmp_path / "away")
        events.attend()
        root.mkdir()
        events.attend()
        assert awake.wait(10)  # what came in between is not missed
        settle(awake)
        (root / "a.tif").write_text("1")
        assert awake.wait(10)


def test_without_watchdog_the_log_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "watchdog.events", None)
    with attended(tmp_path) as (events, awake):
        events.attend()
        (tmp_path / "a.tif").write_text("1")
        assert not awake.wait(0.3)
    assert caplog.text.count("scanned at intervals only") == 1
