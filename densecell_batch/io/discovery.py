"""Which files are a stack, in which order, and what tells cheaply that they changed."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from densecell_batch.errors import OptionError
from densecell_batch.io.formats.ome_set import files_of
from densecell_batch.io.formats.own import own_result
from densecell_batch.storage.opening import Reach, exists

__all__ = ["Stamp", "find_stacks", "has_tiff_name", "is_slice", "leads_nowhere", "natural_key", "stamp_of"]

_log = logging.getLogger(__name__)

_LARGEST = 2**63 - 1
_SUFFIXES = (".tif", ".tiff")


def find_stacks(patterns: Sequence[str]) -> list[Path]:
    """The stacks that the user names: files, folders of slices, and globs, each stack once, matches in natural order.

    A path without a match is kept, so that it fails alone and by name when it is opened. Of a set of OME-TIFFs the file
    with the first slice stands for all. What this program wrote is left out of the matches of a glob.

    Raises
    ------
    OptionError
        If a glob matches no TIFF file and no folder.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        matches = [Path(pattern)]
        if not exists(matches[0]) and glob.has_magic(pattern):
            candidates = (Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            matches = sorted((p for p in candidates if p.is_dir() or is_slice(p) or leads_nowhere(p)), key=natural_key)
            if not matches:
                raise OptionError(f"{pattern} matches no TIFF file and no folder")
            matches = _without_results(pattern, matches)
        for match in matches:
            found.setdefault(os.path.realpath(match), match)  # Path.resolve fails on a link to itself
    return _sets_once(list(found.values()))


def _without_results(pattern: str, matches: list[Path]) -> list[Path]:
    """The matches of a glob that this program did not write.

    Raises
    ------
    OptionError
        If nothing is left.
    """
    ours = {path for path in matches if own_result(path)}
    if not ours:
        return matches
    first = min(ours, key=natural_key)
    _log.info("%s: %d results of densecell-batch among them are left out (%s ...)", pattern, len(ours), first.name)
    if len(ours) == len(matches):
        raise OptionError(f"{pattern} matches nothing but results of densecell-batch; give the stacks that they are of")
    return [path for path in matches if path not in ours]


def _sets_once(stacks: list[Path]) -> list[Path]:
    """The stacks, with one file for each set of OME-TIFFs: that of the first slice, if it is there."""
    kept: dict[str, Path] = {}
    members: set[Path] = set()
    for stack in stacks:
        if stack.absolute() in members:
            continue
        files = files_of(stack)
        if len(files) > 1:
            members |= {file.absolute() for file in files}
        # What the user did not name stands for it only if it is there, and no link.
        first = files[0] if exists(files[0]) and (files[0] == stack or not files[0].is_symlink()) else stack
        kept.setdefault(os.path.realpath(first), first)
    return list(kept.values())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that counts as people do: slice2 before slice10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


@dataclass(frozen=True)
class Stamp:
    """What changes when a stack does, and costs little to find out."""

    files: int
    bytes: int
    mtime_ns: int  # of the last one changed; a table holds no later one than that of the year 2262

    def __post_init__(self) -> None:
        for name in ("bytes", "mtime_ns"):
            object.__setattr__(self, name, max(-_LARGEST, min(getattr(self, name), _LARGEST)))

    @classmethod
    def of(cls, *files: os.stat_result) -> Self:
        """Of files, at least one, as the system describes them."""
        return cls(len(files), sum(file.st_size for file in files), max(file.st_mtime_ns for file in files))

    @classmethod
    def joined(cls, stamps: Collection[Stamp]) -> Self:
        """Of the files of several stamps, at least one."""
        files, size = sum(one.files for one in stamps), sum(one.bytes for one in stamps)
        return cls(files, size, max(one.mtime_ns for one in stamps))


def stamp_of(path: Path, reach: Reach | None = None) -> Stamp | None:
    """The stamp of a file with all of its set, or of a folder of slices; None where there is none.

    Links that `reach` does not follow (by default, all but `path`) have stamps of their own.
    """
    reach = reach or Reach.of(path)
    try:
        if path.is_dir():
            files = [entry for entry in path.iterdir() if is_slice(entry)]
        else:
            files = [path, *(file for file in files_of(path, reach) if file != path and exists(file))]
        found = [reach.stat(file) for file in files]
    except OSError:
        return None
    if not found:
        return None
    return Stamp.of(*found)


def is_slice(path: Path) -> bool:
    """Whether a path is a file, by its name a TIFF that somebody means to be read."""
    return has_tiff_name(path) and path.is_file()


def has_tiff_name(path: Path) -> bool:
    """Whether a path is, by its name, a TIFF that somebody means to be read."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def leads_nowhere(path: Path) -> bool:
    """Whether a path, by its name a TIFF, is a link to nothing, which nobody must leave out in silence."""
    return has_tiff_name(path) and path.is_symlink() and not exists(path)
