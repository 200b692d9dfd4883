"""Which stacks of a batch a person should look at first, and why.

Points are added up. From one point on the page says "look at this", and gives the reasons in words.

========================================== =================================================================
it failed, or its labels are gone          before all others
unlike the model's own data                2, and the score of the fit, at most 8; 1 if that was remedied
damaged slices                             2, and 8 times their share of the stack
disagreement above the model's own         1, and the ratio, at most 4
unlike the other stacks of the batch       a fifth of the distance, at most 4; a reason from a distance of 5 on
a warning                                  a half each, at most 2
========================================== =================================================================

Compared with the others are confidence, disagreement, grey values, texture, what is outside and the share of each
class. The distance of a value is its difference from the median of the stacks of the same model, in standard deviations
as the median of such differences tells them: a few odd stacks do not hide one another. The largest distance counts.
Fewer than 8 stacks have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from densecell_batch.pages.entries import StackEntry

__all__ = ["LOOK", "Ranked", "rank"]

LOOK = 1.0  # points from which the page says "look at this"

_FAILED, _GONE = 1000.0, 900.0
_FEWEST = 8  # stacks that are a batch to be odd in
_ODD = 5.0  # standard deviations
_FAR = 20.0
_DOUBT, _LOOKS = "disagreement", "looks: "
_NORMAL = 1.4826  # standard deviations in a median absolute deviation, of normal values


@dataclass(frozen=True)
class Ranked:
    """A stack in its place."""

    entry: StackEntry
    points: float
    reasons: tuple[str, ...]

    @property
    def look(self) -> bool:
        """Whether a person should look at it."""
        return self.points >= LOOK


def rank(entries: Iterable[StackEntry]) -> list[Ranked]:
    """The stacks, worst first; those that are as bad in the order in which they come."""
    entries = list(entries)
    by_model: dict[str, list[StackEntry]] = {}
    for entry in entries:
        if not entry.failed:
            by_model.setdefault(entry.model, []).append(entry)
    usual = {model: _usual(group) for model, group in by_model.items() if len(group) >= _FEWEST}
    ranked = [_judged(entry, usual.get(entry.model, {})) for entry in entries]
    return sorted(ranked, key=lambda one: -one.points)


def _judged(entry: StackEntry, usual: dict[str, tuple[float, float]]) -> Ranked:
    if entry.failed:
        return Ranked(entry, _FAILED, (f"failed: {entry.failed}",))
    found: list[tuple[float, str]] = []
    if entry.gone:
        found.append((_GONE, "its labels are gone"))
    if entry.alike is False:
        told = ", ".join(entry.unlike[:3])
        if entry.remedied:
            found.append((1.0, f"unlike the model's own data before it was remedied ({told})"))
        else:
            what_to_do = f"; taken as {entry.remedy} it would be like them: segment --fit auto" if entry.remedy else ""
            found.append((2 + min(entry.fit or 0, 8.0), f"unlike the model's own data ({told}){what_to_do}"))
    if entry.damaged_slices:
        told = ", ".join(f"{number} {kind}" for kind, number in entry.damaged.items())
        found.append((2 + 8 * entry.damaged_slices / max(entry.slices, 1), f"damaged slices: {told}"))
    doubtful = entry.doubt is not None and entry.doubt > 1
    if entry.doubt is not None and doubtful:
        found.append((1 + min(entry.doubt, 4.0), f"nets disagree {entry.doubt:.1f} times as much as on their own data"))
    distances = sorted(_distances(entry, usual), reverse=True)
    odd = [text for distance, text in distances if distance >= _ODD and not (doubtful and text.startswith(_DOUBT))]
    distance = min(distances[0][0], _FAR) / _ODD if distances else 0.0
    found.append((distance, f"unlike the others: {', '.join(dict.fromkeys(odd[:3]))}" if odd else ""))
    points = sum(worth for worth, _ in found) + min(len(entry.warnings), 4) / 2
    reasons = [text for _, text in sorted(found, key=lambda one: -one[0]) if text]
    if not reasons and points >= LOOK:
        reasons.append(f"{len(entry.warnings)} warning{'' if len(entry.warnings) == 1 else 's'}")
    return Ranked(entry, points, tuple(reasons))


def _measures(entry: StackEntry) -> dict[str, tuple[float, float]]:
    """What is compared within a batch: a value, and the least standard deviation to believe in."""
    contrast = entry.grey_deviation or 1.0
    known: dict[str, tuple[float | None, float]] = {
        "confidence": (entry.confidence, 0.005),
        _DOUBT: (entry.doubt, 0.1),
        "outside": (entry.outside, 0.005),
        "mean grey value": (entry.grey_mean, 0.02 * contrast),
        "contrast": (entry.grey_deviation, 0.02 * contrast),
        **{f"share of {name}": (amount.share, 0.02) for name, amount in entry.classes.items()},
        **{f"{_LOOKS}{name}": (value, 0.1) for name, value in entry.looks.items()},
    }
    return {name: (value, least) for name, (value, least) in known.items() if value is not None}


def _usual(entries: Sequence[StackEntry]) -> dict[str, tuple[float, float]]:
    """Of each measure the median and the standard deviation, as medians tell it."""
    values: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, measured in _measures(entry).items():
            values.setdefault(name, []).append(measured)
    usual = {}
    for name, found in values.items():
        if len(found) >= _FEWEST:
            middle = median(value for value, _ in found)
            spread = _NORMAL * median(abs(value - middle) for value, _ in found)
            usual[name] = (middle, max(spread, median(least for _, least in found)))
    return usual


def _distances(entry: StackEntry, usual: dict[str, tuple[float, float]]) -> Iterator[tuple[float, str]]:
    """How far the stack is from the others, and in what."""
    for name, (value, _) in _measures(entry).items():
        if name in usual:
            middle, spread = usual[name]
            told = "texture"
            if not name.startswith(_LOOKS):
                told = f"{name} {_number(name, value)} (others {_number(name, middle)})"
            yield abs(value - middle) / spread, told


def _number(name: str, value: float) -> str:
    if name == "confidence":
        return f"{value:.3f}"
    if name in ("mean grey value", "contrast"):
        return f"{value:.4g}"
    return f"{value:.2g}" if name == _DOUBT else f"{100 * value:.1f} %"
