"""The texts in the first page of a TIFF, read in a few small reads: who wrote it, and what it says of itself.

Nothing of the image is touched, so that whole folders can be asked: which files are a set, which are results.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

__all__ = ["Head", "read_head"]

_DESCRIPTION, _SOFTWARE, _IMAGEJ = 270, 305, 50839
_LARGEST = 256 * 2**20  # bytes of a text
_BYTES = (1, 2, 7)  # types of tags whose values are bytes


class Head(NamedTuple):
    """Texts of the first page, each empty where it has none."""

    description: bytes
    software: bytes
    imagej: bytes  # the properties that ImageJ keeps, as they are in the file


def read_head(stream: BinaryIO) -> Head | None:
    """The texts of a TIFF; None if it is none, or its first page is not there (yet).

    The stream is at its beginning before and after.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    try:
        return _read(stream)
    except (struct.error, KeyError, ValueError, OverflowError):
        return None
    finally:
        stream.seek(0)


def _read(stream: BinaryIO) -> Head | None:
    header = stream.read(16)
    order = {b"II": "<", b"MM": ">"}[header[:2]]
    (magic,) = struct.unpack_from(order + "H", header, 2)
    if magic not in (42, 43):
        return None
    big = magic == 43
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), header, 8 if big else 4)
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    stream.seek(offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))
    if not 0 < count < 4096:
        return None
    texts: dict[int, bytes] = {}
    for code, kind, length, value in entry.iter_unpack(stream.read(entry.size * count)):
        if code not in (_DESCRIPTION, _SOFTWARE, _IMAGEJ) or kind not in _BYTES or length > _LARGEST:
            continue
        if length <= len(value):
            texts.setdefault(code, value[:length])
        elif code not in texts:
            stream.seek(struct.unpack(order + ("Q" if big else "I"), value)[0])
            texts[code] = stream.read(length)
    description, software = (texts.get(code, b"").rstrip(b"\0") for code in (_DESCRIPTION, _SOFTWARE))
    return Head(description, software, texts.get(_IMAGEJ, b""))
