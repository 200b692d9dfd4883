"""Files that appear under their final name whole or not at all, and what is left of runs that were killed."""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedRandom
from pathlib import Path

from densecell_batch.errors import DiskFullError, OccupiedError, OutputError

__all__ = [
    "create_once",
    "explained",
    "link",
    "make_folder",
    "need_space",
    "open_new",
    "place",
    "remove_remains",
    "replacing",
    "sync",
    "sync_open",
    "temporary_name",
    "write_file",
]

_log = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.tmp")
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # it can be written, but not flushed
_ABANDONED = 24 * 3600  # seconds without a write after which a file of another machine is nobody's


def temporary_name(path: Path) -> Path:
    """Where `path` is written until it is whole: a hidden file beside it that names the machine and the process, and
    that nobody can guess; another one at each call.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{_host()}.{os.getpid()}.tmp")


def open_new(path: Path) -> BufferedRandom:
    """Make a file, for reading and writing; raises OSError if the name is taken, if only by a link to nowhere."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(path, "w+b", opener=lambda name, _: os.open(name, flags, 0o666))


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node()) or "unknown"


def sync(path: Path) -> None:
    """Flush a file or a folder to disk, as far as its file system can.

    A file whose content did not arrive is an error (EIO, ENOSPC). A folder is never one: shared folders of virtual
    machines, CIFS and FUSE refuse to flush those in many ways, and without it a power failure may at worst cost a name.

    Raises
    ------
    OSError
        If the content of a file is lost.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            sync_open(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder:
            raise
        _say_once(error.strerror or str(error))


def sync_open(descriptor: int) -> None:
    """Flush a file that is open; raises as `sync` does."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        _say_once(error.strerror or str(error))


@cache
def _say_once(reason: str) -> None:
    _log.debug("the file system does not flush files or folders when asked to (%s); going on without", reason)


def need_space(path: Path, needed: int) -> None:
    """Refuse to begin what cannot end: raise DiskFullError if the disk of `path` has no `needed` bytes left."""
    with explained(path):
        free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskFullError(
            f"{path}: needs {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free in {path.parent}; make room, or "
            "choose another output folder"
        )


def make_folder(path: Path) -> None:
    """Make a folder for results, and those above it, unless it is there; raises OutputError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the output folder cannot be made ({error.strerror}); choose another one") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the file system into words.

    Raises
    ------
    OutputError
        For any OSError; it names `path` and what to do. A DiskFullError where there is no room.
    """
    try:
        yield
    except OSError as error:
        remedies = {
            errno.ENOSPC: "the disk is full: make room, then run the same command again",
            errno.EDQUOT: "the quota is used up: make room, then run the same command again",
            errno.EACCES: "no permission to write there: choose another output folder",
            errno.EROFS: "the folder is read-only: choose another output folder",
            errno.ENOENT: "the folder is not there: was it moved or unmounted?",
            errno.EFBIG: "the file system takes no file of this size: choose another output folder",
            errno.ENAMETOOLONG: "the name is too long, with what is added to it: shorten that of stack or class",
        }
        remedy = remedies.get(error.errno or 0, error.strerror or str(error))
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else OutputError
        raise kind(f"{path}: cannot be written; {remedy}") from error


@contextmanager
def replacing(path: Path, *, may_exist: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises
    ------
    OutputError
        If `path` exists already, unless it may, or its folder does not or cannot be written.
    """
    if os.path.lexists(path) and not may_exist:
        raise OutputError(f"{path}: exists already; remove it or choose another name")
    temporary = temporary_name(path)
    try:
        with explained(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        _remove(temporary)


def write_file(path: Path, content: bytes, *, replace: bool = True, mtime_ns: int | None = None) -> None:
    """Write a file so that it is there whole or not at all.

    Parameters
    ----------
    path, content
        Final name, and what goes into it.
    replace
        Whether it may take the place of one that is there.
    mtime_ns
        Time of change to give it, in nanoseconds since 1970.

    Raises
    ------
    OutputError
        If it cannot be written.
    OccupiedError
        If there is one and it is not to be replaced.
    """
    temporary = temporary_name(path)
    try:
        with explained(path), open_new(temporary) as stream:
            stream.write(content)
            stream.flush()
            if mtime_ns is not None:
                os.utime(stream.fileno(), ns=(mtime_ns, mtime_ns))
            sync_open(stream.fileno())
        place(temporary, path, replace=replace)
    finally:
        _remove(temporary)


def place(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a file its final name, in place of another one only if `replace` says so.

    Raises
    ------
    OutputError
        If it cannot have it.
    OccupiedError
        If there is another one that is not to be replaced.
    """
    with explained(path):
        if replace:
            temporary.replace(path)
        else:
            try:
                link(temporary, path)
            except FileExistsError as error:
                raise OccupiedError(
                    f"{path}: a file of that name came while its content was made; it is left as it is. Move it, then "
                    "run the same command again"
                ) from error
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def link(source: Path, target: Path) -> None:
    """Give a file a further name, in one step, which fails with FileExistsError where that is taken."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL):
            raise
        # No hard links here (exFAT, some network mounts): nearly as good, if two processes do not begin at once.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.replace(target)


def remove_remains(folder: Path) -> None:
    """Remove temporary files in a folder whose writer was killed: its process is gone, or it was idle for a day.

    What cannot be read or removed is left alone: it takes room, but harms nobody.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if entry.name.endswith(".tmp")]
    except OSError:
        return
    for entry in entries:
        match = _TEMPORARY.fullmatch(entry.name)
        if match and not _in_use(match["host"], int(match["pid"]), entry):
            _log.info("removing %s, left by a run that was killed", entry.path)
            _remove(Path(entry.path))


def _in_use(host: str, pid: int, entry: os.DirEntry[str]) -> bool:
    """Whether the process that writes a temporary file may still be running."""
    if host == _host():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it runs, and belongs to somebody else
            return True
    try:
        return time.time() - entry.stat().st_mtime < _ABANDONED
    except OSError:
        return True


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.debug("%s stays: %s", path, error)


def create_once(path: Path, content: bytes) -> None:
    """Write a file unless another process has; whole or not at all."""
    temporary = temporary_name(path)
    with explained(path):
        try:
            with open_new(temporary) as stream:
                stream.write(content)
                stream.flush()
                sync_open(stream.fileno())
            link(temporary, path)
            sync(path.parent)
        except FileExistsError:
            pass
        finally:
            _remove(temporary)
