"""What is written down of a file, so that it can be told later whether it is still that one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import BinaryIO

from msgspec import UNSET, Struct, UnsetType

__all__ = ["FileRecord", "described", "write_parts"]

_NAME_MAX = 255  # bytes, on all file systems in use


class FileRecord(Struct, frozen=True, kw_only=True):
    """A file beside the one that holds this record.

    Raises
    ------
    ValueError
        If `file` is no name that a file in some folder can have.
    """

    file: str
    bytes: int
    sha256: str | UnsetType = UNSET  # hexadecimal; reports of old have none

    def __post_init__(self) -> None:
        if self.file in ("", ".", "..") or "/" in self.file or "\0" in self.file:
            raise ValueError("expected the name of a file")
        if len(os.fsencode(self.file)) > _NAME_MAX:  # raises for what no file is called
            raise ValueError("the name of the file is too long")


def described(name: str, content: bytes) -> FileRecord:
    """The record of a small file."""
    return FileRecord(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_parts(name: str, parts: Iterable[bytes], stream: BinaryIO) -> FileRecord:
    """Write a file part by part: its record, and never more than a part of it in memory."""
    size, sha256 = 0, hashlib.sha256()
    for part in parts:
        stream.write(part)
        size += len(part)
        sha256.update(part)
    return FileRecord(file=name, bytes=size, sha256=sha256.hexdigest())
