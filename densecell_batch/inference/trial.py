"""A few windows of a stack through the nets before all of it: whether it looks like the model's own data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from densecell_batch.inference.tiling import mirror
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.ensemble import combine
from densecell_batch.nets.predictor import Predictor
from densecell_batch.prepare.fit import features, spread_windows
from densecell_batch.prepare.prepared import Slices

__all__ = ["WINDOWS", "describe_fit", "try_windows"]

WINDOWS = 4  # of a stack: one alone can be a nucleus
_LOOKED_AT = 96  # voxels along y and x, in the middle of a window, that the nets answer about: the image says the rest

Triple = tuple[int, int, int]

_IN_WORDS = {
    "power": "its sharpness, noise or pixel size",
    "coherence": "how much neighbouring slices resemble each other",
    "ridges": "dark lines against bright ones",
    "disagreement": "the nets disagree more than about their own data",
}


def try_windows(prepared: Slices, predictor: Predictor, window: Triple, n: int = WINDOWS) -> list[dict[str, float]]:
    """What `prepare.fit.features` says of up to `n` windows spread over a stack.

    Parameters
    ----------
    prepared
        What the nets see of it.
    predictor
        The nets.
    window
        Input window (z, y, x) of their training.
    n
        How many.
    """
    shape = prepared.shape

    def usable(corner: Triple) -> bool:
        region = tuple(slice(c, min(c + side, length)) for c, side, length in zip(corner, window, shape, strict=True))
        return not prepared.has_outside((region[0], region[1], region[2]))

    corners = spread_windows(shape, window, n, usable) or spread_windows(shape, window, n)
    middle = [_middle(side, predictor.architecture) for side in window[1:]]
    return [
        features(real, _differences(predictor, np.ascontiguousarray(tile[:, middle[0], middle[1]])))
        for real, tile in _tiles(prepared, corners, window)
    ]


def _middle(side: int, net: Architecture) -> slice:
    """The middle of a window along an axis, of a size that the net takes without loss."""
    wanted = net.residue + 2 * net.margin + -(-_LOOKED_AT // net.alignment) * net.alignment
    start = max(0, (side - wanted) // 2)
    return slice(start, min(side, start + wanted))


def _tiles(prepared: Slices, corners: list[Triple], window: Triple) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each window as far as the volume reaches, and mirrored to its full size for the nets; (z, y, x) float32."""
    for corner in corners:
        spans = [(c, min(c + side, n)) for c, side, n in zip(corner, window, prepared.shape, strict=True)]
        (z0, z1), rows, (x0, x1) = spans
        real = np.stack([prepared.read(z, rows)[:, x0:x1] for z in range(z0, z1)])
        places = [mirror(np.arange(side), stop - start) for side, (start, stop) in zip(window, spans, strict=True)]
        yield real, real[np.ix_(*places)]


def _differences(predictor: Predictor, tile: np.ndarray) -> np.ndarray:
    """How far members differ about a tile, in bits; a single net, about the tile and the tile turned."""
    if len(predictor) > 1:
        return _bits(predictor(tile))
    flipped, turned = tile[:, ::-1], tile.swapaxes(1, 2)
    answers = [next(iter(predictor(np.ascontiguousarray(way)))) for way in (tile, flipped, turned)]
    back = [answers[0], answers[1][:, ::-1], answers[2].swapaxes(1, 2)]
    sides = [min(answer.shape[axis] for answer in back) for axis in (1, 2)]
    return _bits(answer[:, : sides[0], : sides[1]] for answer in back)


def _bits(answers: Iterator[np.ndarray]) -> np.ndarray:
    found = combine(answers, with_disagreement=True)[1]
    assert found is not None
    return found


def describe_fit(worst: tuple[str, ...], remedy: str, *, taken: bool) -> str:
    """What a user should know of a stack that is not like the model's own data."""
    reasons = dict.fromkeys(_IN_WORDS[name.partition("_")[0]] for name in worst)
    told = f"to this model the stack does not look like its own data ({', '.join(reasons)})"
    if taken:
        return f"{told}; so it was taken as {remedy}, as --fit auto says, and looks so now"
    if remedy:
        return f"{told}, but it would if it were taken as {remedy}: --fit auto does that; look at the labels before use"
    return (
        f"{told}, and neither inverting nor rescaling would change that: look at the labels before use, or take "
        "another model"
    )
