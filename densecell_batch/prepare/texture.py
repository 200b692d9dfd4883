"""What the image of a window is like, in numbers that brightness and contrast do not change.

- `power_*px`: how much power there is at wavelengths just below so many pixels, against just above (log2). Blur, noise
  and another pixel size change it.
- `coherence_*px`: the correlation of neighbouring slices at wavelengths around so many pixels. Sections of another
  thickness change it, and slices that are out of place or stand there twice.
- `ridges_*px`: lines that are darker than what is around them, against brighter ones, at wavelengths around so many
  pixels (log2 of the energies). Inverted, it changes its sign, also where the histogram was matched afterwards.
- `skewness_*px`: of the curvature at such wavelengths. Noise has none, so it tells how large structures are under it.
- `lines_*px`: the share of the strongest dark lines that are strongest at this wavelength of those looked at: how wide
  membranes are in pixels (ref. 1).

References
----------
.. [1] Lindeberg 1998, "Edge detection and ridge detection with automatic scale selection", Int J Comput Vis 30:117,
   section 5: the normalization by which ridges of different width are compared.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

__all__ = ["texture", "wavelength"]

# Wavelengths in pixels that part the bands. Nearly octaves; finer where EM images of the same tissue are most alike.
_EDGES = (80, 40, 20, 10, 7, 5, 3.5, 2)
# By the wavelength that the second derivative of a Gaussian lets through best, sqrt(2) * pi * its standard deviation.
_SIGMAS = {4.5: 1.0, 6.5: 1.5, 13: 3.0}
_LINE = 1.5  # power of the standard deviation by which curvatures of different scales are compared (ref. 1)
_STRONG = 0.9  # quantile of the curvatures from which a line is a strong one
_TINY = 1e-12  # against windows normalized to variance 1: keeps the logarithm of nothing finite


def texture(tile: np.ndarray) -> dict[str, float]:
    """What one window is like.

    Parameters
    ----------
    tile
        (z, y, x) float32, normalized. Only slices that there are: those that were mirrored into a tile would be alike.

    Returns
    -------
    dict
        Feature -> value, always finite. A window too small to have a wavelength, or of one slice, lacks features.
    """
    tile = np.ascontiguousarray(tile, dtype=np.float32)
    return _spectrum(tile) | _curvature(tile)


def wavelength(feature: str) -> float:
    """Of a feature, in pixels."""
    return float(feature.rpartition("_")[2].removesuffix("px"))


def _spectrum(tile: np.ndarray) -> dict[str, float]:
    from scipy import fft  # here: who only reads bundles waits for no library

    depth, height, width = tile.shape
    taper = np.multiply.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    waves = fft.rfft2((tile - tile.mean((1, 2), keepdims=True)) * taper)
    bands, counts = _bands(height, width)

    def sums(values: np.ndarray) -> np.ndarray:
        """Over the frequencies of each band: (z, frequencies of y, of x) -> (z, band)."""
        return np.stack([np.bincount(bands, one.ravel(), len(counts)) for one in values])[:, :-1]

    power = sums(np.square(waves.real) + np.square(waves.imag))
    there = counts[:-1] > 0
    level = np.log2(power.mean(0) / np.maximum(counts[:-1], 1) + _TINY)
    found = {
        f"power_{_EDGES[i + 1]:g}px": float(level[i + 1] - level[i])
        for i in range(len(level) - 1)
        if there[i] and there[i + 1]
    }
    if depth > 1:
        shared = sums((waves[:-1] * waves[1:].conj()).real).sum(0)
        both = np.sqrt(power[:-1] * power[1:]).sum(0)
        # The finest band is noise of the camera; it says nothing about sections.
        for i in range(len(level) - 1):
            if there[i]:
                found[f"coherence_{_EDGES[i]:g}px"] = float(shared[i] / (both[i] + _TINY))
    return found


@lru_cache(maxsize=4)
def _bands(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Band of each frequency of `rfft2`, flat, the last one for those in no band; and the frequencies in each band."""
    from scipy import fft

    frequency = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width)).ravel()
    bands = np.full(frequency.shape, len(_EDGES) - 1)
    for i, (long, short) in enumerate(pairwise(_EDGES)):
        bands[(frequency >= 1 / long) & (frequency < 1 / short)] = i
    return bands, np.bincount(bands, minlength=len(_EDGES))


def _curvature(tile: np.ndarray) -> dict[str, float]:
    """Of lines and spots, by the eigenvalues of the Hessian; every other slice says as much as all."""
    from scipy import ndimage

    tile = tile[::2]
    found, lines = {}, []
    for length, sigma in _SIGMAS.items():
        yy, xx, yx = (
            ndimage.gaussian_filter(tile, (0, sigma, sigma), order=order, truncate=3)
            for order in ((0, 2, 0), (0, 0, 2), (0, 1, 1))
        )
        middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
        # The larger eigenvalue is middle + half, the smaller one middle - half. How much one outdoes the other tells
        # lines and spots from saddles; it is 2 * middle where the signs differ, and 2 * half where they do not.
        strength = np.square(np.minimum(np.abs(middle), half))
        both, more = (float(x.sum(dtype=np.float64)) for x in (strength, np.copysign(strength, middle)))
        dark, bright = max(both + more, 0) / 2, max(both - more, 0) / 2
        found[f"ridges_{length:g}px"] = float(np.log2((dark + _TINY) / (bright + _TINY)))
        found[f"skewness_{length:g}px"] = _skewness(middle)
        lines.append(np.maximum(middle + half, 0) * sigma**_LINE)
    strongest = np.maximum.reduce(lines)
    cut = int(_STRONG * strongest.size)
    strong = strongest >= np.partition(strongest, cut, axis=None)[cut]
    count = max(int(np.count_nonzero(strong)), 1)
    for length, line in zip(_SIGMAS, lines, strict=True):
        found[f"lines_{length:g}px"] = np.count_nonzero(line[strong] == strongest[strong]) / count
    return found


def _skewness(values: np.ndarray) -> float:
    centred = values - np.float32(values.mean(dtype=np.float64))
    squares = np.square(centred)
    third, second = (float(x.mean(dtype=np.float64)) for x in (squares * centred, squares))
    return third / (second**1.5 + _TINY)
