"""The page of a batch as a table, for spreadsheets and programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from densecell_batch.measure.objects import plain
from densecell_batch.pages.ranking import Ranked
from densecell_batch.printable import printable

__all__ = ["summary_table"]


def summary_table(ranked: Sequence[Ranked]) -> bytes:
    """A CSV with a row for each stack, worst first; empty where something is not known.

    What could be taken for a formula has an apostrophe before it.
    """
    classes = dict.fromkeys(name for one in ranked for name in one.entry.classes)
    objects = dict.fromkeys(name for one in ranked for name in one.entry.objects)
    rows = [_row(place, one, list(classes), list(objects)) for place, one in enumerate(ranked, start=1)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(map(_text, rows[0]))
    writer.writerows([_text(value) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def _row(place: int, one: Ranked, classes: Sequence[str], objects: Sequence[str]) -> dict[str, object]:
    entry = one.entry
    amounts: dict[str, float | None] = {}
    for name in classes:
        amount = entry.classes.get(name)
        amounts[f"{name} voxels"] = None if amount is None else amount.voxels
        amounts[f"{name} um3"] = None if amount is None else amount.volume
    return {
        "place": place,
        "look_at_this": "yes" if one.look else "no",
        "points": round(one.points, 3),
        "stack": entry.name,
        "folder": entry.folder,
        "reasons": "; ".join(one.reasons),
        "failed": "yes" if entry.failed else "no",
        "corrected": "yes" if entry.corrected else "no",
        "model": entry.model,
        "alike": None if entry.alike is None else "yes" if entry.alike else "no",
        "fit": entry.fit,
        "confidence": entry.confidence,
        "disagreement_bits": entry.disagreement,
        "own_disagreement_bits": entry.own_disagreement,
        "outside_share": entry.outside,
        "slices": entry.slices or None,
        "damaged_slices": entry.damaged_slices if entry.slices else None,
        "grey_mean": entry.grey_mean,
        "grey_deviation": entry.grey_deviation,
        "warnings": "; ".join(entry.warnings),
        **amounts,
        **{f"{name} objects": entry.objects.get(name) for name in objects},
    }


def _text(value: object) -> str:
    """A value as it stands in the table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(printable(value))
