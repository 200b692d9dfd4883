"""One attempt at a stack, from its claim to its verdict."""

from __future__ import annotations

import logging
import stat
import time
from collections.abc import Callable
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
from densecell_batch.io.discovery import natural_key, stamp_of
from densecell_batch.io.formats.ome_set import files_of
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.printable import printable
from densecell_batch.runs.batch import Verdict, segment_batch
from densecell_batch.runs.checks import check_result_names
from densecell_batch.runs.journal import remove_jobs
from densecell_batch.runs.options import RunSegmenter
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.pipeline import Progress, tidy
from densecell_batch.signals import Stop
from densecell_batch.storage.atomic import remove_remains
from densecell_batch.watch.board import Board
from densecell_batch.watch.command import run_hook
from densecell_batch.watch.inbox import Inbox, Sighting, check_whole
from densecell_batch.watch.ledger import Ledger, Row
from densecell_batch.watch.moving import move_below
from densecell_batch.watch.options import WatchOptions
from densecell_batch.watch.place import Place
from densecell_batch.watch.results import Result, Results

__all__ = ["Attempts", "Changed"]

_log = logging.getLogger(__name__)

_CRASHES = 10  # times that the process died at a stack, after which it is given up
_ELSEWHERE = 10.0  # seconds after which to ask again whether another watcher is done with a stack


class Changed(Exception):  # noqa: N818 (an event, not a fault)
    """The stack is not what it was when it was chosen: somebody replaced, completed or removed it."""


class Attempts:
    """What a watcher does with the stacks that it takes.

    Parameters
    ----------
    root
        The watched folder.
    place
        What watchers keep in the output folder.
    inbox, results, ledger, board
        What is there, what has come of it, what was written down, and what is next.
    segmenter
        The nets, which stay loaded.
    options
        How to watch.
    say
        Told of each stack that is done or given up.
    follow
        Makes the progress of a stack.
    stop
        Whether the process was asked to stop.
    """

    def __init__(
        self,
        root: Path,
        place: Place,
        inbox: Inbox,
        results: Results,
        ledger: Ledger,
        board: Board,
        segmenter: RunSegmenter,
        options: WatchOptions,
        say: Callable[[Verdict], None],
        follow: Callable[[Row], Progress],
        stop: Stop,
    ) -> None:
        self._root, self._place, self._inbox, self._results = root, place, inbox, results
        self._ledger, self._board, self._segmenter, self._options = ledger, board, segmenter, options
        self._say, self._follow, self._stop = say, follow, stop
        self._cleaned: set[Path] = set()
        self.failures = 0  # stacks that were given up

    def make(self, row: Row, *, inherited: bool) -> None:
        """Work on a stack that nobody else works on."""
        sighting, paths = self._board.sighting(row), self._board.paths(row)
        self._board.take(row)
        if self._board.judge(row) != "queued":  # another watcher was quicker
            self._catch_up(row, sighting.path, inherited=inherited)
            return
        if stamp_of(sighting.path, self._inbox.reach) != sighting.stamp:
            raise Changed
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
        except Changed:
            raise
        except Exception as error:  # whatever a stack does, it ends as that stack's verdict
            row.crashes = 0
            if not isinstance(error, DensecellError):
                _log.debug("traceback", exc_info=True)
                name = type(error).__name__
                error = StackError(f"{sighting.path}: internal error, please report it: {name}: {error}")
            if stamp_of(sighting.path, self._inbox.reach) != sighting.stamp:
                raise Changed from error
            self._place.check()
            self._fail(row, sighting, paths, error)
            return
        row.crashes = 0
        if found is None:
            self._ledger.put(row)
        else:
            self._conclude(row, sighting.path, found)

    def _segment(self, row: Row, sighting: Sighting, paths: StackPaths) -> Result | None:
        """Results of a stack, made now or found; None if another watcher is making them under another name."""
        stop, path = self._stop, sighting.path
        with stop.heeded():
            check_result_names(path, paths, self._segmenter.options)
            check_whole(path, self._inbox.reach, self._check_size)
            self._check_rivals(sighting, paths)
            with open_stack(path, reach=self._inbox.reach) as stack:
                row.sha256 = stack.sha256()
        if stamp_of(path, self._inbox.reach) != sighting.stamp:
            raise Changed
        if (found := self._results.of_content(paths, row.sha256)) is not None:
            self._results.keep_earlier(paths, row.sha256)
            self._results.name_twin(sighting, found)
            if found.report == paths.report:
                tidy(paths)  # the process that made them may have been killed before it could
            return found
        with self._place.claim("content", row.sha256) as ours:
            if not ours:
                self.leave(row, self._place.waits_for("content", row.sha256))
                return None
            self._results.keep_earlier(paths, row.sha256)
            if paths.folder not in self._cleaned:
                remove_remains(paths.folder)
                self._cleaned.add(paths.folder)
            with stop.heeded():
                self._segmenter.load()  # if that was not done yet
                (verdict,) = segment_batch([path], paths.folder, self._segmenter, self._follow(row))
            if isinstance(verdict.error, BusyError):  # somebody segments it by hand
                self.leave(row, str(verdict.error))
                return None
            if isinstance(verdict.error, OptionError):
                remove_jobs(paths.folder, paths.name)  # begun with what this machine cannot go on with
            if isinstance(verdict.error, DensecellError):
                raise verdict.error
            if verdict.error is not None:
                raise StackError(verdict.reason)
            found = self._results.current(paths)
            if found is None:
                raise Changed
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

    def _check_rivals(self, sighting: Sighting, paths: StackPaths) -> None:
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

    def leave(self, row: Row, why: str) -> None:
        """Put off what somebody else works on, and say so, once."""
        news = row.reason != why
        self._board.leave(row, min(self._options.interval, _ELSEWHERE), why)
        if news:
            self._ledger.put(row)

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
        self, row: Row, sighting: Sighting, paths: StackPaths, error: DensecellError, *, for_good: bool = False
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
        self.failures += 1
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

    def recover(self) -> None:
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
            tidy(self._results.paths(stack))  # it may have died before it could
            self._results.remember(found)
            self._conclude(row, stack, found)
        elif state == "failed" and inherited:
            self._conclude_failure(row, stack)
        self._ledger.put(row)
