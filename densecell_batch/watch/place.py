"""What watchers keep in the output folder.

::

    OUT/.densecell-watch/
        setup.json              model and options: all watchers of an output folder agree on them
        ledger-1.sqlite         the table of one watcher, and ledger-1.owner its claim on it
        claims/NAME-DIGEST      on a stack, or on its content, while somebody works on it
        contents/AB/SHA256      which report the content has

Whether a stack is done is never decided by a table: results are there when their report is there and matches.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from densecell_batch.errors import OptionError, OutputError
from densecell_batch.identity import differences
from densecell_batch.runs.identity import Identity
from densecell_batch.storage.atomic import explained, remove_remains, write_file
from densecell_batch.storage.claims import Ours, claimed, holder, is_claimed, is_mine
from densecell_batch.storage.opening import read_json, read_small
from densecell_batch.watch.inbox import FolderGoneError

__all__ = ["Place", "ledgers_of", "owns"]

_FOLDER = ".densecell-watch"
_PROBE, _ROOM = 2**20, 2**30  # bytes that are written to see whether that is possible; that a disk with room has left
_PATH_MAX = 4096  # bytes of a path


class Place:
    """The hidden folder of an output folder.

    Parameters
    ----------
    out
        The output folder; made if it is not there.
    identity
        Model, options and first macro: of the work on any stack.
    redo
        Whether other ones may take the place of those that earlier runs had.

    Raises
    ------
    OptionError
        If earlier runs had another model or other options.
    OutputError
        If the folder cannot be made.
    """

    def __init__(self, out: Path, identity: Identity, *, redo: bool = False) -> None:
        self.out, self.folder = out, out / _FOLDER
        self.identity = identity
        self._setup = self.folder / "setup.json"
        for folder in (self.folder, self.folder / "claims", self.folder / "contents"):
            if folder.is_symlink():
                raise OutputError(f"{folder}: it is a link, and may lead to anything; expected a folder: remove it")
        with explained(self.folder):
            if not self.folder.exists():
                out.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir(0o700, exist_ok=True)  # nobody else has anything to do there
            for name in ("claims", "contents"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder / "claims"):
            remove_remains(folder)
        found = self._read_setup()
        same = found is not None and identity.is_same(found)
        changed = [] if found is None or same else differences(found.as_json(), identity.as_json())
        if changed and not redo:
            raise OptionError(
                f"{out}: its results were made otherwise: {'; '.join(changed)}. Give another output folder, or --redo "
                "to make all results again (those that are there are kept under other names)"
            )
        if changed and any(is_claimed(owner) for owner in self.folder.glob("ledger-*.owner")):
            raise OptionError(f"{out}: --redo while another watcher works with other options; stop that one first")
        if changed or found is None:
            write_file(self._setup, json.dumps(identity.as_json(), indent=2).encode())
        self._tidy()

    def _tidy(self) -> None:
        """Remove claims on contents that the dead left. Those on names are left: they say that nobody was told."""
        with explained(self.folder):
            for path in (self.folder / "claims").glob("content-*"):
                if not is_claimed(path):
                    with claimed(path):
                        pass

    def _read_setup(self) -> Identity | None:
        try:
            return Identity.read(read_json(self._setup))
        except (OSError, ValueError):
            return None

    def check(self) -> None:
        """See that the output folder is still the same: an empty mount point looks as if nothing was done.

        Raises
        ------
        FolderGoneError
            If it is not there.
        OptionError
            If another model or other options were set there.
        """
        found = self._read_setup()
        if found is None:
            raise FolderGoneError(f"{self.out}: the output folder is not there")
        if not self.identity.is_same(found):
            raise OptionError(f"{self.out}: another watcher was started there with another model or other options")

    def has_room(self) -> bool:
        """Whether the output folder can be written, and its disk is not about to be full: then what failed was not its
        fault.
        """
        probe = self.folder / "probe"
        try:
            write_file(probe, bytes(_PROBE))
            probe.unlink()
            return shutil.disk_usage(self.folder).free > _ROOM
        except (OSError, OutputError):
            return False

    @contextmanager
    def ledger(self) -> Iterator[Path]:
        """A table that no other watcher writes to, for the length of a block."""
        with ExitStack() as held:
            number = 1
            while True:
                if held.enter_context(claimed(self.folder / f"ledger-{number}.owner")):
                    break
                number += 1
            yield self.folder / f"ledger-{number}.sqlite"

    @contextmanager
    def claim(self, kind: str, what: str) -> Iterator[Ours]:
        """Try to be the only one who works on something, for the length of a block; how it came about, as `claimed`."""
        with claimed(self._claim(kind, what)) as ours:
            yield ours

    def waits_for(self, kind: str, what: str) -> str:
        """Whom `claim` waits for, and what to do if there is no such process."""
        path = self._claim(kind, what)
        return f"{holder(path)} is at it; if that is not so, remove {path}"

    def _claim(self, kind: str, what: str) -> Path:
        return self.folder / "claims" / f"{kind}-{hashlib.sha256(os.fsencode(what)).hexdigest()[:24]}"

    def remember(self, sha256: str, report: Path) -> None:
        """Note which report some content has."""
        path = self._content(sha256)
        with explained(path):
            if path.parent.is_symlink():
                path.parent.unlink()
            path.parent.mkdir(exist_ok=True)
        write_file(path, os.fsencode(report.relative_to(self.out).as_posix()))

    def recall(self, sha256: str) -> Path | None:
        """The report that some content had when it was done; whether it still has must be looked up."""
        try:
            report = self.out / os.fsdecode(read_small(self._content(sha256), _PATH_MAX))
        except (OSError, ValueError):
            return None
        return report if report.parent.is_relative_to(self.out) and ".." not in report.parts else None

    def _content(self, sha256: str) -> Path:
        return self.folder / "contents" / sha256[:2] / sha256


def ledgers_of(out: Path) -> list[tuple[Path, bool]]:
    """The tables in an output folder, and of each whether its watcher runs."""
    found = sorted((out / _FOLDER).glob("ledger-*.sqlite"))
    return [(path, is_claimed(path.with_suffix(".owner"))) for path in found]


def owns(ledger: Path) -> bool:
    """Whether a table is still that of this process."""
    return is_mine(ledger.with_suffix(".owner"))
