"""Open what somebody else may have put there: no links, nothing but regular files, no more bytes than it may have.

Whoever can write to the output folder may spoil what lies there, but makes the program read nothing else, wait for
nothing, and take no more memory than a small file does.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = ["open_plainly", "read_json", "read_small"]

_SMALL = 16 * 2**20  # bytes; a report of a thousand classes has a hundredth of it


@contextmanager
def open_plainly(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        If it is not there, a link, or no regular file: a pipe would keep the program waiting.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield stream


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
        If it is no JSON in UTF-8, or nested so deep that nobody means it.
    """
    try:
        return json.loads(read_small(path))
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deep") from error
