"""Claims: what two processes may do to each other, and what is left of the dead."""

import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from densecell_batch.errors import OutputError
from densecell_batch.storage import claims as claim
from densecell_batch.storage.claims import claimed, is_claimed, is_mine, once

CONTEND = """
import sys, time
from pathlib import Path
from densecell_batch.storage.claims import claimed
path, ready, owners = map(Path, sys.argv[1:])
while not ready.exists():
    time.sleep(0.001)
with claimed(path) as ours:
    if ours:
        with owners.open("a") as stream:
            stream.write("x")
        time.sleep(3)
"""


def test_many_processes_find_an_owner_dead_and_one_inherits(tmp_path):
    path, ready, owners = tmp_path / "claim", tmp_path / "ready", tmp_path / "owners"
    for _ in range(3):
        path.write_text(f"{platform.node()} 4194303 1 {claim._space()}\n")
        words = [sys.executable, "-c", CONTEND, str(path), str(ready), str(owners)]
        processes = [subprocess.Popen(words) for _ in range(6)]
        time.sleep(1)
        ready.touch()
        assert [process.wait(60) for process in processes] == [0] * 6
        assert owners.read_text() == "x"
        owners.unlink()
        ready.unlink()
        assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_claim_that_can_be_had_at_once(tmp_path):
    path = tmp_path / "claim"
    (tmp_path / "ready").touch()
    words = [sys.executable, "-c", CONTEND, str(path), str(tmp_path / "ready"), str(tmp_path / "owners")]
    process = subprocess.Popen(words)
    while not (tmp_path / "owners").exists():
        time.sleep(0.01)
    assert is_claimed(path)
    with claimed(path) as ours:
        assert not ours
    process.kill()
    while claim._started(process.pid):  # not waited for yet: it is dead all the same
        time.sleep(0.01)
    assert not is_claimed(path)
    with claimed(path) as ours:
        assert ours == "inherited"
        assert is_mine(path)
    process.wait(10)


@pytest.mark.parametrize(
    ("owner", "age", "free"),
    [
        ("{node} {pid} {started} {space}", 9999, False),  # this very process
        ("{node} {pid} 12345 {space}", 0, True),  # the number was given to another process since
        ("{node} {pid} {started} {space}", 99999, True),  # without a heartbeat for a day: forged, or it hangs
        ("{node} {pid} {started} {space}", -99999, True),  # nor with one from the future
        ("{node} {pid} - {space}", 0, True),  # no process here would say so
        ("{node} 1 2 {space}", 0, True),
        ("{node} {pid} 12345 pid:[1]", -9999, True),
        ("{node} {pid} 12345 pid:[1]", 0, False),  # a container that is called the same: only its heartbeat counts
        ("{node} {pid} 12345 pid:[1]", 9999, True),
        ("{node} 4194303 1 pid:[1]", 0, False),
    ],
)
def test_whose_number_it_is(tmp_path, owner, age, free):
    path, pid = tmp_path / "claim", os.getpid()
    path.write_text(
        owner.format(node=platform.node(), pid=pid, started=claim._started(pid), space=claim._space()) + "\n"
    )
    os.utime(path, (time.time() - age,) * 2)
    assert is_claimed(path) is not free
    with claimed(path) as ours:
        assert bool(ours) is free


def test_an_heir_that_died_has_an_heir(tmp_path):
    dead = f"{platform.node()} 4194303 1 {claim._space()}\n"
    (tmp_path / "claim").write_text(dead)
    (tmp_path / ".claim.heir").write_text(dead)
    with claimed(tmp_path / "claim") as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_taken_over_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "_HEARTBEAT", 0.05)
    path = tmp_path / "claim"
    with claimed(path) as ours:
        assert ours
        path.write_text("elsewhere 1 2 3\n")
        os.utime(path, (0, 0))
        time.sleep(0.3)
        assert path.stat().st_mtime == 0  # no heartbeat for another one's
        assert not is_mine(path)
    assert path.read_text() == "elsewhere 1 2 3\n"


def test_the_heart_goes_on_beating_after_a_network_was_away(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "_HEARTBEAT", 0.05)
    folder = tmp_path / "mount"
    folder.mkdir()
    with claimed(folder / "claim"):
        folder.rename(tmp_path / "away")
        time.sleep(0.3)
        (tmp_path / "away").rename(folder)
        os.utime(folder / "claim", (0, 0))
        time.sleep(0.3)
        assert (folder / "claim").stat().st_mtime > 1e9


def test_age_is_told_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    """Ours may be wrong by hours."""
    path = tmp_path / "claim"
    path.write_text("elsewhere 1 2 3\n")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert is_claimed(path)


def test_one_of_many_threads_gets_the_claim(tmp_path):
    path, ready, owners, inside = tmp_path / "claim", threading.Barrier(8), [], []

    def try_it(i):
        ready.wait()
        with claimed(path) as ours:
            if ours:
                owners.append(i)
                inside.append(path.exists())
                time.sleep(0.3)

    threads = [threading.Thread(target=try_it, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == 1
    assert inside == [True]
    assert not path.exists()


@pytest.mark.parametrize(
    ("owner", "age", "free"),
    [
        ("here us", 0, True),  # no process of ours says no more than that
        ("here 4194303", 0, True),  # no such process
        ("elsewhere 1", 0, False),
        ("elsewhere 1", 9999, True),  # no heartbeat for hours
        ("", 0, False),  # it is just being written
    ],
)
def test_claims_of_the_dead_are_taken_over(tmp_path, owner, age, free):
    path = tmp_path / "claim"
    path.write_text(owner.replace("here", platform.node()).replace("us", str(os.getpid())))
    os.utime(path, (time.time() - age,) * 2)
    with claimed(path) as ours:
        assert bool(ours) is free
    assert path.exists() is not free


def test_an_owner_has_a_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "_HEARTBEAT", 0.05)
    path = tmp_path / "claim"
    with claimed(path):
        os.utime(path, (0, 0))
        time.sleep(0.4)
        assert path.stat().st_mtime > 1e9


# Once


def in_threads(n, function):
    """Call it in several threads at once; what it returned, or raised."""
    ready, found = threading.Barrier(n), []

    def call():
        ready.wait()
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=call) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(claim, "LOOK", 0.02)


def test_one_makes_it_and_the_others_wait(tmp_path, quick):
    made, waits = [], []

    def make():
        time.sleep(0.3)
        made.append(1)
        return b"content"

    found = in_threads(6, lambda: once(tmp_path / "file", make, lambda: waits.append(1)))
    assert found == [b"content"] * 6
    assert len(made) == 1
    assert len(waits) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_one_cannot_make_the_next_one_tries(tmp_path, quick):
    calls = []

    def make():
        calls.append(1)
        time.sleep(0.1)
        if len(calls) < 3:
            raise ValueError
        return b"content"

    found = in_threads(5, lambda: once(tmp_path / "file", make))
    assert sorted(map(str, found)) == ["", "", *["b'content'"] * 3]
    assert len(calls) == 3


def test_what_a_dead_one_began_is_made(tmp_path):
    (tmp_path / "file.making").write_text(f"{platform.node()} 4194303 1 {claim._space()}\n")
    assert once(tmp_path / "file", lambda: b"content") == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_claim_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="claim: cannot be written"), claimed(tmp_path / "file/claim"):
        pass


def test_no_folder_to_make_it_in(tmp_path):
    with pytest.raises(OutputError, match="the folder is not there"):
        once(tmp_path / "none/file", lambda: b"content")
