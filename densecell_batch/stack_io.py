"""Stacks on disk, read lazily: a slice at a time, whatever the container.

ImageJ TIFF (also above 4 GB), OME-TIFF, plain multi-page TIFF, BigTIFF and folders of single-slice TIFFs;
uncompressed data are read from their place in the file, everything else is decoded by tifffile and imagecodecs.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile

from densecell_batch.errors import DensecellError, OptionError, StackError
from densecell_batch.volume import StackInfo, VoxelSize

__all__ = [
    "DTYPES",
    "Stack",
    "Stamp",
    "content_sha256",
    "find_stacks",
    "is_slice",
    "natural_key",
    "open_stack",
    "stamp_of",
]

DTYPES = ("uint8", "uint16", "int16", "float32")

_SUFFIXES = (".tif", ".tiff")
_AXES = {
    "C": "channels",
    "S": "colour samples",
    "T": "time points",
    "H": "lifetimes",
    "P": "phases",
    "R": "tiles",
    "Z": "slices",
}


_Reader = Callable[[int, int, int], np.ndarray]  # (slice, first row, one past the last row) -> (y, x)


class Stack:
    """An open stack. Slices may be read from any thread, in any order; close it, or use it as a context.

    Attributes
    ----------
    info : StackInfo
        Shape, dtype, voxel size, container.
    files : tuple of Path
        The files that hold the slices, in order.
    notes : tuple of str
        What the user should know of the stack; goes into the report.
    """

    def __init__(
        self,
        info: StackInfo,
        files: Sequence[Path],
        read: _Reader,
        close: Callable[[], None],
        notes: Sequence[str] = (),
    ) -> None:
        self.info, self.files, self.notes = info, tuple(files), tuple(notes)
        self._read, self._close = read, close
        self._lock = threading.Lock()

    def read(self, z: int, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Slice `z`, or its rows [start, stop), as (y, x), of dtype `info.dtype` in native byte order.

        No more than these rows is held in memory, if the file is uncompressed or has tiles or strips.

        Raises
        ------
        StackError
            If the slice cannot be decoded, or is not of the shape and dtype of the stack.
        """
        start, stop = rows or (0, self.info.shape[1])
        with self._lock, _explained(self.info.path, f"slice {z} cannot be read; the file may be damaged"):
            plane = self._read(z, start, stop)
        y, x = stop - start, self.info.shape[2]
        if plane.shape != (y, x) or plane.dtype.newbyteorder("=") != np.dtype(self.info.dtype):
            raise StackError(
                f"{self.files[z] if len(self.files) > 1 else self.info.path}: slice {z} is {plane.shape} "
                f"{plane.dtype.name}; "
                f"expected ({y}, {x}) {self.info.dtype} as in slice 0: all slices of a stack must be alike"
            )
        return plane.astype(self.info.dtype, copy=False)

    def close(self) -> None:
        """Close the file."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()


def open_stack(path: Path, voxel_size: VoxelSize | None = None) -> Stack:
    """Open a stack and check all that its header says.

    Parameters
    ----------
    path
        A TIFF file, or a folder of single-slice TIFFs.
    voxel_size
        Overrides that of the file.

    Returns
    -------
    Stack

    Raises
    ------
    StackError
        If it is not there, not readable, not a TIFF, truncated, or not one grey-value volume of a dtype in `DTYPES`.
    """
    path = Path(path)
    if not path.exists():
        raise StackError(f"{path}: no such file or folder")
    if not path.is_dir() and not path.is_file():
        raise StackError(f"{path}: it is neither a file nor a folder; expected a TIFF file or a folder of slices")
    stack = _open_folder(path) if path.is_dir() else _open_file(path)
    if voxel_size is not None:
        stack.info = replace(stack.info, voxel_size=voxel_size)
        stack.notes = ()
    return stack


def find_stacks(patterns: Sequence[str]) -> list[Path]:
    """The stacks that the user names: files, folders of slices, and globs, each stack once, matches in natural order.

    A path without a match is kept, so that it fails alone and by name when it is opened.

    Raises
    ------
    OptionError
        If a glob matches no TIFF file and no folder.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        matches = [Path(pattern)]
        if not matches[0].exists() and glob.has_magic(pattern):
            candidates = (Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            matches = sorted((p for p in candidates if p.is_dir() or is_slice(p)), key=natural_key)
            if not matches:
                raise OptionError(f"{pattern} matches no TIFF file and no folder")
        for match in matches:
            found.setdefault(os.path.realpath(match), match)  # Path.resolve fails on a link to itself
    return list(found.values())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that counts as people do: slice2 before slice10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def content_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of a file's bytes; of several files, over the names and hashes of all in their order.

    Raises
    ------
    StackError
        If a file cannot be read.
    """
    if len(files) == 1:
        with _explained(files[0], "the file cannot be read"), files[0].open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{content_sha256([file])}\n".encode())
    return whole.hexdigest()


@dataclass(frozen=True)
class Stamp:
    """What changes when a stack does, and costs little to find out."""

    files: int
    bytes: int
    mtime_ns: int  # of the last one changed


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file or of a folder of slices; None where there is none."""
    try:
        files = [entry for entry in path.iterdir() if is_slice(entry)] if path.is_dir() else [path]
        found = [file.stat() for file in files]
    except OSError:
        return None
    if not found:
        return None
    return Stamp(len(found), sum(file.st_size for file in found), max(file.st_mtime_ns for file in found))


def is_slice(path: Path) -> bool:
    """Whether a file is, by its name, a TIFF that somebody means to be read."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
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


def _open_folder(folder: Path) -> Stack:
    with _explained(folder, "the folder cannot be read"):
        files = sorted(filter(is_slice, folder.iterdir()), key=natural_key)
    if not files:
        raise StackError(f"{folder}: the folder holds no TIFF file; expected single-slice TIFFs (.tif or .tiff)")
    with _open_file(files[0]) as first:
        info, notes = first.info, first.notes
    if info.shape[0] > 1:
        raise StackError(
            f"{folder}: {files[0].name} has {info.shape[0]} slices; expected a folder of single-slice TIFFs: to "
            "segment each file as a "
            f"stack of its own, give {folder}/*{files[0].suffix}"
        )

    def read(z: int, start: int, stop: int) -> np.ndarray:
        with _open_file(files[z]) as single:
            if single.info.shape[0] > 1:
                raise StackError(f"{files[z]}: has {single.info.shape[0]} slices; expected one, as in {files[0].name}")
            if single.info.shape[1:] != info.shape[1:]:
                return single.read(0)  # of another shape, as the caller will say
            return single.read(0, (start, stop))

    info = replace(info, path=folder, shape=(len(files), *info.shape[1:]), container="folder")
    return Stack(info, files, read, lambda: None, notes)


def _open_file(path: Path) -> Stack:
    complaints = _Complaints()
    with _explained(path, "it is not a TIFF that can be read"), complaints:
        try:
            tiff = tifffile.TiffFile(path)
        except tifffile.TiffFileError as error:
            reason = str(error).removeprefix("not a TIFF file: ")
            raise StackError(
                f"{path}: not a TIFF file ({reason}); expected a TIFF stack, saved for example by Fiji"
            ) from error
    try:
        with _explained(path, "its header cannot be read"), complaints:
            series = _only_series(tiff, path)
            length = _volume_length(series, path)
            read = _slice_reader(tiff, series, length, path)
            voxel_size, notes = _voxel_size(tiff)
        if complaints.errors:
            raise StackError(f"{path}: the file is truncated or damaged ({complaints.errors[0]}); copy it again")
    except BaseException:
        tiff.close()
        raise
    y, x = (int(side) for side in series.shape[-2:])
    container = "ome-tiff" if tiff.is_ome else "imagej" if tiff.is_imagej else "tiff"
    info = StackInfo(path, (length, y, x), series.dtype.newbyteorder("=").name, voxel_size, container)
    return Stack(info, [path], read, tiff.close, notes)


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


def _slice_reader(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, length: int, path: Path) -> _Reader:
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


def _voxel_size(tiff: tifffile.TiffFile) -> tuple[VoxelSize | None, list[str]]:
    """Voxel size from the tags of ImageJ or OME, and notes on tags that do not suffice.

    The resolution of a plain TIFF is that of a printer (72 dpi) far more often than that of a microscope; it is not
    used.
    """
    try:
        if tiff.is_ome:
            return _ome_voxel_size(tifffile.xml2dict(tiff.ome_metadata or ""))
        if tiff.is_imagej:
            return _imagej_voxel_size(tiff)
    except (OptionError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        return None, [f"the calibration of the file is not usable ({error}); give --voxel-size"]
    return None, []


def _imagej_voxel_size(tiff: tifffile.TiffFile) -> tuple[VoxelSize | None, list[str]]:
    metadata = tiff.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    if unit.strip().lower() in ("", "pixel", "pixels"):
        return None, []
    tags = tiff.pages[0].tags  # type: ignore[union-attr]
    edges = []
    for name in ("YResolution", "XResolution"):
        pixels, units = tags[name].value
        edges.append(units / pixels)
    if "spacing" not in metadata:
        return None, ["the file is calibrated in x and y, but says no slice spacing; give --voxel-size"]
    return VoxelSize.of(abs(float(metadata["spacing"])), edges[0], edges[1], unit), []


def _ome_voxel_size(metadata: dict[str, Any]) -> tuple[VoxelSize | None, list[str]]:
    image = metadata["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    edges = {axis: pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"}
    if edges["X"] is None and edges["Y"] is None:
        return None, []
    missing = [axis.lower() for axis, edge in edges.items() if edge is None]
    if missing:
        return None, [f"the file says no voxel size along {', '.join(missing)}; give --voxel-size"]
    in_um = [VoxelSize.of(*(float(edges[a]),) * 3, pixels.get(f"PhysicalSize{a}Unit", "µm")).x for a in "ZYX"]
    return VoxelSize(*in_um), []
