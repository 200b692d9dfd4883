"""Published models: bytes of the zip, of a checkpoint, of the graph; the index under checksums that are right."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

from densecell_batch.models.crc32c import crc32c, masked
from densecell_batch.models.published import read_published

from .driver import Target, mutated
from .zips import pack, unpack

_DATA = Path(__file__).parents[1] / "data" / "published"


def _seeds() -> Sequence[bytes]:
    return [_zip(_DATA / name) for name in ("2d3d-small_A", "2d3d-small_S", "unet-small_0")]


def _zip(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for inside in sorted(folder.rglob("*")):
            if inside.is_file() and inside.suffix != ".pkl":
                file.write(inside, f"model/{inside.relative_to(folder).as_posix()}")
    return content.getvalue()


def _mutate(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.1:
        return mutated(rng, content)
    files = unpack(content)
    name = rng.choice(sorted(files) + [name for name in files if name.endswith(".index")] * 10)
    files[name] = mutated(rng, files[name])
    if name.endswith(".index") and rng.random() < 0.9:
        files[name] = _mended(files[name])
    return pack(rng, files)


def _mended(index: bytes) -> bytes:
    """An index whose checksums are right again: of the blocks that its footer and its block of blocks name."""
    data = bytearray(index)
    if len(data) < 48:
        return index
    at = 0
    numbers = []
    for _ in range(4):
        value, shift = 0, 0
        while at < 48:
            byte = data[len(data) - 48 + at]
            value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                break
        numbers.append(value)
    where, size = numbers[2:]
    for start, stop in ((0, numbers[0] - 5), (where, where + size)):  # one block of tensors in a small index
        if 0 <= start < stop and stop + 5 <= len(data):
            data[stop + 1 : stop + 5] = masked(crc32c(bytes(data[start : stop + 1]))).to_bytes(4, "little")
    return bytes(data)


TARGET = Target(_seeds, read_published, ".zip", _mutate)
