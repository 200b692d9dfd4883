"""Files that are about all stacks of an output folder, and so have a fixed name: `objects.csv`, `summary.html`.

No report records them. A hidden file beside them does: it knows what was written under each name lately, byte for byte.
What is not that is the user's, and stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from densecell_batch.runs.at_work import entering
from densecell_batch.runs.ownership import sha256_of
from densecell_batch.storage.atomic import explained, open_new, place, sync_open, temporary_name, write_file
from densecell_batch.storage.opening import read_json
from densecell_batch.storage.records import write_parts

__all__ = ["is_of_the_user", "write_joint"]

_log = logging.getLogger(__name__)

_OURS = ".densecell-tables.json"  # name -> SHA-256 of what was written lately, the last one last
_KEPT = 20  # of them: of some, the process was killed before they had their name


def write_joint(path: Path, parts: Callable[[], Iterable[bytes]]) -> Path | None:
    """Write such a file, unless one of the user is there: None then, and a warning.

    Parameters
    ----------
    path
        Its name.
    parts
        What goes into it, one after the other, each time it is asked. Where it is there already, nothing is written.

    Raises
    ------
    OutputError
        If it cannot be written.
    BusyError
        If another process is at it for minutes.
    """
    if (there := _there(path)) and there == _digest(parts()):
        return path
    temporary = temporary_name(path)
    try:
        with explained(path), open_new(temporary) as stream:
            record = write_parts(path.name, parts(), stream)
            stream.flush()
            sync_open(stream.fileno())
        # One after the other: of two notes at once one would be lost, and what it is of taken for the user's.
        with entering(path.parent, _OURS.strip(".")):
            if is_of_the_user(path):
                _log.warning(
                    "%s: a file of that name is there that densecell-batch did not write, or that was changed since; "
                    "it is left as it is: move it, and run the same command again",
                    path,
                )
                return None
            ours = _ours(path.parent)
            ours[path.name] = [*ours.get(path.name, ()), str(record.sha256)][-_KEPT:]
            write_file(path.with_name(_OURS), json.dumps(ours).encode())
            place(temporary, path, replace=True)
    finally:
        with suppress(OSError):  # a name that is too long, say: that is said already
            temporary.unlink(missing_ok=True)
    return path


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def is_of_the_user(path: Path) -> bool:
    """Whether something is there that is not what was written."""
    there = _there(path)
    return there is not None and there not in _ours(path.parent).get(path.name, ())


def _there(path: Path) -> str | None:
    """The hash of what stands under a name; "" for what has none, such as a folder or a link."""
    if not os.path.lexists(path):  # nor is there anything under a name that is too long
        return None
    try:
        return sha256_of(path)
    except OSError:
        return ""


def _ours(folder: Path) -> dict[str, list[str]]:
    try:
        return msgspec.convert(read_json(folder / _OURS), dict[str, list[str]])
    except (OSError, ValueError):
        return {}
