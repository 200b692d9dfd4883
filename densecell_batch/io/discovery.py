"""Which files are a stack, in which order, and what tells cheaply that they changed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import OptionError

__all__ = ["Stamp", "find_stacks", "is_slice", "natural_key", "stamp_of"]

_SUFFIXES = (".tif", ".tiff")


def find_stacks(patterns: Sequence[str]) -> list[Path]:
    """The stacks that the user names: files, folders of slices, and globs, each stack once, matches in natural order.

    A path without a match is kept, so that it fails alone and by name when it is opened.

    Raises
    ------
    OptionError
        If a glob matches no TIFF file and no folder.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        matches = [Path(pattern)]
        if not matches[0].exists() and glob.has_magic(pattern):
            candidates = (Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            matches = sorted((p for p in candidates if p.is_dir() or is_slice(p)), key=natural_key)
            if not matches:
                raise OptionError(f"{pattern} matches no TIFF file and no folder")
        for match in matches:
            found.setdefault(os.path.realpath(match), match)  # Path.resolve fails on a link to itself
    return list(found.values())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that counts as people do: slice2 before slice10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


@dataclass(frozen=True)
class Stamp:
    """What changes when a stack does, and costs little to find out."""

    files: int
    bytes: int
    mtime_ns: int  # of the last one changed


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file or of a folder of slices; None where there is none."""
    try:
        files = [entry for entry in path.iterdir() if is_slice(entry)] if path.is_dir() else [path]
        found = [file.stat() for file in files]
    except OSError:
        return None
    if not found:
        return None
    return Stamp(len(found), sum(file.st_size for file in found), max(file.st_mtime_ns for file in found))


def is_slice(path: Path) -> bool:
    """Whether a file is, by its name, a TIFF that somebody means to be read."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
