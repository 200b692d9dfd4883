"""Open what somebody else may have put there: no links, nothing but regular files, no more bytes than it may have.

Whoever can write to the output folder may spoil what lies there, but makes the program read nothing else, wait for
nothing, and take no more memory than a small file does. Whoever can write to the input folder makes it read nothing but
what lies there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from densecell_batch.errors import StackError
from densecell_batch.storage.strict_json import parse_json

__all__ = ["Reach", "exists", "open_plainly", "read_json", "read_small"]

_SMALL = 16 * 2**20  # bytes; a report of a thousand classes has a hundredth of it


def exists(path: Path) -> bool:
    """Whether there is something under a path, also under one that is too long for any file."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Reach:
    """Which links are followed on the way to the files of a stack.

    Parameters
    ----------
    root
        Folder up to which links are followed, as the user named it; below it none is.
    named
        A file that may be a link all the same, since the user named it.
    links
        Follow all: they were set on purpose.
    """

    root: Path
    named: Path | None = None
    links: bool = False

    @classmethod
    def of(cls, path: Path, *, links: bool = False) -> Self:
        """For a file or folder that the user names."""
        is_folder = os.path.isdir(path)  # noqa: PTH112 (Path.is_dir fails where a name is too long)
        return cls(path, None, links) if is_folder else cls(path.parent, path, links)

    def open(self, path: Path) -> BufferedReader:
        """Open a regular file below `root`.

        Raises
        ------
        StackError
            If it is a link, or lies behind one below `root`.
        OSError
            As `open_plainly`.
        """
        if self._follows(path):
            return open_plainly(path, follow=True)
        try:
            with self.folder(path.parent) as folder:
                return open_plainly(path, at=folder)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise StackError(
                f"{path}: it is a link, or lies behind one, and may lead to anything; expected a file: put the file "
                "itself there, or, if all links there are yours, give --follow-links"
            ) from error

    def stat(self, path: Path) -> os.stat_result:
        """What the system says of a file, or of the link if that is not followed."""
        return path.stat(follow_symlinks=self._follows(path))

    @contextmanager
    def folder(self, folder: Path, *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder below `root`, reached step by step: none of them is a link, nor becomes one between
        two looks. `make` says to make those that are not there.

        Raises
        ------
        OSError
            If it is not there; ENOTDIR where a link is in the way.
        """
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
        below = () if self.links else folder.relative_to(self.root).parts
        if ".." in below:
            raise OSError(errno.ENOTDIR, "it leads out of its folder", str(folder))
        descriptor = os.open(folder if self.links else self.root, flags)
        try:
            for part in below:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=descriptor)
                outer, descriptor = descriptor, os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(outer)
            yield descriptor
        finally:
            os.close(descriptor)

    def _follows(self, path: Path) -> bool:
        return self.links or path in (self.root, self.named)


def open_plainly(path: Path, *, follow: bool = False, at: int | None = None) -> BufferedReader:
    """Open a regular file for reading.

    Parameters
    ----------
    path
        The file.
    follow
        Whether it may be a link, as one that the user named.
    at
        Descriptor of its folder, if that must be no other than this.

    Raises
    ------
    OSError
        If it is not there, a link (ELOOP), or no regular file: a pipe would keep the program waiting.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    name = path if at is None else path.name
    stream = open(path, "rb", opener=lambda *_: os.open(name, flags, dir_fd=at))  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return stream


def read_small(path: Path, limit: int = _SMALL) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises
    ------
    OSError
        As `open_plainly`; or if it is larger.
    """
    with open_plainly(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def read_json(path: Path) -> Any:
    """The values in a small JSON file.

    Raises
    ------
    OSError
        As `read_small`.
    ValueError
        As `parse_json`.
    """
    return parse_json(read_small(path))
