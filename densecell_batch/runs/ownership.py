"""Whose file it is that stands under the name of a result.

Ours is what the report beside it records, byte for byte, and what a run that was killed while it gave its files their
names had announced. All else is the user's: labels corrected in Fiji and saved under their name, a picture that was
there before us. What is the user's is never replaced, unless the user says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from densecell_batch.errors import OccupiedError
from densecell_batch.runs.report import read_report, write_report
from densecell_batch.storage.atomic import explained, sync, write_file
from densecell_batch.storage.opening import open_plainly, read_json

__all__ = [
    "add_files",
    "announce",
    "compare",
    "described",
    "entries_of",
    "foreign",
    "forget_announced",
    "is_report",
    "make_room",
    "named_at",
    "set_aside",
    "sha256_of",
]

_log = logging.getLogger(__name__)

_NAME_MAX = 255  # bytes, on all file systems in use


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises OSError."""
    with open_plainly(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def described(name: str, content: bytes) -> dict[str, Any]:
    """The entry of a report for a small file."""
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def entries_of(report: Any) -> list[dict[str, Any]]:
    """What a report says of the files beside it: outputs, and tables of the second macro."""
    report = report if isinstance(report, dict) else {}
    outputs, post = report.get("outputs"), report.get("post_macro")
    tables = post.get("tables") if isinstance(post, dict) else None
    found = [*(outputs.values() if isinstance(outputs, dict) else ()), *(tables if isinstance(tables, list) else ())]
    return [entry for entry in found if isinstance(entry, dict) and _is_name(entry.get("file"))]


def _is_name(text: Any) -> bool:
    """Whether a file in some folder can be called like that."""
    if not isinstance(text, str) or text in ("", ".", "..") or "/" in text or "\0" in text:
        return False
    try:
        return len(os.fsencode(text)) <= _NAME_MAX
    except UnicodeEncodeError:
        return False


def compare(report_path: Path, report: Any) -> tuple[list[Path], list[Path]]:
    """What became of the outputs that a report records.

    Returns
    -------
    missing, changed : list of Path
        Those that are not there, and those that are not what was written. A file that nobody touched since it got its
        name needs no reading.
    """
    missing, changed = [], []
    outputs = report.get("outputs") if isinstance(report, dict) else None
    for entry in entries_of({"outputs": outputs}):
        path = report_path.with_name(entry["file"])
        if not path.is_file():
            missing.append(path)
        elif not _is_as_recorded(path, entry, _named(report)):
            changed.append(path)
    return missing, changed


def named_at(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """When files that have just got their names did (ctime, in ns), for the timings of a report: so that they need not
    be read again.
    """
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = (folder / name).stat().st_ctime_ns
    return found


def _named(report: Any) -> dict[str, Any]:
    timings = report.get("timings") if isinstance(report, dict) else None
    named = timings.get("named_ns") if isinstance(timings, dict) else None
    return named if isinstance(named, dict) else {}


def _is_as_recorded(path: Path, entry: dict[str, Any], named: Mapping[str, Any]) -> bool:
    """Whether a file is what an entry says. Reports of old have no hash: there the size has to do."""
    try:
        found = path.stat()
        if found.st_size != entry.get("bytes"):
            return False
        if "sha256" not in entry:
            return True
        # Whatever is done to a file sets its ctime, which no program can set back. The times of the report tell
        # nothing: it may have been copied or saved after a correction.
        return found.st_ctime_ns == named.get(path.name) or sha256_of(path) == entry["sha256"]
    except OSError:
        return False


# What is about to get its name


def _announcement(report: Path) -> Path:
    return report.with_name(f".{report.name.removesuffix('_report.json')}.commit")


def announce(report: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write down which files are about to get their names, and which of those that are there are ours: if the process
    is killed before the report says so, the next one still knows.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    recorded, named = _recorded(report)
    there = [entry for entry in recorded if _is_as_recorded(report.with_name(entry["file"]), entry, named)]
    write_file(_announcement(report), json.dumps([*there, *entries]).encode())


def forget_announced(report: Path) -> None:
    """The report is written: it says all."""
    with suppress(OSError):
        _announcement(report).unlink(missing_ok=True)


def _recorded(report: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All entries that vouch for files beside a report, and when files got their names."""
    content = read_report(report)
    entries = entries_of(content)
    with suppress(OSError, ValueError):
        announced = read_json(_announcement(report))
        if isinstance(announced, list):
            entries += entries_of({"outputs": dict(enumerate(announced))})
    return entries, _named(content)


def add_files(
    path: Path, report: dict[str, Any], contents: Mapping[Path, bytes], *, keep: bool, overwrite: bool = False
) -> None:
    """Put further files beside results that are there.

    Parameters
    ----------
    path
        Of the report of these results.
    report
        What it is to say: with an entry for each of the files.
    contents
        The files.
    keep
        As for `make_room`.
    overwrite
        Whether to replace also what is not ours.

    Raises
    ------
    OccupiedError, OutputError
        As `make_room`; or if a file cannot be written.
    """
    if not overwrite:
        make_room(path, contents, keep=keep)
    names = [file.name for file in contents]
    announce(path, [entry for entry in entries_of(report) if entry["file"] in names])
    for file, content in contents.items():
        write_file(file, content)
    timings = (report.get("timings") or {}) | {"named_ns": _named(report) | named_at(path.parent, names)}
    with explained(path):
        made = path.stat().st_mtime_ns  # it says when the labels were made
    write_report(path, report | {"timings": timings}, mtime_ns=made)
    forget_announced(path)


# Room for results


def foreign(report: Path, names: Iterable[Path]) -> list[Path]:
    """Those of some files that are there and not ours."""
    recorded, named = _recorded(report)
    found = []
    for path in names:
        if path.is_symlink() or path.exists():
            if path == report:
                ours = is_report(read_report(report))
            else:
                ours = path.is_file() and any(
                    entry["file"] == path.name and _is_as_recorded(path, entry, named) for entry in recorded
                )
            if not ours:
                found.append(path)
    return found


def is_report(content: dict[str, Any] | None) -> bool:
    """Whether the content of a JSON file is that of a report."""
    return content is not None and {"schema_version", "input", "outputs"} <= content.keys()


def make_room(report: Path, names: Iterable[Path], *, keep: bool) -> None:
    """See that results may take their names.

    Parameters
    ----------
    report
        Where the report goes; it tells which of the files are ours.
    names
        Of the results.
    keep
        Whether to rename what is the user's, instead of refusing: where nobody can be asked.

    Raises
    ------
    OccupiedError
        If a name is taken by a file that is not ours.
    OutputError
        If it cannot be renamed.
    """
    for path in foreign(report, names):
        if not keep:
            raise OccupiedError(
                f"{path}: a file of that name is there that densecell-batch did not write, or that was changed since; "
                "it is left as it is. Move it, or choose another output folder; --overwrite would replace it for good"
            )
        set_aside(path, report)


def set_aside(path: Path, report: Path) -> Path:
    """Rename a file to NAME.old-DATE..., where DATE is when it was last changed; its new name.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    name = report.name.removesuffix("_report.json")
    with explained(path):
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(path.lstat().st_mtime))
        rest = path.name.removeprefix(name)
        target, number = path.with_name(f"{name}.old-{date}{rest}"), 1
        while target.is_symlink() or target.exists():
            number += 1
            target = path.with_name(f"{name}.old-{date}-{number}{rest}")
        path.rename(target)
        sync(path.parent)
    _log.warning("%s is kept as %s", path, target.name)
    return target
