"""`densecell-batch watch` as a process, and what people and programs do to the folder that it watches."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from forked import run
from timing import work_until
from watched import Running, partial_outputs, rows, save, wait_until, words

LONG = (20, 256, 256)  # takes seconds


QUIET = 0.7


@pytest.fixture(scope="module", params=["events", pytest.param("poll", marks=pytest.mark.slow)])
def watcher(request, tmp_path_factory):
    """One process for all the tests of a way to watch; each has a folder of its own in what it watches."""
    place = tmp_path_factory.mktemp("watch")
    inbox = place / "in"
    save(inbox / "early" / "there before.tif", 1)
    (inbox / "README").write_text("not a stack")
    (inbox / "early" / "notes.txt").write_text("not a stack either")
    os.mkfifo(inbox / "early" / "pipe.tif")
    (inbox / "loop").symlink_to(inbox)
    (inbox / "early" / "nowhere.tif").symlink_to(inbox / "nothing.tif")
    more = ["--poll"] if request.param == "poll" else []
    running = Running(
        inbox, place / "out", "--quiet", QUIET, "--interval", 0.3, "--backoff", 0.3, "--attempts", 2, *more
    )  # fmt: skip
    yield running
    assert running.end() == 75
    assert not partial_outputs(running.out)
    assert running.process.returncode == 75


@contextmanager
def untouched(path):
    """The results stay the very same files."""
    before = (path.stat().st_ino, path.stat().st_mtime_ns)
    yield
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def done(watcher, name):
    """Wait for the verdict on a stack; its labels."""
    watcher.until(lambda: watcher.said("\tok\t", f"/{name}_labels.tif"))
    labels = tifffile.imread(next(watcher.out.rglob(f"{name}_labels.tif")))
    assert watcher.said("ok", f"/{name}_labels.tif") == 1
    return labels


def witness(watcher, path, number):
    """Wait until a stack that is saved now is done: by then all that was there before had its quiet time, and more."""
    save(path, number)
    done(watcher, path.stem)


def test_what_was_there_before_the_start(watcher):
    assert done(watcher, "there before").shape == (3, 40, 44)
    watcher.until(lambda: watcher.said("failed", "nowhere.tif", "it is a link"))
    names = {path.name for path in (watcher.out / "early").iterdir()} - {"nowhere.error.txt"}
    assert names == {"there before_labels.tif", "there before_preview.png", "there before_report.json"}
    assert not watcher.said("README")


def test_a_slow_copy_is_not_taken_before_its_end(watcher):
    source, target = save(watcher.out.parent / "source.tif", 2), watcher.inbox / "slow" / "copy.tif"
    data, parts = source.read_bytes(), 4
    target.parent.mkdir()
    for i in range(parts):  # breaks of more than the quiet time
        with target.open("ab") as stream:
            stream.write(data[len(data) * i // parts : len(data) * (i + 1) // parts])
        assert not watcher.said("/copy_labels.tif")
        if i < parts - 1:
            witness(watcher, target.with_name(f"meanwhile {i}.tif"), 200 + i)
    assert done(watcher, "copy").shape == (3, 40, 44)
    watcher.until(lambda: not (watcher.out / "slow" / "copy.error.txt").exists())


def test_names_that_copy_programs_write_to_first(watcher):
    source = save(watcher.out.parent / "source.tif", 3)
    folder = watcher.inbox / "renamed"
    folder.mkdir()
    names = ((".rsynced.tif.Xa9Q2b", "rsynced.tif"), ("moved.tif.part", "moved.tif"))
    for temporary, final in names:
        (folder / temporary).write_bytes(source.read_bytes() + final.encode())  # another content each
    witness(watcher, folder / "whole.tif", 210)
    for temporary, final in names:
        assert not watcher.said(final.removesuffix(".tif"))
        (folder / temporary).rename(folder / final)
        done(watcher, final.removesuffix(".tif"))


def test_truncated_then_completed(watcher):
    data = save(watcher.out.parent / "source.tif", 4).read_bytes()
    target = watcher.inbox / "cut" / "short.tif"
    target.parent.mkdir()
    target.write_bytes(data[:-1000])
    text = watcher.out / "cut" / "short.error.txt"
    watcher.until(lambda: watcher.said("failed", "short.tif"))
    assert "truncated" in text.read_text()
    assert "tried 2 times" in text.read_text()
    assert watcher.row("cut/short.tif")["state"] == "failed"
    target.write_bytes(data)
    done(watcher, "short")
    assert not text.exists()
    assert watcher.row("cut/short.tif")["state"] == "done"


def test_one_that_cannot_be_read_fails_alone_and_can_be_retried(watcher):
    folder = watcher.inbox / "bad"
    folder.mkdir()
    (folder / "garbage.tif").write_bytes(b"\x00garbage" * 100)
    save(folder / "good.tif", 5)
    done(watcher, "good")
    watcher.until(lambda: watcher.said("failed", "garbage.tif"))
    assert "not a TIFF file" in (watcher.out / "bad" / "garbage.error.txt").read_text()
    assert run("watch", "-o", watcher.out, "--retry").returncode == 0
    watcher.until(lambda: watcher.said("failed", "garbage.tif") == 2)
    assert (folder / "garbage.tif").read_bytes() == b"\x00garbage" * 100


def test_replaced_while_it_was_running(watcher):
    target = save(watcher.inbox / "replaced" / "swap.tif", 6, LONG)
    new = save(watcher.out.parent / "source.tif", 7)
    watcher.until(lambda: watcher.row("replaced/swap.tif").get("state") == "running")
    new.replace(target)
    labels = done(watcher, "swap")
    assert labels.shape == (3, 40, 44)
    assert not (watcher.out / "replaced" / "swap.error.txt").exists()
    report = json.loads((watcher.out / "replaced" / "swap_report.json").read_text())
    assert report["input"]["bytes"] == target.stat().st_size


def test_deleted_while_queued(watcher):
    save(watcher.inbox / "deleted" / "a-first.tif", 8, LONG)
    victim = save(watcher.inbox / "deleted" / "b-second.tif", 9)
    watcher.until(lambda: watcher.row("deleted/a-first.tif").get("state") == "running")
    victim.unlink()
    done(watcher, "a-first")
    watcher.until(lambda: "deleted/b-second.tif" not in rows(watcher.out))
    witness(watcher, watcher.inbox / "deleted" / "c-third.tif", 211)
    assert not watcher.said("b-second")
    assert not list(watcher.out.rglob("b-second*"))


def test_the_same_content_is_done_once(watcher):
    target = save(watcher.inbox / "twins" / "first.tif", 10)
    done(watcher, "first")
    labels = watcher.out / "twins" / "first_labels.tif"
    with untouched(labels):
        target.rename(target.with_name("other.tif"))  # renamed
        watcher.until(lambda: watcher.row("twins/other.tif").get("state") == "done")
        assert "first_labels.tif" in (watcher.out / "twins" / "other.same.txt").read_text()
        watcher.until(lambda: watcher.said("ok", "/first_labels.tif") == 2)
        save(target, 10)  # saved again
        seen = target.stat().st_mtime_ns
        watcher.until(lambda: watcher.row("twins/first.tif").get("mtime_ns") == seen)
        watcher.until(lambda: watcher.row("twins/first.tif")["state"] == "done")
    assert not (watcher.out / "twins" / "other_labels.tif").exists()


def test_a_changed_one_is_done_again_and_the_old_results_are_kept(watcher):
    target = save(watcher.inbox / "versions" / "cells.tif", 11)
    done(watcher, "cells")
    old = (watcher.out / "versions" / "cells_labels.tif").read_bytes()
    save(target, 12, (4, 48, 44))
    watcher.until(lambda: watcher.said("ok", "/cells_labels.tif") == 2)
    folder = watcher.out / "versions"
    assert tifffile.imread(folder / "cells_labels.tif").shape == (4, 48, 44)
    (kept,) = folder.glob("cells.old-*_labels.tif")
    assert kept.read_bytes() == old
    (report,) = folder.glob("cells.old-*_report.json")
    for output in json.loads(report.read_text())["outputs"].values():
        assert (folder / output["file"]).stat().st_size == output["bytes"]
    assert len(list(folder.iterdir())) == 6


def test_names(watcher):
    names = ["with spaces", "Zellen größer µm", "細胞", "<b>&'quoted\"", "per%cent#hash", "a.b.c"]
    for i, name in enumerate([*names, "a\tb\nc"]):
        save(watcher.inbox / "names" / f"{name}.tif", 20 + i)
    for name in names:
        done(watcher, name)
        assert (watcher.out / "names" / f"{name}_report.json").exists()
    watcher.until(lambda: watcher.said("failed", "rename it"))  # a name with control characters: one line all the same
    assert not (watcher.out / "names" / "a\tb\nc_labels.tif").exists()


def test_a_name_that_is_no_text(watcher):
    folder = watcher.inbox / "bytes"
    source = save(watcher.out.parent / "source.tif", 13)
    folder.mkdir()
    os.replace(os.fsencode(source), os.fsencode(folder) + b"/gr\xfc\xdfe.tif")  # noqa: PTH105
    watcher.until(lambda: watcher.said("failed", "rename it"))
    save(folder / "good one.tif", 14)
    done(watcher, "good one")


def test_two_stacks_that_would_have_the_same_results(watcher):
    save(watcher.inbox / "rivals" / "one.tif", 15)
    done(watcher, "one")
    save(watcher.inbox / "rivals" / "one.ome.tif", 16)
    with untouched(watcher.out / "rivals" / "one_labels.tif"):
        watcher.until(lambda: watcher.said("failed", "one.ome.tif", "rename one"))


def test_folders_of_slices(watcher):
    stack = tifffile.imread(save(watcher.out.parent / "source.tif", 17, (5, 40, 44)))
    for number in range(5):
        folder, last, longest = watcher.inbox / "acquired" / f"series {number}", time.monotonic(), 0.0
        folder.mkdir(parents=True)
        for z, plane in enumerate(stack):
            tifffile.imwrite(folder / f"slice{z + 8}.tif", plane + np.uint8(number))
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            time.sleep(0.4 * QUIET if z < len(stack) - 1 else 0)
        if longest < 0.8 * QUIET:
            break  # else the machine was so busy that there was a break, as between two acquisitions
    labels = done(watcher, folder.name)
    assert labels.shape == (5, 40, 44)
    assert not list(watcher.out.rglob("slice*"))


def test_stopped_and_started_again(watcher):
    """The last one: SIGTERM in the midst of work, and a start that goes on."""
    save(watcher.inbox / "last" / "long.tif", 18, (40, 256, 256))
    watcher.until(lambda: list(watcher.out.glob("last/.long.parts-*/piece-*.npz")))
    watcher.process.send_signal(signal.SIGTERM)
    assert work_until(lambda: watcher.process.poll() is not None, watcher.process.pid) < 10
    assert watcher.end() == 75
    assert watcher.row("last/long.tif")["state"] == "queued"
    assert not list(watcher.out.rglob("long_*"))
    assert not list(watcher.out.rglob(f".*.{watcher.process.pid}.tmp"))
    again = run(*words(watcher.inbox, watcher.out, "--once", "--quiet", 0.2, "--attempts", 1, "--poll"))
    verdicts = [line.split("\t") for line in again.stdout.splitlines()]
    assert [verdict[1] for verdict in verdicts] == ["ok"], again.stdout + again.stderr
    assert "/long_labels.tif" in verdicts[0][2]
    assert again.returncode == 1  # of what failed before
    assert "pieces are there already" in again.stderr


def test_only_the_marker_has_to_be_waited_for(tmp_path):
    stack = tifffile.imread(save(tmp_path / "source.tif", 19))
    folder = tmp_path / "in" / "series"
    folder.mkdir(parents=True)
    for z, plane in enumerate(stack):
        tifffile.imwrite(folder / f"{z}.tif", plane)
    running = Running(tmp_path / "in", tmp_path / "out", "--quiet", 3600, "--interval", 0.5, "--marker", "ready")
    try:
        wait_until((tmp_path / "out" / "status.html").exists)
        time.sleep(1)
        assert not running.verdicts
        (folder / "ready").touch()
        running.until(lambda: running.said("ok", "series_labels.tif"))
    finally:
        assert running.end(signal.SIGINT) == 75
