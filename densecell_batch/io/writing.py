"""Results on disk: TIFF stacks that are written a slice at a time and appear under their final name only when whole.

tifffile lays out the file with all its metadata, uncompressed and contiguous; the planes then go to their place with
plain writes, in any order. A memory map would do the same, but the pages written would count as memory of the
process.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedRandom
from math import prod
from pathlib import Path
from typing import Any, Self
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import tifffile

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, OutputError
from densecell_batch.io.formats.own import mark
from densecell_batch.labels import OUTSIDE
from densecell_batch.storage.atomic import explained, need_space, open_new, place, sync_open, temporary_name
from densecell_batch.storage.records import FileRecord

__all__ = ["FORMATS", "StackWriter", "class_lines", "instance_colours", "instance_range"]

FORMATS = ("imagej", "ome-tiff")

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_COLOR_MAP = 320  # TIFF tag
_ROOM = 2**20  # bytes beside the planes: header, metadata, colour table

# Hues that look equally far apart, around the circle: by CIEDE2000, at saturation 0.85 and brightness 0.95. Greens look
# alike over a wide range.
_HUES = (0.0, 0.074, 0.121, 0.182, 0.363, 0.471, 0.523, 0.567, 0.616, 0.726, 0.828, 0.928, 1.0)


def instance_colours(n: int = 65536) -> np.ndarray:
    """Colours that tell neighbouring numbers apart, (n, 3) uint8; 0 is black.

    The hues advance by the golden ratio of the circle, so that any run of numbers spreads over it; three levels of
    saturation and brightness alternate.
    """
    number = np.arange(n)
    hue = np.interp((number * 0.6180339887498949) % 1.0, np.linspace(0, 1, len(_HUES)), _HUES)
    saturation = np.choose(number % 3, [0.9, 0.6, 0.75])
    value = np.choose(number // 3 % 3, [1.0, 0.8, 0.9])
    # HSV to RGB for arrays: channel k falls off with the distance of the hue from its own third of the circle.
    ramps = np.abs((hue[:, None] + np.array([1.0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - np.clip(ramps, 0, 1)))
    rgb[0] = 0
    return np.round(255 * rgb).astype(np.uint8)


def instance_range(n: int) -> tuple[float, float]:
    """The display range for n objects, such that ImageJ shows as few of them as possible in black.

    ImageJ spreads 256 colours over the range: value v has colour ``(int)((v - min) * 256 / (max - min + 1) + 0.5)``.
    Up to 255 objects have a colour each, more share them. From 512 on, object 1 would have that of the background if
    the range began at 0; it begins below, where the background is just not rounded up to colour 1. ImageJ 1.53t takes
    that for 0, and shows one in 512 objects in black; 1.54p does not.
    """
    return float(-(max(0, n - 1) // 511)), float(max(255, n))


class StackWriter:
    """A TIFF stack in the making; a context that removes what was not committed.

    Parameters
    ----------
    path
        Final name.
    shape
        (z, y, x), or (z, c, y, x) with channels.
    dtype
        "uint8", "uint16" or "float32"; OME-TIFF also "uint32".
    file_format
        "imagej" or "ome-tiff".
    voxel_size
        Calibration; none is written without.
    offset
        First voxel (z, y, x) of a part in its stack: ImageJ has it as the origin of the calibration, OME as
        the position of each plane.
    channels
        Names of the channels.
    colours
        (n, 3) uint8, the colour of each value from 0; others are black. For uint8 and uint16.
    class_names
        Name of each value from 0, for the Info of ImageJ or the description of OME, where `OUTSIDE` has its name, too.
    kind
        What kind of result it is, so that nobody takes it for a stack to segment; none is written without.
    display_range
        Values shown as darkest and brightest; with `colours` 0 to 255, so that value i has colour i.

    Raises
    ------
    OptionError
        If the format has no such dtype, or there are more classes than labels for them.
    OutputError
        If the file cannot be made: no space, no permission, no folder.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: str,
        *,
        file_format: str = "imagej",
        voxel_size: VoxelSize | None = None,
        offset: tuple[int, int, int] = (0, 0, 0),
        channels: Sequence[str] | None = None,
        colours: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        display_range: tuple[float, float] | None = None,
        kind: str = "",
    ) -> None:
        if file_format not in FORMATS:
            raise OptionError(f"file format is {file_format!r}; expected one of {', '.join(FORMATS)}")
        if dtype not in (*_IMAGEJ_DTYPES, *(["uint32"] if file_format == "ome-tiff" else [])):
            raise OptionError(
                f"{path}: {file_format} has no {dtype}; expected {', '.join(_IMAGEJ_DTYPES)}; OME-TIFF also uint32"
            )
        self.path, self.shape, self.dtype = Path(path), tuple(shape), np.dtype(dtype)
        self._temporary = temporary_name(self.path)
        self._plane_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        self._missing = set(range(self.shape[0]))
        layout = _imagej_layout if file_format == "imagej" else _ome_layout
        if class_names and colours is not None:
            colours = colours[:OUTSIDE]  # what lies outside is black
        look = _Look(self.path.name, voxel_size, offset, channels, colours, class_names, display_range)
        options = layout(self.shape, self.dtype, look) | ({"software": mark(kind)} if kind else {})
        need_space(self.path, self.shape[0] * self._plane_bytes + _ROOM)
        with explained(self.path):
            self._stream = open_new(self._temporary)
            try:
                self._offset = _lay_out(self._stream, self.path, self.shape, self.dtype, options)
                self._hash = hashlib.sha256(os.pread(self._stream.fileno(), self._offset, 0))
                self._hashed = 0  # slices that the hash has seen; none any more once they come in another order
            except BaseException:
                self._stream.close()
                self._temporary.unlink(missing_ok=True)
                raise

    def write(self, z: int, plane: np.ndarray) -> None:
        """Write slice `z`: (y, x), or (c, y, x) with channels. Slices may come in any order.

        Raises
        ------
        OutputError
            If it cannot be written.
        ValueError
            If the plane is not of the shape and dtype of the stack.
        """
        if plane.shape != self.shape[1:] or plane.dtype != self.dtype:
            raise ValueError(f"slice {z} is {plane.shape} {plane.dtype}; expected {self.shape[1:]} {self.dtype}")
        data = np.ascontiguousarray(plane).view(np.uint8).data.cast("B")
        offset = self._offset + z * self._plane_bytes
        if self._hashed == z:
            self._hash.update(data)
            self._hashed += 1
        elif z < self._hashed:  # written again: the file has to be read for its hash
            self._hashed = -1
        with explained(self.path):
            while data:
                written = os.pwrite(self._stream.fileno(), data, offset)
                data, offset = data[written:], offset + written
        self._missing.discard(z)

    @property
    def temporary(self) -> Path:
        """The file under its temporary name, whole once it is finished."""
        return self._temporary

    def finish(self) -> FileRecord:
        """Flush the file to disk, still under its temporary name.

        Returns
        -------
        FileRecord
            Its final name, size and SHA-256.

        Raises
        ------
        OutputError
            If that fails, or a slice was never written.
        """
        if self._missing:
            raise OutputError(f"{self.path}: {len(self._missing)} of {self.shape[0]} slices were never written")
        with explained(self.path):
            sync_open(self._stream.fileno())
            size = os.fstat(self._stream.fileno()).st_size
            if self._hashed == self.shape[0]:
                self._stream.seek(self._offset + self.shape[0] * self._plane_bytes)
                self._hash.update(self._stream.read())
            else:
                self._stream.seek(0)
                self._hash = hashlib.file_digest(self._stream, "sha256")
            self._stream.close()
        return FileRecord(file=self.path.name, bytes=size, sha256=self._hash.hexdigest())

    def publish(self, *, replace: bool = True) -> None:
        """Give the finished file its final name, in place of an earlier one only if `replace` says so.

        Raises
        ------
        OutputError
            If that fails.
        OccupiedError
            If there is one and it is not to be replaced.
        """
        place(self._temporary, self.path, replace=replace)

    def commit(self) -> None:
        """Finish the file and give it its final name; raises as these do."""
        self.finish()
        self.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


_Options = dict[str, Any]  # of tifffile


@dataclass(frozen=True)
class _Look:
    """What a viewer needs beside the values; the fields are described at `StackWriter`."""

    name: str  # of the file
    voxel_size: VoxelSize | None
    offset: tuple[int, int, int]
    channels: Sequence[str] | None
    colours: np.ndarray | None
    class_names: Sequence[str] | None
    display_range: tuple[float, float] | None


def _lay_out(
    stream: BufferedRandom, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], options: _Options
) -> int:
    """Make the file with its metadata and a hole for the planes; the offset of the first plane."""
    rows, columns = shape[-2:]
    shape += (1,) * (len(options["metadata"]["axes"]) - len(shape))
    try:
        with warnings.catch_warnings(), tifffile.TiffWriter(stream, **options.pop("file")) as writer:
            # Above 4 GB an ImageJ file has one page for all planes; that is no truncation for ImageJ, nor for
            # `open_stack`.
            warnings.filterwarnings("ignore", "(?s).*truncating ImageJ file")
            # An array of stride 0 stands for the planes: nothing of their size is allocated, and `returnoffset` with a
            # hole instead of zeros is what `memmap` uses, too.
            offset = writer.write(None, shape=shape, dtype=dtype, returnoffset=True, **options)
    except ValueError as error:
        if columns == 1:
            raise _no_columns(path) from error
        raise
    stream.flush()
    if offset is None:
        raise OutputError(f"{path}: the file could not be laid out contiguously")
    if columns == 1:
        stream.seek(0)
        with tifffile.TiffFile(stream) as made:
            if made.pages.first.shape != (rows, 1):
                raise _no_columns(path)
    return int(offset[0])


def _no_columns(path: Path) -> OutputError:
    """Older versions of tifffile take one column for one row."""
    return OutputError(
        f"{path}: tifffile {tifffile.__version__} cannot write slices of one column; update it, or give wider slices"
    )


def _imagej_layout(shape: tuple[int, ...], dtype: np.dtype[Any], look: _Look) -> _Options:
    """Options of tifffile for a file that plain ImageJ opens with calibration, colours, display range and names."""
    display_range = look.display_range
    # One column is written as such only where there is a further axis: else each slice would become a row.
    axes = ("ZCYX" if len(shape) == 4 else "ZYX") + "S" * (shape[-1] == 1)
    metadata: _Options = {"axes": axes}
    options: _Options = {"file": {"imagej": True}, "metadata": metadata, "photometric": "minisblack"}
    if look.voxel_size is not None:
        # ImageJ reads "um" as micrometres; a literal µ does not survive the header.
        metadata |= {"unit": "um", "spacing": look.voxel_size.z}
        options["resolution"] = (1 / look.voxel_size.x, 1 / look.voxel_size.y)
    if any(look.offset):  # the origin is where the coordinates of ImageJ are 0, in voxels of the file
        metadata |= {f"{axis}origin": -start for axis, start in zip("zyx", look.offset, strict=True)}
    if look.channels is not None:
        metadata |= {"Labels": [name for _ in range(shape[0]) for name in look.channels], "mode": "grayscale"}
    info = class_lines(look.class_names, look.colours)
    if info:
        metadata["Info"] = info
    if look.colours is not None:
        table = _colour_table(look.colours, 256)
        if dtype == np.uint8:
            options |= {"colormap": table, "photometric": "palette"}
        else:
            options["extratags"] = [(_COLOR_MAP, "H", table.size, table.ravel().tolist(), True)]
        # ImageJ spreads its 256 colours over the display range.
        display_range = (0, 255) if dtype == np.uint8 else display_range or (0, 255)
    if display_range is not None:
        metadata |= {"min": float(display_range[0]), "max": float(display_range[1])}
    return options


def _ome_layout(shape: tuple[int, ...], dtype: np.dtype[Any], look: _Look) -> _Options:
    """Options of tifffile for OME-TIFF, BigTIFF where it has to be; the display range has no place in it."""
    # By itself tifffile makes one of the time: the same results would never be the same bytes.
    uuid = uuid5(NAMESPACE_OID, f"{look.name} {shape} {dtype.name}")
    metadata: _Options = {"axes": "ZCYX" if len(shape) == 4 else "ZYX", "UUID": f"urn:uuid:{uuid}"}
    big = prod(shape) * dtype.itemsize + _ROOM > 2**32
    options: _Options = {"file": {"ome": True, "bigtiff": big}, "metadata": metadata, "photometric": "minisblack"}
    if look.voxel_size is not None:
        for axis, edge in zip("ZYX", look.voxel_size.edges, strict=True):
            metadata |= {f"PhysicalSize{axis}": edge, f"PhysicalSize{axis}Unit": "µm"}
    if any(look.offset):
        metadata["Plane"] = _plane_positions(shape, look)
    if look.channels is not None:
        metadata["Channel"] = {"Name": list(look.channels)}
    info = class_lines(look.class_names, look.colours)
    if info:
        metadata["Description"] = info
    if look.colours is not None and dtype == np.uint8:
        options |= {"colormap": _colour_table(look.colours, 256), "photometric": "palette"}
    return options


def _plane_positions(shape: tuple[int, ...], look: _Look) -> dict[str, list[Any]]:
    """Where each plane of a part lies in its stack: in micrometres, or in voxels without a voxel size."""
    channels = shape[1] if len(shape) == 4 else 1
    edges, unit = ((1.0, 1.0, 1.0), "pixel") if look.voxel_size is None else (look.voxel_size.edges, "µm")
    n = shape[0] * channels
    z, y, x = (start * edge for start, edge in zip(look.offset, edges, strict=True))
    depths = [float(f"{z + (i // channels) * edges[0]:.12g}") for i in range(n)]
    positions = {"PositionX": [x] * n, "PositionY": [y] * n, "PositionZ": depths}
    return positions | {f"{name}Unit": [unit] * n for name in [*positions]}


def class_lines(class_names: Sequence[str] | None, colours: np.ndarray | None) -> str:
    """One line a class: `class 1 = cell #0000ff`; then one of the label that is none. Empty without names.

    Raises
    ------
    OptionError
        If there are more classes than labels for them.
    """
    if not class_names:
        return ""
    if len(class_names) > OUTSIDE:
        raise OptionError(
            f"{len(class_names)} classes are named; expected at most {OUTSIDE}: label {OUTSIDE} is what lies outside"
        )
    lines = []
    for i, name in enumerate(class_names):
        colour = "" if colours is None else " #{:02x}{:02x}{:02x}".format(*(int(c) for c in colours[i]))
        lines.append(f"class {i} = {name}{colour}\n")
    black = "" if colours is None else " #000000"
    return "".join([*lines, f"label {OUTSIDE} = outside{black}\n"])


def _colour_table(colours: np.ndarray, size: int) -> np.ndarray:
    """TIFF colour map (3, size) uint16 of colours (n, 3) uint8; entries beyond n are black."""
    table = np.zeros((3, size), np.uint16)
    n = min(len(colours), size)
    table[:, :n] = colours[:n].T.astype(np.uint16) * 257
    return table
