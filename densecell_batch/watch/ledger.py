"""The table of a watcher: what it knows of each stack, in SQLite, to be read by people and by the next start.

It is a record, not the truth: a table that is lost or damaged is begun anew, and what it said is found again in reports
and error texts. One whose schema is not ours, to the letter, is taken for damaged: views and triggers would be run.
Each table has one writer, who owns a claim on it, so that SQLite's locks, which many network file systems do not keep,
decide nothing; for the same reason it has no write-ahead log.
"""

from __future__ import annotations

import logging
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from urllib.parse import quote

from densecell_batch.io.discovery import Stamp

__all__ = ["STATES", "Ledger", "Row", "Table", "read_tables"]

_log = logging.getLogger(__name__)

STATES = ("queued", "running", "done", "failed")
_SCHEMA = 1
_RECENT = 30  # finished stacks that are shown
_MOST = 1e11  # seconds since 1970, or any other number that is no whole one


@dataclass
class Row:
    """What is known of a stack. Times are seconds since 1970; 0 where there is none yet."""

    name: str  # path below the watched folder
    files: int = 0  # these three are its stamp
    bytes: int = 0
    mtime_ns: int = 0
    state: str = "queued"  # one of STATES
    sha256: str = ""
    attempts: int = 0  # that failed
    crashes: int = 0  # attempts that ended with the process
    reason: str = ""  # of the last failure, or of what it waits for
    labels: str = ""  # path below the output folder
    report: str = ""  # the same
    confidence: float | None = None  # mean, of the report
    progress: float = 0.0  # share that is done
    seen: float = 0.0  # when it was first seen like this
    started: float = 0.0
    finished: float = 0.0
    retry_at: float = 0.0
    watcher: str = ""  # machine and process
    updated: float = 0.0

    @property
    def stamp(self) -> Stamp:
        """What it looked like."""
        return Stamp(self.files, self.bytes, self.mtime_ns)


_COLUMNS = ", ".join(field.name for field in fields(Row))
_MARKS = ", ".join("?" for _ in fields(Row))
_TYPES = {"str": "TEXT", "int": "INTEGER", "float": "REAL", "float | None": "REAL"}
_TABLE = "CREATE TABLE stacks ({})".format(
    ", ".join(
        f"{field.name} {_TYPES[str(field.type)]}{' PRIMARY KEY' if field.name == 'name' else ''}"
        for field in fields(Row)
    )
)
_SCHEMA_TEXT = (_TABLE, "CREATE INDEX by_state ON stacks (state, finished)")


@contextmanager
def _readable() -> Iterator[None]:
    """Damage ends in a DatabaseError: SQLite's own message may quote bytes that are no text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"it is damaged ({error.reason})") from error


@_readable()
def _rows(database: sqlite3.Connection, where: str, *values: object) -> list[Row]:
    """Rows of the table; those that are none are left out."""
    found = map(_row, database.execute(f"SELECT {_COLUMNS} FROM stacks WHERE {where}", values))
    return [row for row in found if row is not None]


def _row(values: Sequence[object]) -> Row | None:
    """A row as it is in the table; None if it is none that we wrote: SQLite keeps anything in any column."""
    for field, value in zip(fields(Row), values, strict=True):
        kind = str(field.type)
        if value is None and kind.endswith("None"):
            continue
        if not isinstance(value, str if kind == "str" else int if kind == "int" else int | float):
            return None
        if isinstance(value, int | float) and kind != "int" and not abs(value) < _MOST:  # no date, NaN
            return None
    row = Row(*values)  # type: ignore[arg-type]
    below = all(_is_below(path) for path in (row.name, row.labels, row.report) if path)
    return row if row.name and below and row.state in STATES else None


def _is_below(path: str) -> bool:
    """Whether a path can be one below a folder."""
    return not path.startswith("/") and not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


class Ledger:
    """A table on disk. If it cannot be written, rows are kept in memory until it can.

    Parameters
    ----------
    path
        Of the file; made if it is not there.
    watcher
        Who writes.

    Attributes
    ----------
    changes : int
        How many there were since it was opened.
    """

    def __init__(self, path: Path, watcher: str) -> None:
        self.path, self._watcher = path, watcher
        self._database: sqlite3.Connection | None = None
        self._unsaved: dict[str, Row | None] = {}  # None: to be removed
        self._complained = False
        self.changes = 0
        self._run(lambda database: None)

    def get(self, name: str) -> Row | None:
        """What is known of a stack."""
        if name in self._unsaved:
            return self._unsaved[name]
        rows = self._select("name = ?", name)
        return rows[0] if rows else None

    def of_state(self, state: str) -> list[Row]:
        """All stacks in a state."""
        return self._select("state = ?", state)

    def put(self, *rows: Row) -> None:
        """Write rows."""
        for row in rows:
            row.updated, row.watcher = time.time(), self._watcher
            self.changes += 1
            self._unsaved[row.name] = row
        self._flush()

    def remove(self, name: str) -> None:
        """Forget a stack."""
        self._unsaved[name] = None
        self.changes += 1
        self._flush()

    def close(self) -> None:
        """Write what is left, and close."""
        self._flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _flush(self) -> None:
        def write(database: sqlite3.Connection) -> None:
            with database:
                for name, row in self._unsaved.items():
                    if row is None:
                        database.execute("DELETE FROM stacks WHERE name = ?", (name,))
                    else:
                        database.execute(f"INSERT OR REPLACE INTO stacks VALUES ({_MARKS})", astuple(row))
            self._unsaved.clear()

        if self._unsaved:
            self._run(write)

    def _select(self, where: str, *values: object) -> list[Row]:
        found: list[Row] = []

        def read(database: sqlite3.Connection) -> None:
            found.extend(_rows(database, where, *values))

        self._run(read)
        return found

    def _run(self, action: object) -> None:
        """Do something with the database, or say why that is not possible; the next time is a new try."""
        try:
            if self._database is None:
                self._database = _opened(self.path)
            action(self._database)  # type: ignore[operator]
        except (sqlite3.Error, OSError) as error:
            if not self._complained:
                _log.warning("%s: the table cannot be kept (%s); going on without", self.path, error)
            self._complained = True
            if self._database is not None:
                with suppress(sqlite3.Error):
                    self._database.close()
                self._database = None
        else:
            if self._complained:
                _log.info("%s: the table is kept again", self.path)
            self._complained = False


def _opened(path: Path) -> sqlite3.Connection:
    """Open or make a database; one that is damaged, or of another version, is put aside."""
    if not path.parent.is_dir():
        raise OSError(f"{path.parent} is not there")
    if not _is_plain(path):  # a link would be written through, a pipe waited for
        _put_aside(path, "it is no regular file")
    try:
        return _connected(path)
    except sqlite3.OperationalError:
        # Here are no file locks at all. One made of folders keeps a person's sqlite3 out while we write.
        with suppress(OSError):
            path.with_name(path.name + ".lock").rmdir()  # of a process that was killed
        return _connected(path, "&vfs=unix-dotfile")
    except sqlite3.DatabaseError as error:
        _put_aside(path, error)
        return _connected(path)


def _is_plain(path: Path) -> bool:
    """Whether a file is a regular one, or not there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _put_aside(path: Path, why: object) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    _log.warning("%s: %s: begun anew; what it was is kept as %s", path, why, aside.name)
    path.replace(aside)
    path.with_name(path.name + "-journal").unlink(missing_ok=True)


@_readable()
def _connected(path: Path, more: str = "") -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=rwc{more}", uri=True, timeout=5)
    database.text_factory = _text
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _SCHEMA):
            raise sqlite3.DatabaseError(f"a table of version {version}, expected {_SCHEMA}")
        if version:
            _check_schema(database)
        else:
            with database:
                for statement in (*_SCHEMA_TEXT, f"PRAGMA user_version = {_SCHEMA}"):
                    database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _check_schema(database: sqlite3.Connection) -> None:
    """Raise DatabaseError if there is anything but our table in it: views and triggers would be run."""
    found = database.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
    if {text for (text,) in found} != set(_SCHEMA_TEXT):
        raise sqlite3.DatabaseError("its table is not as this program makes it")


@dataclass(frozen=True)
class Table:
    """What the watchers of an output folder know together."""

    rows: list[Row]  # all that are not done, and the last that are
    done: int  # in all
    watchers: list[str]  # that run
    unread: list[Path]  # tables that could not be read at this moment


def read_tables(ledgers: Sequence[tuple[Path, bool]], recent: int = _RECENT) -> Table:
    """Read the tables of all watchers, without writing to any.

    Parameters
    ----------
    ledgers
        Path of each, and whether its watcher runs.
    recent
        How many of the stacks that are done to show.
    """
    best: dict[str, tuple[tuple[bool, float], Row]] = {}
    done: set[str] = set()
    watchers, unread = [], []
    for path, runs in ledgers:
        try:
            rows, finished = _read(path, recent)
        except sqlite3.Error:
            unread.append(path)
            continue
        if runs and rows:
            watchers.append(max(rows, key=lambda row: row.updated).watcher)
        done |= finished
        for row in rows:
            if row.state == "running" and not runs:
                row.state, row.reason = "queued", "its watcher is gone"
            weight = (row.state == "running", row.updated)
            if row.name not in best or weight > best[row.name][0]:
                best[row.name] = (weight, row)
    # Another table may know better of a stack that is done there but is not among its last ones.
    shown = [row for _, row in best.values() if row.state in ("done", "running", "failed") or row.name not in done]
    finished_rows = sorted((row for row in shown if row.state == "done"), key=lambda row: -row.finished)[:recent]
    rest = sorted((row for row in shown if row.state != "done"), key=lambda row: (row.seen, row.name))
    return Table(rest + finished_rows, len(done - {row.name for row in rest}), watchers, unread)


@_readable()
def _read(path: Path, recent: int) -> tuple[list[Row], set[str]]:
    if not _is_plain(path):
        raise sqlite3.DatabaseError("it is no regular file")
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2)) as database:
        database.text_factory = _text
        _check_schema(database)
        rows = _rows(database, "state != 'done'")
        rows += _rows(database, "state = 'done' ORDER BY finished DESC LIMIT ?", recent)
        return rows, {name for (name,) in database.execute("SELECT name FROM stacks WHERE state = 'done'")}
