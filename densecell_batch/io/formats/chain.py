"""The chain of pages of a TIFF file, read without a library: what each page is, and where its pixels lie.

A file is whole if its chain of pages ends within it, and so do the pixels of every page. Nothing else makes it a
damaged one: text in a wrong encoding, private tags that lead nowhere, and metadata of another image are all found in
files that are read well everywhere.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecell_batch.errors import StackError

__all__ = ["PALETTE", "WHITE_IS_ZERO", "TiffDirectory", "read_at", "read_chain"]

# Of PhotometricInterpretation.
WHITE_IS_ZERO = 0
PALETTE = 3
_BLACK_IS_ZERO = 1
_YCBCR = 6

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_COLOUR_TABLE, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT = 320, 322, 323, 324, 325, 339
_DEPTH = 32997

# Codes of the tags that are read here, and what holds where a page does not have them.
_DEFAULTS = {
    _WIDTH: 0, _LENGTH: 0, _BITS: 1, _COMPRESSION: 1, _PHOTOMETRIC: _BLACK_IS_ZERO, _FILL_ORDER: 1, _SAMPLES: 1,
    _ROWS_PER_STRIP: 2**32 - 1, _PLANAR: 1, _PREDICTOR: 1, _TILE_WIDTH: 0, _TILE_LENGTH: 0, _FORMAT: 1, _DEPTH: 1,
}  # fmt: skip
_ARRAYS = (_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _COLOUR_TABLE)
_WANTED = {*_DEFAULTS, *_ARRAYS}
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian, the latter two with places of 8 bytes
_SHARED = 2**20  # bytes of lists, such as colour tables, that pages may share
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # of whole numbers; no other is of use here


@dataclass(frozen=True, slots=True)
class TiffDirectory:
    """One page, as its tags describe it."""

    offset: int  # of its list of tags in the file
    width: int
    length: int  # rows
    bits: int  # per sample, of the first one
    samples: int  # per pixel
    photometric: int
    kind: tuple[int, ...]  # what must be the same in all slices of a stack
    coding: tuple[int, ...]  # how the pixels are packed
    offsets: tuple[int, ...]  # where the strips or tiles lie
    counts: tuple[int, ...]  # bytes of each
    colour_table: np.ndarray | None  # (3, 2**bits) uint16, red, green, blue

    @property
    def start(self) -> int | None:
        """Where the pixels lie, if they lie one after the other as they are; None if they have to be decoded."""
        compression, predictor, fill_order, planar, _, tile_width, _, depth = self.coding
        plain = (compression, predictor, fill_order, planar, tile_width, depth) == (1, 1, 1, 1, 0, 1)
        if not plain or self.samples != 1 or self.bits not in (8, 16, 32) or not self.offsets or not self.offsets[0]:
            return None
        place = self.offsets[0]
        for offset, size in zip(self.offsets, self._segment_sizes(), strict=False):
            if offset != place:
                return None
            place += size
        return self.offsets[0] if place - self.offsets[0] == self.length * self.width * self.bits // 8 else None

    @property
    def block(self) -> int:
        """Bytes that a strip or tile has once it is decoded; 0 where nothing has to be."""
        if self.start is not None:
            return 0
        *_, rows, tile_width, tile_length, depth = self.coding
        pixels = tile_width * tile_length if tile_width else min(rows, self.length) * self.width
        return pixels * self.samples * max(depth, 1) * -(-self.bits // 8)

    @property
    def end(self) -> int:
        """One past the last byte of the pixels."""
        # A strip or tile at 0 is one that was never written: it is empty.
        segments = zip(self.offsets, self._segment_sizes(), strict=False)
        return max((offset + size for offset, size in segments if offset), default=0)

    def _segment_sizes(self) -> Sequence[int]:
        """Bytes of each strip or tile.

        The tags of uncompressed files are often wrong here: a last strip that is said to be as long as the others, or
        a count that does not fit into 32 bits. So it is reckoned where it can be.
        """
        compression, _, _, planar, rows, tile_width, tile_length, depth = self.coding
        if compression != 1 or self.photometric == _YCBCR:  # its colours may be of a coarser grid
            return self.counts
        across = self.samples if planar == 1 else 1
        if tile_width:
            return [-(-tile_width * self.bits * across // 8) * tile_length] * len(self.offsets)
        row = -(-self.width * self.bits * across // 8) * depth
        rows = max(1, min(rows, self.length))
        n, last = divmod(self.length, rows)
        plane = [rows * row] * min(n, len(self.offsets)) + ([last * row] if last else [])
        return plane if planar == 1 else plane * self.samples


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes of a file from `offset` on, however many calls that takes; fewer at its end.

    One call reads at most 2,147,479,552 bytes on Linux.
    """
    parts = []
    while size > 0:
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_chain(descriptor: int, path: Path) -> list[TiffDirectory]:
    """The pages of an open TIFF file, in their order; none of a file that is no TIFF.

    Raises
    ------
    StackError
        If the chain of pages or the pixels of a page lead out of the file, or the chain never ends.
    """
    size = os.fstat(descriptor).st_size
    pages: list[TiffDirectory] = []
    for offset, tags in _tag_lists(descriptor, size, path):
        page = _directory(offset, tags)
        if page.end > size:
            wanted = f"at least {page.end} for page {len(pages) + 1}"
            raise StackError(f"{path}: truncated: {size} bytes, expected {wanted}; copy it again")
        pages.append(page)
    return pages


def _tag_lists(descriptor: int, size: int, path: Path) -> Iterator[tuple[int, dict[int, tuple[int, ...]]]]:
    """Offset and tags of each page."""
    head = read_at(descriptor, 16, 0)
    if len(head) < 8 or head[:4] not in _MAGIC:
        return
    order = ">" if head[:2] == b"MM" else "<"
    big = head[2:4] in (b"\x2b\0", b"\0\x2b")
    count_format, entry, link = (order + "Q", struct.Struct(order + "HHQ8s"), order + "Q") if big else (
        order + "H", struct.Struct(order + "HHI4s"), order + "I"
    )  # fmt: skip
    count_size, link_size = struct.calcsize(count_format), struct.calcsize(link)
    (offset,) = struct.unpack_from(link, head.ljust(16, b"\0"), 8 if big else 4)
    seen: dict[int, int] = {}
    listed = 0  # bytes of all lists of numbers
    while offset:
        where = f"page {len(seen) + 1} would be at byte {offset} of {size}"
        if offset in seen:
            raise StackError(
                f"{path}: the file is damaged: page {len(seen)} leads back to page {seen[offset] + 1}; copy it again"
            )
        seen[offset] = len(seen)
        block = read_at(descriptor, 4096, offset)  # nearly always the whole list, in one reading
        if len(block) < count_size:
            raise StackError(f"{path}: the file is truncated or damaged ({where}); copy it again")
        (n,) = struct.unpack_from(count_format, block)
        length = count_size + n * entry.size + link_size
        if offset + length > size:
            raise StackError(f"{path}: the file is truncated or damaged ({where}, with {n} tags); copy it again")
        if length > len(block):
            block = read_at(descriptor, length, offset)
        tags = {}
        for code, kind, count, value in entry.iter_unpack(block[count_size : length - link_size]):
            if code in _WANTED and kind in _TYPES:
                listed += count * struct.calcsize(order + _TYPES[kind])
                if listed > size + _SHARED:
                    raise StackError(
                        f"{path}: the file is damaged: its pages have longer lists of strips, tiles or colours than "
                        "the file has bytes; export it again"
                    )
                tags[code] = _numbers(descriptor, size, path, code, order, _TYPES[kind], count, value)
        yield offset, tags
        (offset,) = struct.unpack_from(link, block, length - link_size)


def _numbers(
    descriptor: int, size: int, path: Path, code: int, order: str, kind: str, count: int, value: bytes
) -> tuple[int, ...]:
    """The numbers of a tag: those in the list of tags itself, or at the place that it names."""
    length = count * struct.calcsize(order + kind)
    if length > len(value):
        place = int.from_bytes(value, "big" if order == ">" else "little")
        if place + length > size:
            if code == _COLOUR_TABLE:  # the pixels can do without it
                return ()
            where = f"tag {code} would be at byte {place} of {size}"
            raise StackError(f"{path}: the file is truncated or damaged ({where}); copy it again")
        value = read_at(descriptor, length, place)
    return struct.unpack(f"{order}{count}{kind}", value[:length])


def _directory(offset: int, tags: Mapping[int, tuple[int, ...]]) -> TiffDirectory:
    def number(code: int) -> int:
        found = tags.get(code)
        return found[0] if found else _DEFAULTS[code]

    tiled = _TILE_OFFSETS in tags
    width, length, bits, samples = number(_WIDTH), number(_LENGTH), number(_BITS), number(_SAMPLES)
    photometric, depth, table = number(_PHOTOMETRIC), number(_DEPTH), tags.get(_COLOUR_TABLE, ())
    fits = photometric == PALETTE and bits <= 16 and len(table) == 3 * 2**bits
    return TiffDirectory(
        offset,
        width,
        length,
        bits,
        samples,
        photometric,
        kind=(width, length, bits, samples, number(_FORMAT), depth),
        coding=(
            number(_COMPRESSION), number(_PREDICTOR), number(_FILL_ORDER), number(_PLANAR), number(_ROWS_PER_STRIP),
            number(_TILE_WIDTH) if tiled else 0, number(_TILE_LENGTH) if tiled else 0, depth,
        ),
        offsets=tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, ()),
        counts=tags.get(_TILE_COUNTS if tiled else _STRIP_COUNTS, ()),
        colour_table=np.array(table, np.uint16).reshape(3, -1) if fits else None,
    )  # fmt: skip
