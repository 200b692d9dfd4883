"""TIFF files as microscopes, other programs and accidents make them: written by tifffile, then changed byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import tifffile


def entry_of(path: Path, code: int, page: int = 0) -> int:
    """Where the 12 bytes of a tag stand in a classic little-endian file."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].offset
    data = path.read_bytes()
    (n,) = struct.unpack_from("<H", data, offset)
    entries = range(offset + 2, offset + 2 + 12 * n, 12)
    return next(entry for entry in entries if struct.unpack_from("<H", data, entry) == (code,))


def poke(path: Path, offset: int, layout: str, *values: int | bytes) -> None:
    """Write over some bytes."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + layout, data, offset, *values)
    path.write_bytes(data)


def set_type(path: Path, code: int, kind: int, page: int = 0) -> None:
    """Give a tag another type of value."""
    poke(path, entry_of(path, code, page) + 2, "H", kind)


def set_place(path: Path, code: int, place: int, page: int = 0, *, count: int | None = None) -> None:
    """Let a tag say that its values are elsewhere, or how many they are."""
    entry = entry_of(path, code, page)
    if count is not None:
        poke(path, entry + 4, "I", count)
    poke(path, entry + 8, "I", place)


def set_next(path: Path, page: int, place: int) -> None:
    """Let a page say that the next one is elsewhere."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].offset
    (n,) = struct.unpack_from("<H", path.read_bytes(), offset)
    poke(path, offset + 2 + 12 * n, "I", place)
