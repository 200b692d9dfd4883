"""Interrupt a small job at random times, again and again, and compare what comes out with an undisturbed run.

    python tests/support/kills.py [--runs 200] [--how kill|term|disk]...

prints where the runs were interrupted. Each run is a process of its own that is interrupted once while it starts,
computes or writes, and is then started again and ends by itself. The processes are forked from one that has imported
TensorFlow but not used it, so that the random times fall into the work rather than into the imports.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import forked
import numpy as np
import tifffile
from timing import work_until

from densecell_batch.data import SAMPLE

MODEL = Path(__file__).parents[1] / "data/fly-vnc-small.zip"


def files(folder: Path) -> dict[str, Any]:
    """All that lies in an output folder: path -> bytes; the report without what depends on the run."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".densecell-tables.json"  # it knows of all that was written
    }
    for name in [name for name in found if name.endswith(".json")]:
        found[name] = json.loads(found[name])
        del found[name]["timings"], found[name]["input"]
    return found


def start(arguments: list[str], said: Path, prepare: Callable[[], None] | None = None) -> Any:
    """Start a command in a forked process; what it says goes to the file `said`. `prepare` is called in it before."""
    said.write_bytes(b"")
    return forked.start(arguments, said, said, prepare)


def kill_at(module: str, name: str, after: int) -> None:
    """This process is killed when a function is called that was called so many times before."""
    owner = importlib.import_module(f"densecell_batch.{module}")
    function, calls = getattr(owner, name), []

    def killed(*arguments: Any, **more: Any) -> Any:
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return function(*arguments, **more)

    setattr(owner, name, killed)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of so many MiB at `folder`; None where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class Job:
    """A small job with all kinds of outputs, and its undisturbed result."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, folder / "cells.tif"
        volume = np.tile(tifffile.imread(SAMPLE)[:, :96, :96], (3, 1, 1))
        tifffile.imwrite(self.stack, volume, imagej=True, metadata={"axes": "ZYX"})
        command = [sys.executable, "-m", "densecell_batch", *self.arguments(folder / "whole")]
        subprocess.run(command, check=True, capture_output=True)
        self.expected = files(folder / "whole")
        self.seconds = float(np.median([self._undisturbed(i) for i in range(4)][1:]))

    def arguments(self, out: Path) -> list[str]:
        """The command line."""
        words = ["segment", self.stack, "-o", out, "--model", MODEL, "--precision", "float32", "--tile", "5,48,48",
                 "--uncertainty", "--probabilities", "--instances", "mitochondrion"]  # fmt: skip
        return [str(word) for word in words]

    def _undisturbed(self, i: int) -> float:
        out, begun = self.folder / f"undisturbed-{i}", time.monotonic()
        self.finish(out)
        shutil.rmtree(out)
        return time.monotonic() - begun

    def finish(self, out: Path) -> None:
        """Run it to its end, and hold the result against the expected one."""
        process = start(self.arguments(out), self.folder / "said.txt")
        process.join(600)
        said = (self.folder / "said.txt").read_text(errors="replace")
        assert process.exitcode == 0, said
        found = files(out)
        assert found.keys() == self.expected.keys(), sorted(found.keys() ^ self.expected.keys())
        assert found == self.expected

    def interrupted(self, out: Path, rng: random.Random, number: signal.Signals) -> str:
        """A run that gets a signal at a random time, then another one to the end; where the first one was."""
        process = start(self.arguments(out), self.folder / "said.txt")
        process.join(rng.uniform(0, 1.1) * self.seconds)
        with suppress(ProcessLookupError):  # it ends at this moment
            if process.exitcode is None:
                os.kill(process.pid, number)
        assert work_until(lambda: process.exitcode is not None, process.pid) < 10
        if process.exitcode == 0:
            where = "had ended"
        else:
            # Before the handler stands, SIGTERM ends a process as ever.
            codes = (-number,) if number == signal.SIGKILL else (75, -number)
            assert process.exitcode in codes, (process.exitcode, (self.folder / "said.txt").read_text(errors="replace"))
            where = _where(out)
        _only_whole_files(out)
        self.finish(out)
        return where

    def out_of_space(self, disk: Path, rng: random.Random) -> str:
        """A run on a disk that somebody else fills at a random time, then, with room again, another one to the end."""
        out, hog = disk / "out", disk / "hog"
        process = start(self.arguments(out), self.folder / "said.txt")
        process.join(rng.uniform(0, 1.1) * self.seconds)
        with suppress(OSError), hog.open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        process.join(60)
        said = (self.folder / "said.txt").read_text(errors="replace")
        where = "had ended" if process.exitcode == 0 else _where(out)
        if process.exitcode:
            assert process.exitcode == 1, said
            assert "DENSECELL\tfailed\t" in said, said
            assert "disk is full" in said or "MiB are free" in said, said
        assert "Traceback" not in said, said
        _only_whole_files(out)
        assert not list(disk.rglob("*.tmp"))
        hog.unlink()
        self.finish(out)
        shutil.rmtree(out)
        return where


def _where(out: Path) -> str:
    """How far an interrupted run had come."""
    if not out.exists() or not (jobs := list(out.glob(".*.parts-*"))):
        return "before the first file"
    if list(out.glob("*.tif")):
        return "while outputs got their names"
    if (jobs[0] / "assembling").exists() or list(out.glob(".*.tmp")):
        return "while outputs were written"
    return "between pieces" if list(jobs[0].glob("piece-*")) else "before the first piece"


def _only_whole_files(out: Path) -> None:
    """What stands under a final name can be read to its end."""
    for path in out.glob("*.tif"):
        tifffile.imread(path)
    for path in out.glob("*_report.json"):
        json.loads(path.read_text())


def runs_of(job: Job, how: str, runs: int, seed: int = 0) -> Counter[str] | None:
    """So many interrupted runs; where they were interrupted. None where no disk can be mounted."""
    rng, places = random.Random(seed), Counter[str]()
    if how == "disk":
        with small_disk(job.folder / "disk", 24) as disk:
            if disk is None:
                return None
            for _ in range(runs):
                places[job.out_of_space(disk, rng)] += 1
        return places
    number = {"kill": signal.SIGKILL, "term": signal.SIGTERM}[how]
    for run in range(runs):
        out = job.folder / f"{how}-{run}"
        places[job.interrupted(out, rng, number)] += 1
        shutil.rmtree(out)
    return places


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--how", action="append", choices=["kill", "term", "disk"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job = Job(Path(name))
        print(f"an undisturbed run takes {job.seconds:.1f} s")
        for how in asked.how or ["kill", "term", "disk"]:
            begun, places = time.monotonic(), runs_of(job, how, asked.runs)
            if places is None:
                print(f"{how}: no disk can be mounted here")
                continue
            listed = ", ".join(f"{n} {where}" for where, n in places.most_common())
            seconds = time.monotonic() - begun
            print(f"{how}: {asked.runs} runs with the expected bytes in {seconds:.0f} s: {listed}", flush=True)


if __name__ == "__main__":
    _main()
