"""Who works on a stack in an output folder, so that nobody throws away what another one is making.

::

    .NAME.at-0123456789ab-all-0a1b2c3d     claim of a process that makes all of it; the digits name its work
    .NAME.at-0123456789ab-part-4e5f6a7b    of one that makes a shard
    .NAME.entering                         held for a moment by whoever looks at these

Shards of the same work go side by side; of those that would make all of it one works, the others wait. Other work
under the same name (another stack, model or options) has to wait until nobody is there, and is refused until then.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import BusyError
from densecell_batch.storage.atomic import explained
from densecell_batch.storage.claims import claimed, holder, is_claimed, pause

__all__ = ["at_work", "entering", "nobody_at_work"]

_log = logging.getLogger(__name__)

_PATIENCE = 400.0  # seconds; a dead process on another machine is taken for dead after 300


@dataclass(frozen=True)
class _Worker:
    path: Path
    work: str
    alone: bool

    def __str__(self) -> str:
        return holder(self.path)


@contextmanager
def at_work(folder: Path, name: str, work: str, *, alone: bool, wait: bool = True) -> Iterator[bool]:
    """Be at work on a stack for the length of a block.

    Parameters
    ----------
    folder
        Output folder; it exists.
    name
        Of the stack, as in the names of its outputs.
    work
        Digest of all that decides the result.
    alone
        Whether this process makes all of it, so that another one that does so, too, is in vain.
    wait
        Whether to wait for a process that is making the same, or to fail.

    Yields
    ------
    bool
        Whether it had to wait: then what it was to make may be there.

    Raises
    ------
    BusyError
        If another process makes something else under this name, or the same and it is not to be waited for.
    OutputError
        If the claim cannot be written.
    """
    waited = False
    with ExitStack() as held:
        while True:
            with entering(folder, name):
                others = _workers(folder, name)
                busy = [other for other in others if other.work != work]
                if busy:
                    raise BusyError(
                        f"{folder / name}: {busy[0]} is at work under this name in this folder, on another stack or "
                        "with another model or other options; wait until it is done, or choose another output folder"
                    )
                twins = [other for other in others if alone and other.alone]
                if not twins:
                    kind = "all" if alone else "part"
                    claim = folder / f".{name}.at-{work}-{kind}-{secrets.token_hex(4)}"
                    held.enter_context(claimed(claim))
                    break
            if not wait:
                raise BusyError(f"{folder / name}: {twins[0]} is making the same results; wait until it is done")
            if not waited:
                _log.info("%s: %s is making the same results; waiting for it", folder / name, twins[0])
            waited = True
            pause()
        yield waited


@contextmanager
def nobody_at_work(folder: Path, name: str) -> Iterator[bool]:
    """Whether nobody works on a stack, and nobody begins to during the block."""
    with entering(folder, name):
        yield not _workers(folder, name)


@contextmanager
def entering(folder: Path, name: str) -> Iterator[None]:
    """One process at a time, under a name in a folder; each is there for an instant.

    Raises
    ------
    BusyError
        If another one stays for minutes.
    OutputError
        If the claim cannot be written.
    """
    path, until = folder / f".{name}.entering", time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with claimed(path) as ours:
            if ours:
                yield
                return
        time.sleep(0.02)
    raise BusyError(f"{path}: another process holds this file for minutes; if there is none, remove it")


def _workers(folder: Path, name: str) -> list[_Worker]:
    """Those who live; what the dead left is removed."""
    pattern = re.compile(re.escape(f".{name}.at-") + r"([0-9a-f]{12})-(all|part)-[0-9a-f]{8}")
    found = []
    with explained(folder):
        for entry in os.scandir(folder):
            if match := pattern.fullmatch(entry.name):
                path = Path(entry.path)
                if is_claimed(path):
                    found.append(_Worker(path, match[1], match[2] == "all"))
                else:
                    path.unlink(missing_ok=True)
    return found
