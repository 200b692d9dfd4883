"""TIFF files: ImageJ TIFF (also above 4 GB), OME-TIFF, plain multi-page TIFF, BigTIFF.

::

    chain of pages -> slices -> voxel size, grey values -> reader of rows

Uncompressed data are read from their place in the file, everything else is decoded by tifffile and imagecodecs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from densecell_batch.errors import StackError
from densecell_batch.io.formats.chain import TiffDirectory, read_at, read_chain
from densecell_batch.io.formats.grey_values import AS_STORED, GreyValues, grey_values_of
from densecell_batch.io.formats.slices import Slices, find_slices
from densecell_batch.io.formats.tiff_tags import voxel_size_of
from densecell_batch.io.stack import Reader, Stack, StackInfo, explained_reading

__all__ = ["is_whole_tiff", "open_tiff"]

_PACKED = 2000  # times its size on disk that an image has at most, unpacked
_BLANK = 2**28  # bytes that may be there for next to nothing: a slice without any tissue

# It logs whatever it finds odd in a file, of which next to nothing matters; what does is looked at here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def open_tiff(path: Path, stream: BinaryIO, *, stored: bool = False, of_set: bool = False) -> Stack:
    """Open a TIFF file; `stored` and what it raises are as for `open_stack`.

    Parameters
    ----------
    path
        The file, for messages.
    stream
        It, open; the stack closes it, also where it cannot be opened.
    of_set
        Whether its pages are read as they come, whatever its OME-XML says of them.
    """
    with ExitStack() as opened:
        opened.callback(stream.close)
        with explained_reading(path, "it is not a TIFF that can be read"):
            pages = read_chain(stream.fileno(), path)
            try:
                # Without `_multifile` it would open whatever files the OME-XML names.
                tiff = tifffile.TiffFile(stream, is_ome=False if of_set else None, _multifile=False)
            except tifffile.TiffFileError as error:
                reason = str(error).removeprefix("not a TIFF file: ")
                raise StackError(
                    f"{path}: not a TIFF file ({reason}); expected a TIFF stack, saved for example by Fiji"
                ) from error
            opened.callback(tiff.close)
        with explained_reading(path, "its header cannot be read"):
            slices = find_slices(tiff, pages, path, stored=stored)
            block = _block(slices, pages)
            _check_declared(slices, block, path, os.fstat(stream.fileno()).st_size)
            voxel_size, calibration_notes = voxel_size_of(tiff, slices.shape[0])
            grey = [AS_STORED] if stored else grey_values_of(pages)
            read = _slice_reader(tiff, slices, pages, grey, path)
        close = opened.pop_all().close
    container = "ome-tiff" if tiff.is_ome else "imagej" if tiff.is_imagej else "tiff"
    info = StackInfo(path, slices.shape, slices.dtype.newbyteorder("=").name, voxel_size, container)
    notes = [*slices.notes, *dict.fromkeys(one.note for one in grey if one.note)]
    stack = Stack(info, [path], read, close, notes, calibration_notes)
    stack.block = block
    return stack


def _block(slices: Slices, pages: Sequence[TiffDirectory]) -> int:
    """Bytes that are decoded at once, at most, whatever rows are asked for."""
    if slices.start is not None:
        return 0
    packed = max(page.block for page in pages)
    return max(packed, slices.shape[0] * slices.shape[1] * slices.shape[2]) if slices.folded else packed


def _check_declared(slices: Slices, block: int, path: Path, size: int) -> None:
    """Refuse what unpacks to far more than a packed image does: who says so wants memory and time, not a result."""
    z, y, x = slices.shape
    declared = max(z * y * x * slices.dtype.itemsize, block)
    if declared > max(_PACKED * size, _BLANK):
        raise StackError(
            f"{path}: it says that it holds {z} x {y} x {x} voxels, {declared:.3g} bytes unpacked, and has {size}: "
            "no image packs like that; export it again"
        )


def is_whole_tiff(path: Path) -> bool:
    """Whether a file is a TIFF, of whatever kind of image, whose pages and pixels are all in the file."""
    try:
        with path.open("rb") as stream, tifffile.TiffFile(path, _multifile=False) as tiff:
            pages = read_chain(stream.fileno(), path)
            images = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
            if images <= len(pages):
                return True
            # ImageJ has one page for all, and the pixels of the others behind its own.
            first = pages[0]
            needed = images * first.width * first.length * first.samples * first.bits // 8
            return first.offsets[0] + needed <= path.stat().st_size
    except Exception:  # a decoder of damaged files raises almost anything
        return False


def _slice_reader(
    tiff: tifffile.TiffFile,
    slices: Slices,
    pages: Sequence[TiffDirectory],
    grey: Sequence[GreyValues],
    path: Path,
) -> Reader:
    """A reader of rows of slice z as (y, x), in grey values."""
    _, height, width = slices.shape
    dtype, descriptor = slices.dtype, tiff.filehandle.fileno()
    numbers = {page.offset: number for number, page in enumerate(pages)}
    per_slice, row = height * width * dtype.itemsize, width * dtype.itemsize

    def rows_at(start: int, first: int, stop: int) -> np.ndarray:
        data = read_at(descriptor, (stop - first) * row, start + first * row)
        return np.frombuffer(data, dtype).reshape(stop - first, width)

    def grey_of(number: int) -> GreyValues:
        return grey[number] if number < len(grey) else grey[0]

    def read(z: int, first: int, stop: int) -> np.ndarray:
        if slices.start is not None:
            return grey_of(z)(rows_at(slices.start + z * per_slice, first, stop))
        page = slices.page(z)
        if slices.folded:
            return grey_of(0)(np.asarray(page.asarray()).reshape(slices.shape)[z, first:stop])
        if page is None:
            raise StackError(f"{path}: slice {z} is missing in the file; export it again")
        if page.parent is not tiff or page.offset not in numbers:
            return _decoded(page, first, stop)
        number = numbers[page.offset]
        directory = pages[number]
        if (directory.length, directory.width) != (height, width):
            raise StackError(
                f"{path}: slice {z} is {directory.length} x {directory.width}; expected {height} x {width} as in slice "
                "0: all slices of a stack must be alike"
            )
        if directory.start is not None and directory.bits == 8 * dtype.itemsize:
            return grey_of(number)(rows_at(directory.start, first, stop))
        # A frame takes the word of the first page for how it is packed; the page itself knows.
        return grey_of(number)(_decoded(page.aspage(), first, stop))

    return read


def _decoded(page: Any, first: int, stop: int) -> np.ndarray:
    """Rows of a page."""
    if stop - first == page.imagelength or page.shape != (page.imagelength, page.imagewidth):
        return np.asarray(page.asarray())
    if isinstance(page, tifffile.TiffFrame):
        page = page.aspage()
    return _page_rows(page, first, stop)


def _page_rows(page: Any, first: int, stop: int) -> np.ndarray:
    """Rows of a page, of which only the tiles or strips that hold them are decoded."""
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
