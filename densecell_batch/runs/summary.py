"""The page of a batch: what the reports in output folders say, worst first, as one HTML file and a table beside it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import UNSET

from densecell_batch.inference.trial import in_words
from densecell_batch.io.discovery import natural_key
from densecell_batch.labels import OUTSIDE
from densecell_batch.pages.batch import render_batch
from densecell_batch.pages.entries import Amount, StackEntry
from densecell_batch.pages.ranking import rank
from densecell_batch.plots.thumbnails import thumbnail
from densecell_batch.runs.joint_files import write_joint
from densecell_batch.runs.outputs import shown_slices
from densecell_batch.runs.ownership import compare
from densecell_batch.runs.report import Report, read_report
from densecell_batch.runs.summary_table import summary_table

__all__ = ["SUMMARY", "is_outdated", "write_summary"]

SUMMARY = "summary.html"
"""Name of the page in an output folder."""

_END = "_report.json"
_UNREADABLE = "its report cannot be read: it is damaged, or of another version; move its results, and segment it again"
_DOUBT = "disagreement"
_LARGEST = 1e30
_NAME = 64  # characters of a class, at most; of classes there are `OUTSIDE`: no bundle has more, but a report may
_PICTURES = 1500  # thumbnails on a page, at most: those of the worst stacks


def write_summary(
    folders: Sequence[Path], page: Path, *, failed: Mapping[Path, str] | None = None, below: bool = False
) -> list[Path]:
    """Write the page of all stacks whose results lie in some folders, and the same as a table, PAGE.csv.

    Parameters
    ----------
    folders
        Output folders.
    page
        Where it goes. The results are linked from there.
    failed
        Stacks that failed, by where these would lie without an end such as `_labels.tif`, and why.
    below
        Whether to look in folders below these, too; links to folders are not followed.

    Returns
    -------
    list of Path
        What was written; a file of the user under such a name is left as it is.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    reports: dict[Path, Report] = {}
    places: dict[int, Path] = {}
    entries = []
    failures = dict(failed or {})
    for path in _reports(folders, below=below):
        report = read_report(path)
        bare = path.with_name(path.name.removesuffix(_END))
        if report is None:
            if path.with_name(f"{bare.name}_labels.tif").is_file():  # else it may be a report of something else
                failures.setdefault(bare, _UNREADABLE)
        else:
            reason = failures.pop(bare, "")
            entry = replace(_entry(path, report, page.parent), failed=reason)
            reports[path] = report
            places[id(entry)] = path
            entries.append(entry)
    entries += [
        StackEntry(bare.name, _folder(bare.parent, page.parent), failed=reason) for bare, reason in failures.items()
    ]
    ranked = rank(entries)
    table = write_joint(page.with_suffix(".csv"), lambda: [summary_table(ranked)])
    for i, one in enumerate(ranked[:_PICTURES]):
        place = places.get(id(one.entry))
        if place is not None and one.entry.preview:
            picture = _thumbnail(place, reports[place])
            ranked[i] = replace(one, entry=replace(one.entry, thumbnail=picture))
    title = ", ".join(folder.absolute().name for folder in folders)
    content = render_batch(title, ranked, None if table is None else quote(table.name))
    written = write_joint(page, lambda: [content.encode("utf-8", "backslashreplace")])
    return [path for path in (written, table) if path is not None]


def is_outdated(folders: Sequence[Path], page: Path, *, below: bool = False) -> bool:
    """Whether there are results that are younger than a page, or no page."""
    with suppress(OSError):
        made = page.stat().st_mtime
        return any(path.stat().st_mtime > made for path in _reports(folders, below=below))
    return True


def _reports(folders: Sequence[Path], *, below: bool) -> Iterator[Path]:
    """The reports in the folders, each once, in natural order."""
    seen = set()
    for folder in folders:
        for where, inner, names in os.walk(folder):
            inner[:] = sorted((name for name in inner if below and not name.startswith(".")), key=_order)
            for name in sorted((n for n in names if n.endswith(_END) and not n.startswith(".")), key=_order):
                path = Path(where, name)
                if path.absolute() not in seen:
                    seen.add(path.absolute())
                    yield path


def _order(name: str) -> Any:
    return natural_key(Path(name))


def _entry(path: Path, report: Report, base: Path) -> StackEntry:
    """What the page says of a stack."""
    labels = {kind: record for kind, record in report.outputs.items() if kind == "labels"}
    missing, changed = compare(
        path, report.with_fields(outputs=labels)
    )  # of the others it is enough that they are there
    found = None if report.preparation is UNSET else report.preparation
    entry = StackEntry(
        name=path.name.removesuffix(_END),
        folder=_folder(path.parent, base),
        model=f"{report.model.name} {report.model.version}",
        gone=not labels or bool(missing),
        corrected=bool(changed),
        slices=max(report.input.shape[0], 1),
        confidence=_sane(report.mean_confidence),
        damaged={} if found is None else dict(Counter(defect.kind for defect in found.damaged_slices)),
        damaged_slices=0 if found is None else len({defect.z for defect in found.damaged_slices}),
        grey_mean=None if report.statistics is UNSET else _sane(report.statistics.mean),
        grey_deviation=None if report.statistics is UNSET else _divisor(report.statistics.std),
        warnings=report.warnings,
        objects=_counts(report),
        outside=_outside(report),
        classes=_amounts(report),
        files=_files(path, report, base),
    )
    preview = report.outputs.get("preview")
    if preview is not None and path.with_name(preview.file).is_file():
        entry = replace(entry, preview=_address(path.with_name(preview.file), base))
    fit = report.fit
    if fit is UNSET:
        return entry
    measured = {name: value for name, value in fit.measured.items() if _sane(value) is not None}
    return replace(
        entry,
        alike=fit.alike,
        fit=_sane(fit.score),
        unlike=tuple(in_words(fit.worst)),
        looks={name: value for name, value in measured.items() if name != _DOUBT},
        remedy=fit.remedy,
        remedied=fit.taken,
        disagreement=measured.get(_DOUBT),
        own_disagreement=_divisor(fit.expected.get(_DOUBT, (0.0, None))[1]),
    )


def _sane(value: float | None) -> float | None:
    """A number that can be reckoned with; None for others, which no run writes but anybody may."""
    return value if value is not None and -_LARGEST < value < _LARGEST else None


def _divisor(value: float | None) -> float | None:
    """A number above 0 that others can be divided by."""
    return value if value is not None and 1 / _LARGEST < value < _LARGEST else None


def _amounts(report: Report) -> dict[str, Amount]:
    """What there is of each class."""
    rows = [row for row in report.classes[:OUTSIDE] if _sane(row.voxels) is not None and len(row.name) <= _NAME]
    tissue = max(sum(row.voxels for row in rows), 1)
    return {
        row.name: Amount(
            row.colour if re.fullmatch("#[0-9a-f]{6}", row.colour) else "#808080",
            row.voxels,
            _sane(row.volume_um3),
            row.voxels / tissue,
        )
        for row in rows
    }


def _counts(report: Report) -> dict[str, int]:
    """How many objects there are of each class."""
    found = islice(report.instances.items(), OUTSIDE)
    return {name: one.count for name, one in found if _sane(one.count) is not None and len(name) <= _NAME}


def _outside(report: Report) -> float | None:
    """The share of what is no tissue."""
    voxels = None if report.outside is UNSET else _sane(report.outside.voxels)
    tissue = _sane(sum(row.voxels for row in report.classes))
    return None if voxels is None or tissue is None else voxels / max(tissue + voxels, 1)


def _files(path: Path, report: Report, base: Path) -> dict[str, str]:
    """What there is, and where."""
    files = {}
    for kind, record in report.outputs.items():
        if kind != "preview" and not kind.startswith("picture of ") and path.with_name(record.file).is_file():
            files[kind] = _address(path.with_name(record.file), base)
    corrected = path.with_name(path.name.removesuffix(_END) + "_corrected_objects.csv")
    if corrected.is_file():
        files["objects of corrected labels"] = _address(corrected, base)
    return {**files, "report": _address(path, base)}


def _thumbnail(path: Path, report: Report) -> bytes:
    shape = report.input.shape if report.region is UNSET else report.region.shape
    if report.preprocessing is not UNSET and report.region is UNSET:
        shape = report.preprocessing.shape
    preview = path.with_name(report.outputs["preview"].file)
    return thumbnail(preview, shape[1:], len(shown_slices(shape[0])))


def _folder(folder: Path, base: Path) -> str:
    """A folder of results as seen from the page; "" for its own."""
    text = os.path.relpath(folder, base)
    return "" if text == "." else text


def _address(path: Path, base: Path) -> str:
    """How a page in folder `base` links a file: a relative address, so that both can be moved together."""
    return "./" + quote(os.fsencode(os.path.relpath(path, base)))
