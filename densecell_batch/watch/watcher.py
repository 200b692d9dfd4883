"""The loop: look, choose a stack, work on it, say how it ended, wait.

::

    seen --quiet--> queued --claimed--> running --+--> done
                      ^                           |
                      +------- back-off ----------+--> failed, with an error text

A stack that changes begins again at the left. Whatever is said here is found again after a crash: see `results`.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.atomic import explained, remove_remains
from densecell_batch.batch import Verdict, segment_batch
from densecell_batch.errors import DensecellError, DiskFullError, OutputError, StackError, Stopped
from densecell_batch.outputs import OutputPaths
from densecell_batch.pipeline import Progress, Segmenter
from densecell_batch.stack_io import content_sha256, natural_key, open_stack, stamp_of
from densecell_batch.watch.events import Events
from densecell_batch.watch.hook import run_hook
from densecell_batch.watch.inbox import FolderGoneError, Inbox, Sighting, check_whole
from densecell_batch.watch.ledger import Ledger, Row, read_tables
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
        skip = [path for path in (place.out, options.move_done, options.move_failed) if path is not None]
        self._inbox = Inbox(root, quiet=options.quiet, skip=skip, slices=options.slices, marker=options.marker)
        self._place, self._ledger, self._segmenter, self._options = place, ledger, segmenter, options
        self._results = Results(place, root)
        self._say, self._progress, self._stop = say, progress, stop
        self._awake = threading.Event()
        self._events = None if options.poll else Events(root, skip, self._awake.set)
        self._sightings: dict[str, Sighting] = {}
        self._rows: dict[str, Row] = {}  # of what is in the folder
        self._waiting: set[str] = set()  # seen, not yet quiet
        self._queue: set[str] = set()
        self._elsewhere: dict[str, float] = {}  # being worked on by another watcher; when to ask again
        self._look_at = self._page_at = self._tick_at = self._pause_until = 0.0
        self._trouble = ""  # why nothing is done at this moment
        self._complaint = ""  # the same, until something could be done again
        self._looked = False  # for the first time
        self._gone = False  # whether a folder is away
        self._page_late = False  # something happened since it was written
        self._current = ""  # being worked on
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
        """
        self._recover()
        try:
            while True:
                self._look()
                row = None if self._trouble else self._next()
                if row is not None:
                    self._work(row)
                elif self._options.once and self._drained():
                    break
                self._show_page()
                if row is None:
                    self._wait()
        finally:
            if self._events is not None:
                self._events.close()
            self._show_page(last=True)
        failed = self._failures or any(row.state == "failed" for row in self._rows.values())
        return 1 if failed or self._trouble else 0

    # Looking

    def _look(self) -> None:
        """Compare what is in the folder with what is known."""
        begun = time.monotonic()
        if begun < self._look_at:
            return
        try:
            with self._stop.heeded():
                self._sightings = self._inbox.look()
            self._place.check()
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
        changed = []
        for sighting in self._sightings.values():
            row = self._settle(sighting)
            if row is not None:
                changed.append(row)
        self._ledger.put(*changed)
        for name in self._rows.keys() - self._sightings.keys() - {self._current}:
            self._forget(name)
        if not self._looked:
            self._forget_others()
        self._look_at = time.monotonic() + max(_GAP, _SHARE * (time.monotonic() - begun))

    def _settle(self, sighting: Sighting) -> Row | None:
        """Decide what is to be done about a stack; its row, if there is something new to write down."""
        name, now = sighting.name, time.monotonic()
        if name == self._current:
            return None
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._known(sighting)
            if row.state == "queued":
                self._waiting.add(name)
        if row.stamp != sighting.stamp:
            self._begin_anew(sighting)
            row = self._rows[name]
        if name in self._waiting and now >= self._inbox.quiet_at(sighting):
            self._waiting.discard(name)
            return self._judge(row, sighting)
        if row.state == "failed" and self._results.error_of(self._paths(sighting), name, sighting.stamp) is None:
            _log.info("%s: its error text is gone: tried again", name)
            row.state, row.attempts, row.crashes, row.reason, row.retry_at = "queued", 0, 0, "", 0.0
            self._queue.add(name)
            return row
        return None

    def _known(self, sighting: Sighting) -> Row:
        """What the table says of a stack that was not there at the last look."""
        row = self._ledger.get(sighting.name)
        if row is None or row.stamp != sighting.stamp:
            return _fresh(sighting)
        if row.state == "done" and not self._results.is_there(row.report, row.sha256):
            return _fresh(sighting)
        if row.state == "running":  # so it was when we ended
            row.state = "queued"
        return row

    def _begin_anew(self, sighting: Sighting) -> None:
        name = sighting.name
        self._rows[name] = _fresh(sighting)
        self._waiting.add(name)
        self._queue.discard(name)

    def _judge(self, row: Row, sighting: Sighting) -> Row:
        """Whether a quiet stack is done already, failed for good, or is to be queued."""
        paths = self._paths(sighting)
        found = self._results.of_stamp(paths, sighting.stamp)
        reason = None if found else self._results.error_of(paths, sighting.name, sighting.stamp)
        if found is not None:
            self._note_done(row, found)
        elif reason is not None:
            row.state, row.reason = "failed", reason
        else:
            row.state = "queued"
            self._queue.add(row.name)
        return row

    def _forget(self, name: str) -> None:
        """A stack was taken out of the folder. What was done stays on record."""
        row = self._rows.pop(name)
        self._waiting.discard(name)
        self._queue.discard(name)
        self._elsewhere.pop(name, None)
        if row.state in ("queued", "running") or (row.state == "failed" and self._options.move_failed is None):
            self._ledger.remove(name)

    def _forget_others(self) -> None:
        """Forget what the table says of stacks that were taken out of the folder while nobody watched."""
        self._looked = True
        for row in self._ledger.of_state("queued"):
            if row.name not in self._sightings:
                self._ledger.remove(row.name)

    def _paths(self, sighting: Sighting) -> OutputPaths:
        return self._results.paths(sighting.path)

    # Choosing and waiting

    def _next(self) -> Row | None:
        """The stack to work on: who waits longest, but after those at which no process died."""
        now, clock = time.time(), time.monotonic()
        ready = [
            row
            for row in map(self._rows.__getitem__, self._queue)
            if row.retry_at <= now and self._elsewhere.get(row.name, 0.0) <= clock
        ]
        return min(ready, key=lambda row: (row.crashes, row.seen, natural_key(Path(row.name))), default=None)

    def _drained(self) -> bool:
        return bool(self._trouble) or not (self._waiting or self._queue - self._elsewhere.keys())

    def _wait(self) -> None:
        """Until something may have to be done: the next scan, an event, a stack that becomes quiet, a new attempt."""
        now = time.monotonic()
        due = [now + self._options.interval]
        due += [self._inbox.quiet_at(self._sightings[name]) for name in self._waiting if name in self._sightings]
        due += [now + self._rows[name].retry_at - time.time() for name in self._queue if name not in self._elsewhere]
        due += [self._elsewhere[name] for name in self._queue if name in self._elsewhere]
        until = self._pause_until if self._trouble else min(due)
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
        """Do nothing for a while, and say why."""
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
        sighting = self._sightings[row.name]
        paths = self._paths(sighting)
        self._current = row.name
        try:
            self._place.check()
            if not owns(self._ledger.path):
                raise DensecellError(
                    f"{self._ledger.path}: taken over by another watcher, since this one was not heard of for "
                    "minutes; start it again"
                )
            with self._place.claim("name", self._results.shown(paths.report)) as ours:
                if ours:
                    self._attempt(row, sighting, paths, ours == "inherited")
                else:
                    self._leave_to_another(row)
            self._relieved()
        except _Changed:
            row.state = "queued"
            self._queue.discard(row.name)
            self._waiting.add(row.name)
            self._look_at = 0.0
        except (OutputError, FolderGoneError) as error:  # nothing that is wrong with the stack
            row.state, row.reason = "queued", str(error)
            self._queue.add(row.name)
            self._ledger.put(row)
            self._pause(f"{error}; nothing is done until then, next try in {self._options.backoff:g} s",
                        self._options.backoff)  # fmt: skip
        finally:
            self._current = ""

    def _attempt(self, row: Row, sighting: Sighting, paths: OutputPaths, inherited: bool) -> None:
        """Work on a stack that nobody else works on."""
        self._elsewhere.pop(row.name, None)
        judged = self._judge(row, sighting).state
        self._queue.discard(row.name)
        if judged != "queued":
            self._catch_up(row, sighting.path, paths, inherited)
            return
        if stamp_of(sighting.path) != sighting.stamp:
            raise _Changed
        if row.crashes >= _CRASHES:
            reason = f"the program ended {row.crashes} times in the midst of it; was it killed for taking much memory?"
            self._fail(row, sighting, paths, StackError(f"{sighting.path}: {reason}"), for_good=True)
            return
        row.state, row.started, row.progress = "running", time.time(), 0.0
        row.crashes += 1  # taken back below, unless the process ends
        self._ledger.put(row)
        try:
            done = self._segment(row, sighting, paths)
        except Stopped:
            row.state, row.crashes = "queued", row.crashes - 1
            self._ledger.put(row)
            raise
        except DiskFullError:
            row.crashes -= 1
            raise
        except DensecellError as error:
            row.crashes = 0
            if stamp_of(sighting.path) != sighting.stamp:
                raise _Changed from error
            self._place.check()
            self._fail(row, sighting, paths, error)
        else:
            row.crashes = 0
            if done is None:
                self._ledger.put(row)
            else:
                self._conclude(row, sighting.path, paths, done)

    def _segment(self, row: Row, sighting: Sighting, paths: OutputPaths) -> Result | None:
        """Results of a stack, made now or found; None if another watcher is making them under another name."""
        stop, path = self._stop, sighting.path
        if not self._segmenter_is_loaded():
            with stop.heeded():
                self._segmenter.load()
        with stop.heeded():
            check_whole(path)
            self._check_rivals(sighting, paths)
            with open_stack(path) as stack:
                files = stack.files
            row.sha256 = content_sha256(files)
        if stamp_of(path) != sighting.stamp:
            raise _Changed
        if (found := self._results.of_content(paths, row.sha256)) is not None:
            self._results.keep_earlier(paths, row.sha256)
            self._results.name_twin(sighting, found)
            return found
        with self._place.claim("content", row.sha256) as ours:
            if not ours:
                self._leave_to_another(row)
                return None
            self._results.keep_earlier(paths, row.sha256)
            if paths.folder not in self._cleaned:
                remove_remains(paths.folder)
                self._cleaned.add(paths.folder)
            with stop.heeded():
                (verdict,) = segment_batch([path], paths.folder, self._segmenter, self._follow(row))
            if isinstance(verdict.error, DensecellError):
                raise verdict.error
            if verdict.error is not None:
                raise StackError(verdict.reason)
            found = self._results.current(paths)
            if found is None:
                raise _Changed
            # If another file took the place of this one a moment ago, it is that one that was segmented.
            self._place.remember(found.sha256, paths.report)
            return found

    def _segmenter_is_loaded(self) -> bool:
        return "predictor" in vars(self._segmenter)

    def _check_rivals(self, sighting: Sighting, paths: OutputPaths) -> None:
        """Raise StackError if results of this stack would take the place of those of another one beside it."""
        owner = self._results.made_from(paths)
        here = sighting.path.name
        first = min((here, *sighting.rivals), key=lambda name: natural_key(Path(name)))
        if owner not in (here, *sighting.rivals):
            owner = first
        if owner != here:
            raise StackError(
                f"{sighting.path}: its results would be called as those of {owner}, which lies beside it; rename one"
            )

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

    def _leave_to_another(self, row: Row) -> None:
        row.state = "queued"
        self._queue.add(row.name)
        self._elsewhere[row.name] = time.monotonic() + min(self._options.interval, 10.0)

    # Concluding

    def _note_done(self, row: Row, found: Result) -> None:
        row.state, row.reason, row.progress, row.retry_at = "done", "", 1.0, 0.0
        row.sha256 = found.sha256
        row.labels, row.report = self._results.shown(found.labels), self._results.shown(found.report)
        confidence = found.content.get("mean_confidence")
        row.confidence = float(confidence) if isinstance(confidence, int | float) else None
        with suppress(OSError):
            row.finished = found.report.stat().st_mtime

    def _conclude(self, row: Row, stack: Path, paths: OutputPaths, found: Result) -> None:
        """The results are there: tell everybody."""
        self._results.forget_error(paths)
        verdict = Verdict(stack, found.labels, found.report)
        self._run_hook(verdict)
        if self._options.move_done is not None:
            self._move(stack, row, self._options.move_done)
        self._note_done(row, found)
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
            self._queue.add(row.name)
            self._ledger.put(row)
            return
        self._failures += 1
        self._results.write_error(paths, sighting, row.reason, row.attempts)
        self._conclude_failure(row, sighting.path)

    def _conclude_failure(self, row: Row, stack: Path) -> None:
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
        """Move a stack to the same place below another folder, beside what is there under its name."""
        if stamp_of(stack) != row.stamp:
            return  # it was replaced a moment ago, or is gone
        target = folder / stack.relative_to(self._inbox.root)
        number = 1
        while target.exists():
            number += 1
            target = (folder / stack.relative_to(self._inbox.root)).with_name(f"{stack.stem}-{number}{stack.suffix}")
        try:
            with explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(stack, target)
        except (OutputError, shutil.Error) as error:
            _log.error("%s: it stays where it is: %s", stack, error)

    def _recover(self) -> None:
        """Go on where a process that ended was: after its last write, before it could say so."""
        for row in self._ledger.of_state("running"):
            stack = self._inbox.root / row.name
            paths = self._results.paths(stack)
            with self._place.claim("name", self._results.shown(paths.report)) as ours:
                if ours:
                    self._catch_up(row, stack, paths, ours == "inherited")

    def _catch_up(self, row: Row, stack: Path, paths: OutputPaths, inherited: bool) -> None:
        """Write down how a stack ended in another process. If that one died with the claim in its hand, nobody was told
        yet.
        """
        found = self._results.of_stamp(paths, row.stamp)
        reason = None if found else self._results.error_of(paths, row.name, row.stamp)
        if found is not None:
            row.crashes = 0
            self._note_done(row, found)
            if inherited:
                self._place.remember(found.sha256, found.report)
                self._conclude(row, stack, paths, found)
        elif reason is not None:
            row.state, row.reason = "failed", reason
            if inherited:
                self._conclude_failure(row, stack)
        else:
            row.state = "queued"
        self._ledger.put(row)

    def _show_page(self, *, last: bool = False) -> None:
        """Write the status page, now and then."""
        begun = time.monotonic()
        if begun < self._page_at and not last:
            self._page_late = True
            return
        self._page_late = False
        table = read_tables(ledgers_of(self._place.out))
        situation = Situation(
            str(self._inbox.root), table, arriving=len(self._waiting), trouble=self._complaint, stopped=last
        )
        try:
            self._place.check()
            write_status_page(self._place.out, situation)
        except (OutputError, FolderGoneError) as error:
            _log.debug("%s", error)  # what is wrong with the folder is said elsewhere
        self._page_at = time.monotonic() + max(_PAGE, _SHARE * (time.monotonic() - begun))


def _fresh(sighting: Sighting) -> Row:
    stamp = sighting.stamp
    # To the second: of stacks that arrive together, the natural order of names decides whose turn it is.
    return Row(sighting.name, stamp.files, stamp.bytes, stamp.mtime_ns, seen=round(time.time()))
