"""Names the damaged slices of a stack: blank, torn, out of focus, inverted, shifted, of other grey values, destroyed.

One pass: a `SliceWatcher` looks at each slice once, in order, and keeps a few numbers of it (`SliceLook`); of the
images themselves it remembers only the last three, binned to at most 256 x 256. `find_defects` then judges the
numbers of all slices together: a slice is named when it stands out from most slices near it by far more than slices
of the stack differ from each other. What changes slowly is never named.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Sequence
from math import log
from typing import Literal

import msgspec
import numpy as np

from densecell_batch.prepare.looks import BLANK, SliceLook, SliceWatcher

__all__ = ["Defect", "Kind", "SliceLook", "SliceWatcher", "find_defects", "named_slices", "replacements"]

Kind = Literal["blank", "destroyed", "torn", "out of focus", "inverted", "shifted", "brighter", "darker", "contrast"]

# Height of a peak of the phase correlation, in standard deviations; of unrelated slices it is 3.5 to 6.5.
_NOTICED = 7.0
_CHANCE = 5.0  # a lower one says nothing
_NAMED = 12  # slices that a warning lists


class Defect(msgspec.Struct, frozen=True):
    """One thing that is wrong with one slice."""

    z: int  # the slice, from 0
    kind: Kind
    detail: str  # in plain words


def find_defects(looks: Sequence[SliceLook]) -> list[Defect]:
    """The damaged slices of a stack, by slice; a slice may have more than one defect.

    Parameters
    ----------
    looks
        Of all slices, in order.

    Returns
    -------
    list of Defect
        Empty for a good stack. Of a single slice only that it is blank can be told.
    """
    blank = _find_blank(looks)
    chain = [z for z, look in enumerate(looks) if look.usable]  # each was compared with the one before in this list
    destroyed = _find_destroyed(looks, chain, blank)
    bad = blank | destroyed
    judged = [z for z, look in enumerate(looks) if z not in bad and look.inside >= 0.05]
    found = [_blank(z, looks[z]) for z in blank]
    found += [Defect(z, "destroyed", "bears no relation to the slices before and after it") for z in destroyed]
    inverted = _find_inverted(looks, chain, bad)
    found += [Defect(z, "inverted", "dark where its neighbours are bright") for z in inverted]
    grey = [d for d in _find_grey(looks, judged) if d.z not in inverted]
    uneven = {defect.z for defect in grey if defect.kind != "contrast"}
    blurred = [defect for defect in _find_blurred(looks, judged) if defect.z not in inverted]
    # Bright parts that were cut off at the largest grey value are flat as well, and what is blurred may be.
    flat = uneven | {defect.z for defect in blurred}
    torn = [defect for defect in _find_torn(looks, judged) if defect.z not in flat]
    named = {defect.z for defect in torn + blurred}
    found += blurred + torn + [defect for defect in grey if defect.z not in named]
    found += _find_shifted(looks, chain, bad | inverted)
    return sorted(found, key=lambda defect: (defect.z, defect.kind))


def replacements(depth: int, bad: Collection[int]) -> dict[int, int]:
    """For each bad slice the nearest good one, the lower on a tie; empty if none is good.

    Parameters
    ----------
    depth
        Number of slices.
    bad
        The slices to replace, from 0.
    """
    good = [z for z in range(depth) if z not in bad]
    if not good:
        return {}
    nearest = {}
    for z in sorted(bad):
        i = bisect(good, z)
        nearest[z] = min(good[max(0, i - 1) : i + 1], key=lambda other: (abs(other - z), other))
    return nearest


def _relation(look: SliceLook, noticed: float = _NOTICED) -> float:
    """How much of the usable slice before is found again, with or without a shift, bright or dark."""
    plain = abs(look.same[0]) if look.same else 0.0
    return max(plain, look.moved) if look.peak >= noticed else plain


def _usual(looks: Sequence[SliceLook]) -> float:
    """The relation of good slices of this stack."""
    relations = [_relation(look) for look in looks if look.same]
    # One damaged slice spoils two relations: of few, the larger ones are those of the stack.
    return float(np.percentile(relations, 75)) if relations else 0.0


def named_slices(slices: Sequence[int]) -> str:
    """How people are told of slices, which count from 0 here and from 1 there; of many, the first ones."""
    numbers = ", ".join(str(z + 1) for z in slices[:_NAMED]) + (", ..." if len(slices) > _NAMED else "")
    return f"{'slice' if len(slices) == 1 else 'slices'} {numbers} (from 1)"


def _blank(z: int, look: SliceLook) -> Defect:
    if not look.constant:
        return Defect(z, "blank", "next to nothing can be seen in it")
    return Defect(z, "blank", "every voxel has the same grey value" if look.inside else "no tissue in it")


def _find_blank(looks: Sequence[SliceLook]) -> set[int]:
    blank = {z for z, look in enumerate(looks) if look.constant}
    rest = [z for z in range(len(looks)) if z not in blank and looks[z].inside]
    if not rest:
        return blank
    median = float(np.median([looks[z].std for z in rest]))
    usual = _usual(looks)
    usable = [z for z in rest if looks[z].usable]
    for i, z in enumerate(rest):
        look = looks[z]
        k = bisect(usable, z)
        after = usable[k : k + 1] if look.usable else []
        relations = [_relation(looks[other]) for other in ([z] if look.same else []) + after]
        if look.usable and max(relations, default=0.0) >= max(0.2, usual / 2):
            continue  # faint, but the same cells
        # Where tissue ends little by little, no slice is called blank.
        near = [looks[other].std for other in rest[max(0, i - 2) : i + 3] if 0 < abs(other - z) <= 2]
        faint = look.std <= BLANK * median and any(look.std <= 0.25 * std for std in near)
        if faint or (look.even and (len(looks) == 1 or not look.usable or not relations or median >= 1.5)):
            blank.add(z)
    return blank


def _find_destroyed(looks: Sequence[SliceLook], chain: list[int], blank: set[int]) -> set[int]:
    """Slices that bear no relation to their neighbours, and are noise or lie between slices that are alike."""
    usual = _usual(looks)
    if len(chain) < 3 or usual < 0.25:
        return set()  # slices of this stack are too unlike each other to tell
    limit = min(0.2, 0.5 * usual)
    roughs = [looks[z].rough for z in chain if z not in blank]
    rough = float(np.median(roughs)) if roughs else 0.0
    found = set()
    for i, z in enumerate(chain):
        look = looks[z]
        pairs = [looks[chain[j]] for j in (i, i + 1) if 0 < j < len(chain) and blank.isdisjoint(chain[j - 1 : j + 1])]
        later = [looks[other].same[k] for k, other in enumerate(chain[i + 1 : i + 4])]
        farther = max(map(abs, (*look.same, *later)))  # slices beyond a damaged neighbour
        if z in blank or not pairs or farther > limit or any(_relation(pair) > limit for pair in pairs):
            continue
        if look.rough > max(0.5, 2 * rough):  # noise
            found.add(z)
            continue
        # A good slice may have moved, or differ; but what is in the slices around it, and not in it, was lost.
        across = looks[chain[i + 1]].same[1] if 0 < i < len(chain) - 1 else 0.0
        most = max(_relation(pair, _CHANCE) for pair in pairs)
        if look.flat <= 0.04 and most <= limit and across > max(0.4, 3 * most):
            found.add(z)
    return found


def _runs(steps: list[bool]) -> list[list[int]]:
    """Indices 0 to len(steps) - 1 in runs; a step at i begins a run at i."""
    runs: list[list[int]] = []
    for i, step in enumerate(steps):
        if step or not runs:
            runs.append([])
        runs[-1].append(i)
    return runs


def _find_inverted(looks: Sequence[SliceLook], chain: list[int], bad: set[int]) -> set[int]:
    """The smaller party of the slices among which dark and bright are swapped."""
    usable = [z for z in chain if z not in bad]
    usual = _usual(looks)
    if len(usable) < 3 or usual < 0.2:
        return set()
    some, clear = max(0.12, 0.35 * usual), max(0.2, 0.5 * usual)
    ways = ((clear, _NOTICED), (some, 1.5 * _NOTICED))
    plain = [any(_flips(looks, chain, i, bad, *way) for way in ways) for i, z in enumerate(chain) if z not in bad]
    runs = _runs([_flips(looks, chain, i, bad, some, _CHANCE) for i, z in enumerate(chain) if z not in bad])
    if len(runs) == 2 or not any(plain):  # one change only has to be plain, or one of more
        runs = _runs(plain)
    parties = [{usable[i] for run in runs[first::2] for i in run} for first in (0, 1)]
    return min(parties, key=len) if len(runs) > 1 else set()


def _flips(looks: Sequence[SliceLook], chain: list[int], i: int, bad: set[int], limit: float, noticed: float) -> bool:
    """Whether dark and bright change places between the good slice before and slice i of the chain."""
    look = looks[chain[i]]
    for back, same in enumerate(look.same):
        if chain[i - 1 - back] not in bad:
            return same < -limit and (back > 0 or look.dip > max(noticed, look.peak))
    return False


def _near(judged: list[int], i: int) -> list[int]:
    """The slices that slice i of the list is compared with: up to three on each side, or more on one at an end."""
    others = sorted((abs(j - i), j) for j in range(max(0, i - 5), min(len(judged), i + 6)) if j != i)
    return [judged[j] for _, j in others[:6]]


def _outliers(
    looks: Sequence[SliceLook], judged: list[int], value: Callable[[SliceLook], float], limit: float, fewest: int
) -> list[tuple[int, float]]:
    """Slices that differ from two thirds of those near them by more than the limit, all to one side.

    Returns
    -------
    list of (int, float)
        The slice, and the median of its differences.
    """
    values = {z: value(looks[z]) for z in judged}
    jumps = np.abs(np.diff([values[z] for z in judged]))
    # One bad slice makes two jumps: of few slices, the smaller ones are those of the stack.
    limit = max(limit, 7 * float(np.percentile(jumps, 30))) if len(jumps) > 3 else limit
    found = []
    for i, z in enumerate(judged):
        differences = np.array([values[z] - values[other] for other in _near(judged, i)])
        needed = max(fewest, -(-2 * len(differences) // 3))
        if max(np.count_nonzero(differences > limit), np.count_nonzero(differences < -limit)) >= needed:
            found.append((z, float(np.median(differences))))
    return found


def _find_blurred(looks: Sequence[SliceLook], judged: list[int]) -> list[Defect]:
    found = _outliers(looks, judged, lambda look: log(max(look.rough, 1e-6)), log(2.2), 1)
    return [Defect(z, "out of focus", "much less sharp than its neighbours") for z, value in found if value < 0]


def _find_torn(looks: Sequence[SliceLook], judged: list[int]) -> list[Defect]:
    found = _outliers(looks, judged, lambda look: look.flat, 0.04, 1)
    return [
        Defect(z, "torn", f"a flat area, without tissue, over {looks[z].flat:.0%} of it that its neighbours lack")
        for z, value in found
        if value > 0
    ]


def _find_grey(looks: Sequence[SliceLook], judged: list[int]) -> list[Defect]:
    """Slices that are far brighter, darker, or of another contrast."""
    judged = [z for z in judged if looks[z].std > 0]
    if not judged:
        return []
    # Of a stack that fades, the slices that show something.
    scale = float(np.percentile([looks[z].std for z in judged], 75))
    grey: list[Defect] = []
    for z, value in _outliers(looks, judged, lambda look: look.mean / scale, 0.7, 2):
        kind: Kind = "brighter" if value > 0 else "darker"
        grey.append(Defect(z, kind, f"{kind} than its neighbours by {abs(value) * scale:.3g} grey values"))
    named = {defect.z for defect in grey}
    for z, value in _outliers(looks, judged, lambda look: log(look.std), log(1.5), 2):
        if z not in named:
            grey.append(Defect(z, "contrast", f"{np.exp(value):.2g} times the contrast of its neighbours"))
    return grey


def _find_shifted(looks: Sequence[SliceLook], chain: list[int], bad: set[int]) -> list[Defect]:
    """Slices that lie elsewhere than their neighbours, and places from which on all do."""
    if len(chain) < 2:
        return []
    sizes = [max(map(abs, looks[z].shift)) for z in chain[1:] if looks[z].peak >= _NOTICED]
    # Stacks that were never aligned move all the time. (One slice elsewhere makes two of few sizes large.)
    often = float(np.percentile(sizes, 30)) * (5 if len(sizes) > 6 else 3.5) if len(sizes) > 2 else 0.0
    limit = max(10.0, 2.5 * looks[chain[0]].bin, often)
    moves = _moves(looks, chain, bad, limit)
    places = np.cumsum(moves, axis=0)
    runs = _runs([bool(move.any()) for move in moves])
    few = max(1, min(3, (len(chain) - 1) // 3))
    found: list[Defect] = []
    k = 1
    while k < len(runs):
        home = places[runs[k - 1][0]]
        near = max(limit / 2, 0.35 * np.abs(places[runs[k][0]] - home).max())
        back = next((m for m in range(k + 1, len(runs)) if np.abs(places[runs[m][0]] - home).max() < near), None)
        away = [i for run in runs[k:back] for i in run]
        if k == 1 and len(runs) == 2 and len(runs[0]) <= few < len(runs[1]) and len(chain) > 2:
            found += [_moved(chain[i], home - places[runs[1][0]]) for i in runs[0]]
        elif (back is not None and len(away) <= 3) or (k == len(runs) - 1 and len(away) <= few and len(chain) > 2):
            found += [_moved(chain[i], places[i] - home) for i in away if chain[i] not in bad]
            k = back if back is not None else k
        else:
            z = chain[runs[k][0]]
            detail = f"from here on all slices lie {_way(places[runs[k][0]] - home)} those before"
            found.append(Defect(z, "shifted", detail))
        k += 1
    return found


def _moves(looks: Sequence[SliceLook], chain: list[int], bad: set[int], limit: float) -> np.ndarray:
    """How far each usable slice surely moved against the one before, 0 where it did not: (slice, 2) voxels."""
    moves, far = np.zeros((len(chain), 2)), np.zeros(len(chain), bool)
    for i, z in enumerate(chain):
        look = looks[z]
        if not look.same or z in bad or chain[i - 1] in bad:
            continue
        far[i] = max(map(abs, look.shift)) >= limit and look.peak >= _CHANCE
        # Where cells are large, slices that lie apart still look alike: but less so than when moved back.
        better = look.moved >= 2 * look.same[0] + 0.1 or 1 - look.moved <= 0.5 * (1 - look.same[0])
        if far[i] and look.peak >= _NOTICED and look.moved >= 0.25 and better:
            moves[i] = look.shift
    for i in range(1, len(chain) - 1):  # a slice between two that lie alike moved there and back
        here, after = looks[chain[i]], looks[chain[i + 1]]
        if (moves[i].any() and moves[i + 1].any()) or not bad.isdisjoint(chain[i - 1 : i + 2]):
            continue
        there, back = np.array(here.shift), -np.array(after.shift)
        if after.same[1] < max(0.2, 2 * max(here.same[0], after.same[0]) + 0.1):
            continue
        agree = far[i] and far[i + 1] and np.abs(there - back).max() <= 0.35 * limit
        if moves[i].any() or moves[i + 1].any() or agree:
            by = there if here.peak >= after.peak else back
            moves[i], moves[i + 1] = by, -by
    return moves


def _moved(z: int, by: np.ndarray) -> Defect:
    return Defect(z, "shifted", f"{_way(by)} its neighbours")


def _way(by: np.ndarray) -> str:
    """`12 voxels to the right of and 20 voxels below`, to be followed by what it is compared with."""
    ways = (("to the left of", "to the right of"), ("above", "below"))
    parts = [(round(abs(float(n))), way[int(n > 0)]) for n, way in zip(by[::-1], ways, strict=True)]
    return " and ".join(f"{n} voxels {way}" for n, way in parts if n >= 0.2 * max(parts)[0])
