"""A watcher in this process, whose surroundings can be broken; fixtures for the modules of tests that import them."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from watched import BUNDLE, wait_until

from densecell_batch.errors import Stopped
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.signals import Stop
from densecell_batch.watch.ledger import Ledger
from densecell_batch.watch.options import WatchOptions
from densecell_batch.watch.place import Place
from densecell_batch.watch.watcher import Watcher

QUICK = WatchOptions(interval=0.3, quiet=0.2, attempts=2, backoff=0.2, poll=True, once=True)


@pytest.fixture(scope="module")
def segmenter():
    """Loaded once for all tests."""
    made = RunSegmenter(load_bundle(BUNDLE), RunOptions(precision="float32", preview=False))
    made.load()
    return made


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


@contextmanager
def watching(folders, segmenter, options=QUICK, identity=None, **more):
    """A watcher with its table; what it says goes into a list."""
    inbox, out = folders
    place, said = Place(out, identity or Identity.of_any_stack(segmenter), **more), []
    with place.ledger() as path:
        ledger = Ledger(path, "this one")
        stop = Stop()
        try:
            yield Watcher(inbox, place, ledger, segmenter, options, said.append, lambda *_: None, stop), said, stop
        finally:
            ledger.close()


def drain(folders, segmenter, **changes):
    """Watch once: exit code and verdicts."""
    with watching(folders, segmenter, replace(QUICK, **changes)) as (watcher, said, _):
        return watcher.run(), said


@contextmanager
def in_thread(folders, segmenter, **changes):
    """A watcher that goes on until the block ends."""
    options, parts = replace(QUICK, once=False, **changes), []

    def run():
        with watching(folders, segmenter, options) as made, suppress(Stopped):
            parts.extend(made)
            made[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(parts) == 3, thread.is_alive)
    watcher, said, stop = parts
    try:
        yield said, thread
    finally:
        stop._asked = "the test"
        watcher._awake.set()
        thread.join(60)
        assert not thread.is_alive()


def names(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
