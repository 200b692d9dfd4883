"""One process of many does something, on file systems whose locks cannot be trusted.

A claim is a file that only one process can create: a link, or creation, that fails if the name exists is atomic on
every file system in use, NFS included, where `flock` may silently do nothing. Its owner touches it as a heartbeat; a
claim whose owner is gone may be taken over.

::

    free --create--> owned --release--> free
                       |
                       owner dead: the heir, who owns PATH.heir, puts its own claim in place of the old one
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from densecell_batch.printable import printable
from densecell_batch.storage.atomic import explained, open_new, temporary_name, write_file
from densecell_batch.storage.opening import read_small

__all__ = ["PATIENCE", "Ours", "Patience", "claimed", "holder", "is_claimed", "is_mine", "once", "pause"]

Ours = Literal["", "new", "inherited"]  # how a claim became ours; "" if it is not

_EXPIRY_HERE = 86400.0  # as `Patience.expiry`, on this machine, which may have slept: what it says may be forged
_UNSIGNED = (
    60.0  # seconds after which nobody will write into an empty claim any more, nor a network hide what stands there
)
_GENERATIONS = 3  # an heir can die, too, and its heir


@dataclass(frozen=True)
class Patience:
    """How processes that share a folder wait for one another, in seconds; it is to be the same in all of them."""

    heartbeat: float = 20.0  # between two signs of life of an owner
    expiry: float = 300.0  # without one after which an owner on another machine is taken for dead
    look: float = 0.5  # between looks whether another process is done


PATIENCE = Patience()  # of this process, wherever no other is given
_held: set[str] = set()  # what stands in the claims that this process has now


@contextmanager
def claimed(path: Path, *, patience: Patience | None = None) -> Iterator[Ours]:
    """Try to own `path` for the length of a block.

    Parameters
    ----------
    path
        Of the claim; its folder exists.
    patience
        How often its owner is heard of, and when another one is given up; None: `PATIENCE`.

    Yields
    ------
    str
        "" if it is not ours; else "new", or "inherited" from a dead owner. If it is ours, the file is removed at the
        end.

    Raises
    ------
    OutputError
        If the claim cannot be written.
    """
    patience = patience or PATIENCE
    with _signature() as sign:
        with explained(path):
            ours = _take(path, sign, patience.expiry)
        if not ours:
            yield ours
            return
        over = threading.Event()
        arguments = path, sign, over, patience.heartbeat
        beat = threading.Thread(target=_beat, args=arguments, name="densecell-claim", daemon=True)
        beat.start()
        try:
            yield ours
        finally:
            over.set()
            beat.join()
            _release(path, sign)


def once(
    path: Path,
    make: Callable[[], bytes],
    waiting: Callable[[], None] = lambda: None,
    *,
    valid: Callable[[bytes], bool] = lambda _: True,
    patience: Patience | None = None,
) -> bytes:
    """The content of a file that one process of all makes, while the others wait for it.

    Parameters
    ----------
    path
        Of the file; its folder exists.
    make
        Computes the content. If it fails in one process, the next one tries.
    waiting
        Called if another process is at it.
    valid
        Whether some content can be what a process makes. What is there and is not, or is no plain file, is removed.
    patience
        How the processes wait for one another; None: `PATIENCE`.

    Raises
    ------
    OutputError
        If the file cannot be written, or its folder is not there, or not any more.
    """
    waits = False
    while True:
        with explained(path):
            if (found := _found(path, valid)) is not None:
                return found
        with claimed(path.with_name(f"{path.name}.making"), patience=patience) as ours:
            if ours and not path.exists():
                content = make()
                if not valid(content):  # else it would be made for ever
                    raise ValueError(f"{path.name}: what was made would not be taken")
                write_file(path, content)
        if not ours:
            if not waits:
                waiting()
            waits = True
            pause(patience)


def pause(patience: Patience | None = None) -> None:
    """Wait for a moment before another look whether another process is done."""
    time.sleep((patience or PATIENCE).look)


_LARGEST = 2**28  # bytes of a file that one process makes for all


def _found(path: Path, valid: Callable[[bytes], bool]) -> bytes | None:
    """What stands in a file; None where nothing does, or did."""
    try:
        content = read_small(path, _LARGEST)
        if valid(content):
            return content
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EFBIG):
            raise
    path.unlink(missing_ok=True)
    return None


def is_claimed(path: Path, *, patience: Patience | None = None) -> bool:
    """Whether a claim is there and its owner lives."""
    return path.exists() and not _is_dead(path, (patience or PATIENCE).expiry)


def holder(path: Path) -> str:
    """Whom a claim names, in words."""
    with suppress(OSError, ValueError):
        host, pid = _owner(path).split()[:2]
        return printable(f"process {pid} on {host}")
    return "another process"


def is_mine(path: Path) -> bool:
    """Whether a claim is that of this process: another takes it over if the heartbeat could not be heard for long."""
    try:
        return _owner(path) in _held
    except OSError:
        return False


def _take(path: Path, sign: str, expiry: float, generation: int = 0) -> Ours:
    if not _created(path, sign.encode()):
        dead = generation < _GENERATIONS and _is_dead(path, expiry)
        return _inherit(path, sign, expiry, generation) if dead else ""
    return "new"


def _created(path: Path, content: bytes) -> bool:
    """Whether a claim could be made; with its content in one step, so that whoever is killed in between leaves none
    that names nobody.
    """
    if path.exists():
        return False
    whole = temporary_name(path)
    try:
        with open_new(whole) as stream:
            stream.write(content)
        try:
            os.link(whole, path)
        except OSError as error:
            with suppress(OSError):  # there is none, or no more
                if path.samefile(whole):  # a server made it, and its answer was lost
                    return True
            if isinstance(error, FileExistsError):
                return False
            return _created_in_two_steps(path, content)  # no hard links here (exFAT, some network mounts)
        return True
    finally:
        with suppress(OSError):  # what is left is removed with what others left
            whole.unlink(missing_ok=True)


def _created_in_two_steps(path: Path, content: bytes) -> bool:
    try:
        stream = open_new(path)
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(content)
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        raise
    return True


def _inherit(path: Path, sign: str, expiry: float, generation: int) -> Ours:
    """Take over the claim of a dead owner. Whoever may do so is decided by a claim of its own: two who find the owner
    dead at once would otherwise take it from each other.
    """
    heir = path.with_name(f".{path.name}.heir")
    if not _take(heir, sign, expiry, generation + 1):
        return ""
    will = temporary_name(path)
    try:
        if not _is_dead(path, expiry):  # somebody was quicker
            return ""
        with open_new(will) as stream:
            stream.write(sign.encode())
        will.replace(path)
        return "inherited"
    finally:
        will.unlink(missing_ok=True)
        _release(heir, sign)


def _release(path: Path, sign: str) -> None:
    """Remove a claim, unless it was taken over while this process was not heard of."""
    with suppress(OSError):  # its folder is away: once that is back, nobody holds what stands there
        if _owner(path) == sign:
            path.unlink()


@contextmanager
def _signature() -> Iterator[str]:
    """What stands in one claim: machine, process, when it started, the space in which its number counts (containers
    that are called alike have their own), and a word for this claim, which is held for the length of the block.
    """
    sign = f"{_process()} {secrets.token_hex(8)}\n"
    _held.add(sign)
    try:
        yield sign
    finally:
        _held.discard(sign)


def _process() -> str:
    return f"{platform.node()} {os.getpid()} {_started(os.getpid())} {_space()}"


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "-" where that cannot be known, "" if it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "" if fields[0] in "ZX" else fields[19]


def _is_dead(path: Path, expiry: float) -> bool:
    """Whether the owner of a claim is gone: its process, if it ran here, or its heartbeat; or this process left it
    behind, in a folder that was away when it was to be removed. Whoever can write to the folder can name any process,
    so what is said of one here has to be right in full.
    """
    try:
        beaten = path.stat().st_mtime
        content = _owner(path)
    except OSError:
        return False
    owner = content.split()
    if owner[:4] == _process().split():
        return content not in _held
    here = len(owner) >= 2 and owner[0] == platform.node() and owner[1].isdecimal()
    if here and (len(owner) < 4 or owner[3] == _space()):
        pid = int(owner[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it runs, and belongs to somebody else
            pass
        started = _started(pid)
        # Another process may have got the number since, as after each start of a container or of the machine.
        if started == "" or (started != "-" and owner[2:3] != [started]):
            return True
        return abs(_now(path) - beaten) > _EXPIRY_HERE
    return abs(_now(path) - beaten) > (expiry if owner else min(expiry, _UNSIGNED))


def _owner(path: Path) -> str:
    """What stands in a claim; raises OSError."""
    return read_small(path, 4096).decode(errors="replace")


def _now(path: Path) -> float:
    """The time of the file system that `path` is on: the clock of a server may differ from ours."""
    probe = temporary_name(path)
    try:
        with open_new(probe) as stream:
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _beat(path: Path, sign: str, over: threading.Event, heartbeat: float) -> None:
    """Touch a claim until it is over or not ours any more. A network that is away for a while is no reason to stop."""
    while not over.wait(heartbeat):
        try:
            if _owner(path) != sign:
                return
            os.utime(path, follow_symlinks=False)
        except OSError:
            continue
