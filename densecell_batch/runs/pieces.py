"""A piece of a volume as a file: slices that are finished, whole or not there at all."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any, Self

import numpy as np

from densecell_batch.errors import OutputError
from densecell_batch.inference.stitch import FinishedSlice
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.tally import slice_sums
from densecell_batch.storage.atomic import explained, open_new, sync, sync_open, temporary_name
from densecell_batch.storage.opening import open_plainly

__all__ = ["PieceWriter", "StoredSlice", "joined", "opened_piece", "stored_slice"]


@dataclass(frozen=True)
class StoredSlice:
    """A finished slice in a piece, or of all bands."""

    z: int
    labels: np.ndarray  # (y, x) uint8
    sums: np.ndarray  # (3, class) float64, see `tally.slice_sums`
    probabilities: np.ndarray | None  # (y, x, class) float32, where kept
    disagreement: np.ndarray | None  # (y, x) float32, bits, where computed
    confidence: np.ndarray | None = None  # (y, x) uint8, in 1/255, where kept


_KINDS = ("labels", "sums", "probabilities", "disagreement", "confidence")


class PieceWriter:
    """Writes finished slices, in ascending z, into the pieces that they belong to; a context.

    Each piece gets its name once its last slice is on disk. Slices of no piece are passed over.
    """

    def __init__(self, pieces: list[tuple[Path, range]], n_classes: int, *, keep_confidence: bool = False) -> None:
        self._pieces, self._n_classes, self._keep_confidence = pieces, n_classes, keep_confidence
        self._archive: zipfile.ZipFile | None = None
        self._file: BufferedRandom | None = None  # that it is in
        self._temporary = Path()

    def __call__(self, finished: FinishedSlice) -> None:
        """Take a slice.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if not self._pieces or finished.z not in self._pieces[0][1]:
            return
        path, span = self._pieces[0]
        with explained(path):
            if self._archive is None or self._file is None:
                self._temporary = temporary_name(path)
                self._file = open_new(self._temporary)
                self._archive = zipfile.ZipFile(self._file, "w")
            sums = slice_sums(self._n_classes, finished.labels, finished.confidence, finished.disagreement)
            confidence = np.rint(finished.confidence * 255).astype(np.uint8) if self._keep_confidence else None
            values = (finished.labels, sums, finished.probabilities, finished.disagreement, confidence)
            for kind, array in zip(_KINDS, values, strict=True):
                if array is not None:
                    with self._archive.open(f"{kind}-{finished.z}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
            if finished.z == span[-1]:
                self._archive.close()
                self._file.flush()
                sync_open(self._file.fileno())
                self._file.close()
                self._archive = self._file = None
                self._temporary.replace(path)
                sync(path.parent)
                self._pieces = self._pieces[1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        if self._archive is not None and self._file is not None:
            with suppress(OSError):  # what cannot be completed need not be
                self._archive.close()
            with suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)


@contextmanager
def opened_piece(path: Path) -> Iterator[Any]:
    """The arrays of a piece. One that turns out to be damaged is removed."""
    try:
        with open_plainly(path) as stream, np.load(stream, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: this piece of the work was damaged on disk ({error}) and is removed; run the command again to "
            "make it anew"
        ) from error


def stored_slice(arrays: Any, z: int, shape: tuple[int, int]) -> StoredSlice:
    """One slice of the arrays of a piece, which has to be of `shape` (y, x); ValueError if it is not one of ours."""
    found = StoredSlice(z, *(arrays.get(f"{kind}-{z}") for kind in _KINDS))
    if found.labels is None or found.sums is None:
        raise ValueError(f"slice {z} is not there")
    alike = found.labels.shape == shape and found.labels.dtype == np.uint8 and found.sums.ndim == 2
    if not alike or not _fit(found.labels, found.sums):
        raise ValueError(f"slice {z} is not as it was written")
    return found


def _fit(labels: np.ndarray, sums: np.ndarray) -> bool:
    """Whether all labels are of classes or outside, and the sums are of as many voxels as are not outside."""
    n_classes, n_inside = sums.shape[1], labels.size
    if labels.max() >= n_classes:  # only now: to look for those outside takes a copy
        inside = labels != OUTSIDE
        if labels.max(initial=0, where=inside) >= n_classes:
            return False
        n_inside = int(np.count_nonzero(inside))
    return bool(sums[0].sum() == n_inside)


def joined(bands: list[StoredSlice]) -> StoredSlice:
    """A whole slice of its bands."""
    if len(bands) == 1:
        return bands[0]

    def along_y(arrays: list[Any]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    return StoredSlice(
        bands[0].z,
        along_y([band.labels for band in bands]),
        np.sum([band.sums for band in bands], axis=0),
        along_y([band.probabilities for band in bands]),
        along_y([band.disagreement for band in bands]),
        along_y([band.confidence for band in bands]),
    )
