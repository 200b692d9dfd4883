"""TensorFlow's V2 checkpoints, read without TensorFlow (docs/design/0010).

A checkpoint is an index and data files::

    model.ckpt-N.index                  a table of sorted keys: "" -> a header; name of a tensor -> where it lies
    model.ckpt-N.data-00000-of-00001    values of the tensors, one after the other, little-endian

The table has the format of LevelDB (ref. 1): blocks of entries whose keys share their beginnings, each block with a
checksum; a block that says where the blocks are; a footer that says where that one is. Its values are protocol buffers
(ref. 2). TensorFlow's own reader ends the process for many a damaged index; here every damage is a ValueError, and no
number of the file is used before it has been held against the file's size.

References
----------
.. [1] LevelDB, doc/table_format.md.
.. [2] TensorFlow, core/protobuf/tensor_bundle.proto and core/framework/tensor_shape.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from densecell_batch.models.crc32c import crc32c, masked
from densecell_batch.nets.description import Shape

__all__ = ["MAX_INDEX_BYTES", "Tensor", "parse_index", "tensor_values"]

MAX_INDEX_BYTES = 2**24  # the published ones have 1e4
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 16
_MAX_KEY_BYTES = 1000

_FOOTER = 48  # bytes
_TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_TRAILER = 5  # bytes after a block: how it is compressed, and a checksum
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields of a protocol buffer

# Numbers of TensorFlow's types and the bytes of a value, of those that checkpoints of nets hold.
_TYPES = {1: ("float32", 4), 2: ("float64", 8), 3: ("int32", 4), 9: ("int64", 8), 10: ("bool", 1), 14: ("bfloat16", 2),
          19: ("float16", 2)}  # fmt: skip

Message = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class Tensor:
    """Where the values of a tensor lie, and what they are."""

    dtype: str  # "float32", ...
    shape: Shape
    shard: int  # which data file
    offset: int  # bytes
    size: int  # bytes
    checksum: int  # masked CRC-32C of the values


def parse_index(content: bytes) -> tuple[dict[str, Tensor], int]:
    """Read the index of a checkpoint.

    Parameters
    ----------
    content
        All bytes of the file, at most `MAX_INDEX_BYTES`.

    Returns
    -------
    tensors : dict
        By name.
    shards : int
        Number of data files.

    Raises
    ------
    ValueError
        If it is damaged, or is not the index of such a checkpoint.
    """
    tensors: dict[str, Tensor] = {}
    shards = 0
    for key, value in _entries(content):
        if key:
            if len(tensors) >= _MAX_TENSORS:
                raise ValueError(f"more than {_MAX_TENSORS:,} tensors")
            tensors[key.decode("utf-8")] = _tensor(value, shards)
            continue
        header = _message(value)
        shards = _number(header, 1)
        if _number(header, 2) != 0:
            raise ValueError("its values are big-endian")
        if not 1 <= shards <= 99_999:
            raise ValueError(f"{shards} data files")
    if not shards:
        raise ValueError("no header")
    return tensors, shards


def tensor_values(tensor: Tensor, content: bytes) -> np.ndarray:
    """The values of a float32 tensor from its bytes.

    Raises
    ------
    ValueError
        If these are not the bytes that the index describes.
    """
    if len(content) != tensor.size:
        raise ValueError(f"{len(content):,} bytes where {tensor.size:,} were expected")
    if masked(crc32c(content)) != tensor.checksum:
        raise ValueError("its checksum is wrong")
    return np.frombuffer(content, "<f4").reshape(tensor.shape).astype(np.float32)


def _tensor(value: bytes, shards: int) -> Tensor:
    """An entry of the index."""
    entry = _message(value)
    if 7 in entry:
        raise ValueError("a tensor in parts")
    number = _number(entry, 1)
    if number not in _TYPES:
        raise ValueError(f"a tensor of type {number}")
    dtype, item = _TYPES[number]
    # A scalar's shape may be left out; field 3 of a shape says that nothing is known of it.
    shape = _message(_text(entry, 2))
    if len(shape.get(2, [])) > _MAX_DIMENSIONS or 3 in shape:
        raise ValueError("a tensor of unknown shape, or of very many dimensions")
    sides = tuple(_number(_message(_as_bytes(side)), 1) for side in shape.get(2, []))
    tensor = Tensor(dtype, sides, _number(entry, 3), _number(entry, 4), _number(entry, 5), _number(entry, 6))
    if tensor.size != item * math.prod(sides) or tensor.shard >= shards:
        raise ValueError(f"a tensor of shape {list(sides)} that has {tensor.size:,} bytes in data file {tensor.shard}")
    return tensor


# ---------------------------------------------------------------------------------------------------------- the table


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_TABLE_MAGIC):
        raise ValueError("it does not end as such a file does")
    at = _skip_handle(footer, 0)  # of a block that is always empty
    previous: bytes | None = None
    read = 0
    for _, handle in _block(content, footer, at):
        read += _size(handle)
        if read > len(content):
            raise ValueError("its blocks overlap")
        for key, value in _block(content, handle, 0):
            if previous is not None and key <= previous:
                raise ValueError("its names are not in order")
            previous = key
            yield key, value


def _skip_handle(content: bytes, at: int) -> int:
    for _ in range(2):
        _, at = _varint(content, at)
    return at


def _size(handle: bytes) -> int:
    return _varint(handle, _varint(handle, 0)[1])[0]


def _block(content: bytes, handle: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block whose place and size stand in `handle`, from byte `at`."""
    start, at = _varint(handle, at)
    size, _ = _varint(handle, at)
    block, trailer = content[start : start + size], content[start + size : start + size + _TRAILER]
    if len(trailer) < _TRAILER or size < 4:
        raise ValueError("a block lies outside of it")
    if masked(crc32c(block + trailer[:1])) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a checksum is wrong")
    if trailer[0] != 0:
        raise ValueError("it is compressed, as TensorFlow 1.1 wrote; save it with another version")
    # The block ends with places where keys stand whole, which serve searches, and their number.
    end = size - 4 * (1 + int.from_bytes(block[-4:], "little"))
    if end < 0:
        raise ValueError("a block is shorter than it says")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + unshared + length > end or shared + unshared > _MAX_KEY_BYTES:
            raise ValueError("an entry is longer than its block, or its name very long")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


# -------------------------------------------------------------------------------------------------- protocol buffers


def _message(content: bytes) -> Message:
    """Fields of a protocol buffer: number -> all values."""
    fields: Message = {}
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            fields.setdefault(tag >> 3, []).append(value)
            continue
        if kind == _BYTES:
            length, at = _varint(content, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + length > len(content):
            raise ValueError("a field is longer than what holds it")
        raw = content[at : at + length]
        fields.setdefault(tag >> 3, []).append(raw if kind == _BYTES else int.from_bytes(raw, "little"))
        at += length
    return fields


def _number(message: Message, field: int) -> int:
    """A whole number at least 0; 0 where it is left out, as protocol buffers have it."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int) or value >= 2**63:
        raise ValueError(f"field {field} is no number at least 0")
    return value


def _text(message: Message, field: int) -> bytes:
    return _as_bytes(message.get(field, [b""])[-1])


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message was expected")
    return value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number in groups of 7 bits, the lowest first; and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise ValueError("it ends within a number")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
