"""Why a shard failed on a stack: a note beside the pieces, for whoever assembles and has to say what became of it.

::

    OUT/.NAME.failed-I-of-N    one line

A shard that tries again takes its note back, and who has told of the notes, or has made the results, removes them.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path

from densecell_batch.errors import OutputError
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import read_small

__all__ = ["forget_failures", "note_failure", "noted_failures"]

_log = logging.getLogger(__name__)


def note_failure(folder: Path, name: str, shard: tuple[int, int], reason: str) -> None:
    """Leave word why part I of N of stack `name` failed. Where that is not possible there is just less to tell."""
    index, count = shard
    try:
        write_file(folder / f".{name}.failed-{index}-of-{count}", reason.encode("utf-8", "backslashreplace"))
    except OutputError as error:
        _log.debug("no note of the failure: %s", error)


def forget_failures(folder: Path, name: str, shard: tuple[int, int] | None = None) -> None:
    """Remove the note of a shard, and those of other divisions of the stack; without `shard` all."""
    for path, index, count in _notes(folder, name):
        if shard is None or index == shard[0] or count != shard[1]:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def noted_failures(folder: Path, name: str) -> str:
    """Which shards failed on stack `name` and why, each reason once; "" if none left word."""
    shards: dict[str, list[str]] = {}
    for path, index, count in _notes(folder, name):
        with suppress(OSError):
            reason = read_small(path).decode(errors="replace")
            shards.setdefault(reason, []).append(f"{index}/{count}")
    return "; ".join(
        f"shard{'s' if len(which) > 1 else ''} {', '.join(which)} failed: {reason}" for reason, which in shards.items()
    )


def _notes(folder: Path, name: str) -> list[tuple[Path, int, int]]:
    """The notes on a stack, in the order of the shards: path, I and N of each."""
    pattern = re.compile(re.escape(f".{name}.failed-") + r"(\d+)-of-(\d+)")
    try:
        found = [(path, pattern.fullmatch(path.name)) for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(((path, int(m[1]), int(m[2])) for path, m in found if m), key=lambda note: note[1:])
