"""The loop: look, take the next stack, work on it, say how it ended, wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from densecell_batch.errors import (
    BusyError,
    DensecellError,
    OutputError,
)
from densecell_batch.runs.batch import Verdict
from densecell_batch.runs.options import RunSegmenter
from densecell_batch.runs.pipeline import Progress
from densecell_batch.runs.run_tables import write_run_tables
from densecell_batch.runs.summary import SUMMARY, is_outdated, write_summary
from densecell_batch.signals import Stop
from densecell_batch.watch.attempt import Attempts, Changed
from densecell_batch.watch.board import Board
from densecell_batch.watch.events import Events
from densecell_batch.watch.inbox import FolderGoneError, Inbox
from densecell_batch.watch.ledger import Ledger, Row, read_tables
from densecell_batch.watch.options import WatchOptions
from densecell_batch.watch.place import Place, ledgers_of, owns
from densecell_batch.watch.results import Results, failures
from densecell_batch.watch.status_page import Situation, write_status_page

__all__ = ["Watcher"]

_log = logging.getLogger(__name__)

_GAP = 0.2  # seconds between two scans, at least
_SHARE = 20  # and so many times what it takes: a large folder must not keep the processor busy
_PAGE = 2.0  # seconds between two status pages, at least
_REFRESH = 30.0  # seconds after which a page is written again to say that somebody is there


class _Pace:
    """When to do something again. Of what it took the last two times the less counts: a network that was away for a
    minute is no reason to look away for twenty.
    """

    def __init__(self, least: float = 0.0) -> None:
        self.due = 0.0
        self._least, self._took = least, 0.0

    def done(self, begun: float) -> None:
        """It is done, and was begun at this time."""
        took = time.monotonic() - begun
        self.due = time.monotonic() + max(self._least, _SHARE * min(took, self._took))
        self._took = took


class Watcher:
    """One process that watches a folder.

    Parameters
    ----------
    root
        The watched folder.
    place
        What watchers keep in the output folder.
    ledger
        The table of this watcher.
    segmenter
        The nets, which stay loaded.
    options
        How to watch.
    say
        Told of each stack that is done or given up.
    progress
        As of `segment_stack`.
    stop
        Whether the process was asked to stop.
    """

    def __init__(
        self,
        root: Path,
        place: Place,
        ledger: Ledger,
        segmenter: RunSegmenter,
        options: WatchOptions,
        say: Callable[[Verdict], None],
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._root, self._place, self._ledger = root, place, ledger
        self._options = options
        self._progress, self._stop = progress, stop
        skip = [path for path in (place.out, options.move_done, options.move_failed) if path is not None]
        inbox = self._inbox = Inbox(
            root,
            quiet=options.quiet,
            skip=skip,
            slices=options.slices,
            marker=options.marker,
            links=segmenter.options.follow_links,
        )
        self._results = Results(place, root, segmenter.options.hooks.post)
        self._board = Board(inbox, self._results, ledger, keep_failed=options.move_failed is not None)
        self._attempts = Attempts(
            root, place, inbox, self._results, ledger, self._board, segmenter, options, say, self._follow, stop
        )
        self._awake = threading.Event()
        self._events = None if options.poll else Events(root, skip, self._awake.set)
        self._scans, self._pages, self._summaries = _Pace(_GAP), _Pace(_PAGE), _Pace()
        self._tick_at = self._pause_until = 0.0
        self._trouble = ""  # why nothing is done at this moment
        self._complaint = ""  # the same, until something could be done again
        self._gone = False  # whether a folder is away
        self._page_late = False  # something happened since the status page was written
        self._page_state: object = None  # what the page shows
        self._current = ""  # the stack that is being worked on
        self._has_objects = bool(segmenter.options.objects)
        self._new_tables = {place.out} if self._has_objects else set()  # folders that may have some
        self._news = options.summary and is_outdated(
            [place.out], place.out / SUMMARY, below=True
        )  # whether there is something to put on the page of all stacks

    def run(self) -> int:
        """Watch until stopped, or, if asked to do so once, until nothing is left to do.

        Returns
        -------
        int
            1 if the folder holds a stack that failed, or could not be worked on; else 0.

        Raises
        ------
        Stopped
            On SIGTERM or SIGINT. The same command goes on.
        OptionError, ModelError, DeviceError
            If it cannot go on with this model and these options.
        """
        self._attempts.recover()
        try:
            while True:
                self._look()
                row = None if self._trouble else self._board.next()
                if row is not None:
                    self._work(row)
                elif self._options.once and (self._trouble or self._board.drained):
                    self._join_tables()
                    self._sum_up(last=True)
                    break
                if row is None:
                    self._join_tables()
                    self._sum_up()
                self._show_page()
                if row is None:
                    self._wait()
        finally:
            if self._events is not None:
                self._events.close()
            self._show_page(last=True)
        failed = self._attempts.failures or any(row.state == "failed" for row in self._board.rows.values())
        return 1 if failed or self._trouble else 0

    # Looking and waiting

    def _look(self) -> None:
        """Scan the folder, unless that was a moment ago."""
        begun = time.monotonic()
        if begun < self._scans.due:
            return
        try:
            self._place.check()
            with self._stop.heeded():
                self._board.look(self._current)
            if self._events is not None:
                self._events.attend()
        except FolderGoneError as error:
            self._gone = True
            self._pause(f"{error}: waiting for it", self._options.interval)
            self._scans.due = begun + min(self._options.interval, 5.0)
            return
        if self._gone:
            self._gone, self._trouble = False, ""
            self._relieved()
        elif begun >= self._pause_until and not self._options.once:
            self._trouble = ""  # a new try; if it fails for the same reason, nothing new is said
        self._scans.done(begun)

    def _wait(self) -> None:
        """Until something may have to be done: the next scan, an event, a stack that becomes quiet, a new attempt."""
        now, due = time.monotonic(), self._board.due()
        until = now + self._options.interval
        if self._trouble:
            until = self._pause_until
        elif due is not None:
            until = min(until, due)
        if self._page_late:
            until = min(until, self._pages.due)
        with self._stop.heeded():
            # A little late rather than a little early, which would cost another round.
            if self._awake.wait(max(0.0, max(until, self._scans.due) - now) + 0.005):
                self._awake.clear()
                pause = max(self._scans.due, self._pause_until if self._trouble else 0.0) - time.monotonic()
                if pause > 0:
                    time.sleep(pause)

    def _pause(self, reason: str, seconds: float) -> None:
        """Do nothing for a while, and say why, once."""
        if reason != self._complaint:
            _log.error("%s", reason)
        self._trouble = self._complaint = reason
        self._pause_until = time.monotonic() + seconds

    def _relieved(self) -> None:
        if self._complaint:
            _log.info("going on")
        self._complaint = ""

    # Working

    def _work(self, row: Row) -> None:
        """Work on one stack, whatever comes of it."""
        self._current = row.name
        try:
            self._place.check()
            if not owns(self._ledger.path):
                raise DensecellError(
                    f"{self._ledger.path}: taken over by another watcher, since this one was not heard of for "
                    "minutes; start it again"
                )
            name = self._results.shown(self._board.paths(row).report)
            with self._place.claim("name", name) as ours:
                self._news = self._options.summary
                if ours and self._has_objects:
                    self._new_tables.add(self._board.paths(row).folder)
                if ours:
                    self._attempts.make(row, inherited=ours == "inherited")
                else:
                    self._attempts.leave(row, self._place.waits_for("name", name))
            self._relieved()
        except Changed:
            self._board.reconsider(row)
            self._scans.due = 0.0
        except (OutputError, FolderGoneError) as error:  # nothing that is wrong with the stack
            row.state, row.reason = "queued", str(error)
            self._board.queue(row)
            self._ledger.put(row)
            seconds = self._options.backoff
            self._pause(f"{error}; nothing is done until then, next try in {seconds:g} s", seconds)
        finally:
            self._current = ""

    def _join_tables(self) -> None:
        """Write the tables of all stacks anew, where there are new ones, when there is nothing else to do."""
        for folder in sorted(self._new_tables):
            try:
                self._place.check()
                write_run_tables(folder)
            except (OutputError, FolderGoneError) as error:
                _log.debug("%s", error)  # what is wrong with the folder is said elsewhere
            else:
                self._new_tables.discard(folder)

    def _sum_up(self, *, last: bool = False) -> None:
        """Write the page of all stacks anew, if there is something new, when there is nothing else to do."""
        begun = time.monotonic()
        if not self._news or (begun < self._summaries.due and not last):
            return
        out = self._place.out
        try:
            self._place.check()
            write_summary([out], out / SUMMARY, failed=failures(out), below=True)
        except (BusyError, OutputError, FolderGoneError) as error:
            _log.debug("%s", error)  # what is wrong with the folder is said elsewhere
        except Exception as error:  # the stacks are done: whatever their reports hold, a page ends no watcher
            self._news = False
            _log.error("%s: internal error: %s: %s", out / SUMMARY, type(error).__name__, error)
        else:
            self._news = False
        self._summaries.done(begun)

    def _follow(self, row: Row) -> Progress:
        """Progress that keeps looking at the folder, and the status page up to date, while a stack takes hours."""

        def progress(what: str, done: int, total: int) -> None:
            self._progress(what, done, total)
            if what == "segmenting" and total:
                row.progress = done / total
            if time.monotonic() >= self._tick_at:
                self._tick_at = time.monotonic() + max(_PAGE, min(self._options.interval, 10.0))
                self._ledger.put(row)
                self._look()
                self._show_page()

        return progress

    def _show_page(self, *, last: bool = False) -> None:
        """Write the status page, now and then."""
        begun = time.monotonic()
        links = tuple(sorted(self._inbox.links))
        state = (self._ledger.changes, self._complaint, self._board.arriving, links)
        if state == self._page_state and begun < self._pages.due + _REFRESH and not last:
            self._page_late = False  # nothing is new but the time
            return
        if begun < self._pages.due and not last:
            self._page_late = True
            return
        self._page_state = state
        self._page_late = False
        table = read_tables(ledgers_of(self._place.out))
        situation = Situation(
            str(self._root), table, self._board.arriving, trouble=self._complaint, links=links, stopped=last
        )
        try:
            self._place.check()
            write_status_page(self._place.out, situation)
        except (OutputError, FolderGoneError) as error:
            _log.debug("%s", error)  # what is wrong with the folder is said elsewhere
        self._pages.done(begun)
