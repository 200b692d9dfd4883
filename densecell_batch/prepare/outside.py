"""What is no tissue in a slice: found by its constant grey value, and filled with mirrored tissue.

Registered stacks are padded, and rotated sections leave corners, with a value of the program's choice. Clipped tissue
is constant, too, so that three things tell fill from it: fill touches the border of the slice along a run of voxels;
it ends abruptly, where clipped tissue fades; and it has no pinholes, which noise leaves in what is clipped. Where the
tissue itself is clipped to the value of the fill, a run has to be long to count.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy  # its parts are loaded when they are first used

__all__ = ["Box", "box_of", "find_outside", "mirrored"]

Box = tuple[int, int, int, int]  # y0, y1, x0, x1: first voxel and the one after the last

_RUN, _SIDE = 16, 8  # voxels of one value along the border, or a whole side that is shorter, down to this
_RUN_MIDDLE = 24  # for a value amid those of the tissue: more than two blocks of a JPEG
_VALUES = 6  # of fill in a slice, at most: those with the longest runs
_BLANK = 0.001  # a slice with less tissue has none: hot pixels of a blank slice

# Measured on crops of stacks, clipped, blurred and with other gammas, and on fill of all kinds laid over them.
_NEAR = 0.02  # of the contrast: a neighbour this near to the value of the fill is a sign of fading
_FADING = 0.25  # share of the outline's steps that fade, above which a component is tissue; clipped tissue has more
_FADING_MIDDLE = 0.6  # for a grey value amid those of the tissue, to which nothing is clipped: blends are near to it
_PINHOLES = 0.05  # voxels with the component on all four sides, for each step of its outline
_CLIPPED = 0.003  # share of the tissue that has the value of the fill, above which tissue is clipped to it
_LONG, _LONG_VOXELS = 0.3, 64  # of the side: the run that fill has to have where tissue is clipped to its value
_SAMPLES = 2**16  # voxels from which the contrast is estimated
_BLOCK = 2**20  # voxels that are looked at at a time

_SHORT = 16  # voxels: shorter stretches of tissue are mirrored only where there are no others
_LEFT = 0.5  # of the tissue that has to be left without its edge
_FINE = 2**30  # voxels, more than any slice has along an axis
_NOWHERE = np.int32(2**31 - 1)


def find_outside(plane: np.ndarray) -> np.ndarray | None:
    """The voxels of a slice that are fill, not tissue: constant, sharply bounded, and at the border of the slice.

    Parameters
    ----------
    plane
        (y, x), uint8, uint16, int16 or float32. NaN and infinity are never fill.

    Returns
    -------
    numpy.ndarray or None
        (y, x) bool; None where nothing is outside. Voxels in which an interpolation blended fill and tissue count as
        tissue (`mirrored` takes them by its `edge`). All are outside in a slice of one value, but for hot pixels.
    """
    if (plane[0] == plane[0, 0]).all() and (plane == plane[0, 0]).all():
        return np.ones(plane.shape, bool)
    found = _fill_at_border(plane)
    box = None if found is None else box_of(found, (plane.shape[0], plane.shape[1]))
    if found is None or box is None:
        return found
    y0, y1, x0, x1 = box
    if (y1 - y0, x1 - x0) != plane.shape:  # a frame, and perhaps fill of another value within it
        within = _fill_at_border(plane[y0:y1, x0:x1])
        if within is not None:
            found[y0:y1, x0:x1] |= within
    if np.count_nonzero(found) > (1 - _BLANK) * plane.size:
        found[:] = True
    return found


def mirrored(plane: np.ndarray, outside: np.ndarray, edge: int = 1) -> np.ndarray:
    """A copy of a slice with tissue, mirrored at its edge, in place of what is outside.

    Each voxel takes from the nearest tissue in its row or column, reflected back and forth in that stretch of tissue;
    where there is none, from what was so filled. Around a rectangle of tissue that is `numpy.pad(mode="reflect")`.

    Parameters
    ----------
    plane
        (y, x), of any dtype.
    outside
        (y, x) bool.
    edge
        Tissue this near to what is outside, diagonally too, is replaced as well, unless less than half would be left.

    Returns
    -------
    numpy.ndarray
        (y, x), dtype of `plane`.

    Raises
    ------
    ValueError
        If there is no tissue.
    """
    if outside.all():
        raise ValueError("a slice without tissue: nothing to mirror")
    tissue = ~outside
    if edge > 0 and outside.any():
        # Beyond the slice there is no fill.
        inner = ~scipy.ndimage.maximum_filter(outside, 2 * edge + 1, mode="nearest")
        if np.count_nonzero(inner) >= _LEFT * np.count_nonzero(tissue):
            tissue = inner
    filled = plane.copy()
    # Once for what has tissue in its row or column; twice, and each voxel has some of it.
    while not tissue.all():
        tissue = _mirror_once(filled, tissue)
    return filled


def box_of(outside: np.ndarray | None, shape: tuple[int, int]) -> Box | None:
    """The smallest box that holds the tissue of one slice of a shape (y, x), or None if it has no tissue; `outside` as
    `find_outside` gives it.
    """
    if outside is None:
        return (0, shape[0], 0, shape[1])
    ys, xs = (np.flatnonzero(~outside.all(axis=axis)) for axis in (1, 0))
    return (int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1) if ys.size else None


def _fill_at_border(plane: np.ndarray) -> np.ndarray | None:
    """The fill that touches the border of a slice, or None."""
    found: np.ndarray | None = None
    runs = _border_runs(plane)
    values = np.array([value for value, _ in runs], plane.dtype)
    for value, seeds in runs:
        same = plane == value
        if np.count_nonzero(same) > (1 - _BLANK) * plane.size:
            return np.ones(plane.shape, bool)
        part = _fill_of(plane, value, same, seeds, values)
        if part is not None:
            found = part if found is None else np.logical_or(found, part, out=found)
    return found


def _border_runs(plane: np.ndarray) -> list[tuple[np.generic, list[tuple[int, int, int, float]]]]:
    """The values that have runs along the border, those with the longest first, each with its runs: a voxel (y, x),
    the length, and that as a share of the side.
    """
    height, width = plane.shape
    runs: dict[np.generic, list[tuple[int, int, int, float]]] = {}
    lengths: dict[np.generic, int] = {}
    for axis, at in ((0, 0), (0, height - 1), (1, 0), (1, width - 1)):
        line = plane.take(at, axis=axis)
        bounds = np.concatenate([[0], np.flatnonzero(line[1:] != line[:-1]) + 1, [line.size]])
        sizes = np.diff(bounds)
        for i in np.flatnonzero(sizes >= min(_RUN, max(_SIDE, line.size))):
            start, size = bounds[i], sizes[i]
            value = line[start]
            if np.isfinite(value):
                y, x = (at, start) if axis == 0 else (start, at)
                runs.setdefault(value, []).append((int(y), int(x), int(size), float(size / line.size)))
                lengths[value] = lengths.get(value, 0) + int(size)
    values = sorted(runs, key=lambda value: (-lengths[value], value))
    return [(value, runs[value]) for value in values[:_VALUES]]


def _fill_of(
    plane: np.ndarray,
    value: np.generic,
    same: np.ndarray,
    seeds: list[tuple[int, int, int, float]],
    values: np.ndarray,
) -> np.ndarray | None:
    """The components of one value (`same`) that are fill, of those with a run along the border, or None; `values` are
    all that have such runs.
    """
    labels, n_labels = scipy.ndimage.label(same)
    numbers = np.zeros(n_labels + 1, np.int32)  # those with runs, from 1
    longest, shares = [0], [0.0]
    for y, x, run, share in seeds:
        label = labels[y, x]
        if numbers[label] == 0:
            numbers[label] = len(longest)
            longest.append(0)
            shares.append(0.0)
        part = numbers[label]
        longest[part], shares[part] = max(longest[part], run), max(shares[part], share)
    area = 0
    for rows in _blocks(plane.shape):
        labels[rows] = numbers[labels[rows]]
        area += int(np.count_nonzero(labels[rows]))
    near, extreme = _nearness(plane, value, values)
    steps, fading, pinholes = _outlines(plane, float(value), labels, len(longest), near)
    clipped = extreme and int(np.count_nonzero(same)) - area > _CLIPPED * (plane.size - area)
    is_fill = (fading <= (_FADING if extreme else _FADING_MIDDLE) * steps) & (pinholes <= _PINHOLES * steps)
    runs, of_side = np.asarray(longest), np.asarray(shares)
    if clipped:
        is_fill &= ((of_side >= _LONG) & (runs >= _LONG_VOXELS)) | (of_side == 1)
    elif not extreme:
        is_fill &= (runs >= _RUN_MIDDLE) | (of_side == 1)
    is_fill[0] = False
    return is_fill[labels] if is_fill.any() else None


def _nearness(plane: np.ndarray, value: np.generic, values: np.ndarray) -> tuple[float, bool]:
    """How near to the value of the fill a voxel is said to fade, and whether that value is lower or higher than all
    of the tissue; from a sample of the voxels that have none of `values`.
    """
    step = max(1, round((plane.size / _SAMPLES) ** 0.5))
    rest = plane[::step, ::step]
    rest = rest[np.isfinite(rest) & ~np.isin(rest, values)].astype(np.float64)
    if not rest.size:
        return 0.0, False
    low, high = np.percentile(rest, (1, 99))
    # At least the next grey value: where there are few of them, or a gamma has spread them.
    near = max(_NEAR * (high - low), np.abs(rest - float(value)).min())
    return float(near), bool(value <= rest.min() or value >= rest.max())


def _outlines(
    plane: np.ndarray, value: float, parts: np.ndarray, n_parts: int, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each part, numbered from 1: the steps between a voxel of it and a neighbour that is not of it, how many of
    those neighbours are within `near` of the value, and how many have voxels of the part on all four sides.
    """
    steps, fading, pinholes = (np.zeros(n_parts, np.int64) for _ in range(3))
    for rows in _blocks(parts.shape):
        above, below = max(rows.start - 1, 0), min(rows.stop + 1, len(parts))
        halo = ((int(rows.start == 0), int(rows.stop == len(parts))), (1, 1))
        padded = np.pad(parts[above:below], halo)
        other = padded[1:-1, 1:-1] == 0
        close = np.abs(plane[rows].astype(np.float64) - value) <= near
        touching = np.zeros(other.shape, np.int8)
        for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
            step = other & (neighbour > 0)
            steps += np.bincount(neighbour[step], minlength=n_parts)
            fading += np.bincount(neighbour[step & close], minlength=n_parts)
            touching += step
        pinholes += np.bincount(neighbour[touching == 4], minlength=n_parts)
    return steps, fading, pinholes


def _mirror_once(plane: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Fill, in place, what has tissue in its row or column; returns which voxels are tissue or filled."""
    reach = np.full(plane.shape, _NOWHERE)
    for values, mask, costs in ((plane, tissue, reach), (plane.T, tissue.T, reach.T)):
        for rows in _blocks(values.shape):
            if mask[rows].all():
                continue
            y, x = np.nonzero(~mask[rows])
            cost, source = _nearest(mask[rows], y, x)
            better = cost < costs[rows][y, x]
            y, x = y[better], x[better]
            costs[rows][y, x] = cost[better]
            values[rows][y, x] = values[rows][y, source[better]]
    return tissue | (reach < _NOWHERE)


def _nearest(tissue: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where voxels (y, x) of a block of rows find tissue in their row: how far it is, with a fine for short
    stretches, `_NOWHERE` if there is none; and the column that mirrors the voxel there. The left one wins ties.
    """
    width = tissue.shape[1] + 2
    flat = np.pad(tissue, ((0, 0), (1, 1))).reshape(-1)
    bounds = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    # Stretches of all rows, with one before and one after them that are in no row.
    starts, stops = (np.concatenate([[-1], part, [flat.size]]) for part in (bounds[::2], bounds[1::2]))
    row_of, lengths = starts // width, stops - starts
    fines = np.where(lengths < _SHORT, _FINE, 0)
    position = y * width + x + 1
    right = np.searchsorted(starts, position)
    left = right - 1
    to_left, to_right = position - stops[left] + 1, starts[right] - position
    left_cost = np.where(row_of[left] == y, to_left + fines[left], _NOWHERE)
    right_cost = np.where(row_of[right] == y, to_right + fines[right], _NOWHERE)
    goes_left = left_cost <= right_cost
    chosen = np.where(goes_left, left, right)
    last = lengths[chosen] - 1
    # Back and forth: 0 is the voxel at the edge, which is not repeated.
    folded = np.where(goes_left, to_left, to_right) % np.maximum(2 * last, 1)
    folded = np.minimum(folded, 2 * last - folded)
    folded[last == 0] = 0
    column = np.where(goes_left, stops[chosen] - 1 - folded, starts[chosen] + folded) - y * width - 1
    return np.minimum(left_cost, right_cost).astype(np.int32), column


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a slice, as many at a time as working memory is to hold."""
    step = max(1, _BLOCK // shape[1])
    for row in range(0, shape[0], step):
        yield slice(row, min(row + step, shape[0]))
