"""Claims: what two processes may do to each other, and what is left of the dead."""

import errno
import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from densecell_batch.errors import OutputError
from densecell_batch.storage import claims
from densecell_batch.storage.claims import Patience, claimed, is_claimed, is_mine, once

OFTEN = Patience(heartbeat=0.01, look=0.01)

CONTEND = """
import sys, time
from pathlib import Path
from densecell_batch.storage.claims import claimed
path, signs, me, many = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def all_have(done):
    (signs / f"{done}-{me}").touch()
    while len(list(signs.glob(f"{done}-*"))) < many:
        time.sleep(0.002)

for turn in range(3):
    all_have(f"begun {turn}")
    while not (signs / f"go {turn}").exists():
        time.sleep(0.0005)
    with claimed(path) as ours:
        if ours:
            (signs / f"owner {turn} {me}").touch()
        all_have(f"tried {turn}")
    (signs / f"ended {turn}-{me}").touch()
"""

HOLD = """
import sys
from pathlib import Path
from densecell_batch.storage.claims import claimed
with claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


AGAIN = """
import sys
from pathlib import Path
from densecell_batch.storage.claims import _created
path = Path(sys.argv[1])
while True:
    _created(path, b"me")
    path.unlink()
"""


def wait_until(condition, alive=lambda: True):
    until = time.monotonic() + 60
    while not condition():
        assert alive()
        assert time.monotonic() < until
        time.sleep(0.005)


def test_many_processes_find_an_owner_dead_and_one_inherits(tmp_path):
    folder, signs, many = tmp_path / "folder", tmp_path / "signs", 6
    folder.mkdir()
    signs.mkdir()
    words = [sys.executable, "-c", CONTEND, str(folder / "claim"), str(signs)]
    processes = [subprocess.Popen([*words, str(i), str(many)]) for i in range(many)]
    try:
        for turn in range(3):
            (folder / "claim").write_text(f"{platform.node()} 4194303 1 {claims._space()}\n")
            for step in ("begun", "ended"):  # all of them try before the owner leaves
                wait_until(
                    lambda sign=f"{step} {turn}-*": len(list(signs.glob(sign))) == many,
                    lambda: not any(process.poll() for process in processes),
                )
                (signs / f"go {turn}").touch()
            assert len(list(signs.glob(f"owner {turn} *"))) == 1
            assert list(folder.iterdir()) == []
        assert [process.wait(60) for process in processes] == [0] * many
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_killed_process_leaves_a_claim_that_can_be_had_at_once(tmp_path):
    path = tmp_path / "claim"
    words = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    assert is_claimed(path)
    with claimed(path) as ours:
        assert not ours
    process.kill()
    wait_until(lambda: not claims._started(process.pid))  # not waited for yet: it is dead all the same
    assert not is_claimed(path)
    with claimed(path) as ours:
        assert ours == "inherited"
        assert is_mine(path)
    process.communicate(timeout=10)


@pytest.mark.parametrize(
    ("owner", "age", "free"),
    [
        ("{node} {pid} {started} {space}", 9999, False),  # a process that runs
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
    path, pid = tmp_path / "claim", os.getppid()
    path.write_text(
        owner.format(node=platform.node(), pid=pid, started=claims._started(pid), space=claims._space()) + "\n"
    )
    os.utime(path, (time.time() - age,) * 2)
    assert is_claimed(path) is not free
    with claimed(path) as ours:
        assert bool(ours) is free


def test_a_claim_never_names_nobody(tmp_path):
    """Whoever is killed while it makes one would leave it, and nobody could tell that it is dead."""
    path = tmp_path / "claim"
    with subprocess.Popen([sys.executable, "-c", AGAIN, str(path)]) as process:
        found = set()
        wait_until(path.exists)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with suppress(FileNotFoundError):
                found.add(path.read_bytes())
        assert process.poll() is None
        process.kill()
    assert found == {b"me"}


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links(tmp_path, monkeypatch, error):
    def refuse(*names):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "claim"
    with claimed(path) as ours:
        assert ours == "new"
        assert is_mine(path)
        with claimed(path) as again:
            assert not again
    path.symlink_to(tmp_path / "nowhere")
    with claimed(path) as ours:
        assert not ours
    assert [entry.name for entry in tmp_path.iterdir()] == ["claim"]


def test_a_link_whose_answer_was_lost(tmp_path, monkeypatch):
    link = os.link

    def lost(*names):
        link(*names)
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "link", lost)
    with claimed(tmp_path / "claim") as ours:
        assert ours == "new"
    assert list(tmp_path.iterdir()) == []


def test_an_heir_that_died_has_an_heir(tmp_path):
    dead = f"{platform.node()} 4194303 1 {claims._space()}\n"
    (tmp_path / "claim").write_text(dead)
    (tmp_path / ".claim.heir").write_text(dead)
    with claimed(tmp_path / "claim") as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_taken_over_is_left_alone(tmp_path):
    path = tmp_path / "claim"
    with claimed(path, patience=OFTEN) as ours:
        assert ours
        (heart,) = (thread for thread in threading.enumerate() if thread.name == "densecell-claim")
        (tmp_path / "other").write_text("elsewhere 1 2 3\n")
        os.utime(tmp_path / "other", (0, 0))
        (tmp_path / "other").replace(path)
        wait_until(lambda: not heart.is_alive())
        assert path.stat().st_mtime == 0  # no heartbeat for another one's
        assert not is_mine(path)
    assert path.read_text() == "elsewhere 1 2 3\n"


def test_the_heart_goes_on_beating_after_a_network_was_away(tmp_path):
    folder = tmp_path / "mount"
    folder.mkdir()
    with claimed(folder / "claim", patience=OFTEN):
        folder.rename(tmp_path / "away")
        time.sleep(10 * OFTEN.heartbeat)  # none of these can be heard
        (tmp_path / "away").rename(folder)
        os.utime(folder / "claim", (0, 0))
        wait_until(lambda: (folder / "claim").stat().st_mtime > 1e9)


def test_what_this_process_left_behind_in_a_folder_that_was_away_is_free(tmp_path):
    """It runs, so that nobody else would ever take its claim for that of a dead one."""
    folder = tmp_path / "mount"
    folder.mkdir()
    with claimed(folder / "claim"):
        folder.rename(tmp_path / "away")
    (tmp_path / "away").rename(folder)
    assert not is_claimed(folder / "claim")
    assert not is_mine(folder / "claim")
    with claimed(folder / "claim") as ours:
        assert ours == "inherited"
        assert is_mine(folder / "claim")
    assert list(folder.iterdir()) == []


def test_age_is_told_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    """Ours may be wrong by hours."""
    path = tmp_path / "claim"
    path.write_text("elsewhere 1 2 3\n")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert is_claimed(path)


def test_one_of_many_threads_gets_the_claim(tmp_path):
    path, ready, tried, owners, inside = tmp_path / "claim", threading.Barrier(8), threading.Barrier(8), [], []

    def try_it(i):
        ready.wait()
        with claimed(path) as ours:
            if ours:
                owners.append(i)
                tried.wait(60)  # before the owner leaves
                inside.append(path.exists())
        if not ours:
            tried.wait(60)

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
        ("", 0, False),  # it is just being written, where there are no hard links
        ("", 99, True),  # it never will be
    ],
)
def test_claims_of_the_dead_are_taken_over(tmp_path, owner, age, free):
    path = tmp_path / "claim"
    path.write_text(owner.replace("here", platform.node()).replace("us", str(os.getpid())))
    os.utime(path, (time.time() - age,) * 2)
    with claimed(path) as ours:
        assert bool(ours) is free
    assert path.exists() is not free


def test_an_owner_has_a_heartbeat(tmp_path):
    path = tmp_path / "claim"
    with claimed(path, patience=OFTEN):
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 1e9)


def test_an_owner_elsewhere_is_dead_after_the_expiry(tmp_path):
    path = tmp_path / "claim"
    path.write_text("elsewhere 1 2 3\n")
    os.utime(path, (time.time() - 200,) * 2)
    assert is_claimed(path)
    assert not is_claimed(path, patience=Patience(expiry=100))
    with claimed(path) as ours:
        assert not ours
    with claimed(path, patience=Patience(expiry=100)) as ours:
        assert ours == "inherited"


def test_what_the_processes_of_a_folder_have_in_common():
    """Those of other versions wait as long."""
    assert Patience(heartbeat=20, expiry=300, look=0.5) == claims.PATIENCE


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


def test_one_makes_it_and_the_others_wait(tmp_path):
    made, waits = [], []

    def make():
        wait_until(lambda: len(waits) == 5)
        made.append(1)
        return b"content"

    found = in_threads(6, lambda: once(tmp_path / "file", make, lambda: waits.append(1), patience=OFTEN))
    assert found == [b"content"] * 6
    assert len(made) == 1
    assert len(waits) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_one_cannot_make_the_next_one_tries(tmp_path):
    calls, waits = [], []

    def make():
        calls.append(1)
        wait_until(lambda: len(waits) >= 4)
        if len(calls) < 3:
            raise ValueError
        return b"content"

    found = in_threads(5, lambda: once(tmp_path / "file", make, lambda: waits.append(1), patience=OFTEN))
    assert sorted(map(str, found)) == ["", "", *["b'content'"] * 3]
    assert len(calls) == 3


def test_what_a_dead_one_began_is_made(tmp_path):
    (tmp_path / "file.making").write_text(f"{platform.node()} 4194303 1 {claims._space()}\n")
    assert once(tmp_path / "file", lambda: b"content") == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_claim_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="claim: cannot be written"), claimed(tmp_path / "file/claim"):
        pass


def test_what_would_not_be_taken_is_not_made_for_ever(tmp_path):
    with pytest.raises(ValueError, match="what was made would not be taken"):
        once(tmp_path / "file", lambda: b"content", valid=lambda content: False)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_to_make_it_in(tmp_path):
    with pytest.raises(OutputError, match="the folder is not there"):
        once(tmp_path / "none/file", lambda: b"content")
