"""Objects as regions of ImageJ: a zip that its ROI Manager opens, made without Java, in the memory of one slice.

Outlines run along the edges of pixels, so that the area of a region is the number of its pixels. All objects of a slice
are traced at once. The corners of the outlines are found by comparing each pixel with its neighbours; along any line
of the pixel grid, the corners of an object then are, in order, the two ends of one piece of outline after the other.
So sorting by rows says how they are joined horizontally, sorting by columns vertically, and the outlines are the
cycles of both.

References
----------
.. [1] Cormen, Leiserson, Rivest 1990, "Introduction to Algorithms", 30.1: list ranking by pointer jumping, here the
   order of the corners along their outline.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import scipy  # its parts are loaded when they are first used
from roifile import ROI_TYPE, ImagejRoi

from densecell_batch.errors import OptionError
from densecell_batch.storage.zips import write_zip

__all__ = ["MOST_ROIS", "object_outlines", "roi_files", "write_rois"]

MOST_ROIS = 1_000_000  # ImageJ with 2 GB of memory opens as many in eight seconds

_VERSION = 227  # of the file format: the same bytes whatever roifile would write by itself
_NAME = 24  # characters of a name
_FARTHEST = 60536  # coordinates are 16 bits, of which ImageJ takes those up to 5000 below zero as negative
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # segments of a composite region


def write_rois(
    path: Path,
    slices: Iterable[tuple[int, np.ndarray]],
    class_name: str,
    colours: np.ndarray,
    *,
    objects: int,
    depth: int,
    most: int = MOST_ROIS,
) -> int:
    """Write the zip, whole or not at all, in place of an earlier one; the same bytes for the same objects.

    Parameters
    ----------
    path
        The zip.
    slices, class_name, colours, objects, depth
        As those of `roi_files`.
    most
        Refuse more regions than this.

    Returns
    -------
    int
        Regions written. Where there is none, no file is: ImageJ says of an empty one that it is no zip of regions.

    Raises
    ------
    OptionError
        If there are more than `most` regions, or a slice is larger than coordinates of ImageJ.
    OutputError
        If it cannot be written.
    """
    files = _at_most(roi_files(slices, class_name, colours, objects=objects, depth=depth), most, path)
    first = next(files, None)
    if first is None:
        return 0
    count = 0

    def counted() -> Iterator[tuple[str, bytes]]:
        nonlocal count
        for file in chain([first], files):
            count += 1
            yield file

    write_zip(path, counted(), may_exist=True)
    return count


def _at_most(files: Iterator[tuple[str, bytes]], most: int, path: Path) -> Iterator[tuple[str, bytes]]:
    """The same files, or an error where there are more."""
    for i, file in enumerate(files):
        if i == most:
            raise OptionError(
                f"{path}: more than {most:,} regions, one for each object and slice; use the file of instances, or "
                "leave out smaller objects"
            )
        yield file


def roi_files(
    slices: Iterable[tuple[int, np.ndarray]], class_name: str, colours: np.ndarray, *, objects: int, depth: int
) -> Iterator[tuple[str, bytes]]:
    """The regions of all objects as files, one for each object and slice.

    Parameters
    ----------
    slices
        Index of a slice, from 0, and object numbers (y, x) of any unsigned dtype, 0 outside.
    class_name
        Comes after the numbers in the name of a region, as far as it fits.
    colours
        (n, 3) uint8, the colour of each object by its number; they repeat from 1 where there are more objects.
    objects, depth
        How many objects and slices there are in all, for the digits of the names.

    Yields
    ------
    tuple
        Name ``0003-z012 mito.roi``: object, slice counted from 1 as ImageJ does, class; at most 24 characters before
        ``.roi``. Content.

    Raises
    ------
    OptionError
        If a slice is larger than coordinates of ImageJ.
    """
    digits, z_digits, ending = max(4, len(str(objects))), max(3, len(str(depth))), _ascii(class_name)
    for z, numbers in slices:
        if max(numbers.shape) > _FARTHEST:
            raise OptionError(f"slices are {numbers.shape} pixels; regions of ImageJ reach to {_FARTHEST}")
        for number, outlines in object_outlines(numbers):
            name = f"{number:0{digits}d}-z{z + 1:0{z_digits}d} {ending}"[:_NAME].rstrip()
            colour = colours[number if number < len(colours) else (number - 1) % (len(colours) - 1) + 1]
            yield f"{name}.roi", _region(outlines, name, z + 1, colour)


def _ascii(name: str) -> str:
    """A name in letters that any zip and any font has: without accents, and with - for what no file name may have."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r'[^ -~]|[/\\:*?"<>|]', "-", plain).strip()


def _region(outlines: list[np.ndarray], name: str, position: int, colour: np.ndarray) -> bytes:
    """A region as ImageJ saves it: a traced one, or one of several outlines where there are parts or holes."""
    points = outlines[0] if len(outlines) == 1 else np.concatenate(outlines)
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    roi = ImagejRoi(
        roitype=ROI_TYPE.TRACED, version=_VERSION, name=name, position=position,
        left=left, top=top, right=right, bottom=bottom, stroke_color=b"\xff" + colour.tobytes(),
    )  # fmt: skip
    if len(outlines) == 1:
        roi.n_coordinates, roi.integer_coordinates = len(points), points - points.min(0)
    else:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_segments(outline) for outline in outlines])
        roi.shape_roi_size = len(roi.multi_coordinates)
    return roi.tobytes()


def _segments(outline: np.ndarray) -> np.ndarray:
    """An outline (n, 2) as segments of a composite region, (3n + 1,) float32."""
    steps = np.column_stack([np.full(len(outline), _LINE), outline])
    steps[0, 0] = _MOVE
    return np.append(steps, _CLOSE).astype(np.float32)


def object_outlines(numbers: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Outlines of all objects of a slice, along the edges of their pixels.

    Pixels that touch at a corner only are not joined there.

    Parameters
    ----------
    numbers
        (y, x) of an unsigned dtype, 0 outside.

    Yields
    ------
    tuple
        Object number, in rising order; its outlines, each (n, 2) int64 with the corners (x, y) at integers, where pixel
        (0, 0) reaches from (0, 0) to (1, 1). As seen on the screen, outer outlines run clockwise, those of holes
        counterclockwise.
    """
    y, x, number, right, down, across = _corners(numbers)
    if not number.size:
        return
    found, rank = np.unique(number, return_inverse=True)
    rank, (height, width) = rank.ravel(), (side + 1 for side in numbers.shape)
    order = np.argsort(((rank * height + y) * width + x) * 2 + right)
    y, x, rank, down, across = y[order], x[order], rank[order], down[order], across[order]
    i = np.arange(len(x))
    ends = np.argsort(((rank * width + x) * height + y) * 2 + down).reshape(-1, 2)
    vertical = np.empty_like(i)
    vertical[ends[:, 0]], vertical[ends[:, 1]] = ends[:, 1], ends[:, 0]
    # In order of the rows, partners along a row are numbers 0 and 1, 2 and 3 and so on.
    order, starts = _cycles(np.where(across, i ^ 1, vertical))
    points = np.column_stack([x[order], y[order]])
    outlines = np.split(points, starts[1:])
    first = np.searchsorted(rank[order[starts]], np.arange(len(found) + 1))
    for k, n in enumerate(found.tolist()):
        yield n, outlines[first[k] : first[k + 1]]


def _corners(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
    """The corners of all outlines: y, x, object; whether the outline leaves them to the right (0, 1) and down (0, 1);
    whether, clockwise, it goes on horizontally.
    """
    padded = np.pad(numbers, 1)
    quarters = [padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]]  # around each point of the grid
    a, b, c, d = quarters
    y, x = np.nonzero((a != b) | (a != c) | (a != d))
    around = [quarter[y, x].astype(np.int64) for quarter in quarters]
    found = []
    for k, here in enumerate(around):
        right, down = k % 2, k // 2
        beside, above, opposite = around[k ^ 1], around[k ^ 2], around[k ^ 3]
        outer = (here != 0) & (here != beside) & (here != above)
        inner = (beside != 0) & (beside == above) & (beside == opposite) & (here != beside)
        for corner, owner, across in ((outer, here, right == down), (inner, beside, right != down)):
            n = np.count_nonzero(corner)
            found.append((y[corner], x[corner], owner[corner], *(np.full(n, v) for v in (right, down, across))))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _cycles(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cycles of a permutation: its elements cycle after cycle, and where each begins; the smallest element of a
    cycle comes first, and orders the cycles.
    """
    i = np.arange(len(following))
    graph = scipy.sparse.coo_array((np.ones(len(i), np.int8), (i, following)), shape=(len(i), len(i)))
    objects = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    _, first, cycle = np.unique(objects, return_index=True, return_inverse=True)
    order = np.argsort(first)
    cycle, first = np.argsort(order)[cycle], first[order]
    before = np.empty_like(i)
    before[following] = i
    last = before[first]
    # Steps to the end of the cycle, doubled in each round.
    ahead, steps = following.copy(), np.ones(len(i), np.int64)
    ahead[last], steps[last] = last, 0
    while steps[ahead].any():
        steps, ahead = steps + steps[ahead], ahead[ahead]
    sizes = np.bincount(cycle)
    starts = np.cumsum(sizes) - sizes
    sequence = np.empty_like(i)
    sequence[starts[cycle] + sizes[cycle] - 1 - steps] = i
    return sequence, starts
