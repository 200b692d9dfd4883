"""The loop: look, take the next stack, work on it, say how it ended, wait."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import (
    BusyError,
    DensecellError,
    DeviceError,
    DiskFullError,
    ModelError,
    OptionError,
    OutputError,
    StackError,
    Stopped,
)
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.io.discovery import natural_key, stamp_of
from densecell_batch.io.formats.ome_set import files_of
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.printable import printable
from densecell_batch.runs.batch import Verdict, segment_batch
from densecell_batch.runs.checks import check_result_names
from densecell_batch.runs.journal import remove_jobs
from densecell_batch.runs.outputs import OutputPaths, stack_name
from densecell_batch.runs.pipeline import Progress
from densecell_batch.storage.atomic import remove_remains
from densecell_batch.watch.board import Board
from densecell_batch.watch.command import run_hook
from densecell_batch.watch.events import Events
from densecell_batch.watch.inbox import FolderGoneError, Inbox, Sighting, check_whole
from densecell_batch.watch.ledger import Ledger, Row, read_tables
from densecell_batch.watch.moving import move_below
from densecell_batch.watch.place import Place, ledgers_of, owns
from densecell_batch.watch.results import Result, Results
from densecell_batch.watch.status_page import Situation, write_status_page
from densecell_batch.watch.stopping import Stop

__all__ = ["WatchOptions", "Watcher"]

_log = logging.getLogger(__name__)

_GAP = 0.2  # seconds between two scans, at least
_SHARE = 20  # and so many times what a scan takes: a large folder must not keep the processor busy
_CRASHES = 10  # times that the process died at a stack, after which it is given up
_PAGE = 2.0  # seconds between two status pages, at least
_REFRESH = 30.0  # seconds after which a page is written again to say that somebody is there
_ELSEWHERE = 10.0  # seconds after which to ask again whether another watcher is done with a stack


@dataclass(frozen=True)
class WatchOptions:
    """What the user asks of the watching; the flags of `densecell-batch watch`."""

    interval: float = 30.0  # seconds between scans
    quiet: float = 30.0  # seconds without a change
    attempts: int = 3
    backoff: float = 60.0  # seconds after the first failure; doubled after each further one
    poll: bool = False
    once: bool = False
    slices: bool = True
    marker: str = ".done"
    hook: tuple[str, ...] = ()
    max_voxels: float = 1e13  # of a stack
    move_done: Path | None = None
    move_failed: Path | None = None


class _Changed(Exception):  # noqa: N818 (an event, not a fault)
    """The stack is not what it was when it was chosen: somebody replaced, completed or removed it."""


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
        segmenter: Segmenter,
        options: WatchOptions,
        say: Callable[[Verdict], None],
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._root, self._place, self._ledger = root, place, ledger
        self._segmenter, self._options = segmenter, options
        self._say, self._progress, self._stop = say, progress, stop
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
        self._awake = threading.Event()
        self._events = None if options.poll else Events(root, skip, self._awake.set)
        self._look_at = self._page_at = self._tick_at = self._pause_until = 0.0
        self._trouble = ""  # why nothing is done at this moment
        self._complaint = ""  # the same, until something could be done again
        self._gone = False  # whether a folder is away
        self._page_late = False  # something happened since the status page was written
        self._page_state: object = None  # what the page shows
        self._current = ""  # the stack that is being worked on
        self._failures = 0
        self._cleaned: set[Path] = set()

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
        self._recover()
        try:
            while True:
                self._look()
                row = None if self._trouble else self._board.next()
                if row is not None:
                    self._work(row)
                elif self._options.once and (self._trouble or self._board.drained):
                    break
                self._show_page()
                if row is None:
                    self._wait()
        finally:
            if self._events is not None:
                self._events.close()
            self._show_page(last=True)
        failed = self._failures or any(row.state == "failed" for row in self._board.rows.values())
        return 1 if failed or self._trouble else 0

    # Looking and waiting

    def _look(self) -> None:
        """Scan the folder, unless that was a moment ago."""
        begun = time.monotonic()
        if begun < self._look_at:
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
            self._look_at = begun + min(self._options.interval, 5.0)
            return
        if self._gone:
            self._gone, self._trouble = False, ""
            self._relieved()
        elif begun >= self._pause_until and not self._options.once:
            self._trouble = ""  # a new try; if it fails for the same reason, nothing new is said
        self._look_at = time.monotonic() + max(_GAP, _SHARE * (time.monotonic() - begun))

    def _wait(self) -> None:
        """Until something may have to be done: the next scan, an event, a stack that becomes quiet, a new attempt."""
        now, due = time.monotonic(), self._board.due()
        until = now + self._options.interval
        if self._trouble:
            until = self._pause_until
        elif due is not None:
            until = min(until, due)
        if self._page_late:
            until = min(until, self._page_at)
        with self._stop.heeded():
            # A little late rather than a little early, which would cost another round.
            if self._awake.wait(max(0.0, max(until, self._look_at) - now) + 0.005):
                self._awake.clear()
                pause = max(self._look_at, self._pause_until if self._trouble else 0.0) - time.monotonic()
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
                if ours:
                    self._attempt(row, inherited=ours == "inherited")
                else:
                    self._leave(row, self._place.waits_for("name", name))
            self._relieved()
        except _Changed:
            self._board.reconsider(row)
            self._look_at = 0.0
        except (OutputError, FolderGoneError) as error:  # nothing that is wrong with the stack
            row.state, row.reason = "queued", str(error)
            self._board.queue(row)
            self._ledger.put(row)
            seconds = self._options.backoff
            self._pause(f"{error}; nothing is done until then, next try in {seconds:g} s", seconds)
        finally:
            self._current = ""

    def _leave(self, row: Row, why: str) -> None:
        news = row.reason != why
        self._board.leave(row, min(self._options.interval, _ELSEWHERE), why)
        if news:
            self._ledger.put(row)
            self._page_late = True

    def _attempt(self, row: Row, *, inherited: bool) -> None:
        """Work on a stack that nobody else works on."""
        sighting, paths = self._board.sighting(row), self._board.paths(row)
        self._board.take(row)
        if self._board.judge(row) != "queued":  # another watcher was quicker
            self._catch_up(row, sighting.path, inherited=inherited)
            return
        if stamp_of(sighting.path, self._inbox.reach) != sighting.stamp:
            raise _Changed
        if (reason := self._results.wrong_place(paths)) is not None:
            row.attempts, row.reason = row.attempts + 1, f"{sighting.path}: {reason}"
            _log.error("%s: %s", row.name, row.reason)
            self._conclude_failure(row, sighting.path)
            return
        if row.crashes >= _CRASHES:
            reason = f"the program ended {row.crashes} times in the midst of it; was it killed for taking much memory?"
            self._fail(row, sighting, paths, StackError(f"{sighting.path}: {reason}"), for_good=True)
            return
        row.state, row.started, row.progress = "running", time.time(), 0.0
        row.crashes += 1  # taken back below, unless the process ends
        self._ledger.put(row)
        try:
            found = self._segment(row, sighting, paths)
        except (Stopped, ModelError, DeviceError):  # without nets no stack can be done
            row.state, row.crashes = "queued", row.crashes - 1
            self._ledger.put(row)
            raise
        except DiskFullError as error:
            row.crashes -= 1
            if not self._place.has_room():
                raise
            self._fail(row, sighting, paths, error)  # this one is too large, others may not be
            return
        except _Changed:
            raise
        except Exception as error:  # whatever a stack does, it ends as that stack's verdict
            row.crashes = 0
            if not isinstance(error, DensecellError):
                _log.debug("traceback", exc_info=True)
                name = type(error).__name__
                error = StackError(f"{sighting.path}: internal error, please report it: {name}: {error}")
            if stamp_of(sighting.path, self._inbox.reach) != sighting.stamp:
                raise _Changed from error
            self._place.check()
            self._fail(row, sighting, paths, error)
            return
        row.crashes = 0
        if found is None:
            self._ledger.put(row)
        else:
            self._conclude(row, sighting.path, found)

    def _segment(self, row: Row, sighting: Sighting, paths: OutputPaths) -> Result | None:
        """Results of a stack, made now or found; None if another watcher is making them under another name."""
        stop, path = self._stop, sighting.path
        with stop.heeded():
            check_result_names(path, paths, self._segmenter.options)
            check_whole(path, self._inbox.reach, self._check_size)
            self._check_rivals(sighting, paths)
            with open_stack(path, reach=self._inbox.reach) as stack:
                row.sha256 = stack.sha256()
        if stamp_of(path, self._inbox.reach) != sighting.stamp:
            raise _Changed
        if (found := self._results.of_content(paths, row.sha256)) is not None:
            self._results.keep_earlier(paths, row.sha256)
            self._results.name_twin(sighting, found)
            return found
        with self._place.claim("content", row.sha256) as ours:
            if not ours:
                self._leave(row, self._place.waits_for("content", row.sha256))
                return None
            self._results.keep_earlier(paths, row.sha256)
            if paths.folder not in self._cleaned:
                remove_remains(paths.folder)
                self._cleaned.add(paths.folder)
            with stop.heeded():
                self._segmenter.load()  # if that was not done yet
                (verdict,) = segment_batch([path], paths.folder, self._segmenter, self._follow(row))
            if isinstance(verdict.error, BusyError):  # somebody segments it by hand
                self._leave(row, str(verdict.error))
                return None
            if isinstance(verdict.error, OptionError):
                remove_jobs(paths.folder, stack_name(path))  # begun with what this machine cannot go on with
            if isinstance(verdict.error, DensecellError):
                raise verdict.error
            if verdict.error is not None:
                raise StackError(verdict.reason)
            found = self._results.current(paths)
            if found is None:
                raise _Changed
            # If another file took the place of this one a moment ago, it is that one that was segmented.
            self._results.remember(found)
            return found

    def _check_size(self, stack: Stack) -> None:
        """Raise StackError if a stack is too large to be worked on."""
        voxels, most = stack.info.n_voxels, self._options.max_voxels
        if voxels > most:
            raise StackError(
                f"{stack.info.path}: it has {voxels:.3g} voxels; expected at most {most:.3g}: if it is meant, start "
                "the watcher with a larger --max-voxels"
            )
        self._segmenter.check_memory(stack)

    def _check_rivals(self, sighting: Sighting, paths: OutputPaths) -> None:
        """Raise StackError if results of this stack would take the place of those of another one beside it."""
        here = sighting.path.name
        candidates = (here, *(name for name in sighting.rivals if self._may_be_done(sighting.path.with_name(name))))
        owner = self._results.made_from(paths)
        if owner not in candidates:
            owner = min(candidates, key=lambda name: natural_key(Path(name)))
        if owner != here:
            raise StackError(
                f"{sighting.path}: its results would be called as those of {owner}, which lies beside it; rename one"
            )

    def _may_be_done(self, rival: Path) -> bool:
        """Whether another stack of the same name is one that results can come of."""
        row = self._ledger.get(printable(rival.relative_to(self._root).as_posix()))
        try:
            is_link = stat.S_ISLNK(self._inbox.reach.stat(rival).st_mode)
        except OSError:
            return False
        return not is_link and (row is None or row.state != "failed")

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

    # Concluding

    def _conclude(self, row: Row, stack: Path, found: Result) -> None:
        """The results are there: tell everybody. If the process dies here, the next one tells everybody again."""
        for file in files_of(
            stack, self._inbox.reach
        ):  # of a set: each of them may have failed alone before the others came
            self._results.forget_texts(self._results.paths(file), found)
        verdict = Verdict(stack, found.labels, found.report)
        self._run_hook(verdict)
        if self._options.move_done is not None:
            self._move(stack, row, self._options.move_done)
        self._board.note_done(row, found)
        row.finished = time.time()
        self._ledger.put(row)
        self._say(verdict)

    def _fail(
        self, row: Row, sighting: Sighting, paths: OutputPaths, error: DensecellError, *, for_good: bool = False
    ) -> None:
        """An attempt failed: the next one comes later, or it was the last."""
        row.attempts += 1
        row.reason = " ".join(str(error).split())
        _log.error("%s: attempt %d of %d: %s", row.name, row.attempts, self._options.attempts, row.reason)
        if row.attempts < self._options.attempts and not for_good:
            row.state = "queued"
            row.retry_at = time.time() + self._options.backoff * 2 ** (row.attempts - 1)
            self._board.queue(row)
            self._ledger.put(row)
            return
        self._results.write_error(paths, sighting, row.reason, row.attempts)
        self._conclude_failure(row, sighting.path)

    def _conclude_failure(self, row: Row, stack: Path) -> None:
        self._failures += 1
        verdict = Verdict(stack, reason=row.reason)
        self._run_hook(verdict)
        if self._options.move_failed is not None:
            self._move(stack, row, self._options.move_failed)
        row.state, row.finished = "failed", time.time()
        self._ledger.put(row)
        self._say(verdict)

    def _run_hook(self, verdict: Verdict) -> None:
        if self._options.hook:
            with self._stop.heeded():
                run_hook(self._options.hook, verdict, self._place.out)

    def _move(self, stack: Path, row: Row, folder: Path) -> None:
        if stamp_of(stack, self._inbox.reach) != row.stamp:
            return  # it was replaced a moment ago, or is gone
        try:
            move_below(stack, self._inbox.reach, folder)
        except OutputError as error:
            _log.error("%s: it stays where it is: %s", stack, error)

    def _recover(self) -> None:
        """Go on where a process that ended was: after its last write, before it could say so."""
        for row in self._ledger.of_state("running"):
            stack = self._root / row.name
            with self._place.claim("name", self._results.shown(self._results.paths(stack).report)) as ours:
                if ours:
                    self._catch_up(row, stack, inherited=ours == "inherited")

    def _catch_up(self, row: Row, stack: Path, *, inherited: bool) -> None:
        """Write down how a stack ended in another process. If that one died with the claim in its hand, nobody was told
        yet.
        """
        state, found = self._board.catch_up(row, stack)
        if found is not None and inherited:
            self._results.remember(found)
            self._conclude(row, stack, found)
        elif state == "failed" and inherited:
            self._conclude_failure(row, stack)
        self._ledger.put(row)

    def _show_page(self, *, last: bool = False) -> None:
        """Write the status page, now and then."""
        begun = time.monotonic()
        links = tuple(sorted(self._inbox.links))
        state = (self._ledger.changes, self._complaint, self._board.arriving, links)
        if state == self._page_state and begun < self._page_at + _REFRESH and not last:
            self._page_late = False  # nothing is new but the time
            return
        if begun < self._page_at and not last:
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
        self._page_at = time.monotonic() + max(_PAGE, _SHARE * (time.monotonic() - begun))
