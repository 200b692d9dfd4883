"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, over millions of bytes in numpy.

A byte at a time in Python is a hundred times too slow. So the bytes are cut into lanes of equal length that are summed
side by side, one numpy step for each byte of a lane, and the sums of the lanes are joined: a checksum followed by n
bytes is a linear function of it over the field of two elements, whatever the bytes are (ref. 1).

References
----------
.. [1] Warren 2012, "Hacker's Delight", 2nd ed., chapter 14, "Cyclic redundancy check".
.. [2] RFC 3720, appendix B.4: checksums of known bytes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

__all__ = ["crc32c", "masked"]

_POLYNOMIAL = 0x82F63B78  # bits reversed
_MOST_LANES = 4096
_SMALL = 4096  # bytes below which lanes do not pay


def _make_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _make_table()


def crc32c(content: bytes | memoryview) -> int:
    """Checksum of bytes."""
    values = np.frombuffer(content, np.uint8)
    if len(values) < _SMALL:
        return _plain(values.tobytes(), 0xFFFFFFFF) ^ 0xFFFFFFFF
    n_lanes = min(math.isqrt(len(values)), _MOST_LANES)
    length = len(values) // n_lanes
    columns = np.ascontiguousarray(values[: length * n_lanes].reshape(n_lanes, length).T)
    table = np.array(_TABLE, np.uint32)
    lanes = np.zeros(n_lanes, np.uint32)
    for column in columns:
        lanes = table[(lanes ^ column) & 0xFF] ^ lanes >> 8
    shift = _zeros(length)
    crc = 0xFFFFFFFF
    for lane in lanes.tolist():
        crc = _apply(shift, crc) ^ lane
    return _plain(values[length * n_lanes :].tobytes(), crc) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A checksum as TensorFlow and LevelDB store it: so that a checksum over bytes that hold checksums still works."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _plain(content: bytes, crc: int) -> int:
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


@lru_cache(maxsize=64)  # the tensors of a net have few sizes
def _zeros(n: int) -> list[int]:
    """What `n` zero bytes make of each bit of a checksum: 32 columns of a matrix."""
    result, step = [1 << bit for bit in range(32)], [_plain(b"\0", 1 << bit) for bit in range(32)]
    while n:
        if n & 1:
            result = [_apply(step, column) for column in result]
        step, n = [_apply(step, column) for column in step], n >> 1
    return result


def _apply(matrix: list[int], vector: int) -> int:
    """Matrix times vector over the field of two elements."""
    total = 0
    for bit, column in enumerate(matrix):
        if vector >> bit & 1:
            total ^= column
    return total
