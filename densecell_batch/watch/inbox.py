"""What lies in the watched folder, and whether somebody still writes to it.

Truth is what a scan finds, and finds again: events of the file system do not come on network storage, and the time of
change that a copy program sets says nothing. A stack is quiet when it looked the same for so many seconds.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import DensecellError, StackError
from densecell_batch.io.discovery import Stamp, has_tiff_name, is_slice, natural_key
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack, explained_reading
from densecell_batch.printable import printable
from densecell_batch.runs.checks import check_image
from densecell_batch.runs.paths import without_suffix
from densecell_batch.storage.opening import Reach
from densecell_batch.watch.ome_sets import OmeSets

__all__ = ["FolderGoneError", "Inbox", "Sighting", "check_whole"]

_log = logging.getLogger(__name__)

_TRIED = 6  # files of a folder that are opened, at most, to learn whether it holds slices

# What storage systems and their clients keep deleted and earlier versions in, in small letters. Hidden names are no
# part of the folder anyway.
_KEPT_BY_STORAGE = {
    "#recycle", "#snapshot", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "~snapshot", "$recycle.bin",
    "recycler", "lost+found", "network trash folder", "system volume information", "temporary items",
}  # fmt: skip


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
    links
        Whether links are followed. Else a stack that is one fails, and nobody looks behind a link to a folder.

    Attributes
    ----------
    reach : Reach
        Which links are followed on the way to a file.
    links : set of str
        Links to folders that are not followed, at the last look: what lies behind them is not seen.
    """

    def __init__(
        self,
        root: Path,
        *,
        quiet: float,
        skip: Sequence[Path] = (),
        slices: bool = True,
        marker: str = ".done",
        links: bool = False,
    ) -> None:
        self.root, self.quiet = root, quiet
        self.reach = Reach(root, links=links)
        self._skip = {os.path.abspath(path) for path in skip}  # noqa: PTH100 (resolve would follow links)
        self._skip |= {os.path.realpath(path) for path in skip}
        self._slices, self._marker = slices, marker
        self._seen: dict[str, tuple[Stamp, float]] = {}
        self._judged: dict[str, _Judged] = {}
        self._sets = OmeSets(self.reach)
        self._unreadable: set[str] = set()
        self.links: set[str] = set()
        self._told: set[str] = set()  # links of which the log says so

    def look(self) -> dict[str, Sighting]:
        """All stacks that are there now.

        Raises
        ------
        FolderGoneError
            If the folder itself cannot be read.
        """
        now, asked = time.monotonic(), self._judged
        self._judged = {}  # of folders that are gone nothing is kept
        self._sets.turn()
        self.links = set()
        found: dict[str, Sighting] = {}
        walked = list(self._walk(asked))
        alike: dict[tuple[Path, str], list[str]] = {}
        for path, _, _, base in walked:
            alike.setdefault((path.parent, base), []).append(path.name)
        for path, stamp, marked, base in walked:
            rivals = tuple(other for other in alike[path.parent, base] if other != path.name)
            name = printable(path.relative_to(self.root).as_posix())
            known = self._seen.get(name)
            since = known[1] if known is not None and known[0] == stamp else now
            found[name] = Sighting(name, path, stamp, since, marked, rivals)
        self._seen = {name: (sighting.stamp, sighting.since) for name, sighting in found.items()}
        return found

    def quiet_at(self, sighting: Sighting) -> float:
        """Monotonic time from which on a stack is taken for complete, if it stays as it is."""
        return sighting.since if sighting.marked else sighting.since + self.quiet

    def _walk(self, asked: dict[str, _Judged]) -> Iterator[tuple[Path, Stamp, bool, str]]:
        """Path, stamp and mark of each stack, and what its results are called after."""
        folders, linked = [str(self.root)], list[str]()
        entered: set[str] = set()
        while folders or linked:
            folder = (folders or linked).pop()  # what is found in its place is not looked for behind a link
            if self.reach.links:
                real = os.path.realpath(folder)
                if real in entered or real in self._skip:
                    continue
                entered.add(real)
            files, below, names = self._entries(folder)
            for path in below:
                (linked if self.reach.links and Path(path).is_symlink() else folders).append(path)
            stamps = {entry.name: stamp for entry in files if (stamp := self._stamp(entry)) is not None}
            if not stamps:
                continue
            sets = self._sets.among(folder, stamps)
            inner = folder != str(self.root) and not sets
            whole = self._of_slices(folder, stamps, asked.get(folder)) if inner else None
            if whole is not None:
                yield Path(folder), whole, self._marker in names, Path(folder).name
                continue
            stamps = {name: stamp for name, stamp in stamps.items() if name not in sets} | dict(sets.values())
            for name, stamp in stamps.items():
                yield Path(folder, name), stamp, False, without_suffix(name)

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
        files, below = [], []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_folder = self._is_folder(entry)
            if is_folder and entry.name.lower() not in _KEPT_BY_STORAGE:
                below.append(entry.path)
            elif is_folder is False and _leads_to_folder(entry):
                if not self._skipped(entry.path):
                    self._pass_over(entry.path)
            elif is_folder is False and (is_slice(Path(entry.path)) or self._is_link_to_tell_of(entry)):
                files.append(entry)
        below = [path for path in below if not self._skipped(path)]
        return files, below, {entry.name for entry in entries}

    def _skipped(self, path: str) -> bool:
        return os.path.abspath(path) in self._skip  # noqa: PTH100

    def _pass_over(self, link: str) -> None:
        """Say once that nobody looks behind a link."""
        self.links.add(link)
        if link not in self._told:
            self._told.add(link)
            _log.warning(
                "%s: a link to a folder, which is not followed: what lies there is not seen; copy or mount the folder "
                "here, watch it as well, or, if all links here are yours, give --follow-links", link,
            )  # fmt: skip

    def _is_folder(self, entry: os.DirEntry[str]) -> bool | None:
        """Whether an entry is a folder that is looked into. None: it is gone."""
        try:
            return entry.is_dir(follow_symlinks=self.reach.links)
        except OSError:
            return None

    def _is_link_to_tell_of(self, entry: os.DirEntry[str]) -> bool:
        """Whether an entry is a link, called like a TIFF, that leads nowhere or to what is no file."""
        return not self.reach.links and entry.is_symlink() and has_tiff_name(Path(entry.name))

    def _stamp(self, entry: os.DirEntry[str]) -> Stamp | None:
        try:
            found = entry.stat(follow_symlinks=self.reach.links)
        except OSError:  # it was moved away a moment ago
            return None
        return Stamp.of(found)

    def _of_slices(self, folder: str, stamps: dict[str, Stamp], known: _Judged | None) -> Stamp | None:
        """The stamp of a folder as a stack; None if each TIFF in it is one.

        It is a stack if of the TIFFs that are looked at all that can be opened have one slice: among stacks there may
        lie an image of a single slice, an overview.
        """
        if not self._slices:
            return None
        if known is not None and known.several and stamps.get(known.several) == known.single[known.several][0]:
            self._judged[folder] = known
            return None
        whole = Stamp.joined(stamps.values())
        if known is None or known.whole != whole:
            known = _judge(folder, stamps, whole, {} if known is None else known.single, self.reach)
        if not known.single:
            return None
        self._judged[folder] = known
        return None if known.several else whole


@dataclass(frozen=True)
class _Judged:
    """What was found out of a folder that is no other than this."""

    whole: Stamp  # of all its TIFFs
    single: dict[str, tuple[Stamp, bool]]  # file -> when it was opened, and whether it has one slice
    several: str  # a file with several slices, if there is one


def _judge(
    folder: str, stamps: dict[str, Stamp], whole: Stamp, before: dict[str, tuple[Stamp, bool]], reach: Reach
) -> _Judged:
    """Open some TIFFs of a folder, unless they were before."""
    single: dict[str, tuple[Stamp, bool]] = {}
    for name in _sample(stamps):
        found = before[name][1] if name in before and before[name][0] == stamps[name] else None
        if found is None:
            found = _has_one_slice(Path(folder, name), reach)
        if found is not None:
            single[name] = stamps[name], found
        if found is False:
            return _Judged(whole, single, name)
    return _Judged(whole, single, "")


def _sample(stamps: dict[str, Stamp]) -> list[str]:
    """The files of a folder that tell best whether all are slices: the largest and the smallest, the first and the last
    one, and some between.
    """
    by_size = sorted(stamps, key=lambda name: stamps[name].bytes)
    in_order = sorted(stamps, key=lambda name: natural_key(Path(name)))
    if len(in_order) <= _TRIED:
        return in_order
    steps = _TRIED - 2
    between = (in_order[(len(in_order) - 1) * i // (steps - 1)] for i in range(steps))
    return list(dict.fromkeys([by_size[-1], by_size[0], *between]))


def check_whole(path: Path, reach: Reach | None = None, check: Callable[[Stack], None] = lambda _: None) -> None:
    """Open a stack to its last slice.

    Parameters
    ----------
    path
        The stack.
    reach
        As for `open_stack`.
    check
        Called with the open stack before any of its pixels is read; may raise StackError.

    Raises
    ------
    StackError
        If that is not possible, or it is a result of this program.
    """
    reach = reach or Reach.of(path)
    with explained_reading(path, "it cannot be opened"):
        is_folder = stat.S_ISDIR(reach.stat(path).st_mode)
        if not is_folder:
            reach.open(path).close()  # before anything else: of a link nothing is read
    if is_folder:
        _check_slices(path, reach)
    else:
        check_image(path)
    with open_stack(path, reach=reach) as stack:
        check(stack)
        z, y, _ = stack.info.shape
        stack.read(z - 1, (y - 1, y))


def _check_slices(folder: Path, reach: Reach) -> None:
    """Raise StackError unless all TIFFs of a folder are slices of one stack: so that is known before work is done."""
    remedy = "move it elsewhere, or watch with --no-slices if each file here is a stack of its own"
    shapes: dict[tuple[int, int, int], Path] = {}  # each with the first file that has it
    number: Counter[tuple[int, int, int]] = Counter()
    with explained_reading(folder, "the folder cannot be read"):
        files = sorted(filter(is_slice, folder.iterdir()), key=natural_key)
    for file in files:
        try:
            with open_stack(file, reach=reach) as stack:
                shapes.setdefault(stack.info.shape, file)
                number[stack.info.shape] += 1
        except StackError as error:
            raise StackError(f"{error}. All of {folder} is taken for slices of one stack: {remedy}") from error
    if not shapes:
        return
    usual = number.most_common(1)[0][0]
    odd = next((shape for shape in shapes if shape[0] > 1), None) or next((s for s in shapes if s != usual), None)
    if odd is not None:
        raise StackError(
            f"{shapes[odd]}: has {odd[0]} x {odd[1]} x {odd[2]} voxels (z, y, x); expected 1 x {usual[1]} x "
            f"{usual[2]}, since all of {folder} is taken for slices of one stack: {remedy}"
        )


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself
        return False


def _has_one_slice(path: Path, reach: Reach) -> bool | None:
    """Whether a TIFF has one slice; None if it cannot be opened, yet."""
    try:
        with open_stack(path, reach=reach) as stack:
            return stack.info.shape[0] == 1
    except Exception:  # whatever it is, it is said of that file when its turn comes, and stops nobody else's
        return None
