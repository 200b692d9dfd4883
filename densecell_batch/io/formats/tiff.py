"""TIFF files: ImageJ TIFF (also above 4 GB), OME-TIFF, plain multi-page TIFF, BigTIFF.

Uncompressed data are read from their place in the file, everything else is decoded by tifffile and imagecodecs.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import tifffile

from densecell_batch.errors import StackError
from densecell_batch.io.formats.tiff_tags import voxel_size_of
from densecell_batch.io.stack import DTYPES, Reader, Stack, explained_reading
from densecell_batch.volume import StackInfo

__all__ = ["is_whole_tiff", "open_tiff"]

_AXES = {
    "C": "channels",
    "S": "colour samples",
    "T": "time points",
    "H": "lifetimes",
    "P": "phases",
    "R": "tiles",
    "Z": "slices",
}


def open_tiff(path: Path, stream: BinaryIO | None = None) -> Stack:
    """Open a TIFF file; raises StackError as `open_stack` does.

    With `stream`, the open file at `path`, its pages are read as they come, whatever its OME-XML says of them. Whoever
    opened the stream closes it.
    """
    complaints = _Complaints()
    with explained_reading(path, "it is not a TIFF that can be read"), complaints:
        try:
            tiff = tifffile.TiffFile(path) if stream is None else tifffile.TiffFile(stream, is_ome=False)
        except tifffile.TiffFileError as error:
            reason = str(error).removeprefix("not a TIFF file: ")
            raise StackError(
                f"{path}: not a TIFF file ({reason}); expected a TIFF stack, saved for example by Fiji"
            ) from error
    try:
        with explained_reading(path, "its header cannot be read"), complaints:
            series = _only_series(tiff, path)
            length = _volume_length(series, path)
            read = _slice_reader(tiff, series, length, path)
            voxel_size, notes = voxel_size_of(tiff)
        if complaints.errors:
            raise StackError(f"{path}: the file is truncated or damaged ({complaints.errors[0]}); copy it again")
    except BaseException:
        tiff.close()
        raise
    y, x = (int(side) for side in series.shape[-2:])
    container = "ome-tiff" if tiff.is_ome else "imagej" if tiff.is_imagej else "tiff"
    info = StackInfo(path, (length, y, x), series.dtype.newbyteorder("=").name, voxel_size, container)
    return Stack(info, [path], read, tiff.close, notes)


def is_whole_tiff(path: Path) -> bool:
    """Whether a file is a TIFF, of whatever kind of image, whose last pixels are in the file."""
    try:
        with _Complaints(), tifffile.TiffFile(path) as tiff:
            series, size = tiff.series[0], path.stat().st_size
            planes = int(np.prod(series.shape[:-2]))
            if tiff.is_imagej and (tiff.imagej_metadata or {}).get("images", planes) > planes:
                return False
            if series.dataoffset is not None:
                return bool(series.dataoffset + series.nbytes <= size)
            last = series.pages[-1]
            ends = [] if last is None else map(sum, zip(last.dataoffsets, last.databytecounts, strict=True))
            return 0 < max(ends, default=0) <= size
    except Exception:  # a decoder of damaged files raises almost anything
        return False


class _Complaints(logging.Handler):
    """What tifffile logs instead of raising: a page chain that leads out of the file, for example."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []
        self._logger = logging.getLogger("tifffile")

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or re.search("invalid|corrupt|truncat", record.getMessage()):
            self.errors.append(record.getMessage())

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        self._propagated, self._logger.propagate = self._logger.propagate, False
        return self

    def __exit__(self, *details: Any) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated


def _only_series(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The one image of the file."""
    if len(tiff.pages) == 0 or not tiff.series:
        raise StackError(f"{path}: the file has no image (zero pages); export it again")
    if len(tiff.series) > 1:
        shapes = ", ".join(" x ".join(map(str, series.shape)) for series in tiff.series[:4])
        raise StackError(
            f"{path}: the file has {len(tiff.series)} images of different kind "
            f"({shapes}{', ...' if len(tiff.series) > 4 else ''}); "
            "expected one volume: save the one to segment as a file of its own"
        )
    return tiff.series[0]


def _volume_length(series: tifffile.TiffPageSeries, path: Path) -> int:
    """Number of slices of a series that is a grey-value volume."""
    sizes = list(zip(series.axes, series.shape, strict=True))
    if series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB or any(axis == "S" and size > 1 for axis, size in sizes):
        raise StackError(f"{path}: it is an RGB image; expected grey values: in Fiji, Image > Type > 8-bit")
    if series.axes[-2:] != "YX":
        raise StackError(f"{path}: its axes are {series.axes}; expected slices of rows and columns (ZYX)")
    others = [(axis, size) for axis, size in sizes[:-2] if size > 1]
    wrong = [(axis, size) for axis, size in others if axis in "CSTHPR"]
    if wrong or len(others) > 1:
        described = ", ".join(f"{size} {_AXES.get(axis, 'planes')} (axis {axis})" for axis, size in wrong or others)
        raise StackError(
            f"{path}: it has {described}; expected one volume of slices: keep one channel and one time point "
            "(in Fiji: Image > "
            "Duplicate), or, if these are slices, say so in Image > Properties"
        )
    dtype = series.dtype.newbyteorder("=").name if series.dtype is not None else "unknown"
    if dtype not in DTYPES:
        raise StackError(
            f"{path}: its values are {dtype}; expected {', '.join(DTYPES)}: convert it in Fiji with Image > "
            "Type > 8-bit, 16-bit or 32-bit"
        )
    return others[0][1] if others else 1


def _slice_reader(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, length: int, path: Path) -> Reader:
    """A reader of rows of slice z as (y, x). Checks that the file is as long as its header says."""
    size, shape = path.stat().st_size, series.shape[-2:]
    dtype = series.dtype.newbyteorder(tiff.byteorder)  # a series of plain pages says its dtype in native order
    if tiff.is_imagej and (described := (tiff.imagej_metadata or {}).get("images", length)) != length:
        raise StackError(f"{path}: truncated: the header says {described} slices, {length} are there; copy it again")
    if (start := series.dataoffset) is not None:
        per_slice = int(np.prod(shape)) * dtype.itemsize
        end = start + length * per_slice
        if end > size:
            raise StackError(f"{path}: truncated: {size} bytes, expected {end} for {length} slices; copy it again")

        def read_contiguous(z: int, first: int, stop: int) -> np.ndarray:
            row = shape[1] * dtype.itemsize
            data = os.pread(tiff.filehandle.fileno(), (stop - first) * row, start + z * per_slice + first * row)
            return np.frombuffer(data, dtype).reshape(stop - first, shape[1])

        return read_contiguous

    pages = series.pages
    first, last = pages[0], pages[length - 1] if len(pages) == length else None
    if first is None or last is None:
        raise StackError(
            f"{path}: {len(pages)} of {length} slices are there; the file is incomplete: copy or export it again"
            if len(pages) <= length
            else f"{path}: its header says {length} slices, {len(pages)} are there; export it again"
        )
    for page in (first, last):
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
        if end > size:
            raise StackError(f"{path}: truncated: {size} bytes, expected at least {end}; copy it again")

    def read_page(z: int, first: int, stop: int) -> np.ndarray:
        page = pages[z]
        if page is None:
            raise StackError(f"{path}: slice {z} is missing in the file; export it again")
        if stop - first == shape[0] or page.shape != shape:
            return np.asarray(page.asarray())
        return _page_rows(page, first, stop)

    return read_page


def _page_rows(page: Any, first: int, stop: int) -> np.ndarray:
    """Rows of a page, of which only the tiles or strips that hold them are decoded."""
    if isinstance(page, tifffile.TiffFrame):
        page = page.aspage()
    found = np.zeros((stop - first, page.imagewidth), page.dtype)
    file = page.parent.filehandle
    height = page.tilelength if page.is_tiled else page.rowsperstrip
    across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
    for index in range(first // height * across, -(-stop // height) * across):
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        data = None
        if size:
            file.seek(offset)
            data = file.read(size)
        decoded, place, extent = page.decode(data, index, jpegtables=page.jpegtables)
        top, left = place[2], place[3]
        rows, columns = extent[1], min(extent[2], page.imagewidth - left)
        low, high = max(top, first), min(top + rows, stop)
        values = page.nodata if decoded is None else decoded[0, low - top : high - top, :columns, 0]
        found[low - first : high - first, left : left + columns] = values
    return found
