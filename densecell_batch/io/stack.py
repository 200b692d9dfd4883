"""An open stack: its slices, read lazily, and what is known of it before any is read."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import DensecellError, StackError
from densecell_batch.storage.opening import Reach

__all__ = ["DTYPES", "Reader", "Stack", "StackInfo", "content_sha256", "explained_reading"]

DTYPES = ("uint8", "uint16", "int16", "float32")

Reader = Callable[[int, int, int], np.ndarray]  # (slice, first row, one past the last row) -> (y, x)


class Stack:
    """An open stack. Slices may be read from any thread, in any order; close it, or use it as a context.

    Attributes
    ----------
    info : StackInfo
        Shape, dtype, voxel size, container.
    files : tuple of Path
        The files that the stack consists of, in order: all of its slices, and what else decides what they are.
    notes : tuple of str
        What the user should know of the stack; goes into the report.
    calibration_notes : tuple of str
        Those of them that no longer hold where the user says the voxel size.
    remarks : tuple of str
        Those of the notes that are of its files, and stay true of whatever is made of it.
    reach : Reach
        Which links are followed on the way to them.
    block : int
        Bytes that are decoded at once, at most, whatever rows are asked for; 0 where they are read from their place.
    """

    def __init__(
        self,
        info: StackInfo,
        files: Sequence[Path],
        read: Reader,
        close: Callable[[], None],
        notes: Sequence[str] = (),
        calibration_notes: Sequence[str] = (),
    ) -> None:
        self.info, self.files = info, tuple(files)
        self.notes, self.calibration_notes = (*notes, *calibration_notes), tuple(calibration_notes)
        self.remarks: tuple[str, ...] = ()
        self.reach, self.block = Reach.of(info.path), 0
        self._read, self._close = read, close
        self._lock = threading.Lock()

    @classmethod
    def of_array(cls, volume: np.ndarray, voxel_size: VoxelSize | None = None) -> Self:
        """A volume (z, y, x) in memory as a stack; it is not copied.

        Raises
        ------
        StackError
            If its shape or dtype is none that a stack can have.
        """
        if isinstance(volume, np.ma.MaskedArray):
            raise StackError("the array has a mask, which the nets would not see; give its values: volume.filled(0)")
        if volume.ndim != 3 or 0 in volume.shape:
            raise StackError(f"the array has the shape {volume.shape}; expected (z, y, x): of one slice, image[None]")
        if volume.dtype.name not in DTYPES:
            raise StackError(f"the array is {volume.dtype.name}; expected {', '.join(DTYPES)}: convert it with astype")
        z, y, x = volume.shape
        info = StackInfo(Path("array"), (z, y, x), volume.dtype.name, voxel_size, "array")
        return cls(info, (), lambda z, start, stop: volume[z, start:stop], lambda: None)

    def part(self, box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> Stack:
        """A region of it, [start, stop) along (z, y, x), as a stack; it stays open as long as this one does."""
        (first, last), (top, bottom), (left, right) = box
        shape = (last - first, bottom - top, right - left)
        if shape == self.shape:
            return self

        def read(z: int, start: int, stop: int) -> np.ndarray:
            return self.read(first + z, (top + start, top + stop))[:, left:right]

        info = replace(self.info, shape=shape, offset=(first, top, left))
        found = Stack(info, self.files, read, lambda: None, self.notes)
        found.reach, found.block = self.reach, self.block
        return found

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        return self.info.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the grey values."""
        return np.dtype(self.info.dtype)

    def __len__(self) -> int:
        return self.info.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The volume (z, y, x), read as a whole."""
        volume = np.empty(self.shape, self.dtype)
        for z in range(len(self)):
            volume[z] = self.read(z)
        return volume if dtype is None else volume.astype(dtype, copy=False)

    def read(self, z: int, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Slice `z`, or its rows [start, stop), as (y, x), of dtype `info.dtype` in native byte order.

        No more than these rows is held in memory, if the file is uncompressed or has tiles or strips.

        Raises
        ------
        StackError
            If the slice cannot be decoded, or is not of the shape and dtype of the stack.
        """
        start, stop = rows or (0, self.info.shape[1])
        with self._lock, explained_reading(self.info.path, f"slice {z} cannot be read; the file may be damaged"):
            plane = self._read(z, start, stop)
        y, x = stop - start, self.info.shape[2]
        if plane.shape != (y, x) or plane.dtype.newbyteorder("=") != np.dtype(self.info.dtype):
            raise StackError(
                f"{self.info.path}: slice {z} is {plane.shape} {plane.dtype.name}; "
                f"expected ({y}, {x}) {self.info.dtype} as in slice 0: all slices of a stack must be alike"
            )
        return plane.astype(self.info.dtype, copy=False)

    def sha256(self) -> str:
        """SHA-256 of the file's bytes; of several files, over the names and hashes of all in their order.

        Raises
        ------
        StackError
            If a file cannot be read.
        """
        return content_sha256(self.files, self.reach)

    def close(self) -> None:
        """Close the file."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()


def content_sha256(files: Sequence[Path], reach: Reach | None = None) -> str:
    """SHA-256 of a file's bytes; of several files, over the names and hashes of all in their order.

    Raises
    ------
    StackError
        If a file cannot be read, or is a link that `reach` does not follow.
    """
    if len(files) == 1:
        opened = (reach or Reach.of(files[0])).open
        with explained_reading(files[0], "the file cannot be read"), opened(files[0]) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{content_sha256([file], reach)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


@contextmanager
def explained_reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a StackError. Decoders of damaged files raise almost anything."""
    try:
        yield
    except (DensecellError, MemoryError):
        raise
    except PermissionError as error:
        raise StackError(
            f"{path}: no permission to read it; ask its owner, or copy it to where you can read it"
        ) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise StackError(f"{path}: {what} ({reason}); open it in Fiji and save it again, or copy it again") from error


@dataclass(frozen=True)
class StackInfo:
    """What a stack is, read from its header.

    Attributes
    ----------
    path
        The TIFF file, or the folder of single-slice TIFFs.
    shape
        Voxels (z, y, x), each at least 1.
    dtype
        "uint8", "uint16", "int16" or "float32".
    voxel_size
        None where the file says nothing.
    container
        "imagej", "ome-tiff", "tiff", "folder" or "array".
    offset
        First voxel (z, y, x) of a part in its stack.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: str
    voxel_size: VoxelSize | None
    container: str
    offset: tuple[int, int, int] = (0, 0, 0)

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x
