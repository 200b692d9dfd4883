"""The loop in this process, where its surroundings can be broken: folders that go away, disks that fill, crashes."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from watched import partial_outputs, rows, save, wait_until
from watching import drain, folders, in_thread, names, segmenter, watching  # noqa: F401

from densecell_batch.errors import OptionError, OutputError
from densecell_batch.runs import joint_files
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.options import RunSegmenter
from densecell_batch.watch.board import Board
from densecell_batch.watch.place import Place

# Moving and hooks


def test_stacks_are_moved_when_asked(folders, segmenter, tmp_path):
    inbox, out = folders
    save(inbox / "sub" / "good.tif", 1)
    (inbox / "bad.tif").write_text("bad")
    done, failed = inbox / "done", tmp_path / "failed"
    code, said = drain(folders, segmenter, move_done=done, move_failed=failed)
    assert code == 1
    assert [verdict.ok for verdict in said] in ([True, False], [False, True])
    assert (done / "sub" / "good.tif").exists()
    assert (failed / "bad.tif").read_text() == "bad"
    assert not (inbox / "sub" / "good.tif").exists()
    assert (out / "bad.error.txt").exists()
    assert drain(folders, segmenter, move_done=done, move_failed=failed) == (0, [])  # those there are no stacks to do
    save(inbox / "sub" / "good.tif", 2)
    assert drain(folders, segmenter, move_done=done)[0] == 0
    assert names(done / "sub") == {"good.tif", "good-2.tif"}


def test_a_hook_gets_words_and_environment(folders, segmenter, tmp_path):
    inbox, out = folders
    save(inbox / "it's a $(touch x); name.tif", 3)
    (inbox / "bad.tif").write_text("bad")
    script = "import os, sys, json; json.dump([sys.argv[1:], dict(os.environ)], open(sys.argv[1] + '/' + os.environ['DENSECELL_STATUS'], 'w'))"  # noqa: E501
    drain(folders, segmenter, hook=("python3", "-c", script, str(tmp_path), "a; b"))
    words, environment = json.loads((tmp_path / "ok").read_text())
    assert words == [str(tmp_path), "a; b"]
    assert environment["DENSECELL_STACK"] == str(inbox / "it's a $(touch x); name.tif")
    assert environment["DENSECELL_LABELS"] == str(out / "it's a $(touch x); name_labels.tif")
    assert environment["DENSECELL_REPORT"].endswith("_report.json")
    words, environment = json.loads((tmp_path / "failed").read_text())
    assert "not a TIFF file" in environment["DENSECELL_REASON"]
    assert environment["DENSECELL_LABELS"] == ""


@pytest.mark.parametrize("hook", [("false",), ("/nonexistent/program",)])
def test_a_hook_that_fails_harms_nobody(folders, segmenter, hook, caplog):
    save(folders[0] / "a.tif", 4)
    code, said = drain(folders, segmenter, hook=hook)
    assert (code, len(said)) == (0, 1)
    assert "--hook" in caplog.text


@pytest.mark.parametrize("concluded", [False, True])
def test_a_hook_that_was_cut_off_is_run_again(folders, segmenter, tmp_path, concluded):
    """Power fails after the results are there, before the table says so."""
    save(folders[0] / "a.tif", 5)
    drain(folders, segmenter)
    with watching(folders, segmenter) as (watcher, said, _):
        row = watcher._ledger.get("a.tif")
        row.state = "running"
        watcher._ledger.put(row)
        with watcher._place.claim("name", "a_report.json"):
            (claim,) = (folders[1] / ".densecell-watch" / "claims").iterdir()
    told = ("touch", str(tmp_path / "told"))
    if concluded:  # by another watcher, which took over the claim and gave it back
        assert drain(folders, segmenter, hook=told) == (0, [])
    else:
        claim.write_text(f"{platform.node()} 4194303\n")
        pieces = folders[1] / ".a.parts-0123456789ab"
        pieces.mkdir()
        (pieces / "assembling").write_text(f"{platform.node()} 4194303\n")
        code, said = drain(folders, segmenter, hook=told)
        assert (code, len(said)) == (0, 1)
        assert not pieces.exists()
    assert (tmp_path / "told").exists() is not concluded
    assert rows(folders[1])["a.tif"]["state"] == "done"


# Surroundings


def test_a_watched_folder_that_goes_away_is_waited_for(folders, segmenter, caplog):
    inbox, out = folders
    save(inbox / "a.tif", 6)
    with in_thread(folders, segmenter) as (said, thread):
        wait_until(lambda: len(said) == 1)
        inbox.rename(inbox.with_name("away"))
        wait_until(lambda: "waiting" in caplog.text, thread.is_alive)
        wait_until(lambda: "cannot be read" in (out / "status.html").read_text(), thread.is_alive)
        save(inbox.with_name("away") / "b.tif", 7)
        inbox.with_name("away").rename(inbox)
        wait_until(lambda: len(said) == 2, thread.is_alive)
    assert all(verdict.ok for verdict in said)
    assert caplog.text.count("waiting") == 1


def test_an_output_folder_that_goes_away_is_waited_for(folders, segmenter, caplog):
    inbox, out = folders
    save(inbox / "a.tif", 8)
    with in_thread(folders, segmenter) as (said, thread):
        wait_until(lambda: len(said) == 1)
        out.rename(out.with_name("away"))
        out.mkdir()  # an empty mount point
        save(inbox / "b.tif", 9)
        wait_until(lambda: "not there" in caplog.text, thread.is_alive)
        time.sleep(1)
        assert list(out.iterdir()) == []
        out.rmdir()
        out.with_name("away").rename(out)
        wait_until(lambda: len(said) == 2, thread.is_alive)
    assert all(verdict.ok for verdict in said)
    assert rows(out)["b.tif"]["state"] == "done"


def test_a_folder_that_goes_away_in_the_midst_of_a_page_keeps_nobody_waiting(folders, segmenter, monkeypatch):
    """What this process could not remove any more, when the folder is back, says that a process is at it that runs."""
    inbox, out = folders
    save(inbox / "a.tif", 8)
    place, away = joint_files.place, out.with_name("away")

    def unplugged(*arguments, **options):
        if not away.exists():
            out.rename(away)
        return place(*arguments, **options)

    monkeypatch.setattr(joint_files, "place", unplugged)
    with in_thread(folders, segmenter) as (said, thread):
        wait_until(away.exists, thread.is_alive)
        monkeypatch.undo()
        time.sleep(0.5)
        left = [path.name for path in away.glob(".*.entering")]
        away.rename(out)
        save(inbox / "b.tif", 9)
        wait_until(lambda: len(said) == 2, thread.is_alive)
        wait_until(lambda: (out / "summary.html").is_file(), thread.is_alive)
    assert left  # else nothing was tried


def test_one_scan_that_took_long_does_not_make_it_look_away_for_long(folders, segmenter, monkeypatch):
    look, slow = Board.look, [0.0, 3.0, 3.0 / 20]

    def hang(self, current):
        time.sleep(slow.pop() if slow else 0.0)
        look(self, current)

    monkeypatch.setattr(Board, "look", hang)
    save(folders[0] / "a.tif", 10)
    with in_thread(folders, segmenter) as (said, thread):
        wait_until(lambda: not slow, thread.is_alive)
        wait_until(lambda: len(said) == 1, thread.is_alive, patience=20.0)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_pauses_the_queue_and_says_so(folders, segmenter, small_disk, caplog):
    inbox, out = folders[0], small_disk / "out"
    out.mkdir()
    for i in range(3):
        save(inbox / f"{i}.tif", 10 + i, (3, 200, 200))
    with in_thread((inbox, out), segmenter, attempts=1) as (said, thread):
        wait_until(lambda: len(said) == 3)
        junk = small_disk / "junk"
        with suppress(OSError), junk.open("wb") as stream:
            while True:
                stream.write(bytes(1024))
        save(inbox / "later.tif", 20)
        wait_until(lambda: "nothing is done until then" in caplog.text, thread.is_alive)
        time.sleep(1)
        assert len(said) == 3
        assert not list(out.glob("*.error.txt"))
        junk.unlink()
        wait_until(lambda: len(said) == 4, thread.is_alive)
    assert all(verdict.ok for verdict in said)
    assert not partial_outputs(out)


def test_once_does_not_wait_for_a_disk(folders, segmenter, small_disk):
    inbox, out = folders[0], small_disk / "out"
    save(inbox / "large.tif", 13, (10, 1000, 1000))  # its results take 10 MB
    code, said = drain((inbox, out), segmenter)
    assert (code, said) == (1, [])
    assert rows(out)["large.tif"]["attempts"] == 0


def test_a_stack_that_kills_the_process_again_and_again_is_given_up(folders, segmenter):
    save(folders[0] / "a.tif", 14)
    save(folders[0] / "b.tif", 15)
    with watching(folders, segmenter) as (watcher, said, _):
        watcher._board.look()
        watcher._ledger.put(replace(watcher._board.rows["a.tif"], state="running", crashes=10))
    code, said = drain(folders, segmenter)
    assert code == 1
    assert [verdict.stack.name for verdict in said] == ["b.tif", "a.tif"]  # who killed comes last
    assert "ended 10 times" in said[1].reason


# What was there before


def test_a_lost_or_damaged_table_costs_nothing(folders, segmenter):
    inbox, out = folders
    save(inbox / "a.tif", 16)
    (inbox / "bad.tif").write_text("bad")
    drain(folders, segmenter)
    (ledger,) = (out / ".densecell-watch").glob("ledger-*.sqlite")
    for damage in (ledger.unlink, lambda: ledger.write_bytes(b"no database" * 1000)):
        damage()
        code, said = drain(folders, segmenter)
        assert (code, said) == (1, [])
        assert {name: row["state"] for name, row in rows(out).items()} == {"a.tif": "done", "bad.tif": "failed"}


def test_results_that_were_deleted_are_made_again(folders, segmenter):
    save(folders[0] / "a.tif", 17)
    drain(folders, segmenter)
    for path in folders[1].glob("a_*"):
        path.unlink()
    assert len(drain(folders, segmenter)[1]) == 1


def test_another_model_needs_another_folder_or_redo(folders, segmenter):
    inbox, out = folders
    save(inbox / "a.tif", 18)
    drain(folders, segmenter)
    other = RunSegmenter(segmenter.bundle, replace(segmenter.options, stitch="blend"))
    other.__dict__ |= {name: getattr(segmenter, name) for name in ("device", "precision", "predictor")}
    with pytest.raises(OptionError, match="options stitch was"):
        Place(out, Identity.of_any_stack(other))
    with (
        watching(folders, segmenter),
        pytest.raises(OptionError, match="another watcher"),
    ):
        Place(out, Identity.of_any_stack(other), redo=True)
    with watching(folders, other, redo=True) as (watcher, said, _):
        assert watcher.run() == 0
    assert len(said) == 1
    assert len(list(out.glob("a.old-*_labels.tif"))) == 1
    assert json.loads((out / "a_report.json").read_text())["options"]["stitch"] == "blend"


def test_killed_while_old_results_are_put_aside(folders, segmenter, monkeypatch):
    """Each rename may be the last thing that happened."""
    inbox, out = folders
    target = save(inbox / "a.tif", 19)
    drain(folders, segmenter)
    old = (out / "a_labels.tif").read_bytes()
    save(target, 20, (4, 40, 44))
    from pathlib import Path

    plain, calls = Path.replace, []

    def failing(self, other):
        if ".old-" in str(other) and not calls:
            calls.append(other)
            plain(self, other)
            raise KeyboardInterrupt
        return plain(self, other)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        drain(folders, segmenter)
    assert drain(folders, segmenter)[0] == 0
    (kept,) = out.glob("a.old-*_labels.tif")
    assert kept.read_bytes() == old
    assert len(list(out.glob("a.old-*_report.json"))) == 1


def test_a_claim_that_was_taken_over_ends_the_watcher(folders, segmenter):
    from densecell_batch.errors import DensecellError

    save(folders[0] / "a.tif", 21)
    with watching(folders, segmenter) as (watcher, said, _):
        watcher._ledger.path.with_suffix(".owner").write_text("elsewhere 1 2 3\n")
        with pytest.raises(DensecellError, match=r"ledger-.*: taken over by another watcher.*start it again"):
            watcher.run()
    assert said == []
    assert not list(folders[1].glob("a_*"))


def test_claims_that_the_dead_left_are_removed(folders, segmenter):
    place = Place(folders[1], Identity.of_any_stack(segmenter))
    claims = place.folder / "claims"
    with place.claim("content", "mine"):
        (mine,) = claims.iterdir()
        (claims / "content-0123").write_text(f"{platform.node()} 4194303\n")
        (claims / "name-0123").write_text(f"{platform.node()} 4194303\n")
        Place(folders[1], Identity.of_any_stack(segmenter))
        assert {path.name for path in claims.iterdir()} == {mine.name, "name-0123"}


def test_a_place_that_cannot_be_made(folders, segmenter, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        Place(tmp_path / "file" / "out", Identity.of_any_stack(segmenter))


def test_nothing_of_the_watched_folder_is_changed(folders, segmenter):
    inbox, _ = folders
    save(inbox / "a.tif", 22)
    (inbox / "bad.tif").write_text("bad")
    (inbox / "sub").mkdir()

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [inbox, *inbox.rglob("*")]}

    before = state()
    drain(folders, segmenter)
    assert state() == before
    assert os.listdir(inbox / "sub") == []  # noqa: PTH208


# Objects


def test_the_tables_of_all_stacks_of_a_folder(folders, segmenter):
    inbox, out = folders
    for i, name in enumerate(["a", "b", "sub/c"]):
        save(inbox / f"{name}.tif", i)
    asked = RunSegmenter(segmenter.bundle, replace(segmenter.options, instances=("mitochondrion",)))
    asked.__dict__ |= {name: getattr(segmenter, name) for name in ("device", "precision", "predictor")}
    assert drain(folders, asked)[0] == 0
    lines = (out / "objects.csv").read_text().splitlines()
    assert lines[1:] == [line for name in "ab" for line in (out / f"{name}_objects.csv").read_text().splitlines()[1:]]
    assert (out / "sub/objects.csv").read_text() == (out / "sub/c_objects.csv").read_text()
