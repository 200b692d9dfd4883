"""What is in the folder and what is to be done about it: which stacks are still being copied, and who is next.

::

    seen --quiet--> queued --claimed--> running --+--> done
                      ^                           |
                      +------- back-off ----------+--> failed, with an error text

A stack that changes begins again at the left. All of it is found again after a crash: see `results`.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from densecell_batch.io.discovery import natural_key
from densecell_batch.runs.paths import StackPaths
from densecell_batch.watch.inbox import Inbox, Sighting
from densecell_batch.watch.ledger import Ledger, Row
from densecell_batch.watch.results import Result, Results

__all__ = ["Board"]

_log = logging.getLogger(__name__)


class Board:
    """The stacks of a watched folder, each with its row of the table.

    Attributes
    ----------
    rows : dict
        Name -> row, of all that was in the folder at the last look.
    """

    def __init__(self, inbox: Inbox, results: Results, ledger: Ledger, *, keep_failed: bool) -> None:
        self._inbox, self._results, self._ledger = inbox, results, ledger
        self._keep_failed = keep_failed  # on record when they leave the folder: we moved them
        self.rows: dict[str, Row] = {}
        self._sightings: dict[str, Sighting] = {}
        self._arriving: set[str] = set()  # seen, not yet quiet
        self._queue: set[str] = set()
        self._elsewhere: dict[str, float] = {}  # being worked on by another watcher; when to ask again
        self._looked = False

    # Looking

    def look(self, current: str = "") -> None:
        """Compare what is in the folder with what is known; of the stack that is being worked on later.

        Raises
        ------
        FolderGoneError
            If the folder cannot be read.
        """
        self._sightings = self._inbox.look()
        settled = [self._settle(sighting) for name, sighting in self._sightings.items() if name != current]
        self._ledger.put(*(row for row in settled if row is not None))
        for name in self.rows.keys() - self._sightings.keys() - {current}:
            self._forget(name)
        if not self._looked:
            self._looked = True
            for row in self._ledger.of_state("queued"):
                if row.name not in self._sightings:  # taken out while nobody watched
                    self._ledger.remove(row.name)

    def _settle(self, sighting: Sighting) -> Row | None:
        """Decide what is to be done about a stack; its row, if there is something new to write down."""
        name = sighting.name
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = self._known(sighting)
            if row.state == "queued":
                self._arriving.add(name)
        if row.stamp != sighting.stamp:
            row = self.rows[name] = _fresh(sighting)
            self.reconsider(row)
        if name in self._arriving and time.monotonic() >= self._inbox.quiet_at(sighting):
            self._arriving.discard(name)
            if self.judge(row) == "queued":
                self.queue(row)
            return row
        if row.state == "failed" and self._results.wrong_place(self.paths(row)):
            return None  # there is no place for an error text either
        if row.state == "failed" and self._results.error_of(self.paths(row), name, row.stamp) is None:
            _log.info("%s: its error text is gone: tried again", name)
            row.state, row.attempts, row.crashes, row.reason, row.retry_at = "queued", 0, 0, "", 0.0
            self.queue(row)
            return row
        return None

    def _known(self, sighting: Sighting) -> Row:
        """What the table says of a stack that was not there at the last look."""
        row = self._ledger.get(sighting.name)
        if row is None or row.stamp != sighting.stamp:
            return _fresh(sighting)
        if row.state == "done" and not self._results.is_there(row.report, row.sha256):
            return _fresh(sighting)
        if row.state == "running":  # so it was when its watcher ended
            row.state = "queued"
        return row

    def _forget(self, name: str) -> None:
        """A stack was taken out of the folder. What was done stays on record."""
        row = self.rows.pop(name)
        self._arriving.discard(name)
        self._queue.discard(name)
        self._elsewhere.pop(name, None)
        if row.state in ("queued", "running") or (row.state == "failed" and not self._keep_failed):
            self._ledger.remove(name)

    # One stack

    def sighting(self, row: Row) -> Sighting:
        """As it was at the last look."""
        return self._sightings[row.name]

    def paths(self, row: Row) -> StackPaths:
        """Where its results go."""
        return self._results.paths(self._sightings[row.name].path)

    def judge(self, row: Row) -> str:
        """Whether a quiet stack is done already, failed for good, or is to be queued; its new state."""
        return self.catch_up(row, self._sightings[row.name].path)[0]

    def catch_up(self, row: Row, stack: Path) -> tuple[str, Result | None]:
        """The same of a stack that may not be in the folder any more; its new state, and its results."""
        paths = self._results.paths(stack)
        found = self._results.of_stamp(paths, row.stamp)
        reason = None if found else self._results.error_of(paths, row.name, row.stamp)
        if found is not None:
            self.note_done(row, found)
        elif reason is not None:
            row.state, row.reason = "failed", reason
        else:
            row.state = "queued"
        return row.state, found

    def note_done(self, row: Row, found: Result) -> None:
        """Write into a row what its results are."""
        row.state, row.reason, row.progress, row.retry_at, row.crashes = "done", "", 1.0, 0.0, 0
        row.sha256 = found.sha256
        row.labels, row.report = self._results.shown(found.labels), self._results.shown(found.report)
        row.confidence = found.content.mean_confidence
        with suppress(OSError):
            row.finished = found.report.stat().st_mtime

    # The queue

    def queue(self, row: Row) -> None:
        """It is to be worked on, when its time has come."""
        self._queue.add(row.name)

    def take(self, row: Row) -> None:
        """It is being worked on."""
        self._queue.discard(row.name)
        self._elsewhere.pop(row.name, None)

    def reconsider(self, row: Row) -> None:
        """It changed: wait until it is quiet again."""
        row.state = "queued"
        self._queue.discard(row.name)
        self._arriving.add(row.name)

    def leave(self, row: Row, seconds: float, why: str) -> None:
        """Another process works on it, or says so; see later what became of it."""
        row.state, row.reason = "queued", why
        self._queue.add(row.name)
        self._elsewhere[row.name] = time.monotonic() + seconds

    def next(self) -> Row | None:
        """The stack to work on: who waits longest, but after those at which no process died."""
        now, clock = time.time(), time.monotonic()
        ready = [
            row
            for row in map(self.rows.__getitem__, self._queue)
            if row.name in self._sightings and row.retry_at <= now and self._elsewhere.get(row.name, 0.0) <= clock
        ]
        return min(ready, key=lambda row: (row.crashes, row.seen, natural_key(Path(row.name))), default=None)

    def due(self) -> float | None:
        """Monotonic time at which something has to be done: a stack becomes quiet, or its next attempt is due."""
        times = [self._inbox.quiet_at(self._sightings[name]) for name in self._arriving & self._sightings.keys()]
        later = time.monotonic() - time.time()
        times += [
            self._elsewhere.get(name, self.rows[name].retry_at + later) for name in self._queue & self.rows.keys()
        ]
        return min(times, default=None)

    @property
    def arriving(self) -> int:
        """How many stacks are not quiet yet."""
        return len(self._arriving)

    @property
    def drained(self) -> bool:
        """Whether nothing is left that is not in the hands of another watcher."""
        return not self._arriving and self._queue <= self._elsewhere.keys()


def _fresh(sighting: Sighting) -> Row:
    stamp = sighting.stamp
    # To the second: of stacks that arrive together, the natural order of names decides whose turn it is.
    return Row(sighting.name, stamp.files, stamp.bytes, stamp.mtime_ns, seen=round(time.time()))
