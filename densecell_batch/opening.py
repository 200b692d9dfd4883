"""Open what somebody else may have put there: no links, nothing but regular files, no more bytes than it may have.

Whoever can write to the output folder may spoil what lies there, but makes the program read nothing else, wait for
nothing, and take no more memory than a small file does.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from densecell_batch.strict_json import parse_json

__all__ = ["open_plainly", "read_json", "read_small"]

_SMALL = 16 * 2**20  # bytes; a report of a thousand classes has a hundredth of it


def open_plainly(path: Path, *, follow: bool = False) -> BufferedReader:
    """Open a regular file for reading; `follow` says that it may be a link, as one that the user named.

    Raises
    ------
    OSError
        If it is not there, a link (ELOOP), or no regular file: a pipe would keep the program waiting.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    stream = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115 (the caller closes it)
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
