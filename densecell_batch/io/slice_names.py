"""In which order the slices of a folder come, and whether their names tell of one whole stack.

Only names are looked at. A name is read as texts and numbers: `s1_z-0.5um` is `s`, 1, `_z`, -0.5, `um`. What a hyphen
or a dot is, one name does not say; all names together do:

* a hyphen is a separator, unless other names have the same text without it, or with a plus: in `z-1`, `z0`, `z1` it is
  a sign, in `a-1`, `a-2` it is none;
* `1.5` are two numbers, unless as one they make a running number where there is none else: `z0.25`, `z0.5`, `z0.75` are
  a quarter apart, `s1.9` and `s1.10` are neighbours.

The running number is one that rises from each name to the next. Steps of any one size are fine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

__all__ = ["SliceOrder", "order_slices"]

_INTEGER, _DECIMAL = re.compile(r"(\d+)"), re.compile(r"(\d+(?:[.,]\d+)?)")
_SIGNS = {"-": -1, "\N{MINUS SIGN}": -1, "+": 1}
_SUFFIX = re.compile(r"(\.ome)?\.tiff?$", re.IGNORECASE)
_COPY = re.compile(r"^copy of |[ _-](copy|copie|kopie|copia)( ?\(?\d+\)?)?$| ?\(\d+\)$|~\d*$", re.IGNORECASE)
_SHOWN = 3  # names in a note


@dataclass(frozen=True)
class SliceOrder:
    """The slices of a folder in their order, and what is odd about their names.

    Attributes
    ----------
    names : tuple of str
        All names, in order.
    notes : tuple of str
        Why they may not be one whole stack; empty if they are one pattern with one running number without gaps.
    series : tuple of tuple of str
        The names of each series, if there are several that count the same numbers; else empty.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ()


def order_slices(names: Sequence[str]) -> SliceOrder:
    """Put the names of the slices of one folder in order; see the head of this module for the rules."""
    parts = max(_readings(names), key=_fitness, default=[])  # the first of those that fit alike
    patterns = _patterns(parts)
    ordered = tuple(part.name for part in parts)
    if len(ordered) < 2:
        return SliceOrder(ordered)
    series = _series(patterns)
    if series:
        return SliceOrder(ordered, series=series)
    return SliceOrder(ordered, tuple(_notes(patterns)))


class _Parts(NamedTuple):
    """A name, cut up: a text before each number, and one after the last."""

    name: str
    texts: tuple[str, ...]
    numbers: tuple[Decimal, ...]


class _Running(NamedTuple):
    """A number that rises from name to name."""

    place: int  # which of the numbers
    step: Decimal  # the usual one
    gaps: tuple[int, ...]  # names after which the step is another one


def _readings(names: Sequence[str]) -> Iterator[list[_Parts]]:
    """The ways in which the names can be read, each in its order, the most common way first."""
    for number in (_INTEGER, _DECIMAL):
        plain = [_cut(name, number) for name in names]
        yield sorted(plain, key=_key)
        yield sorted(_signed(plain), key=_key)


def _cut(name: str, number: re.Pattern[str]) -> _Parts:
    pieces = number.split(_SUFFIX.sub("", name))
    numbers = (Decimal(piece.replace(",", ".")) for piece in pieces[1::2])
    return _Parts(name, tuple(text.casefold() for text in pieces[::2]), tuple(numbers))


def _key(parts: _Parts) -> tuple[list[object], str]:
    """Texts and numbers in turn, as they stand in the name: at each place all names have the same kind."""
    turns = [value for pair in zip(parts.texts, (*parts.numbers, 0), strict=True) for value in pair]
    return turns[:-1], parts.name


def _signed(names: list[_Parts]) -> list[_Parts]:
    """The same names with signs taken from the texts to the numbers, where the texts differ by them alone."""
    found = list(names)
    for count in {len(parts.numbers) for parts in names}:
        here = [i for i, parts in enumerate(found) if len(parts.numbers) == count]
        for place in range(count):
            bare = _bare_text({found[i].texts[place] for i in here})
            if bare is None:
                continue
            for i in here:
                name, texts, numbers = found[i]
                sign = _SIGNS.get(texts[place].removeprefix(bare), 1)
                texts = (*texts[:place], bare, *texts[place + 1 :])
                numbers = (*numbers[:place], sign * numbers[place], *numbers[place + 1 :])
                found[i] = _Parts(name, texts, numbers)
    return found


def _bare_text(texts: set[str]) -> str | None:
    """What texts that differ by a sign at their end have in common; None if they do not, or are all the same."""
    if len(texts) < 2:
        return None
    shortest = min(texts, key=len)
    for bare in (shortest, shortest[:-1]):
        if texts <= {bare, *(bare + sign for sign in _SIGNS)}:
            return bare
    return None


def _patterns(parts: list[_Parts]) -> list[list[_Parts]]:
    """Names of the same texts; the largest group first."""
    groups: dict[tuple[str, ...], list[_Parts]] = {}
    for name in parts:
        groups.setdefault(name.texts, []).append(name)
    return sorted(groups.values(), key=len, reverse=True)


def _fitness(parts: list[_Parts]) -> tuple[int, bool, int]:
    """How well a reading explains the names."""
    main = _patterns(parts)[0] if parts else []
    running = _running(main)
    return len(main), running is not None, -len(running.gaps) if running else 0


def _running(names: list[_Parts]) -> _Running | None:
    """The number that runs through names of one pattern, in order; of several that with the fewest gaps."""
    found = []
    for place in range(len(names[0].numbers) if len(names) > 1 else 0):
        steps = [after.numbers[place] - before.numbers[place] for before, after in pairwise(names)]
        if min(steps) > 0:
            counts = Counter(steps)
            usual = min(counts, key=lambda step: (-counts[step], step))
            found.append(_Running(place, usual, tuple(i for i, step in enumerate(steps) if step != usual)))
    return min(found, key=lambda running: len(running.gaps), default=None)


def _series(patterns: list[list[_Parts]]) -> tuple[tuple[str, ...], ...]:
    """Series of names that count the same numbers, if there are several."""
    groups = [group for group in patterns if len(group) > 1 and not all(_COPY.search(_stem(p.name)) for p in group)]
    if groups and _running(groups[0]) is None:
        groups = [*_by_number(groups[0]), *groups[1:]]
    counted = [(group, {part.numbers[run.place] for part in group}) for group in groups if (run := _running(group))]
    if not counted:
        return ()
    main = counted[0][1]
    rivals = [group for group, numbers in counted if numbers & main]
    return tuple(tuple(part.name for part in group) for group in rivals) if len(rivals) > 1 else ()


def _by_number(names: list[_Parts]) -> list[list[_Parts]]:
    """Names of one pattern without a running number, divided by another number so that each group has one."""
    values = [{part.numbers[place] for part in names} for place in range(len(names[0].numbers))]
    for place in sorted(range(len(values)), key=lambda place: len(values[place])):
        groups: dict[Decimal, list[_Parts]] = {}
        for part in names:
            groups.setdefault(part.numbers[place], []).append(part)
        if len(groups) > 1 and all(_running(group) for group in groups.values()):
            return list(groups.values())
    return [names]


def _notes(patterns: list[list[_Parts]]) -> Iterator[str]:
    """What is odd about names that are no rival series."""
    main, others = patterns[0], [part.name for group in patterns[1:] for part in group]
    running = _running(main)
    if len(main) == 1:
        first, last = min(main[0].name, *others), max(main[0].name, *others)
        yield f"the names of the slices ({first} to {last}) have no running number: their order is that of the alphabet"
        return
    if others:
        copies = [name for name in others if _COPY.search(_stem(name))]
        what = "looks like a copy" if len(copies) == len(others) == 1 else "copies, another series, or no slices?"
        yield f"{len(others)} of {len(others) + len(main)} names are not like the others ({_some(others)}): {what}"
    if running is None:
        twice = [f"{before.name}, {after.name}" for before, after in pairwise(main) if before.numbers == after.numbers]
        text = f"the same number is there twice ({_some(twice)})" if twice else "there is no number that rises"
        yield f"{text}: check the order of the slices, {main[0].name} to {main[-1].name}"
    elif running.gaps:
        pairs = [f"after {main[i].name} comes {main[i + 1].name}" for i in running.gaps]
        yield f"the numbers of the slices have gaps: {_some(pairs)}; is a slice missing?"


def _stem(name: str) -> str:
    return _SUFFIX.sub("", name)


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
