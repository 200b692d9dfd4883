"""The tables of all stacks in an output folder as one: `objects.csv` and `classes.csv`.

They are put together from the tables of the stacks, as long as these are what was written. Labels that a person changed
are another state, and have tables of their own: `objects-corrected.csv`. No table has rows of both.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from densecell_batch.errors import OutputError
from densecell_batch.io.discovery import natural_key
from densecell_batch.runs.joint_files import write_joint
from densecell_batch.runs.measured import read_measured
from densecell_batch.runs.objects import BY_NETS, csv_parts
from densecell_batch.runs.ownership import is_intact
from densecell_batch.runs.report import read_report
from densecell_batch.storage.opening import open_plainly
from densecell_batch.storage.records import FileRecord

__all__ = ["is_run_table", "write_run_tables"]

_log = logging.getLogger(__name__)

_KINDS = ("objects", "classes")


def is_run_table(name: str) -> bool:
    """Whether a file of that name in an output folder is a table of all stacks."""
    return any(name == f"{kind}.csv" or (name.startswith(f"{kind}-") and name.endswith(".csv")) for kind in _KINDS)


def write_run_tables(folder: Path) -> list[Path]:
    """Write the tables of all stacks in a folder; one that a person changed is left as it is.

    Several processes may do so at once: who is last has seen the tables of all.

    Returns
    -------
    list of Path
        The tables that are there.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    written: list[Path] = []
    seen: object = None
    while seen != (seen := _tables_in(folder)):
        written = [path for name, files in seen.items() if (path := _write(folder / name, files)) is not None]
    return written


def _tables_in(folder: Path) -> dict[str, list[Path]]:
    """Tables of stacks, by the name of the table that they are part of."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.glob("*.json"), key=natural_key):
        outputs: dict[str, FileRecord] = {}
        state = BY_NETS
        if entry.name.endswith("_report.json") and (report := read_report(entry)) is not None:
            outputs = report.outputs
        elif entry.name.endswith("_objects.json") and (measured := read_measured(entry)) is not None:
            outputs, state = measured.outputs, measured.state
        for kind in _KINDS:
            record = outputs.get(kind)
            if record is None or not (path := folder / record.file).exists():
                continue
            if is_intact(path, record):
                name = f"{kind}.csv" if state == BY_NETS else f"{kind}-{state}.csv"
                found.setdefault(name, []).append(path)
            else:
                _log.warning("%s: changed since it was written, so it is part of no table of all stacks", path)
    return found


def _write(path: Path, files: list[Path]) -> Path | None:
    """Write the rows of several tables as one, whose columns are those of all; None if a file of the user is there."""
    columns: dict[str, None] = {}
    readable: list[Path] = []
    for file in files:
        try:
            table = _rows(file)
            head = next(table)
            deque(table, maxlen=0)
        except (OSError, ValueError, csv.Error) as error:
            _log.warning("%s: cannot be read as a table (%s), so it is part of no table of all stacks", file, error)
            continue
        readable.append(file)
        columns |= dict.fromkeys(head)

    def rows() -> Iterator[list[str]]:
        yield [*columns]
        for file in readable:
            try:
                for row in islice(_rows(file), 1, None):
                    yield [row.get(column) or "" for column in columns]
            except (OSError, ValueError, csv.Error) as error:
                raise OutputError(f"{file}: changed while it was read ({error}); run the same command again") from error

    return write_joint(path, lambda: csv_parts(rows()))


def _rows(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, one at a time; the first is the head."""
    with open_plainly(file) as stream:
        table = csv.DictReader(io.TextIOWrapper(stream, "utf-8", newline=""), restkey="")
        yield {name: name for name in table.fieldnames or ()}
        for row in table:
            if "" in row:
                raise ValueError("a row has more fields than the head")
            yield row
