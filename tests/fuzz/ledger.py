"""Tables of watchers: bytes of the file; values of any type, schemas with views and triggers."""

from __future__ import annotations

import logging
import random
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from densecell_batch.watch.ledger import STATES, Ledger, Row, read_tables
from densecell_batch.watch.status_page import Situation, status_text, write_status_page

from .driver import Target, mutated

_VALUES = (
    "NULL", "-1", "1e308", "9e999", "9223372036854775807", "x'ff00'", "''", "'running'", "'\x1b[2J'", "'a\nb'",
    "zeroblob(100000)", "char(0, 55296, 1114112)", "'<script>'", "'../../x'", "'done'",
)  # fmt: skip
_SCHEMAS = (
    "ALTER TABLE stacks ADD COLUMN more TEXT",
    "ALTER TABLE stacks DROP COLUMN reason",
    "CREATE TRIGGER t AFTER INSERT ON stacks BEGIN DELETE FROM stacks; END",
    "ALTER TABLE stacks RENAME TO other; CREATE VIEW stacks AS "
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT * FROM other, n",
    "DROP TABLE stacks",
    "PRAGMA user_version = 7",
)


def _seeds() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger-1.sqlite"
        ledger = Ledger(path, "machine 1")
        ledger.put(*(Row(f"{state}.tif", 1, 2, 3, state, reason="why", labels="l.tif", report="r") for state in STATES))
        ledger.close()
        return [path.read_bytes()]


def _mutate(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.4:
        return mutated(rng, content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sqlite"
        path.write_bytes(content)
        with closing(sqlite3.connect(path)) as database:
            if rng.random() < 0.2:
                database.executescript(rng.choice(_SCHEMAS))
            for _ in range(3):
                change = f"{rng.choice(list(Row.__dataclass_fields__))} = {rng.choice(_VALUES)}"
                try:
                    database.execute(f"UPDATE OR IGNORE stacks SET {change} WHERE rowid % 3 = 0")
                    database.commit()
                except sqlite3.Error:
                    break
        return path.read_bytes()


def _read(path: Path) -> None:
    log = logging.getLogger("densecell_batch.watch.ledger")
    log.disabled = True  # it says of each what is wrong with it
    try:
        _use(path)
    finally:
        log.disabled = False


def _use(path: Path) -> None:
    table = read_tables([(path, True), (path, False)])
    status_text(table)
    write_status_page(path.parent, Situation("in", table))
    ledger = Ledger(path, "machine 2")
    for state in STATES:
        for row in ledger.of_state(state):
            _ = row.stamp
            ledger.put(row)
    ledger.get("done.tif")
    ledger.remove("done.tif")
    ledger.close()


TARGET = Target(_seeds, _read, ".sqlite", _mutate)
