"""The page of a batch: plain data in, one HTML file out that needs nothing else, with a script of its own only.

Names are a stranger's: what is shown goes through `printable`, and the template escapes it. The page itself forbids
its readers' browsers all that it does not need (`rendering.policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

from densecell_batch.pages.entries import StackEntry
from densecell_batch.pages.ranking import Ranked
from densecell_batch.pages.rendering import render

__all__ = ["render_batch"]

_BINS = 24
_COLUMNS = 600  # more than the most that a bundle has: a class has two
_DIGITS = 3


@dataclass(frozen=True)
class Column:
    """A number that every stack has, or most."""

    title: str
    text: Callable[[float], str]
    of: Callable[[StackEntry], float | None]
    about: str  # what it is, for who points at it
    colour: str = ""  # of the class that it is about; "" for none
    charted: bool = True
    unit: str = ""


@dataclass(frozen=True)
class Cell:
    """A column's value of a stack."""

    column: Column
    value: float | None
    text: str
    share: float | None  # of the way from the least of all stacks (for amounts: from 0) to the most


@dataclass(frozen=True)
class Chart:
    """How a column is spread over all stacks."""

    column: Column
    bars: tuple[tuple[int, int], ...]  # stacks in each part of the range; of them, how many to look at
    least: str
    middle: str
    most: str

    @property
    def highest(self) -> int:
        """Stacks in the fullest part."""
        return max(number for number, _ in self.bars)


def render_batch(title: str, ranked: Sequence[Ranked], table: str | None = None) -> str:
    """The page.

    Parameters
    ----------
    title
        What it is about, such as the name of the folder.
    ranked
        The stacks, worst first.
    table
        Address of the same as a CSV file.

    Returns
    -------
    str
        HTML. A lone half of a surrogate pair is not in it.
    """
    columns = _columns([one.entry for one in ranked])
    values = {id(column): [column.of(one.entry) for one in ranked] for column in columns}
    charts = [chart for column in columns if (chart := _chart(column, ranked, values[id(column)])) is not None]
    ranges = {key: (min(found), max(found)) for key, all_ in values.items() if (found := _known(all_))}
    rows = [
        (one, [_cell(column, values[id(column)][i], ranges.get(id(column))) for column in columns])
        for i, one in enumerate(ranked)
    ]
    return render(
        "batch",
        title=title,
        columns=columns,
        charts=charts,
        rows=rows,
        counts=_counts(ranked),
        table=table,
    )


def _counts(ranked: Sequence[Ranked]) -> list[tuple[str, str, int]]:
    """What the page can be narrowed to: the word of the filter, how it is called, how many there are."""
    entries = [one.entry for one in ranked]
    found = [
        ("look", "look at this", sum(one.look for one in ranked)),
        ("failed", "failed", sum(bool(entry.failed) for entry in entries)),
        ("unlike", "unlike the model's data", sum(entry.alike is False for entry in entries)),
        ("damaged", "damaged slices", sum(bool(entry.damaged_slices) for entry in entries)),
        ("warned", "warnings", sum(bool(entry.warnings) for entry in entries)),
        ("corrected", "corrected", sum(entry.corrected for entry in entries)),
    ]
    return [one for one in found if one[2] or one[0] == "look"]


# Columns


def _columns(entries: Sequence[StackEntry]) -> list[Column]:
    """What this batch has numbers of."""
    columns = [
        Column("fit", _plain, lambda e: e.fit, "how far from the model's own data; more than 1 is unlike it"),
        Column("confidence", lambda v: f"{v:.3f}", lambda e: e.confidence, "mean of the largest probability"),
        Column("disagreement", lambda v: f"{v:.2g}×", lambda e: e.doubt,
               "disagreement, as a share of what most of the model's own data stay below"),
        Column("outside", lambda v: f"{100 * v:.3g} %", lambda e: e.outside, "share of what is no tissue"),
        Column("damaged", lambda v: f"{v:.0f}", lambda e: float(e.damaged_slices) if e.slices else None,
               "damaged slices", charted=False),
        Column("warnings", lambda v: f"{v:.0f}", lambda e: float(len(e.warnings)) if e.slices else None,
               "what the program warned of", charted=False),
    ]  # fmt: skip
    colours = {name: amount.colour for entry in entries for name, amount in entry.classes.items()}
    measured = any(amount.volume is not None for entry in entries for amount in entry.classes.values())
    for name, colour in colours.items():
        columns.append(_amount_column(name, colour, measured=measured))
    for name in dict.fromkeys(name for entry in entries for name in entry.objects):
        columns.append(
            Column(
                name,
                lambda v: f"{v:,.0f}",
                lambda e, name=name: e.objects.get(name),  # type: ignore[misc]
                "number of its objects",
                colours.get(name, "#808080"),
                unit="objects",
            )
        )
    found = (column for column in columns if any(column.of(entry) is not None for entry in entries))
    return [*islice(found, _COLUMNS)]


def _amount_column(name: str, colour: str, *, measured: bool) -> Column:
    """The volume of a class; voxels where no stack says how large one is."""

    def of(entry: StackEntry) -> float | None:
        amount = entry.classes.get(name)
        if amount is None:
            return None
        return amount.volume if measured else float(amount.voxels)

    unit = "µm³" if measured else "voxels"
    text = _plain if measured else lambda v: f"{v:,.0f}"
    return Column(name, text, of, f"how much of it there is, in {unit}", colour, unit=unit)


def _plain(value: float) -> str:
    """A number in three digits."""
    return f"{value:.{_DIGITS}g}" if value < 1000 else f"{value:,.0f}"


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _cell(column: Column, value: float | None, range_: tuple[float, float] | None) -> Cell:
    if value is None or range_ is None:
        return Cell(column, None, "", None)
    least, most = (0.0, range_[1]) if column.colour else range_
    share = (value - least) / (most - least) if most > least and column.charted else None
    return Cell(column, value, column.text(value), share)


def _chart(column: Column, ranked: Sequence[Ranked], values: Sequence[float | None]) -> Chart | None:
    """A histogram; None where all stacks are the same."""
    known = _known(values)
    if not column.charted or not known or min(known) == max(known):
        return None
    least, most = min(known), max(known)
    bars = [[0, 0] for _ in range(_BINS)]
    for one, value in zip(ranked, values, strict=True):
        if value is not None:
            place = min(int((value - least) / (most - least) * _BINS), _BINS - 1)
            bars[place][0] += 1
            bars[place][1] += one.look
    shown = (column.text(value) for value in (least, median(known), most))
    return Chart(column, tuple((number, look) for number, look in bars), *shown)
