"""Grey values to what the nets were trained on, for stacks of other contrast: a curve for each slice.

One pass over a stack describes each slice by few numbers; a curve for each slice follows from those of all slices, and
is applied while the slice is read. What a slice shows must not pass for its contrast: a slice that is half nucleus or
resin rightly has another histogram. So quantiles are taken of tiles that hold texture only, as the training data does
almost everywhere, and a tile is flat or not by the contrast that is left when that of its slice is put right: how much
more contrast the next slice has is what most tiles say that are compared with the same tile of this slice.

The modes::

    none    grey values as they are
    stack   minus mean, by standard deviation, of the whole stack, as published
    slice   minus mean, by standard deviation, of each slice
    match   the quantiles of each slice onto those of the training data
    auto    as `stack` where that comes as near to the training data as its own halves do, or where nobody knows the
            training data (an imported model); else one curve for the stack, or one for each slice where slices differ
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from densecell_batch.errors import OptionError
from densecell_batch.prepare.normalize import Moments, normalize

__all__ = [
    "LEVELS",
    "MODES",
    "Curve",
    "SliceGreys",
    "apply",
    "describe",
    "grey_curves",
    "inverted",
    "of_negative",
    "trained_quantiles",
]

MODES = ("auto", "stack", "slice", "match", "none")

# Of the quantiles of a stack or slice. The few darkest and brightest voxels say nothing of contrast.
LEVELS = (0.005, *np.linspace(0.02, 0.98, 31).round(3).tolist(), 0.995)

_TILE = 32  # edge in pixels: with 64, those half on a nucleus still counted as tissue
_GRID = 20  # tiles a side, at most, spread over the slice
_TILE_LEVELS = (np.arange(17) + 0.5) / 17
_MIN_INSIDE = 0.75  # of a tile
_TEXTURE = 0.65  # of the contrast of the tiles with most (their 95 % quantile): what a tile with texture has at least
_MIN_SHARE = 0.25  # of the usual share of tiles with texture: what a slice needs for a curve of its own
_CHOSEN_AGAIN = 2
_FEW = 8  # tiles whose mean is taken even if they do not agree
_MEMORY = 30.0  # slices after which the contrast of a slice itself counts as much as that against its neighbours
# RMS distances of quantiles, in standard deviations. Between slices: pieces of 192 x 192 pixels of one stack are up to
# 0.1 apart, slices whose drift does harm 0.5. Of a stack as published from the training data: its halves are 0.01 away,
# other stacks of the same kind 0.02, as is gamma 1.25 of one of them, which costs 0.03 of mean IoU; a curve where none
# was needed costs 0.002 of it at most.
_SAME_SLICES, _SAME_STACK = 0.1, 0.015
_BEYOND = 1.0  # a curve ends that much beyond the extreme quantiles, so that hot pixels do not become huge
_BEYOND_LINE = 3.0


@dataclass(frozen=True, eq=False)
class SliceGreys:
    """What is known of the grey values of a slice, of the voxels inside the mask."""

    moments: Moments
    tiles: np.ndarray  # (tile, 17) float32: quantiles; NaN for a tile that is mostly outside


@dataclass(frozen=True)
class Curve:
    """Grey values to normalized ones: piecewise linear and constant beyond its ends; (value - mean) / std if no knots.

    Values of a line are clipped to `limits`, where it has some.
    """

    mean: float = 0.0
    std: float = 1.0
    raw: tuple[float, ...] = ()  # increasing
    normalized: tuple[float, ...] = ()  # not decreasing, as many
    limits: tuple[float, float] | None = None


def describe(
    plane: np.ndarray, inside: np.ndarray | None = None, side: int = _GRID, moments: Moments | None = None
) -> SliceGreys:
    """Describe a slice.

    Parameters
    ----------
    plane
        (y, x) uint8, uint16, int16 or float32, finite.
    inside
        (y, x) bool: what is tissue; all of it, if None.
    side
        Tiles along an edge, at most: fewer for a stack of very many slices; 0 where nothing is to be matched.
    moments
        Of its tissue, where they are known.

    Returns
    -------
    SliceGreys
    """
    if moments is None:
        moments = Moments.of(plane if inside is None else plane[inside])
    return SliceGreys(moments, _tiles(plane, inside, side) if side else np.empty((0, len(_TILE_LEVELS)), np.float32))


def trained_quantiles(slices: Sequence[SliceGreys]) -> tuple[float, ...] | None:
    """Quantiles at `LEVELS` of training data, minus its mean and by its standard deviation: what a model remembers.

    None if it has no texture, so that there is nothing to match.
    """
    whole, found = _moments(slices), _Textured.of(slices)
    if found is None or whole.std == 0:
        return None
    return tuple(((found.whole - whole.mean) / whole.std).round(4).tolist())


def grey_curves(mode: str, slices: Sequence[SliceGreys], trained: Sequence[float] | None = None) -> list[Curve]:
    """The curve of each slice of a stack.

    Parameters
    ----------
    mode
        One of `MODES`.
    slices
        What `describe` said of each slice.
    trained
        What `trained_quantiles` said of the training data; None if the model does not say.

    Returns
    -------
    list of Curve
        One for each slice; all the same if the stack was found to need no other.

    Raises
    ------
    OptionError
        If the mode is unknown, or is "match" and the model does not say what it was trained on.
    """
    if mode not in MODES:
        raise OptionError(f"contrast is {mode!r}; expected one of {', '.join(MODES)}")
    if trained is not None and len(trained) != len(LEVELS):
        raise OptionError(f"the training data has {len(trained)} quantiles; expected {len(LEVELS)}")
    if mode == "match" and trained is None:
        raise OptionError(
            "contrast is 'match', but the model does not say which grey values it was trained on; take 'auto', or "
            "'slice' if contrast changes from slice to slice"
        )
    if mode == "none":
        return [Curve()] * len(slices)
    whole = _moments(slices)
    line = Curve(whole.mean, whole.std or 1.0)
    if mode == "stack" or (mode == "auto" and trained is None):
        return [line] * len(slices)
    if mode == "slice":
        return [_own_line(greys, line) for greys in slices]
    found = _Textured.of(slices)
    if found is None:
        return [line] * len(slices)
    target = np.asarray(trained, np.float64)
    # A gamma makes other tiles seem textured: they have to be as the model knows it, too.
    for _ in range(_CHOSEN_AGAIN):
        found = _Textured.of(slices, [_curve(quantiles, target, line) for quantiles in found.each]) or found
    if mode == "match":
        return [_curve(quantiles, target, line) for quantiles in found.each]
    scale = _slope(found.whole, target)
    if max(_distance(quantiles, found.middle) for quantiles in found.each) * scale > _SAME_SLICES:
        return [_curve(quantiles, target, line) for quantiles in found.each]
    # The stack's own target comes from a sample of its voxels: only what hot pixels do is further from it.
    if _distance((found.whole - line.mean) / line.std, target) > _SAME_STACK:
        return [_curve(found.whole, target, line)] * len(slices)
    limits = (float(target[0]) - _BEYOND_LINE, float(target[-1]) + _BEYOND_LINE)
    return [Curve(line.mean, line.std, limits=limits)] * len(slices)


def inverted(slices: Sequence[SliceGreys]) -> list[SliceGreys]:
    """What `describe` would say of the slices with dark and bright exchanged: of the negative of each value."""
    return [SliceGreys(-greys.moments, -greys.tiles[:, ::-1]) for greys in slices]


def of_negative(curve: Curve) -> Curve:
    """The curve that makes of a value what `curve` makes of its negative."""
    return Curve(
        -curve.mean,
        -curve.std,
        tuple(-value for value in reversed(curve.raw)),
        tuple(reversed(curve.normalized)),
        curve.limits,
    )


def apply(plane: np.ndarray, curve: Curve) -> np.ndarray:
    """Map grey values: (y, x) uint8, uint16, int16 or float32 -> (y, x) float32."""
    if not np.issubdtype(plane.dtype, np.integer) or plane.size < 2 ** (8 * plane.dtype.itemsize):
        return _mapped(plane, curve)
    limits = np.iinfo(plane.dtype)
    table = _mapped(np.arange(limits.min, int(limits.max) + 1), curve)
    # A negative index counts from the end of the table.
    return np.roll(table, limits.min)[plane]


def _mapped(values: np.ndarray, curve: Curve) -> np.ndarray:
    if curve.raw:
        return np.interp(values, curve.raw, curve.normalized).astype(np.float32)
    line = normalize(values, curve.mean, curve.std)
    return line if curve.limits is None else np.clip(line, *curve.limits)


@dataclass(frozen=True, eq=False)
class _Textured:
    """Quantiles at `LEVELS` of the tiles of a stack that have texture."""

    whole: np.ndarray  # (level,) float64: of all of them
    each: np.ndarray  # (z, level) float64: of those of each slice

    @classmethod
    def of(cls, slices: Sequence[SliceGreys], curves: Sequence[Curve] | None = None) -> _Textured | None:
        """None where no tile of any slice has contrast, as it is seen through the curves, if there are some."""
        tiles, there = _together([greys.tiles for greys in slices])
        chosen = _with_texture(tiles)
        if curves is not None:
            chosen &= _with_texture(np.stack([_mapped(*each) for each in zip(tiles, curves, strict=True)]))
        share = chosen.sum(axis=1) / there
        good = (share > 0) & (share >= _MIN_SHARE * np.quantile(share, 0.75))
        if not good.any():
            return None
        own = [_at_levels(kept[which]) for kept, which in zip(tiles[good], chosen[good], strict=True)]
        places = np.flatnonzero(good)
        # A slice of nucleus or resin only is taken to have the contrast of the slices around it.
        each = [np.interp(np.arange(len(slices)), places, level) for level in np.transpose(own)]
        return cls(_at_levels(tiles[chosen]), np.transpose(each))

    @property
    def middle(self) -> np.ndarray:
        """Of the typical slice, (level,)."""
        return np.median(self.each, axis=0)


def _together(tiles: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tiles (tile, 17) of slices that need not be of one size as (z, tile, 17), NaN where a slice has fewer; and how
    many each has, at least 1: (z,).
    """
    numbers = np.array([len(each) for each in tiles])
    if (numbers == numbers[0]).all():
        return np.stack(tiles), np.maximum(numbers, 1)
    found = np.full((len(tiles), int(numbers.max()), tiles[0].shape[1]), np.nan, np.float32)
    for row, each in zip(found, tiles, strict=True):
        row[: len(each)] = each
    return found, np.maximum(numbers, 1)


def _at_levels(values: np.ndarray) -> np.ndarray:
    """Quantiles at `LEVELS` of all values: (level,) float64."""
    return _quantiles(values.reshape(1, -1), np.array(LEVELS))[0]


def _with_texture(tiles: np.ndarray) -> np.ndarray:
    """(z, tile) bool: which tiles (z, tile, 17) hold texture, by their contrast on the scale of the whole stack."""
    contrast = tiles[..., 14] - tiles[..., 2]  # between the 15 % and the 85 % quantile
    usable = contrast > 0  # and not NaN
    logs = np.log(np.where(usable, contrast, 1.0))
    logs += _corrections(logs, usable)[:, None]
    if not usable.any():
        return usable
    return usable & (logs >= np.log(_TEXTURE) + np.quantile(logs[usable], 0.95))


def _corrections(logs: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """What to add to the log contrasts (z, tile) of each slice, so that all are on one scale: (z,).

    Least squares: of what each pair of neighbours says, and, with little weight, of the contrast of each slice itself,
    so that small errors do not add up over a thick stack.
    """
    depth, trust = len(logs), _MEMORY**-2
    strongest = np.array(
        [np.quantile(log[use], 0.9) if use.any() else np.nan for log, use in zip(logs, usable, strict=True)]
    )
    known = np.isfinite(strongest)
    if not known.any():
        return np.zeros(depth)
    own = np.where(known, np.mean(strongest[known]) - strongest, 0.0)
    diagonal, right, beside = np.full(depth, trust), trust * own, np.zeros(depth - 1)
    for z in range(depth - 1):
        both = usable[z] & usable[z + 1]
        if both.any():
            step = _commonest(logs[z][both] - logs[z + 1][both])
            diagonal[z : z + 2] += 1
            beside[z] = -1
            right[z] -= step
            right[z + 1] += step
    return _tridiagonal(diagonal, beside, right)


def _commonest(values: np.ndarray) -> float:
    """Mean of the third of the values that lie closest together: where content changes, tiles say this and that."""
    values = np.sort(values)
    n = min(len(values), max(_FEW, len(values) // 3))
    start = int(np.argmin(values[n - 1 :] - values[: len(values) - n + 1]))
    return float(values[start : start + n].mean())


def _tridiagonal(diagonal: np.ndarray, beside: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a symmetric system (n,), (n - 1,), (n,), from the first row to the last and back."""
    diagonal, right = diagonal.copy(), right.copy()
    for i, value in enumerate(beside):
        factor = value / diagonal[i]
        diagonal[i + 1] -= factor * value
        right[i + 1] -= factor * right[i]
    solved = right / diagonal
    for i in range(len(beside) - 1, -1, -1):
        solved[i] -= beside[i] / diagonal[i] * solved[i + 1]
    return solved


def _tiles(plane: np.ndarray, inside: np.ndarray | None, side: int) -> np.ndarray:
    """Quantiles of tiles that lie at the same places in every slice: (tile, 17) float32."""
    corners = [(y, x) for y in _starts(plane.shape[0], side) for x in _starts(plane.shape[1], side)]
    places = [(slice(y, y + _TILE), slice(x, x + _TILE)) for y, x in corners]
    if inside is None or inside.all():
        middles = _middles(np.stack([plane[place] for place in places]))
        return _quantiles(middles.reshape(len(places), -1), _TILE_LEVELS).astype(np.float32)
    found = np.full((len(places), len(_TILE_LEVELS)), np.nan, np.float32)
    for i, place in enumerate(places):
        within = np.logical_and.reduce(_fours(inside[place]))
        if np.count_nonzero(within) >= _MIN_INSIDE * within.size:
            found[i] = _quantiles(_middles(plane[place])[within].reshape(1, -1), _TILE_LEVELS)[0]
    return found


def _middles(values: np.ndarray) -> np.ndarray:
    """The middle two of each 2 x 2 pixels: (..., y, x) -> (..., y / 2, x / 2, 2). A gamma changes the values, and not
    which they are.
    """
    a, b, c, d = _fours(values)
    low, high = np.maximum(np.minimum(a, b), np.minimum(c, d)), np.minimum(np.maximum(a, b), np.maximum(c, d))
    return np.stack([low, high], axis=-1)


def _fours(values: np.ndarray) -> list[np.ndarray]:
    """The four pixels of each 2 x 2; of a single row or column, it twice."""
    rows, columns = (
        [slice(first, max(side // 2 * 2, 1), 2) for first in ((0, 1) if side > 1 else (0, 0))]
        for side in values.shape[-2:]
    )
    return [values[..., y, x] for y in rows for x in columns]


def _quantiles(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Of each row (row, voxel) of any dtype, as numpy.quantile, but many times as fast: (row, level) float64."""
    # Of bytes the stable sort counts, and is thirty times as fast.
    ordered = np.sort(values, axis=1, kind="stable" if values.dtype.itemsize == 1 else None)
    places = levels * (values.shape[1] - 1)
    below = places.astype(np.intp)
    low, high = (ordered[:, at].astype(np.float64) for at in (below, np.minimum(below + 1, values.shape[1] - 1)))
    return low + (places - below) * (high - low)


def _starts(length: int, most: int) -> list[int]:
    """Where tiles begin along an edge; the last pixels that do not fill a tile are left out."""
    n = max(1, min(most, length // _TILE))
    return [i * max(0, length - _TILE) // max(1, n - 1) for i in range(n)]


def _moments(slices: Sequence[SliceGreys]) -> Moments:
    """Of a stack."""
    return sum((greys.moments for greys in slices), Moments())


def _own_line(greys: SliceGreys, otherwise: Curve) -> Curve:
    """By the slice's own mean and standard deviation; a slice without contrast as the whole stack."""
    return Curve(greys.moments.mean, greys.moments.std) if greys.moments.spread > 0 else otherwise


def _distance(quantiles: np.ndarray, others: np.ndarray) -> float:
    """RMS difference, without the extremes."""
    return float(np.sqrt(np.mean(np.square(quantiles - others)[2:-2])))


def _slope(quantiles: np.ndarray, target: np.ndarray) -> float:
    """Standard deviations of the target per grey value."""
    span = float(quantiles[-3] - quantiles[2])
    return float(target[-3] - target[2]) / span if span > 0 else 0.0


def _curve(quantiles: np.ndarray, target: np.ndarray, otherwise: Curve) -> Curve:
    """The curve that takes quantiles to the target's."""
    # A value that is many of the quantiles, as where the detector was saturated, goes to the mean of their targets.
    raw, which = np.unique(quantiles, return_inverse=True)
    normalized = np.bincount(which, target) / np.bincount(which)
    if len(raw) < 2:
        return otherwise
    short = np.array([float(f"{value:.7g}") for value in raw])  # of ten thousand slices they make a file
    raw = short if (np.diff(short) > 0).all() else raw
    reach = _BEYOND * (raw[-1] - raw[0]) / max(float(normalized[-1] - normalized[0]), 1e-6)
    return Curve(
        raw=(float(f"{raw[0] - reach:.7g}"), *raw.tolist(), float(f"{raw[-1] + reach:.7g}")),
        normalized=tuple(
            round(float(value), 5)
            for value in (normalized[0] - _BEYOND, *normalized.tolist(), normalized[-1] + _BEYOND)
        ),
    )
