"""A few windows of a stack through the nets before all of it: whether it looks like the model's own data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import ceil, prod
from typing import Any

import msgspec
import numpy as np

from densecell_batch.errors import OptionError
from densecell_batch.inference.tiling import mirror
from densecell_batch.nets.architecture import Architecture, ResidualUNet
from densecell_batch.nets.ensemble import combine
from densecell_batch.nets.predictor import Predictor
from densecell_batch.prepare.examine import Examination
from densecell_batch.prepare.fit import Fit, OwnData, choose_remedy, features, judge, spread_windows
from densecell_batch.prepare.preparation import Preparation
from densecell_batch.prepare.prepared import SeenVolume
from densecell_batch.prepare.scale import Resampler
from densecell_batch.prepare.texture import texture

__all__ = ["describe_fit", "in_words", "looked_at", "resized_windows", "try_stack", "try_windows"]

_WINDOWS = 4  # of a stack: one alone can be a nucleus
_FEW_FROM, _FEW_TO = 2_000_000, 20_000_000  # voxels of a stack of which one less is tried: they cost as much in each
_LARGEST = 160  # voxels along y and x of a window of a residual net
_LOOKED_AT = 88  # voxels along y and x, in the middle of a window, that the nets answer about: the image says the rest

Triple = tuple[int, int, int]

_FINEST = 4.0  # voxels: the shortest wavelength of which resampling leaves as much as there was

# Times as large that pixels look, from which they may be half or twice as large.
_LIKE_HALF, _LIKE_TWICE = 0.7, 1.6
_IN_WORDS = {
    "power": "its sharpness, noise or pixel size",
    "coherence": "how much neighbouring slices resemble each other",
    "ridges": "dark lines against bright ones",
    "pixel": "the size of its pixels",
    "disagreement": "the nets disagree more than about their own data",
}


def try_stack(
    seen: Examination,
    prepared: Callable[[Preparation], SeenVolume],
    predictor: Predictor,
    window: Triple,
    own: OwnData,
    *,
    mend: bool,
) -> Preparation:
    """What is to be done to a stack, with what windows of it say.

    Parameters
    ----------
    seen
        What was seen of it.
    prepared
        What the nets see after some preparation.
    predictor, window
        The nets, and the input window (z, y, x) of their training.
    own
        What windows of the model's own data are like.
    mend
        Whether to do what makes it look like those.
    """
    plain, window = seen.preparation(), looked_at(window, predictor.architecture)
    if any(a < b for a, b in zip(plain.grid[1:], window[1:], strict=True)):  # what is known is of whole windows
        told = (
            f"the tissue is smaller than {window[1]} x {window[2]} voxels, too small to try whether it looks like the "
            "model's own data: look at the labels before use"
        )
        return msgspec.structs.replace(plain, warnings=(*plain.warnings, told))
    n = _WINDOWS - (_FEW_FROM < prod(plain.shape) < _FEW_TO)

    def tried(preparation: Preparation, own: OwnData = own) -> Fit:
        zoom = preparation.zoom
        finest = _FINEST * max(1.0, zoom) if zoom != 1 else 0
        return judge(try_windows(prepared(preparation), predictor, window, n), own, finest=finest)

    changed, fits = {"": plain}, {"": tried(plain)}
    if not fits[""].alike:
        for name, changes in _remedies(fits[""], plain.zoom).items():
            with suppress(OptionError):  # too small for it
                changed[name] = seen.preparation(**changes)
                # Of another size only the rest is judged: how large it should look is what it was made by.
                sized = msgspec.structs.replace(own, size=None) if "enlarged" in changes else own
                fits[name] = tried(changed[name], sized)
    remedy = choose_remedy(fits, "") or ""
    taken = mend and remedy != ""
    chosen = changed[remedy] if taken else plain
    told_of = () if fits[""].alike else (describe_fit(fits[""].worst, remedy, taken=taken),)
    return msgspec.structs.replace(
        chosen, fit=fits[""], remedy=remedy, remedied=taken, warnings=(*chosen.warnings, *told_of)
    )


def looked_at(window: Triple, net: Architecture) -> Triple:
    """What is looked at of a stack at a time, to hold it against the model's own data: the window (z, y, x) of the
    training. Those of a residual net are large for its context's sake: of texture less says as much, and fits into more
    stacks, whose pixels may be larger, too.
    """
    z, y, x = window
    return (z, min(y, _LARGEST), min(x, _LARGEST)) if isinstance(net, ResidualUNet) else window


def _remedies(fit: Fit, zoom: float) -> dict[str, dict[str, Any]]:
    """What may be wrong with a stack that is not alike, of which nets see `zoom` times as many voxels as it has."""
    size = fit.measured.get("pixel_size")
    sizes = {"half": 0.5, "twice": 2.0}
    if size is not None:
        # What was learnt of sizes ends before half and twice the size, so that what looks nearly so may be it.
        likely = {"half": size < _LIKE_HALF, "twice": size > _LIKE_TWICE}
        sizes = {word: factor for word, factor in sizes.items() if likely[word]}
        sizes[f"{size:.2g} times"] = float(f"{size:.2g}")
        if "pixel_size" not in fit.worst:
            sizes = {}
    enlarged = {
        f"of {word} the size (--scale {float(f'{zoom * factor:.2g}'):g})": {"enlarged": factor}
        for word, factor in sizes.items()
    }
    return {"inverted": {"negative": True}, **enlarged}


def try_windows(prepared: SeenVolume, predictor: Predictor, window: Triple, n: int) -> list[dict[str, float]]:
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
    corners = _within_tissue(prepared, window, n) or spread_windows(prepared.shape, window, n)
    middle = [_middle(side, predictor.architecture) for side in window[1:]]
    return [
        features(real, _differences(predictor, np.ascontiguousarray(tile[:, middle[0], middle[1]])))
        for real, tile in _tiles(prepared, corners, window)
    ]


def resized_windows(prepared: SeenVolume, window: Triple, factor: float, n: int) -> list[dict[str, float]]:
    """What the texture of windows would be if pixels were `factor` times as large; none of a volume too small for it.

    Parameters
    ----------
    prepared, window, n
        As for `try_windows`.
    factor
        Length of the new pixels in old ones.
    """
    depth, *sides = window
    larger = (depth, *(ceil(side * factor) for side in sides))
    z, y, x = (min(side, length) for side, length in zip(larger, prepared.shape, strict=True))
    if (y, x) != larger[1:]:
        return []
    rows, columns = (Resampler.of(old, new) for old, new in zip((y, x), sides, strict=True))
    found = []
    for real, _ in _tiles(prepared, _within_tissue(prepared, (z, y, x), n), (z, y, x)):
        found.append(texture(columns(rows(real, 0, len(rows), 1), 0, len(columns), 2)))
    return found


def _within_tissue(prepared: SeenVolume, window: Triple, n: int) -> list[Triple]:
    """Corners of windows without voxels outside."""

    def usable(corner: Triple) -> bool:
        spans = zip(corner, window, prepared.shape, strict=True)
        z, y, x = (slice(c, min(c + side, length)) for c, side, length in spans)
        return not prepared.has_outside((z, y, x))

    return spread_windows(prepared.shape, window, n, usable)


def _middle(side: int, net: Architecture) -> slice:
    """The middle of a window along an axis, of a size that the net takes without loss."""
    wanted = net.residue + 2 * net.margin + -(-_LOOKED_AT // net.alignment) * net.alignment
    start = max(0, (side - wanted) // 2)
    return slice(start, min(side, start + wanted))


def _tiles(prepared: SeenVolume, corners: list[Triple], window: Triple) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
        disagreement = predictor.together(tile, with_disagreement=True).disagreement
        assert disagreement is not None
        return disagreement
    flipped, turned = tile[:, ::-1], tile.swapaxes(1, 2)
    answers = [next(iter(predictor(np.ascontiguousarray(way)))) for way in (tile, flipped, turned)]
    back = [answers[0], answers[1][:, ::-1], answers[2].swapaxes(1, 2)]
    sides = [min(answer.shape[axis] for answer in back) for axis in (1, 2)]
    return _bits(answer[:, : sides[0], : sides[1]] for answer in back)


def _bits(answers: Iterator[np.ndarray]) -> np.ndarray:
    found = combine(answers, with_disagreement=True)[1]
    assert found is not None
    return found


def in_words(worst: Iterable[str]) -> list[str]:
    """What is unlike, for readers who do not know the names of features; each once."""
    return list(dict.fromkeys(_IN_WORDS.get(name.partition("_")[0], "its texture") for name in worst))


def describe_fit(worst: tuple[str, ...], remedy: str, *, taken: bool) -> str:
    """What a user should know of a stack that is not like the model's own data."""
    told = f"to this model the stack does not look like its own data ({', '.join(in_words(worst))})"
    if taken:
        return f"{told}; so it was taken as {remedy}, as --fit auto says, and looks so now"
    if remedy:
        return f"{told}, but it would if it were taken as {remedy}: --fit auto does that; look at the labels before use"
    return (
        f"{told}, and neither inverting nor rescaling would change that: look at the labels before use, or take "
        "another model"
    )
