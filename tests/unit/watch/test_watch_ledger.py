"""The table of a watcher, and what several of them say together."""

import os
import sqlite3
from contextlib import closing

import pytest

from densecell_batch.watch.ledger import Ledger, Row, read_tables


def test_rows_are_there_again(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", "me")
    row = Row("sub/größe 1.tif", 1, 2**40, 1_700_000_000_123_456_789, confidence=0.5, reason="a\n'b\"")
    ledger.put(row, Row("b.tif", state="running"))
    ledger.close()
    again = Ledger(tmp_path / "l.sqlite", "me")
    assert again.get("sub/größe 1.tif") == row
    assert [found.name for found in again.of_state("running")] == ["b.tif"]
    again.remove("b.tif")
    assert again.get("b.tif") is None
    assert again.get("c.tif") is None
    again.close()


def test_a_person_can_read_it_while_it_is_open(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", "me")
    ledger.put(Row("a.tif", state="failed", reason="truncated"))
    with closing(sqlite3.connect(tmp_path / "l.sqlite")) as database:
        assert database.execute("SELECT state, reason FROM stacks").fetchall() == [("failed", "truncated")]
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    ledger.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\x00\xff" * 5000),
        lambda path: path.write_bytes(path.read_bytes()[:1000] + b"\xff" * 3000),
        lambda path: sqlite3.connect(path).executescript("PRAGMA user_version = 99").connection.close(),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_damaged_table_is_put_aside(tmp_path, damage, caplog):
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path, "me")
    ledger.put(Row("a.tif"))
    ledger.close()
    damage(path)
    ledger = Ledger(path, "me")
    ledger.put(Row("b.tif"))
    assert ledger.get("b.tif") is not None
    ledger.close()
    again = Ledger(path, "me")
    assert again.get("b.tif") is not None
    again.close()


def test_without_a_disk_rows_are_kept_in_memory(tmp_path, caplog):
    folder = tmp_path / "mount"
    folder.mkdir()
    ledger = Ledger(folder / "l.sqlite", "me")
    ledger.put(Row("a.tif"))
    ledger.close()
    folder.rename(tmp_path / "away")
    ledger.put(Row("b.tif", state="done"))
    ledger.put(Row("c.tif", state="done"))
    assert ledger.get("b.tif").state == "done"
    assert caplog.text.count("cannot be kept") == 1
    (tmp_path / "away").rename(folder)
    ledger.put(Row("d.tif"))
    ledger.close()
    again = Ledger(folder / "l.sqlite", "me")
    assert [again.get(f"{name}.tif") is not None for name in "abcd"] == [True] * 4
    again.close()


def test_without_locks_of_files(tmp_path, monkeypatch):
    """As where the file system knows none: the plain way fails, folders serve as locks."""
    real = sqlite3.connect

    def connect(name, **options):
        if "vfs" not in name:
            raise sqlite3.OperationalError("locking protocol")
        return real(name, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    (tmp_path / "l.sqlite.lock").mkdir()  # of a process that was killed
    ledger = Ledger(tmp_path / "l.sqlite", "me")
    ledger.put(Row("a.tif"))
    ledger.close()
    monkeypatch.undo()
    again = Ledger(tmp_path / "l.sqlite", "me")
    assert again.get("a.tif") is not None
    again.close()


def test_what_several_tables_say(tmp_path):
    one, two = Ledger(tmp_path / "1.sqlite", "one 1"), Ledger(tmp_path / "2.sqlite", "two 2")
    one.put(Row("a.tif", state="running"), Row("b.tif", state="running"), Row("c.tif"), Row("d.tif", state="done"))
    two.put(Row("a.tif"), Row("b.tif", state="done", finished=2), Row("c.tif", state="done", finished=1))
    paths = (tmp_path / "1.sqlite", tmp_path / "2.sqlite")

    def states(table):
        return {row.name: row.state for row in table.rows}

    both = read_tables([(path, True) for path in paths])
    assert states(both) == {"a.tif": "running", "b.tif": "running", "c.tif": "done", "d.tif": "done"}
    assert both.watchers == ["one 1", "two 2"]
    dead = read_tables([(paths[0], False), (paths[1], True)])
    assert states(dead) == {"a.tif": "queued", "b.tif": "done", "c.tif": "done", "d.tif": "done"}
    assert dead.done == 3
    assert dead.watchers == ["two 2"]
    few = read_tables([(path, False) for path in paths], recent=1)
    assert states(few) == {"a.tif": "queued", "b.tif": "done"}
    assert few.done == 3
    (tmp_path / "3.sqlite").write_bytes(b"no table" * 1000)
    assert read_tables([(tmp_path / "3.sqlite", True)]).unread == [tmp_path / "3.sqlite"]
    one.close()
    two.close()


def _view(path):
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "ALTER TABLE stacks RENAME TO other; CREATE VIEW stacks AS WITH RECURSIVE n(i) AS "
            "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT other.* FROM other, n;"
        )


def _trigger(path):
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TRIGGER t AFTER INSERT ON stacks BEGIN DELETE FROM stacks; END;")


def _columns(path):
    with closing(sqlite3.connect(path)) as database:
        database.executescript("ALTER TABLE stacks ADD COLUMN more TEXT;")


def _link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _link_to_nothing(path):
    path.unlink()
    path.symlink_to("nothing")


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("forge", [_view, _trigger, _columns, _link, _link_to_nothing, _pipe])
def test_tables_that_somebody_forged(tmp_path, forge):
    """Nothing in them is run or waited for, nothing is written through them."""
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path, "me")
    ledger.put(Row("a.tif"))
    ledger.close()
    forge(path)
    assert read_tables([(path, True)]).unread == [path]
    ledger = Ledger(path, "me")
    assert ledger.get("a.tif") is None
    ledger.put(Row("b.tif"))
    ledger.close()
    assert [row.name for row in read_tables([(path, True)]).rows] == ["b.tif"]
    assert not path.is_symlink()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("change", ["seen = 'x'", "retry_at = 1e300", "state = 'gone'", "bytes = x'00'", "name = NULL"])
def test_rows_that_are_none_are_left_out(tmp_path, change):
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path, "me")
    ledger.put(Row("a.tif"), Row("b.tif"))
    ledger.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE stacks SET {change} WHERE name = 'a.tif'")
    assert [row.name for row in read_tables([(path, True)]).rows] == ["b.tif"]
    assert [row.name for row in Ledger(path, "me").of_state("queued")] == ["b.tif"]
