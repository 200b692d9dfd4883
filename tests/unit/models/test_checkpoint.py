"""The index of a checkpoint: what TensorFlow reads of it, and a ValueError for every damage."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from densecell_batch.models import checkpoint
from densecell_batch.models.checkpoint import Tensor, parse_index, tensor_values
from densecell_batch.models.crc32c import crc32c, masked


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block without its trailer; keys stand whole."""
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    return body + bytes(4) + (1).to_bytes(4, "little")


def trailer(content: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + masked(crc32c(content + bytes([kind]))).to_bytes(4, "little")


def index(entries: list[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """An index with one block of entries."""
    first = block(entries)
    where = block([(b"\xff", varint(0) + varint(len(first)))])
    content = first + trailer(first, kind) + where + trailer(where)
    footer = varint(0) + varint(0) + varint(len(first) + 5) + varint(len(where))
    return content + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


HEADER = (b"", b"\x08\x01\x1a\x02\x08\x01")


def entry(shape: tuple[int, ...], size: int, more: bytes = b"", dtype: int = 1) -> bytes:
    dims = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(n) for n in shape))
    return b"\x08" + varint(dtype) + b"\x12" + varint(len(dims)) + dims + b"\x28" + varint(size) + more


@pytest.mark.keras
def test_reads_what_tensorflow_reads(data: Path) -> None:
    import tensorflow as tf

    files = sorted((data / "published").rglob("*.index"))
    assert len(files) == len(list((data / "published").glob("*-small_*"))) > 3
    for file in files:
        tensors, shards = parse_index(file.read_bytes())
        reader = tf.train.load_checkpoint(str(file.with_suffix("")))
        assert {name: list(t.shape) for name, t in tensors.items()} == reader.get_variable_to_shape_map()
        assert {name: t.dtype for name, t in tensors.items()} == {
            name: dtype.name for name, dtype in reader.get_variable_to_dtype_map().items()
        }
        assert shards == len(list(file.parent.glob("*.data-*")))


def test_an_index_by_hand() -> None:
    tensors, shards = parse_index(index([HEADER, (b"a", entry((2, 3), 24, b"\x20\x08\x35\x01\x00\x00\x00"))]))
    assert (shards, tensors) == (1, {"a": Tensor("float32", (2, 3), 0, 8, 24, 1)})
    scalar, _ = parse_index(index([HEADER, (b"s", entry((), 8, dtype=9))]))
    assert scalar["s"] == Tensor("int64", (), 0, 0, 8, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not end as such a file does"),
        (index([HEADER])[:-1], "does not end as such a file does"),
        (index([]), "no header"),
        (index([(b"", b"\x08\x00")]), "0 data files"),
        (index([(b"", b"\x08\x01\x10\x01")]), "big-endian"),
        (index([(b"", b"\x0f")]), "a field of kind 7"),
        (index([(b"", b"\x0a\x7f")]), "longer than what holds it"),
        (index([(b"", b"\x08" + b"\xff" * 11)]), "more than 64 bits"),
        (index([HEADER], kind=1), "it is compressed"),
        (index([HEADER, HEADER]), "not in order"),
        (index([HEADER, (b"b", entry((), 4)), (b"a", entry((), 4))]), "not in order"),
        (index([HEADER, (b"a" * 1001, entry((), 4))]), "its name very long"),
        (index([HEADER, (b"\xff", entry((), 4))]), "can't decode"),
        (index([HEADER, (b"a", entry((2**40, 2**40), 4))]), "that has 4 bytes"),
        (index([HEADER, (b"a", entry((1,), 4, b"\x18\x05"))]), "in data file 5"),
        (index([HEADER, (b"a", entry((1,) * 17, 4))]), "very many dimensions"),
        (index([HEADER, (b"a", entry((), 4, dtype=7))]), "a tensor of type 7"),
        (index([HEADER, (b"a", entry((), 4, b"\x3a\x00"))]), "a tensor in parts"),
        (index([HEADER, (b"a", b"\x08\x01\x12\x02\x18\x01\x28\x04")]), "unknown shape"),
        (index([HEADER, (b"a", b"\x0a\x01x")]), "field 1 is no number"),
    ],
)
def test_damage(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_index(content)


def test_blocks_that_overlap_and_names_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    first = block([HEADER])
    where = block([(bytes([i]), varint(0) + varint(len(first))) for i in range(1, 200)])
    footer = varint(0) * 2 + varint(len(first) + 5) + varint(len(where))
    content = first + trailer(first) + where + trailer(where) + footer.ljust(40, b"\0")
    with pytest.raises(ValueError, match=r"not in order|overlap"):
        parse_index(content + bytes.fromhex("57fb808b247547db"))
    monkeypatch.setattr(checkpoint, "_MAX_TENSORS", 2)
    with pytest.raises(ValueError, match="more than 2 tensors"):
        parse_index(index([HEADER, *((bytes([c]), entry((), 4)) for c in b"abc")]))


def blocks(content: bytes) -> Iterator[tuple[int, int]]:
    """Where each block of an index begins, and where its trailer: the first place with the checksum of all before."""
    start = 0
    while start < len(content) - 48:
        for end in range(start, len(content) - 48):
            if masked(crc32c(content[start : end + 1])) == int.from_bytes(content[end + 1 : end + 5], "little"):
                yield start, end
                break
        start = end + 5


def test_every_single_byte_of_an_index(data: Path) -> None:
    """Each byte set to one of a few values, with the checksums right: no error but ValueError."""
    good = next((data / "published" / "unet-small_0").rglob("*.index")).read_bytes()
    places = list(blocks(good))
    assert len(places) == 3
    rng, taken, refusals = random.Random(0), 0, Counter[str]()
    for at in range(0, len(good) - 48, 2):
        bad = bytearray(good)
        bad[at] = rng.choice((0, 1, 7, 0x7F, 0x80, 0xFF))
        for start, end in places:
            bad[end + 1 : end + 5] = masked(crc32c(bytes(bad[start : end + 1]))).to_bytes(4, "little")
        try:
            tensors, shards = parse_index(bytes(bad))
        except ValueError as error:
            refusals[str(error)] += 1
            continue
        taken += 1
        assert 1 <= shards <= 99_999
        for tensor in tensors.values():
            assert tensor.shard < shards
            assert tensor.size == 4 * math.prod(tensor.shape) or tensor.dtype != "float32"
    # Letters of names and checksums may be anything; else it is the content that is refused, not its checksum.
    assert taken > 100
    assert refusals.total() - refusals["a checksum is wrong"] > 500


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3), ()])
def test_values_are_held_to_size_and_checksum(shape: tuple[int, ...]) -> None:
    size = 4 * math.prod(shape)
    content = bytes(range(size))
    tensor = Tensor("float32", shape, 0, 0, size, masked(crc32c(content)))
    assert tensor_values(tensor, content).shape == shape
    with pytest.raises(ValueError, match="were expected"):
        tensor_values(tensor, content[:-1])
    with pytest.raises(ValueError, match="checksum"):
        tensor_values(tensor, b"\x80" + content[1:])
