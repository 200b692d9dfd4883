"""The file of a golden pair: a small input, and what the nets made of it, in an `.npz`.

The file comes with a bundle from a stranger, so what an array says of itself is held against the net and against the
bytes that are there before any of them is decoded: numpy's own reader makes an array of whatever shape the file claims.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO

import numpy as np

from densecell_batch.errors import BundleError
from densecell_batch.nets.architecture import Architecture, forward_bytes
from densecell_batch.nets.description import Shape
from densecell_batch.storage.zips import Archive, open_archive

__all__ = ["MAX_NPZ_BYTES", "check_golden", "golden_bytes", "read_golden"]

MAX_NPZ_BYTES = 2**28  # of the file; those of ours have 1e5
_MAX_FORWARD_BYTES = 2**30  # that a net takes for the input; the published ones take 8e6 and 1e8

# What numpy writes before the values: magic, version 1.0, length, then the type, order and shape as a Python literal.
_MAGIC = b"\x93NUMPY\x01\x00"

_HEADER = re.compile(
    r"\{'descr': '([<>=|]?[a-zA-Z]\d{0,4})', 'fortran_order': (False|True), 'shape': \(((?:\d{1,9},? ?){0,8})\), \} *\n"
)


def check_golden(architecture: Architecture, shape: Shape, place: object) -> None:
    """Refuse an input (z, y, x) that a net needs more memory for than a small one.

    Raises
    ------
    BundleError
        If it does; the message begins with `place`.
    """
    needed = forward_bytes(architecture, shape)
    if needed > _MAX_FORWARD_BYTES:
        raise BundleError(
            f"{place}: for a golden input of {list(shape)} (z, y, x) its nets need {needed:,} bytes; expected a small "
            f"one that needs at most {_MAX_FORWARD_BYTES:,}"
        )


def golden_bytes(image: np.ndarray, expected: np.ndarray) -> bytes:
    """The file of a golden pair."""
    content = io.BytesIO()
    np.savez(content, input=image, expected=expected)
    return content.getvalue()


def read_golden(content: bytes, architecture: Architecture, place: str) -> tuple[np.ndarray, np.ndarray]:
    """The golden pair in the bytes of its file.

    Parameters
    ----------
    content
        The bytes.
    architecture
        The nets.
    place
        What messages call the file.

    Returns
    -------
    input : numpy.ndarray
        (z, y, x) float32.
    expected : numpy.ndarray
        (z, y, x, class) float32.

    Raises
    ------
    BundleError
        If the file is damaged, or the arrays do not fit the net.
    """
    with open_archive(Path(place), BundleError, io.BytesIO(content)) as arrays:
        missing = [name for name in ("input.npy", "expected.npy") if name not in arrays.names]
        if missing:
            raise BundleError(f"{place} cannot be read ({missing[0]} is missing in it); get the bundle again")
        with arrays.open("input.npy") as file, arrays.open("expected.npy") as other:
            dtype, order, shape = _header(file, place)
            expected_dtype, expected_order, expected_shape = _header(other, place)
            if len(shape) != 3 or dtype != np.float32 or expected_dtype != np.float32:
                raise BundleError(
                    f"{place}: input is {dtype} {shape} and expected {expected_dtype}; both should be float32, "
                    "(z, y, x) and (z, y, x, class)"
                )
            check_golden(architecture, shape, place)
            wanted = (*architecture.output_shape(shape), architecture.n_classes)
            if expected_shape != wanted or min(wanted) < 1:
                raise BundleError(f"{place}: expected has shape {expected_shape}; it should be {wanted} for {shape}")
            image = _values(file, shape, order, arrays, "input.npy", place)
            return image, _values(other, expected_shape, expected_order, arrays, "expected.npy", place)


def _header(file: IO[bytes], place: str) -> tuple[np.dtype, str, Shape]:
    """Type, memory order and shape of an array, as its header says them."""
    start = file.read(10)
    text = file.read(int.from_bytes(start[8:], "little")).decode("latin-1")
    match = _HEADER.fullmatch(text)
    try:
        if start[:8] != _MAGIC or match is None:
            raise ValueError("no array of numpy's")
        dtype = np.dtype(match[1])
        if dtype.hasobject:
            raise ValueError("an array of objects, which only pickle could load")
    except (ValueError, TypeError) as error:
        raise BundleError(f"{place} cannot be read ({error}); get the bundle again") from error
    return dtype, "F" if match[2] == "True" else "C", tuple(map(int, re.findall(r"\d+", match[3])))


def _values(file: IO[bytes], shape: Shape, order: str, arrays: Archive, name: str, place: str) -> np.ndarray:
    """The values behind a header that has been checked, just as many as it says."""
    needed, held = 4 * int(np.prod(shape, dtype=object)), arrays.size(name) - file.tell()
    if held != needed:
        raise BundleError(f"{place}: {name} has {held:,} bytes for {list(shape)} float32 values; expected {needed:,}")
    content = file.read(needed + 1)  # one more: at its end, the zip compares the checksum
    if len(content) != needed:
        raise BundleError(f"{place}: {name} ends early; get the bundle again")
    return np.frombuffer(content, "<f4").reshape(shape, order="F" if order == "F" else "C").astype(np.float32)
