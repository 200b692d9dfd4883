"""Two processes in one output folder: nobody throws away what another one is making."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import kills
import pytest
import watched

from densecell_batch.errors import BusyError
from densecell_batch.runs import journal
from densecell_batch.runs.at_work import at_work, nobody_at_work

A, B = "0123456789ab", "ba9876543210"


def counted(calls: str, gate: str) -> None:
    """Each slice is counted; the last one waits for a file."""
    call = journal.PieceWriter.__call__

    def slow(self, finished):
        with Path(calls).open("a") as stream:
            stream.write(f"{finished.z} ")
        while finished.z == 9 and not Path(gate).exists():
            time.sleep(0.05)
        call(self, finished)

    journal.PieceWriter.__call__ = slow


class Commands:
    """Commands on one stack that run at once; what each of them did."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.out, self.calls, self.gate = folder, folder / "out", folder / "calls", folder / "gate"
        self.model, self.started = model, []
        self.stack = watched.save(folder / "in" / "cells.tif", shape=(10, 40, 44))

    def start(self, *more: object, stack: Path | None = None):
        words = ["segment", stack or self.stack, "-o", self.out, "--model", self.model, "--precision", "float32",
                 "--tile", "5,48,48", *more]  # fmt: skip
        said = self.folder / f"said-{len(self.started)}"
        said.touch()
        process = kills.start([str(word) for word in words], said, partial(counted, str(self.calls), str(self.gate)))
        process.said = said
        self.started.append(process)
        return process

    def until_it_works(self) -> None:
        """Half of it is done, and the other half waits for the gate."""
        self.until(lambda: self.calls.exists() and "9" in self.calls.read_text())

    def until(self, condition) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, [process.said.read_text() for process in self.started]
            time.sleep(0.05)

    def ended(self, process) -> tuple[int, list[str], str]:
        process.join(120)
        said = process.said.read_text()
        (verdict,) = (line.split("\t") for line in said.splitlines() if line.startswith("DENSECELL\t"))
        return process.exitcode, verdict, said

    def computed(self) -> list[int]:
        return sorted(map(int, self.calls.read_text().split()))


@pytest.fixture
def commands(tmp_path, data):
    made = Commands(tmp_path, data / "fly-vnc-small.zip")
    yield made
    for process in made.started:
        process.kill()
        process.join()


def test_the_same_command_twice_works_once(commands):
    first = commands.start()
    commands.until_it_works()
    second = commands.start()
    commands.until(lambda: "waiting for it" in second.said.read_text())
    commands.gate.touch()
    for process in (first, second):
        code, verdict, said = commands.ended(process)
        assert (code, verdict[1]) == (0, "ok"), said
    assert commands.computed() == list(range(10))
    assert not list(commands.out.glob(".*"))


def test_the_second_goes_on_when_the_first_is_killed(commands):
    first = commands.start()
    commands.until_it_works()
    second = commands.start()
    commands.until(lambda: "waiting for it" in second.said.read_text())
    os.kill(first.pid, signal.SIGKILL)
    commands.gate.touch()
    code, verdict, said = commands.ended(second)
    assert (code, verdict[1]) == (0, "ok"), said
    assert commands.computed()[:5] == [0, 1, 2, 3, 4]  # the first half once
    assert not list(commands.out.glob(".*"))


def test_other_work_under_the_name_is_refused_and_harms_nobody(commands):
    first = commands.start()
    commands.until_it_works()
    other = watched.save(commands.folder / "elsewhere" / "cells.tif", 3, shape=(10, 40, 44))
    for second in (commands.start("--stitch", "blend"), commands.start(stack=other)):
        code, verdict, said = commands.ended(second)
        assert (code, verdict[1]) == (1, "failed")
        assert f"process {first.pid}" in verdict[3]
        assert "Traceback" not in said
    commands.gate.touch()
    code, verdict, said = commands.ended(first)
    assert (code, verdict[1]) == (0, "ok"), said
    assert commands.computed() == list(range(10))


def test_results_that_are_there_do_not_make_others_lose_their_work(commands):
    """The first command again, while the same stack is made with other options."""
    commands.gate.touch()
    assert commands.ended(commands.start())[0] == 0
    commands.gate.unlink()
    commands.calls.unlink()
    first = commands.start("--stitch", "blend")
    commands.until_it_works()
    code, verdict, _ = commands.ended(commands.start())
    assert (code, verdict[1]) == (0, "ok")
    commands.gate.touch()
    code, verdict, said = commands.ended(first)
    assert (code, verdict[1]) == (0, "ok"), said
    assert commands.computed() == list(range(10))


# The claims


def test_shards_of_the_same_work_go_side_by_side(tmp_path):
    with at_work(tmp_path, "a", A, alone=False), at_work(tmp_path, "a", A, alone=False) as waited:
        assert not waited
        with nobody_at_work(tmp_path, "a") as nobody:
            assert not nobody
        with at_work(tmp_path, "b", B, alone=True), at_work(tmp_path, "a.at", B, alone=True):
            pass
        with pytest.raises(BusyError, match=f"process {os.getpid()} on "), at_work(tmp_path, "a", B, alone=False):
            pass
    with nobody_at_work(tmp_path, "a") as nobody:
        assert nobody
    assert list(tmp_path.iterdir()) == []


def test_who_cannot_wait_is_told(tmp_path):
    with (
        at_work(tmp_path, "a", A, alone=True),
        pytest.raises(BusyError, match="same results"),
        at_work(tmp_path, "a", A, alone=True, wait=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_dead_are_in_nobodys_way(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from densecell_batch.runs.at_work import at_work\n"
        f"with at_work(Path(sys.argv[1]), 'a', '{A}', alone=True): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with at_work(tmp_path, "a", B, alone=True):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
