"""One process of many does something, on file systems whose locks cannot be trusted.

A claim is a file that only one process can create: creation that fails if the name exists is atomic on every file
system in use, NFS included, where `flock` may silently do nothing. Its owner touches it as a heartbeat; a claim whose
owner is gone may be taken over.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["claimed"]

_HEARTBEAT = 20.0  # seconds
_EXPIRY = 300.0  # seconds without a heartbeat after which an owner on another machine is taken for dead


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Try to own `path` for the length of a block.

    Yields
    ------
    bool
        Whether it is ours. If so, the file is removed at the end.
    """
    if not _take(path):
        yield False
        return
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, over), name="densecell-claim", daemon=True)
    beat.start()
    try:
        yield True
    finally:
        over.set()
        beat.join()
        path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if not _is_dead(path):
                return False
            # Renaming it away succeeds for one process only; the file of a new owner would have another content.
            grave = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
            try:
                path.rename(grave)
            except FileNotFoundError:
                continue
            grave.unlink(missing_ok=True)
            continue
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{platform.node()} {os.getpid()}\n")
        return True
    return False


def _is_dead(path: Path) -> bool:
    """Whether the owner of a claim is gone: its process, if it ran here, or its heartbeat."""
    try:
        age = time.time() - path.stat().st_mtime
        owner = path.read_text().split()
    except OSError:
        return False
    if len(owner) == 2 and owner[0] == platform.node() and owner[1].isdecimal():
        try:
            os.kill(int(owner[1]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        else:
            return False
    return age > _EXPIRY


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(_HEARTBEAT):
        try:
            os.utime(path)
        except OSError:
            return
