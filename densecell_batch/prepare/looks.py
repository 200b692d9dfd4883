"""What is remembered of each slice of a stack, in one pass over it, to name the damaged ones (`prepare.defects`).

Slices are compared after a band-pass, and moved against each other by phase correlation (ref. 1), so that neither
their brightness nor a shift hides that they show the same cells.

References
----------
.. [1] Kuglin, Hines 1975, "The phase correlation image alignment method", Proc IEEE Int Conf Cybern Soc, 163-165.
"""

from __future__ import annotations

from bisect import insort
from functools import lru_cache

import msgspec
import numpy as np
import scipy  # its parts are loaded when they are first used
from msgspec.structs import replace

__all__ = ["BLANK", "SliceLook", "SliceWatcher"]

BLANK = 0.12  # of the median contrast of a stack: a slice with less shows nothing

_BINS = 256  # side of the binned slices at most
_SMOOTH = 2.0  # of the band-pass, in bins: what is finer is noise, or changes from slice to slice
_BLOCK = 8  # side of the blocks whose texture is measured, in voxels; half of it for small slices
_BANDS = 96  # rows of blocks at most; of taller slices every second, third, ... row of blocks is taken
_SEEN = 3  # slices that are remembered
_FLAT = 0.15  # a block is flat when its standard deviation is below this share of that of the slice's busy blocks


class SliceLook(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of one slice; all numbers are of the tissue alone."""

    inside: float  # share of the slice that is tissue
    mean: float  # of the parts that are not flat
    std: float  # of the parts that are not flat
    rough: float  # squared differences of touching voxels / (2 variance): 0 smooth, 1 white noise
    flat: float  # share of the largest flat area
    constant: bool = False  # every voxel is the same, or none is tissue
    even: bool = False  # whole numbers that differ by about 1
    same: tuple[float, ...] = ()  # correlation with the usable slice before, that before it, ...
    shift: tuple[float, float] = (0.0, 0.0)  # (y, x) in voxels, against the usable slice before
    peak: float = 0.0  # height of the peak of the phase correlation at the shift, in standard deviations
    moved: float = 0.0  # correlation with the usable slice before, at the shift
    dip: float = 0.0  # depth of the lowest point of the phase correlation, as `peak`: of inverted slices the larger
    usable: bool = False  # later slices are compared with this one
    bin: int = 1  # voxels a bin, along each side


class SliceWatcher:
    """Looks at the slices of a stack, once each and in order."""

    def __init__(self) -> None:
        self._seen: list[np.ndarray] = []  # spectra, the latest first
        self._contrasts: list[float] = []  # of the slices so far that are not constant, sorted

    def look(self, plane: np.ndarray, outside: np.ndarray | None = None) -> SliceLook:
        """What is to be remembered of the next slice.

        Parameters
        ----------
        plane
            (y, x), uint8, uint16, int16 or float32, of the same shape for each slice.
        outside
            (y, x) bool: the voxels that are no tissue. What they hold does not matter.

        Returns
        -------
        SliceLook
        """
        if outside is not None and not outside.any():
            outside = None
        offset, scale, constant = _range(plane, outside)
        size = max(1, -(-max(plane.shape) // _BINS))
        if constant:
            inside = 1.0 if outside is None else float(1 - outside.mean())
            return SliceLook(inside, mean=offset, std=0.0, rough=0.0, flat=1.0, constant=True)
        look = _texture(plane, outside, offset, scale)
        std = look.std
        look = replace(look, bin=size, even=bool(np.issubdtype(plane.dtype, np.integer)) and std < 1.5)
        # The slice after a blank one is compared with the one before it.
        insort(self._contrasts, std)
        if not std > BLANK * self._contrasts[len(self._contrasts) // 2] or min(plane.shape) < 16:
            return look
        binned = _binned(plane, outside, offset, scale, size)
        spectrum, weights = _spectrum(binned)
        same = tuple(round(_correlation(spectrum, other, weights), 4) for other in self._seen)
        found = _shift(spectrum, self._seen[0], weights, binned.shape, size) if self._seen else {}
        self._seen = [spectrum, *self._seen[: _SEEN - 1]]
        return replace(look, same=same, usable=True, **found)


def _range(plane: np.ndarray, outside: np.ndarray | None) -> tuple[float, float, bool]:
    """About the mean and the standard deviation of the tissue, and whether it is constant.

    Grey values are brought to this range first, so that float32 is precise enough whatever the range of a stack.
    """
    step = max(1, min(plane.shape) // 64)
    some = plane[::step, ::step]
    some = some.ravel() if outside is None else some[~outside[::step, ::step]]
    if some.size and some.min() != some.max():
        values = some.astype(np.float64)
        return float(values.mean()), float(values.std()), False
    values = plane if outside is None else plane[~outside]  # rarely: where what was sampled is constant
    if not values.size:
        return 0.0, 1.0, True
    low, high = float(values.min()), float(values.max())
    return low, (high - low) or 1.0, low == high


def _scaled(part: np.ndarray, outside: np.ndarray | None, offset: float, scale: float) -> np.ndarray:
    """(values - offset) / scale as float32, 0 outside."""
    # Integers of up to 16 bits are exact in float32; a float32 less a float near it, too.
    values = (part.astype(np.float32) - np.float32(offset)) * np.float32(1 / scale)
    return values if outside is None else np.where(outside, np.float32(0), values)


def _texture(plane: np.ndarray, outside: np.ndarray | None, offset: float, scale: float) -> SliceLook:
    """What is told by small blocks, of those that are wholly inside."""
    side = _BLOCK if min(plane.shape) >= 32 * _BLOCK else min(_BLOCK // 2, *plane.shape)
    rows, columns = (n // side for n in plane.shape)
    step = -(-rows // _BANDS)

    def blocks(image: np.ndarray) -> np.ndarray:  # (row of blocks, y, column of blocks, x)
        return image[: rows * side, : columns * side].reshape(rows, side, columns, side)[::step]

    valid = None if outside is None else ~blocks(outside).any(axis=(1, 3))
    values = _scaled(blocks(plane), None if outside is None else blocks(outside), offset, scale)
    sums = np.einsum("aibj->ab", values) / side**2
    squares = np.einsum("aibj,aibj->ab", values, values) / side**2
    spread = np.sqrt(np.maximum(squares - sums * sums, 0))
    right, down = values[..., 1:] - values[..., :-1], values[:, 1:] - values[:, :-1]
    steps = np.einsum("aibj,aibj->ab", right, right) + np.einsum("aibj,aibj->ab", down, down)
    steps /= max(1, 2 * side * (side - 1))
    if valid is None:
        valid = np.ones(spread.shape, bool)
    inside = float(np.count_nonzero(valid) / valid.size)
    if not inside:  # tissue in slivers only: nothing is said about it
        return SliceLook(inside, mean=offset, std=0.0, rough=0.0, flat=0.0)
    flat = valid & (spread <= _FLAT * np.percentile(spread[valid], 90))
    # Tears must not count in what is said about the rest.
    busy = valid & ~flat if (valid & ~flat).any() else valid
    mean = float(sums[busy].mean(dtype=np.float64))
    variance = float(squares[busy].mean(dtype=np.float64)) - mean * mean
    areas, n_areas = scipy.ndimage.label(flat)
    largest = int(np.bincount(areas.ravel())[1:].max()) if n_areas else 0
    return SliceLook(
        inside,
        mean=offset + scale * mean,
        std=scale * max(variance, 0.0) ** 0.5,
        rough=float(steps[busy].mean(dtype=np.float64)) / (2 * variance) if variance > 1e-12 else 0.0,
        flat=largest / int(np.count_nonzero(valid)),
    )


def _binned(plane: np.ndarray, outside: np.ndarray | None, offset: float, scale: float, size: int) -> np.ndarray:
    """Means of `size` x `size` voxels less the mean of all, float32, 0 where most is outside."""
    rows, columns = (n // size for n in plane.shape)
    binned = np.empty((rows, columns), np.float32)
    share = np.ones((rows, columns), np.float32)
    step = max(1, 2**20 // (size * plane.shape[1]))  # a part at a time: a copy of a large slice would be large
    for row in range(0, rows, step):
        some = (slice(row * size, min(row + step, rows) * size), slice(columns * size))
        mask = None if outside is None else outside[some]
        into = slice(row, row + step)
        binned[into] = _bin(_scaled(plane[some], mask, offset, scale), size)
        if mask is not None:
            share[into] = _bin((~mask).astype(np.float32), size)
    if outside is None:
        return binned - binned.mean()
    inside = share >= 0.5
    binned /= np.maximum(share, 0.5)
    mean = binned[inside].mean() if inside.any() else 0
    return np.where(inside, binned - mean, np.float32(0))


def _bin(values: np.ndarray, size: int) -> np.ndarray:
    if size == 1:
        return values
    rows, columns = values.shape[0] // size, values.shape[1] // size
    # Rows first, which is done by whole rows and so the quicker; then the little that is left.
    return values.reshape(rows, size, -1).sum(axis=1).reshape(rows, columns, size).sum(axis=2) / size**2


def _spectrum(binned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The spectrum of a binned slice that fades to its borders, and the weights of the frequencies."""
    fade, weights = _band(*binned.shape)
    return scipy.fft.rfft2(binned * fade).astype(np.complex64), weights


@lru_cache(maxsize=2)
def _band(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How slices of a size fade to their borders (y, x), and what counts of each frequency of `rfft2`."""
    y, x = (np.hanning(n + 2)[1:-1].astype(np.float32) for n in (height, width))
    frequency = scipy.fft.fftfreq(height)[:, None] ** 2 + scipy.fft.rfftfreq(width) ** 2
    power = -2 * (np.pi * _SMOOTH) ** 2 * frequency
    weights = np.exp(power) * -np.expm1(64 * power)  # less than what is 8 times as coarse: uneven brightness
    return np.multiply.outer(y, x), weights.astype(np.float32)


def _norm(spectrum: np.ndarray, weights: np.ndarray) -> float:
    return float(np.sqrt(np.sum(weights * (spectrum.real**2 + spectrum.imag**2))))


def _correlation(one: np.ndarray, two: np.ndarray, weights: np.ndarray) -> float:
    """Of the band-passed slices, -1 to 1, without a shift."""
    # The first column of half a spectrum should count half, but does so neither above nor below the fraction.
    norm = _norm(one, weights) * _norm(two, weights)
    return float(np.sum(weights * (one.real * two.real + one.imag * two.imag))) / norm if norm else 0.0


def _shift(
    one: np.ndarray, two: np.ndarray, weights: np.ndarray, shape: tuple[int, ...], size: int
) -> dict[str, float | tuple[float, float]]:
    """The fields `shift`, `peak`, `moved` and `dip` of `SliceLook`."""
    product = one * np.conj(two)
    height = np.abs(product)
    if not height.any():
        return {}
    phases = scipy.fft.irfft2(product / (height + 1e-6 * height.max()) * weights, shape)
    y, x = np.unravel_index(int(phases.argmax()), phases.shape)
    waves = scipy.fft.fftfreq(shape[0]), scipy.fft.rfftfreq(shape[1])
    back = np.outer(np.exp(2j * np.pi * y * waves[0]), np.exp(2j * np.pi * x * waves[1]))
    norm = _norm(one, weights) * _norm(two, weights)
    moved = float(np.sum(weights * (product * back).real)) / norm if norm else 0.0
    dy, dx = (float((int(at) + n // 2) % n - n // 2) * size for at, n in zip((y, x), shape, strict=True))
    peak = float(phases[y, x] / (phases.std() or 1))
    dip = float(-phases.min() / (phases.std() or 1))
    return {"shift": (dy, dx), "peak": round(peak, 2), "moved": round(moved, 4), "dip": round(dip, 2)}
