"""Does a stack look, to a model, like the model's own data? A few windows of the stack are tried before all of it.

A window is told by how its image is made, which needs no net, and by how far the answers about it differ:

- the texture of the image (`prepare.texture`): its sharpness, how much slices resemble each other, dark lines against
  bright ones;
- `pixel_size`: how many times as large its pixels look (`prepare.pixel_size`), where nobody said so;
- `disagreement`: of the members of an ensemble, in bits; of a single net, of its answers about the window and about the
  window turned (`nets.ensemble`). It is the only one that sees what the tissue is, so that it is held to a limit of its
  own; it grows where nets have not learnt what they see (ref. 1). Little of it is no cause for an alarm.

A stack is the median of its windows, so that one nucleus does not make an alarm, and its image is judged by the
distance of Mahalanobis from windows of the model's own data. Their covariance is shrunk towards its diagonal (ref. 2):
windows that overlap tell less than their number says.

References
----------
.. [1] Lakshminarayanan, Pritzel, Blundell 2017, "Simple and scalable predictive uncertainty estimation using deep
   ensembles", NeurIPS 30, section 3.5: disagreement on what is unlike the training data.
.. [2] Ledoit, Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", J Multivar Anal
   88:365.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import hypot, isfinite, log2

import numpy as np
from msgspec import Struct

from densecell_batch.prepare.pixel_size import SizeLine
from densecell_batch.prepare.texture import texture, wavelength

__all__ = ["Fit", "OwnData", "choose_remedy", "features", "judge", "record", "spread_windows"]

Triple = tuple[int, int, int]

_DISAGREEMENT, _PIXEL_SIZE = "disagreement", "pixel_size"
_HELD = ("power", "coherence", "ridges")  # features of the texture whose distance from own windows counts
_TINY = 1e-12

# Standard deviation of any feature of the image (they are all of order 1) that is no sign of another tissue, on top of
# what was seen: the own data of a model are few volumes, and it has seen too little of how they vary.
_FLOOR = 0.1
_SHRINK = 0.1  # of the covariance towards its diagonal
_FAR = 1.25  # distance per feature, in standard deviations of windows, from which a stack is another
_EXPECTED = 3.0  # standard deviations around the centre that the report calls expected
# Times as large as the model's, or as small. Crops of own tissue, of a volume too that took no part in the record, look
# up to 1.23 times as large as they are; stacks of 1.43 times the pixel size 1.5 times, and of 0.7 times 0.7 times.
_OTHER_SIZE = 1.3
_MORE_DISAGREEMENT = 2.4  # times the median of own windows
_CLEARLY = 0.5  # a remedy's score, as a share of the score without it
_TRIES = 8  # positions looked at for each window wanted, where some are not usable
# Steps of the sequence of positions: the powers of 1 / g, where g**4 = g + 1, fill a cube evenly however many are
# taken. (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences".)
_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)


class OwnData(Struct, frozen=True, kw_only=True):
    """What windows of a model's own data are like; part of a bundle.

    Raises
    ------
    ValueError
        If the numbers do not belong together.
    """

    windows: int  # how many were measured
    names: tuple[str, ...]  # of the features of the image
    centre: tuple[float, ...]  # of each, the median over windows
    covariance: tuple[tuple[float, ...], ...]  # shrunk, positive definite
    disagreement: float  # bits; the median over windows
    size: SizeLine | None = None

    def __post_init__(self) -> None:
        n = len(self.names)
        if n == 0 or len(set(self.names)) < n or len(self.centre) != n or [len(r) for r in self.covariance] != [n] * n:
            raise ValueError("expected features with different names, a centre and a row of covariances for each")
        numbers = [*self.centre, *(value for row in self.covariance for value in row), self.disagreement]
        if not all(map(isfinite, numbers)) or self.disagreement < 0:
            raise ValueError("expected finite numbers, and no disagreement below 0")
        covariance = np.array(self.covariance)
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError("expected a covariance that is symmetric and positive definite")


class Fit(Struct, frozen=True, kw_only=True):
    """What was found out about a stack."""

    alike: bool  # whether the score is at most 1
    score: float  # how far the stack is off, as a share of how far it may be
    measured: dict[str, float]  # of the stack, by the name of the feature
    expected: dict[str, tuple[float, float]]  # the range in which most of the model's own data are
    worst: tuple[str, ...]  # what is outside it, the worst first


def features(tile: np.ndarray, disagreement: np.ndarray) -> dict[str, float]:
    """What one window is like.

    Parameters
    ----------
    tile
        (z, y, x) float32, normalized. Only slices that there are: those that were mirrored into a tile would be alike.
    disagreement
        Bits, of the voxels of the window, of any shape.

    Returns
    -------
    dict
        Feature -> value, always finite. A window too small to have a wavelength, or of one slice, lacks features.
    """
    return texture(tile) | {_DISAGREEMENT: float(disagreement.mean(dtype=np.float64))}


def record(windows: Sequence[Mapping[str, float]], size: SizeLine | None = None) -> OwnData:
    """Sum up windows of a model's own data, normalized as stacks are; best of volumes that it did not learn from, too.

    Parameters
    ----------
    windows
        What `features` found in each.
    size
        How the size of pixels shows in them.

    Raises
    ------
    ValueError
        If there are fewer than two windows, or they have not all the same features.
    """
    if len(windows) < 2 or any(window.keys() != windows[0].keys() for window in windows):
        raise ValueError(f"{len(windows)} windows; expected at least two, with the same features")
    names = tuple(name for name in windows[0] if name.partition("_")[0] in _HELD)
    table = np.array([[window[name] for name in names] for window in windows])
    centre = np.median(table, axis=0)
    covariance = (table - centre).T @ (table - centre) / (len(table) - 1)
    variances = np.diag(np.diag(covariance))
    covariance += _SHRINK * (variances - covariance) + _FLOOR**2 * np.eye(len(names))
    return OwnData(
        windows=len(windows),
        names=names,
        centre=tuple(centre.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        disagreement=float(np.median([window[_DISAGREEMENT] for window in windows])),
        size=size,
    )


def judge(windows: Sequence[Mapping[str, float]], own: OwnData, *, finest: float = 0) -> Fit:
    """Hold windows of a stack against a model's own data.

    Parameters
    ----------
    windows
        What `features` found in each. Features that a window or the model lacks are left out.
    own
        The record of the model, made of windows of the same size, with as many members and turns.
    finest
        Leave out what is about wavelengths below so many pixels. A stack that was enlarged `f` times has little below
        `4 * f`, whatever it shows; without this, no stack would look the better for it.

    Raises
    ------
    ValueError
        If there is no window.
    """
    if not windows:
        raise ValueError("no windows; expected at least one")
    measured = {
        name: float(np.median([w[name] for w in windows])) for name in windows[0] if all(name in w for w in windows)
    }
    kept = [i for i, name in enumerate(own.names) if name in measured and wavelength(name) >= finest]
    covariance = np.array(own.covariance)[np.ix_(kept, kept)]
    off = np.array([measured[own.names[i]] - own.centre[i] for i in kept])
    distance = float(np.sqrt(off @ np.linalg.solve(covariance, off) / max(len(kept), 1)))
    limit = _MORE_DISAGREEMENT * own.disagreement
    excess = max(measured[_DISAGREEMENT] - own.disagreement, 0) / max(limit - own.disagreement, _TINY)
    expected, shares = {_DISAGREEMENT: (0.0, limit)}, {_DISAGREEMENT: excess}
    size = _apparent_size(windows, own.size, finest)
    if size is not None:
        measured[_PIXEL_SIZE] = size
        expected[_PIXEL_SIZE], shares[_PIXEL_SIZE] = (1 / _OTHER_SIZE, _OTHER_SIZE), abs(log2(size)) / log2(_OTHER_SIZE)
    # Two things that are nearly too far off are too far off; but not a size, which the rest says in other words.
    score = max(hypot(distance / _FAR, excess), shares.get(_PIXEL_SIZE, 0))
    for i, o, spread in zip(kept, off.tolist(), np.sqrt(np.diag(covariance)).tolist(), strict=True):
        room = _EXPECTED * spread
        expected[own.names[i]] = (own.centre[i] - room, own.centre[i] + room)
        shares[own.names[i]] = abs(o) / room
    by_share = sorted(shares, key=lambda name: -shares[name])
    worst = [name for name in by_share if shares[name] > 1]
    if score > 1 and not worst:
        worst = by_share[:3]  # none by itself, but all together
    return Fit(
        alike=score <= 1,
        score=score,
        measured={name: measured[name] for name in expected},
        expected=expected,
        worst=tuple(worst),
    )


def _apparent_size(windows: Sequence[Mapping[str, float]], line: SizeLine | None, finest: float) -> float | None:
    """How many times as large the pixels look; None where nobody can tell."""
    if line is None or min(map(wavelength, line.names)) < finest:
        return None
    found = [size for window in windows if (size := line(window)) is not None]
    return float(2 ** np.clip(np.median(found), -3, 3)) if found else None


def choose_remedy(fits: Mapping[str, Fit], as_is: str = "as is") -> str | None:
    """The change after which a stack looks like the model's own data, if one helps clearly.

    Parameters
    ----------
    fits
        What was found out about the stack `as_is`, and by other names about the stack changed.
    as_is
        The name of the stack without a change.

    Returns
    -------
    str or None
        The name of the best change; None if the stack is alike as it is, or no change makes it so.
    """
    before = fits[as_is]
    if before.alike:
        return None
    helped = {
        name: fit.score
        for name, fit in fits.items()
        if name != as_is and fit.alike and fit.score <= _CLEARLY * before.score
    }
    return min(helped, key=lambda name: helped[name]) if helped else None


def spread_windows(
    shape: Triple, window: Triple, n: int, usable: Callable[[Triple], bool] = lambda corner: True
) -> list[Triple]:
    """Corners of up to `n` windows, spread evenly over a volume; the same ones each time.

    Parameters
    ----------
    shape, window
        Voxels (z, y, x) of the volume and of a window. Along an axis that is shorter than the window, windows begin at
        0 and stick out.
    n
        How many are wanted.
    usable
        Whether a window may be taken, by its corner; asked in turn until there are enough.

    Returns
    -------
    list
        Corners (z, y, x); fewer than `n` in a volume with too few places or too few usable ones.
    """
    room = [max(length - side, 0) for length, side in zip(shape, window, strict=True)]
    found: list[Triple] = []
    seen: set[Triple] = set()
    for i in range(_TRIES * n):
        if len(found) == n:
            break
        z, y, x = (round((0.5 + i * step) % 1 * length) for step, length in zip(_STEPS, room, strict=True))
        corner = (z, y, x)
        if corner not in seen:
            seen.add(corner)
            if usable(corner):
                found.append(corner)
    return found
