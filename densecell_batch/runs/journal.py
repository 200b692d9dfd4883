"""A stack in pieces, so that what is finished stays finished, and several processes can share the work.

A piece is the slices that one row of tiles owns, or a band of their rows where slices are too large for the memory.
Each is a file that is there whole or not at all; the folder of them is the journal of the job::

    .NAME.parts-0123456789ab/    beside the outputs; the digits name input, nets and options
        job.json                 the report as far as it is known, and the tiles; whoever is first decides them
        preparation.json         what was found in the stack, by the one process that looked at it
        piece-00012.npz          labels and more of some slices
        assembling               claim of the process that writes the outputs
    .NAME.hash-0123456789ab      SHA-256 of the stack, for shards; the digits name its size and time

The first process that finds all pieces there makes the outputs of them, slice by slice, so that they are the same
bytes whoever computed which piece, and when.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import UNSET, Struct

from densecell_batch.errors import DensecellError, OutputError, Stopped
from densecell_batch.identity import differences, digest
from densecell_batch.inference.device import PRECISIONS
from densecell_batch.inference.planning import Plan
from densecell_batch.io.stack import Stack
from densecell_batch.prepare.preparation import Preparation
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.pieces import PieceWriter, StoredSlice, joined, opened_piece, stored_slice
from densecell_batch.runs.report import Begun
from densecell_batch.storage.atomic import (
    create_once,
    explained,
    remove_remains,
)
from densecell_batch.storage.claims import claimed, once, pause
from densecell_batch.storage.opening import read_json
from densecell_batch.storage.strict_json import parse_json

__all__ = ["Job", "Piece", "job_folders", "remove_jobs", "shard_of", "shared_sha256"]

_log = logging.getLogger(__name__)


def shard_of(n: int, index: int, count: int) -> range:
    """Part `index` of `count`, from 1, of `n` pieces: neighbours, so that few tiles are computed in two shards."""
    return range(n * (index - 1) // count, n * index // count)


@dataclass(frozen=True)
class Piece:
    """A part of the result."""

    band: int  # number of the band, from 0
    z: tuple[int, int]  # slices [start, stop)
    y: tuple[int, int]  # rows of them, those of the band
    n_voxels: int


class _Described(Struct, frozen=True):
    """What `job.json` says."""

    identity: Identity
    report: Begun
    plan: Plan


class Job:
    """The pieces of one stack on disk.

    Parameters
    ----------
    folder
        Output folder; it exists.
    name
        Of the stack, as in the names of its outputs.
    identity
        All that decides the result.
    prepare
        Looks at the stack, if this process is the first.
    describe
        Makes the report as far as it is known, and the plan, of what was found in the stack, if this is the first.
    fresh
        Whether to forget pieces of an earlier run.

    Attributes
    ----------
    preparation : Preparation
        As the first process found it.
    begun : Begun
        As the first process described it.
    plan : Plan
        Of the first process: all must cut the stack alike.
    pieces : list of Piece
        All there are.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        identity: Identity,
        prepare: Callable[[], Preparation],
        describe: Callable[[Preparation], tuple[Begun, Plan]],
        *,
        fresh: bool = False,
    ) -> None:
        self._place, self._name = folder, name
        self._folder = folder / f".{name}.parts-{identity.digest()}"
        with explained(self._folder):
            for other in job_folders(folder, name):
                if fresh or other != self._folder:
                    _log_difference(other, identity)
                    shutil.rmtree(other, ignore_errors=True)
            if self._folder.is_symlink():  # whoever made it chose where it leads
                self._folder.unlink()
            self._folder.mkdir(exist_ok=True)
            remove_remains(self._folder)
        try:
            self.preparation = self._prepared(identity, prepare)
            self.begun, self.plan = self._described(identity, describe)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        self.pieces, self._bands = _pieces(self.plan, self.preparation)

    @staticmethod
    def is_begun(folder: Path, name: str, identity: Identity) -> bool:
        """Whether somebody looked at the stack for this very work."""
        return (folder / f".{name}.parts-{identity.digest()}" / "preparation.json").exists()

    def _prepared(self, identity: Identity, prepare: Callable[[], Preparation]) -> Preparation:
        """What one process of all finds in the stack; the others wait for it."""

        def say() -> None:
            _log.info("another process looks at the stack; waiting for that")

        def valid(content: bytes) -> bool:
            try:
                found = msgspec.convert(parse_json(content), Preparation)
            except ValueError:
                return False
            return found.is_sound and (
                identity.input is None or identity.input.shape == found.shape or identity.pre_macro is not None
            )

        try:
            path = self._folder / "preparation.json"
            content = once(path, lambda: msgspec.json.encode(prepare()), say, valid=valid)
        except OutputError:
            if self._folder.exists():
                raise
            return prepare()  # another process failed, and left nothing: so may this one, and say why
        return msgspec.convert(parse_json(content), Preparation)

    def _described(
        self, identity: Identity, describe: Callable[[Preparation], tuple[Begun, Plan]]
    ) -> tuple[Begun, Plan]:
        """What the first process wrote down; this one is the first, too, if that is none of ours."""
        path = self._folder / "job.json"
        for last in (False, True):
            if not path.exists():
                begun, plan = describe(self.preparation)
                with explained(self._folder):
                    self._folder.mkdir(exist_ok=True)
                create_once(path, msgspec.json.encode(_Described(identity, begun, plan)))
            try:
                found = msgspec.convert(read_json(path), _Described)
                if not found.identity.is_same(identity) or found.report.precision is UNSET:
                    raise ValueError("it is of other work")
                if not _fits(found.plan, self.preparation.grid):
                    raise ValueError("its tiles are not those of the stack")
            except (OSError, ValueError, DensecellError) as error:
                if last:
                    raise OutputError(
                        f"{path}: cannot be used ({error}); remove {self._folder} and run the command again"
                    ) from error
                _log.warning("%s: cannot be used (%s): what is there is begun anew", path, error)
                with explained(self._folder), os.scandir(self._folder) as entries:
                    for entry in entries:
                        if entry.name != "preparation.json":
                            Path(entry.path).unlink(missing_ok=True)
            else:
                break
        return found.report, found.plan

    @property
    def precision(self) -> str:
        """What the first process computed in."""
        return "" if self.begun.precision is UNSET else self.begun.precision.name

    def missing(self, pieces: range | None = None) -> list[int]:
        """Those of some pieces, or of all, that are not there."""
        with explained(self._folder):
            there = {entry.name for entry in os.scandir(self._folder)}
        wanted = range(len(self.pieces)) if pieces is None else pieces
        return [i for i in wanted if self._path(i).name not in there]

    def writer(self, pieces: Sequence[int], n_classes: int, *, keep_confidence: bool = False) -> PieceWriter:
        """Receives the slices of neighbouring pieces."""
        spans = [(self._path(i), range(*self.pieces[i].z)) for i in pieces]
        return PieceWriter(spans, n_classes, keep_confidence=keep_confidence)

    def slices(self) -> Iterator[StoredSlice]:
        """All slices of all pieces, in ascending z.

        Raises
        ------
        OutputError
            If a piece is damaged; it is removed, so that the next run makes it anew.
        """
        rows, width = len(self.pieces) // self._bands, self.preparation.axes[2].length
        for row in range(rows):
            numbers = range(row, len(self.pieces), rows)
            with ExitStack() as opened:
                bands = [opened.enter_context(opened_piece(self._path(i))) for i in numbers]
                sides = [(self.pieces[i].y[1] - self.pieces[i].y[0], width) for i in numbers]
                for z in range(*self.pieces[row].z):
                    yield joined([stored_slice(band, z, side) for band, side in zip(bands, sides, strict=True)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        """Leave nothing behind of work that failed before its first piece; what was stopped goes on some day."""
        if kind is None or issubclass(kind, Stopped) or not self._folder.exists():
            return
        with os.scandir(self._folder) as entries:
            made = any(entry.name.startswith("piece-") for entry in entries)
        if not made:
            self.remove()

    @contextmanager
    def assembling(self, *, wait: bool = False) -> Iterator[bool]:
        """Whether this process is the one that makes the outputs; `wait` says to wait for another one that is at it.

        After waiting they may be there, and all of this folder gone: then it is not.
        """
        while self._folder.exists():
            with ExitStack() as held:
                try:
                    ours = held.enter_context(claimed(self._folder / "assembling"))
                except OutputError:
                    if self._folder.exists():
                        raise
                    break
                if ours or not wait:
                    yield bool(ours)
                    return
            pause()
        yield False

    def remove(self) -> None:
        """Remove all of it: the outputs are there."""
        remove_jobs(self._place, self._name)

    def _path(self, i: int) -> Path:
        return self._folder / f"piece-{i:05d}.npz"


def job_folders(folder: Path, name: str) -> list[Path]:
    """Folders of pieces of a stack in an output folder."""
    pattern = re.compile(re.escape(f".{name}.parts-") + "[0-9a-f]{12}")
    return [Path(entry.path) for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]


@contextmanager
def shared_sha256(stack: Stack, folder: Path, name: str) -> Iterator[str]:
    """The SHA-256 of a stack, read by one process of all: a hundred that start at once would keep the storage busy.

    It stays beside the pieces until the outputs are there; if the block fails before there is a piece, nothing stays.

    Parameters
    ----------
    stack
        Open.
    folder
        Output folder; it exists.
    name
        Of the stack, as in the names of its outputs.

    Raises
    ------
    StackError
        If a file cannot be read.
    """
    found = [stack.reach.stat(file) for file in stack.files]
    stamp = [[file.name, s.st_size, s.st_mtime_ns] for file, s in zip(stack.files, found, strict=True)]

    def say() -> None:
        _log.info("%s: another process computes its hash; waiting for that", name)

    path = folder / f".{name}.hash-{digest(stamp)}"
    try:
        valid = re.compile(rb"[0-9a-f]{64}").fullmatch
        yield once(path, lambda: stack.sha256().encode(), say, valid=lambda found: bool(valid(found))).decode()
    except DensecellError:
        if not job_folders(folder, name):
            remove_jobs(folder, name)
        raise


def remove_jobs(folder: Path, name: str) -> None:
    """Remove what is left of jobs of a stack whose outputs are there."""
    for path in job_folders(folder, name):
        shutil.rmtree(path, ignore_errors=True)
    pattern = re.compile(re.escape(f".{name}.hash-") + r"[0-9a-f]{12}(\.making)?")
    for entry in os.scandir(folder):
        if pattern.fullmatch(entry.name):
            Path(entry.path).unlink(missing_ok=True)


def _log_difference(folder: Path, identity: Identity) -> None:
    """Say why the pieces of an earlier run are of no use."""
    try:
        found = read_json(folder / "job.json")["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    changed = differences(found, identity.as_json())
    if changed:
        _log.warning("an unfinished run is begun anew, for what differs: %s", "; ".join(changed))


def _pieces(plan: Plan, preparation: Preparation) -> tuple[list[Piece], int]:
    """The pieces of a result, band after band, and the number of bands that they have."""
    along_z, along_y, along_x = preparation.axes
    spans = [along_z.owned(*span) for span in plan.grid.z.deepest if span[0] < span[1]]
    bands = [along_y.owned(*band) for band in plan.bands]
    spans, bands = ([part for part in parts if part[0] < part[1]] for parts in (spans, bands))
    return [
        Piece(number, z, y, (z[1] - z[0]) * (y[1] - y[0]) * along_x.length)
        for number, y in enumerate(bands)
        for z in spans
    ], len(bands)


def _fits(plan: Plan, grid: tuple[int, int, int]) -> bool:
    """Whether a plan that was read can be one of this work: its tiles cover what the nets see, its bands the slices."""
    starts, stops = [start for start, _ in plan.bands], [stop for _, stop in plan.bands]
    return (
        grid == plan.grid.shape
        and all(0 <= axis.margin < 2**20 and 0 < axis.output < 2**20 for axis in plan.grid.axes)
        and [*starts, grid[1]] == [0, *stops]
        and plan.rule in ("crop", "deepest", "latest", "blend")
        and plan.precision in PRECISIONS
    )
