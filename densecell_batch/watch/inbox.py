"""What lies in the watched folder, and whether somebody still writes to it.

Truth is what a scan finds, and finds again: events of the file system do not come on network storage, and the time of
change that a copy program sets says nothing. A stack is quiet when it looked the same for so many seconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.checks import check_image, printable
from densecell_batch.errors import DensecellError, StackError
from densecell_batch.io.discovery import Stamp, is_slice, natural_key
from densecell_batch.io.reading import open_stack
from densecell_batch.outputs import without_suffix
from densecell_batch.watch.ome_sets import OmeSets

__all__ = ["FolderGoneError", "Inbox", "Sighting", "check_whole"]

_log = logging.getLogger(__name__)

_TRIED = 3  # files of a folder that are opened to learn whether it holds slices


class FolderGoneError(DensecellError):
    """A folder that was there is not, or cannot be read: a network mount that went away."""


@dataclass(frozen=True)
class Sighting:
    """A stack in the folder."""

    name: str  # path below the folder, with "/", printable
    path: Path
    stamp: Stamp
    since: float  # monotonic seconds when it was first seen like this
    marked: bool  # somebody says that the folder of slices is complete
    rivals: tuple[str, ...]  # file names of other stacks whose results would have the same names


class Inbox:
    """The watched folder.

    Parameters
    ----------
    root
        The folder; stacks may lie in folders of it.
    quiet
        Seconds without a change after which a stack is taken for complete.
    skip
        Absolute paths of folders that are no part of it, such as that of the results.
    slices
        Whether a folder below `root` whose TIFFs have one slice each is a stack. Else every TIFF is one.
    marker
        Name of the file that says that a folder of slices is complete.
    """

    def __init__(
        self, root: Path, *, quiet: float, skip: Sequence[Path] = (), slices: bool = True, marker: str = ".done"
    ) -> None:
        self.root, self.quiet = root, quiet
        self._skip = {os.path.abspath(path) for path in skip}  # noqa: PTH100 (resolve would follow links)
        self._slices, self._marker = slices, marker
        self._seen: dict[str, tuple[Stamp, float]] = {}
        self._single: dict[str, tuple[str, Stamp, bool]] = {}  # folder -> a file of it, and whether that has one slice
        self._sets = OmeSets()
        self._unreadable: set[str] = set()

    def look(self) -> dict[str, Sighting]:
        """All stacks that are there now.

        Raises
        ------
        FolderGoneError
            If the folder itself cannot be read.
        """
        now, asked = time.monotonic(), self._single
        self._single = {}  # of folders that are gone nothing is kept
        self._sets.turn()
        found: dict[str, Sighting] = {}
        for path, stamp, marked, rivals in self._walk(asked):
            name = printable(path.relative_to(self.root).as_posix())
            known = self._seen.get(name)
            since = known[1] if known is not None and known[0] == stamp else now
            found[name] = Sighting(name, path, stamp, since, marked, rivals)
        self._seen = {name: (sighting.stamp, sighting.since) for name, sighting in found.items()}
        return found

    def quiet_at(self, sighting: Sighting) -> float:
        """Monotonic time from which on a stack is taken for complete, if it stays as it is."""
        return sighting.since if sighting.marked else sighting.since + self.quiet

    def _walk(self, asked: dict[str, tuple[str, Stamp, bool]]) -> Iterator[tuple[Path, Stamp, bool, tuple[str, ...]]]:
        """Path, stamp, mark and rivals of each stack."""
        folders = [str(self.root)]
        while folders:
            folder = folders.pop()
            files, below, names = self._entries(folder)
            folders += below
            stamps = {entry.name: stamp for entry in files if (stamp := _stamp(entry)) is not None}
            if not stamps:
                continue
            sets = self._sets.among(folder, stamps)
            if folder != str(self.root) and not sets and self._holds_slices(folder, stamps, asked):
                stamp = Stamp(
                    len(stamps),
                    sum(one.bytes for one in stamps.values()),
                    max(one.mtime_ns for one in stamps.values()),
                )
                yield Path(folder), stamp, self._marker in names, ()
                continue
            stamps = {name: stamp for name, stamp in stamps.items() if name not in sets} | dict(sets.values())
            alike: dict[str, list[str]] = {}
            for name in stamps:
                alike.setdefault(without_suffix(name), []).append(name)
            for name, stamp in stamps.items():
                rivals = tuple(other for other in alike[without_suffix(name)] if other != name)
                yield Path(folder, name), stamp, False, rivals

    def _entries(self, folder: str) -> tuple[list[os.DirEntry[str]], list[str], set[str]]:
        """TIFFs and folders in a folder, without hidden ones: copy programs write to such names first; all names."""
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            if folder == str(self.root):
                raise FolderGoneError(f"{folder}: the folder cannot be read ({error.strerror})") from error
            if folder not in self._unreadable and not isinstance(error, FileNotFoundError):
                self._unreadable.add(folder)
                _log.warning("%s: cannot be read (%s): what lies in it is not seen", folder, error.strerror)
            return [], [], set()
        self._unreadable.discard(folder)
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        files = [entry for entry in shown if _is_dir(entry) is False and is_slice(Path(entry.path))]
        below = [entry.path for entry in shown if _is_dir(entry)]
        below = [path for path in below if os.path.abspath(path) not in self._skip]  # noqa: PTH100
        return files, below, {entry.name for entry in entries}

    def _holds_slices(self, folder: str, stamps: dict[str, Stamp], asked: dict[str, tuple[str, Stamp, bool]]) -> bool:
        """Whether the first TIFF of a folder that can be opened has one slice."""
        if not self._slices:
            return False
        if (known := asked.get(folder)) is not None and stamps.get(known[0]) == known[1]:
            self._single[folder] = known
            return known[2]
        for name in sorted(stamps, key=lambda name: natural_key(Path(name)))[:_TRIED]:
            single = _has_one_slice(Path(folder, name))
            if single is not None:
                self._single[folder] = (name, stamps[name], single)
                return single
        return False


def check_whole(path: Path) -> None:
    """Open a stack to its last slice.

    Raises
    ------
    StackError
        If that is not possible, or it is a result of this program.
    """
    check_image(path)
    with open_stack(path) as stack:
        stack.read(stack.info.shape[0] - 1)


def _is_dir(entry: os.DirEntry[str]) -> bool | None:
    """Whether an entry is a folder; links to folders are not followed, since they may lead back. None: it is gone."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return None


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        found = entry.stat()
    except OSError:  # it was moved away a moment ago
        return None
    return Stamp(1, found.st_size, found.st_mtime_ns)


def _has_one_slice(path: Path) -> bool | None:
    """Whether a TIFF has one slice; None if it cannot be opened, yet."""
    try:
        with open_stack(path) as stack:
            return stack.info.shape[0] == 1
    except StackError:
        return None
