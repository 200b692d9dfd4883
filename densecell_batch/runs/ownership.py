"""Whose file it is that stands under the name of a result.

Ours is what the report beside it records, byte for byte, and what a run that was killed while it gave its files their
names had announced. All else is the user's: labels corrected in Fiji and saved under their name, a picture that was
there before us. What is the user's is never replaced, unless the user says so.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import UNSET

from densecell_batch.errors import OccupiedError
from densecell_batch.runs.report import Report, read_report, write_report
from densecell_batch.storage.atomic import explained, sync, write_file
from densecell_batch.storage.opening import open_plainly, read_json
from densecell_batch.storage.records import FileRecord

__all__ = [
    "add_files",
    "announce",
    "compare",
    "foreign",
    "forget_announced",
    "is_intact",
    "make_room",
    "named_at",
    "set_aside",
    "sha256_of",
]

_log = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises OSError."""
    with open_plainly(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether a file is, byte for byte, what a record says; False where it is not there."""
    try:
        return path.stat().st_size == record.bytes and sha256_of(path) == record.sha256
    except OSError:
        return False


def compare(report_path: Path, report: Report) -> tuple[list[Path], list[Path]]:
    """What became of the outputs that a report records.

    Returns
    -------
    missing, changed : list of Path
        Those that are not there, and those that are not what was written. A file that nobody touched since it got its
        name needs no reading.
    """
    missing, changed, written = [], [], _written(report_path)
    for entry in report.outputs.values():
        path = report_path.with_name(entry.file)
        if not path.is_file():
            missing.append(path)
        elif not _is_as_recorded(path, entry, report.timings.named_ns, written):
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


def _is_as_recorded(path: Path, entry: FileRecord, named: Mapping[str, int], written: int) -> bool:
    """Whether a file is what an entry says. Reports of old have no hash: there its size has to do, and that it was not
    changed after the report was `written` (ns).
    """
    try:
        found = path.stat()
        if found.st_size != entry.bytes:
            return False
        if entry.sha256 is UNSET:
            return found.st_mtime_ns <= written
        # Whatever is done to a file sets its ctime, which no program can set back. The times of the report tell
        # nothing: it may have been copied or saved after a correction.
        return found.st_ctime_ns == named.get(path.name) or sha256_of(path) == entry.sha256
    except OSError:
        return False


# What is about to get its name


def _announcement(report: Path) -> Path:
    return report.with_name(f".{report.name.removesuffix('_report.json')}.commit")


def announce(report: Path, entries: Iterable[FileRecord]) -> None:
    """Write down which files are about to get their names, and which of those that are there are ours: if the process
    is killed before the report says so, the next one still knows.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    recorded, named, written = _recorded(report)
    there = [entry for entry in recorded if _is_as_recorded(report.with_name(entry.file), entry, named, written)]
    write_file(_announcement(report), msgspec.json.encode([*there, *entries]))


def forget_announced(report: Path) -> None:
    """The report is written: it says all."""
    with suppress(OSError):
        _announcement(report).unlink(missing_ok=True)


def _recorded(report: Path) -> tuple[list[FileRecord], dict[str, int], int]:
    """All records that vouch for files beside a report, when files got their names, and when it was written."""
    content = read_report(report)
    entries = [] if content is None else content.files()
    with suppress(OSError, ValueError):
        announced = msgspec.convert(read_json(_announcement(report)), list[FileRecord])
        entries += [entry for entry in announced if entry.sha256 is not UNSET]  # ours have one
    return entries, {} if content is None else content.timings.named_ns, _written(report)


def _written(report: Path) -> int:
    """When a report was last changed, in ns; 0 where there is none."""
    try:
        return report.stat().st_mtime_ns
    except OSError:
        return 0


def add_files(
    path: Path, report: Report, contents: Mapping[Path, bytes], *, keep: bool, overwrite: bool = False
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
    announce(path, [entry for entry in report.files() if entry.file in names])
    for file, content in contents.items():
        write_file(file, content)
    named = report.timings.named_ns | named_at(path.parent, names)
    timings = msgspec.structs.replace(report.timings, named_ns=named)
    with explained(path):
        made = path.stat().st_mtime_ns  # it says when the labels were made
    write_report(path, report.with_fields(timings=timings), onto=path, mtime_ns=made)
    forget_announced(path)


# Room for results


def foreign(report: Path, names: Iterable[Path]) -> list[Path]:
    """Those of some files that are there and not ours."""
    recorded, named, written = _recorded(report)
    found = []
    for path in names:
        if path.is_symlink() or path.exists():
            if path == report:
                ours = read_report(report) is not None
            else:
                ours = path.is_file() and any(
                    entry.file == path.name and _is_as_recorded(path, entry, named, written) for entry in recorded
                )
            if not ours:
                found.append(path)
    return found


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
