"""Which pages of a TIFF file are the slices of its stack.

Metadata (ImageJ, OME, those of tifffile) may say what the pages are. Where they say nothing of it, pages that are alike
are one stack, whoever wrote them, one by one or together, and however each is packed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from densecell_batch.errors import StackError
from densecell_batch.io.formats.chain import TiffDirectory
from densecell_batch.io.formats.refusals import check_samples, check_values

__all__ = ["Slices", "find_slices"]

_AXES = {
    "C": "channels",
    "S": "colour samples",
    "T": "time points",
    "H": "lifetimes",
    "P": "phases",
    "R": "tiles",
    "Z": "slices",
}
_ODD = (
    tifffile.TiffFileError, struct.error, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
_KINDS = ("shaped", "ome", "imagej", "uniform", "generic")  # of series whose pages may be joined; others have pyramids


@dataclass(frozen=True)
class Slices:
    """The slices of a stack in their file."""

    shape: tuple[int, int, int]  # (z, y, x)
    dtype: np.dtype[Any]  # in the byte order of the file
    page: Callable[[int], Any]  # the page of tifffile that is slice z; None where it is missing
    start: int | None = None  # of the first slice, where all lie one after the other in the file
    folded: bool = False  # all are in one page, each a row of it
    notes: tuple[str, ...] = ()


def find_slices(tiff: tifffile.TiffFile, pages: Sequence[TiffDirectory], path: Path, *, stored: bool) -> Slices:
    """The one volume that a file holds.

    Parameters
    ----------
    tiff
        The open file.
    pages
        Its chain of pages.
    path
        Its name for errors.
    stored
        Whether stored values are wanted, as those of labels: the remedies differ.

    Raises
    ------
    StackError
        If there is no image in it, or other than one volume of grey values, or less than it says.
    """
    if not pages:
        raise StackError(f"{path}: the file has no image (zero pages); export it again")
    check_samples(pages[0], path)
    try:
        # From tifffile 2026.5.2 on a series has all its axes only if asked, and is made when it is looked at.
        series = list(tiff.series(squeeze=False) if callable(tiff.series) else tiff.series)
    except _ODD:  # pages that are packed in different ways, metadata that are no such
        series = []
    alike = all(page.kind == pages[0].kind for page in pages)
    if len(series) == 1:
        return _of_series(tiff, series[0], pages, path, alike=alike, stored=stored)
    if alike and (not series or series[0].kind in _KINDS) and not _other_axes(tiff):
        note = _chunks(series) or (_not_of_these(tiff, pages) if not series and tiff.is_ome else "")
        return _all_pages(tiff, pages, path, note, stored=stored)
    raise StackError(_several(series, pages, path))


def _of_series(
    tiff: tifffile.TiffFile,
    series: tifffile.TiffPageSeries,
    pages: Sequence[TiffDirectory],
    path: Path,
    *,
    alike: bool,
    stored: bool,
) -> Slices:
    """The volume that metadata describe, or all pages of the file where they are of another image."""
    if hasattr(series, "get_axes"):  # tifffile before 2026.5.2
        axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    else:
        axes, shape = series.axes, series.shape
    if axes[-1] == "S" and shape[-1] == 1:
        axes, shape = axes[:-1], shape[:-1]
    if series.kind == "shaped" and not _shaped_axes(tiff) and shape[-1] == 1 < pages[0].width:
        axes, shape = _without_last(shape, path)
    length = _volume_length(axes, shape, path)
    dtype = check_values(series.keyframe.dtype, pages[0], path, stored=stored).newbyteorder(tiff.byteorder)
    if not series.is_multifile and alike and (note := _misfit(tiff, series, pages, length)):
        if _other_axes(tiff):
            raise StackError(
                f"{path}: {note.partition(';')[0]}, and it speaks of channels, time points or several images; expected "
                "one volume of slices: open it in Fiji and save the slices to segment as a TIFF of their own"
            )
        return _all_pages(tiff, pages, path, note, stored=stored)
    if (column := _one_column(tiff, series, shape, pages)) is not None:
        return Slices(column, dtype, lambda z: series.keyframe, pages[0].start, folded=True)
    if tiff.is_imagej and (described := (tiff.imagej_metadata or {}).get("images", length)) > length:
        raise StackError(f"{path}: truncated: the header says {described} slices, {length} are there; copy it again")
    if series.dataoffset is not None:
        volume = (length, int(shape[-2]), int(shape[-1]))
        end = series.dataoffset + int(np.prod(volume)) * dtype.itemsize
        size = series.keyframe.parent.filehandle.size
        if end > size:
            raise StackError(f"{path}: truncated: {size} bytes, expected {end} for {length} slices; copy it again")
        return Slices(volume, dtype, lambda z: series.keyframe, series.dataoffset)
    there = sum(page is not None for page in series._pages)
    if len(series) != length or there != len(series._pages):
        raise StackError(
            f"{path}: {min(there, len(series))} of {length} slices are there; the file is incomplete: copy or export "
            "it again"
        )
    return Slices((length, int(shape[-2]), int(shape[-1])), dtype, lambda z: series[z])


def _all_pages(
    tiff: tifffile.TiffFile, pages: Sequence[TiffDirectory], path: Path, note: str, *, stored: bool
) -> Slices:
    """All pages of a file, which are alike, as the slices of one stack."""
    tiff.pages.useframes = False
    first = tiff.pages.first
    dtype = check_values(first.dtype, pages[0], path, stored=stored).newbyteorder(tiff.byteorder)
    if first.axes != "YX":
        raise StackError(f"{path}: its pages have the axes {first.axes}; expected slices of rows and columns (YX)")
    shape = (len(pages), pages[0].length, pages[0].width)
    return Slices(shape, dtype, lambda z: tiff.pages.get(z), notes=(note,) if note else ())


def _volume_length(axes: str, shape: Sequence[int], path: Path) -> int:
    """Number of slices of a series that is a volume."""
    if axes[-2:] != "YX":
        raise StackError(f"{path}: its axes are {axes}; expected slices of rows and columns (ZYX)")
    others = [(axis, size) for axis, size in zip(axes[:-2], shape[:-2], strict=True) if size > 1]
    wrong = [(axis, size) for axis, size in others if axis in "CSTHPR"]
    if wrong or len(others) > 1:
        described = ", ".join(f"{size} {_AXES.get(axis, 'planes')} (axis {axis})" for axis, size in wrong or others)
        raise StackError(
            f"{path}: it has {described}; expected one volume of slices: keep one channel and one time point "
            "(in Fiji: Image > "
            "Duplicate), or, if these are slices, say so in Image > Properties"
        )
    return int(others[0][1]) if others else 1


def _without_last(shape: tuple[int, ...], path: Path) -> tuple[str, tuple[int, ...]]:
    """Axes of an array whose last axis has length 1 and no name: (z, y, x, 1) is clear, three axes are not."""
    if len(shape) == 3:
        raise StackError(
            f"{path}: it is {' x '.join(map(str, shape))}, which may be slices of one column, or one slice with an "
            "axis too many; save it without that axis, or with the names of the axes (in Python: tifffile.imwrite(..., "
            "metadata={'axes': 'ZYX'}))"
        )
    return "Q" * (len(shape) - 3) + "YX", shape[:-1]


def _one_column(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, shape: Sequence[int], pages: Sequence[TiffDirectory]
) -> tuple[int, int, int] | None:
    """Shape of a volume that is one column wide, which tifffile writes as one page, each slice a row of it."""
    page, column = pages[0], (pages[0].length, pages[0].width, 1)
    if len(pages) > 1:
        return None
    if series.kind == "imagej" or not tiff.is_imagej:
        return column if tuple(shape[-3:]) == column else None
    described, ends = tiff.imagej_metadata or {}, page.end == tiff.filehandle.size  # that is no stack cut off
    return column if ends and described.get("images") == described.get("slices") == page.length > 1 else None


# What the metadata say, and whether it is of these pages


def _misfit(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, pages: Sequence[TiffDirectory], length: int
) -> str:
    """What to tell of metadata that are not of these pages; empty if they are."""
    n = len(pages)
    if tiff.is_ome and series.kind not in ("ome", "imagej"):
        return _not_of_these(tiff, pages)
    header = {"ome": "OME-XML", "imagej": "ImageJ header"}.get(series.kind)
    if header and length < n:
        return f"its {header} says {length} slices, the file has {n} pages; all {n}, which are alike, are taken"
    if header and length == n and any(page is None for page in series._pages):
        return f"its {header} does not say where all of its {n} slices are; the {n} pages are taken in their order"
    return ""


def _not_of_these(tiff: tifffile.TiffFile, pages: Sequence[TiffDirectory]) -> str:
    """What to tell of OME-XML that tifffile makes nothing of; empty if its sizes are those of the pages after all."""
    said, here = _ome_sizes(tiff), (len(pages), pages[0].length, pages[0].width)
    if tuple(said.get(axis) for axis in "ZYX") == here and not _other_axes(tiff):
        return ""
    described = " x ".join(str(said[axis]) for axis in "ZYX" if axis in said) or "unreadable"
    found = " x ".join(map(str, here))
    return f"its OME-XML ({described}) does not fit its pages ({found}, z, y, x); the pages are taken as its slices"


def _other_axes(tiff: tifffile.TiffFile) -> bool:
    """Whether anything in the metadata says that pages may be other than slices: channels, time points, images."""
    if tiff.is_ome:
        sizes = _ome_sizes(tiff)
        several = sizes["images"] > 1 and sizes.get("Z", 1) > 1  # images of one plane each are those of a careless loop
        if sizes.get("C", 1) > 1 or sizes.get("T", 1) > 1 or several:
            return True
    if tiff.is_imagej:
        described = tiff.imagej_metadata or {}
        if described.get("channels", 1) > 1 or described.get("frames", 1) > 1:
            return True
    return any(axis in "CSTHPR" and size > 1 for axis, size in _shaped_axes(tiff))


def _shaped_axes(tiff: tifffile.TiffFile) -> list[tuple[str, int]]:
    """Axes with their sizes that somebody gave tifffile to write into the file, of all its images."""
    found: list[tuple[str, int]] = []
    for described in (tiff.shaped_metadata or ()) if tiff.is_shaped else ():
        found += zip(str(described.get("axes", "")), described.get("shape", ()), strict=False)
    return found


def _ome_sizes(tiff: tifffile.TiffFile) -> dict[str, int]:
    """Largest sizes C, T, Z, Y, X and the number of images that OME-XML says, also where it is not quite XML."""
    text = tiff.ome_metadata or ""
    sizes = {"images": len(re.findall(r"<(?:\w+:)?Image[\s>]", text))}
    for axis, size in re.findall(r'\bSize([CTZYX])\s*=\s*["\'](\d{1,9})["\']', text):
        sizes[axis] = max(sizes.get(axis, 0), int(size))
    return sizes


def _chunks(series: Sequence[tifffile.TiffPageSeries]) -> str:
    """What to tell of a file whose images are volumes themselves."""
    lengths = [max(len(one), 1) for one in series]
    if len(series) < 2 or series[0].kind == "generic" or (max(lengths) == 1 and series[0].kind != "ome"):
        return ""
    return (
        f"the file holds {len(series)} images one after another, of {', '.join(map(str, lengths[:4]))}"
        f"{', ...' if len(lengths) > 4 else ''} slices; they are taken as one stack of {sum(lengths)}"
    )


def _several(series: Sequence[tifffile.TiffPageSeries], pages: Sequence[TiffDirectory], path: Path) -> str:
    kinds = [tuple(one.shape) for one in series] or [(page.length, page.width) for page in pages]
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in kinds[:4])
    return (
        f"{path}: the file has {len(kinds)} images of different kind ({shapes}{', ...' if len(kinds) > 4 else ''}); "
        "expected one volume: save the one to segment as a file of its own"
    )
