"""How soon a watcher begins, what it costs while nothing happens, and whether its memory stays what it is.

    python benchmarks/watch.py [--drops 20] [--idle 60] [--soak 1440]

Latency: from the moment a copy is finished (its last byte is written, or it is renamed) to the moment at which the
table says "running", less the quiet time that was asked for. Idle: processor time of a watcher with nothing to do, on a
folder that holds 1000 stacks that are done. Soak: a day of a drop a minute, as fast as it goes: stacks of 144
shapes, some broken, each moved away when it is done; resident memory over it.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from watched import Running, rows, save, wait_until

QUIET = 1.0


def latency(place: Path, drops: int, interval: float, *arguments: object) -> tuple[float, float]:
    """Median and largest seconds beyond the quiet time from the end of a copy to the start of work. Copies end at any
    moment between two scans, `interval` seconds apart.
    """
    inbox, out = place / "in", place / "out"
    inbox.mkdir(parents=True)
    running = Running(inbox, out, "--quiet", QUIET, "--no-preview", *arguments)
    chance, found = random.Random(0), []
    try:
        wait_until((out / "status.html").exists)
        for i in range(drops):
            time.sleep(chance.uniform(0.0, interval))
            name = f"{i}.tif"
            data = save(place / "source.tif", i).read_bytes()
            with (inbox / name).open("wb") as stream:  # a copy that takes half a second
                for part in range(5):
                    stream.write(data[len(data) * part // 5 : len(data) * (part + 1) // 5])
                    stream.flush()
                    time.sleep(0.1)
            finished = time.time()
            running.until(lambda name=name: (running.row(name).get("started") or 0) > 0)
            found.append(running.row(name)["started"] - finished - QUIET)
            running.until(lambda i=i: len(running.verdicts) == i + 1)
    finally:
        running.end()
    return statistics.median(found), max(found)


def processor_seconds(pid: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(place: Path, seconds: float, *arguments: object) -> float:
    """Share of one core that a watcher takes while nothing happens."""
    inbox, out = place / "in", place / "out"
    for i in range(1000):
        save(inbox / str(i // 100) / f"{i}.tif", 0)  # all of one content: done once
    running = Running(inbox, out, "--quiet", 0.5, "--no-preview", *arguments)
    try:
        running.until(lambda: len(running.verdicts) == 1000, patience=500)
        time.sleep(5)
        before, begun = processor_seconds(running.process.pid), time.monotonic()
        time.sleep(seconds)
        return (processor_seconds(running.process.pid) - before) / (time.monotonic() - begun)
    finally:
        running.end()


def resident(pid: int) -> float:
    """MiB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def soak(place: Path, drops: int) -> list[tuple[int, float]]:
    """Stacks done, and resident memory, at eleven moments."""
    inbox, out = place / "in", place / "out"
    inbox.mkdir(parents=True)
    running = Running(
        inbox, out, "--quiet", 0.1, "--interval", 1, "--attempts", 1,
        "--move-done", place / "done", "--move-failed", place / "failed",
    )  # fmt: skip
    chance, found, shape = random.Random(0), [], (5, 80, 80)
    try:
        wait_until((out / "status.html").exists)
        for i in range(drops):
            if i % 10 == 0:  # a graph is compiled for each shape
                shape = (chance.randint(3, 8), chance.randint(40, 120), chance.randint(40, 120))
            if i % 20 == 19:
                (inbox / f"{i}.tif").write_bytes(b"broken" * i)
            else:
                save(place / "source.tif", i, shape).rename(inbox / f"{i}.tif")
            if i % max(1, drops // 10) == 0 or i == drops - 1:
                running.until(lambda i=i: len(running.verdicts) >= i, patience=600)
                found.append((i, resident(running.process.pid)))
                print(f"  {i} stacks, {found[-1][1]:.0f} MiB", file=sys.stderr, flush=True)
            while i - len(running.verdicts) > 10:
                time.sleep(0.02)
        running.until(lambda: len(running.verdicts) == drops, patience=600)
    finally:
        running.end()
    assert sum(row["state"] == "done" for row in rows(out).values()) == drops - drops // 20
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--soak", type=int, default=1440, metavar="DROPS")
    options = parser.parse_args()
    ways = {"events": (), "--poll --interval 2": ("--poll", "--interval", 2), "--poll": ("--poll",)}
    waits = {"events": 2.0, "--poll --interval 2": 2.0, "--poll": 30.0}
    if options.drops:
        print(f"{'start of work after copy + quiet':<36}{'median s':>10}{'largest s':>11}")
        for name, words in ways.items():
            with tempfile.TemporaryDirectory() as scratch:
                median, largest = latency(Path(scratch), options.drops, waits[name], *words)
            print(f"{name:<36}{median:>10.2f}{largest:>11.2f}", flush=True)
    if options.idle:
        print(f"\n{'idle, 1000 stacks':<36}{'of a core':>10}")
        for name, words in ways.items():
            if name == "--poll":
                continue
            with tempfile.TemporaryDirectory() as scratch:
                print(f"{name:<36}{idle(Path(scratch), options.idle, *words):>10.2%}", flush=True)
    if options.soak:
        with tempfile.TemporaryDirectory() as scratch:
            found = soak(Path(scratch), options.soak)
        print(f"\n{'stacks':>8}{'MiB':>8}")
        for done, size in found:
            print(f"{done:>8}{size:>8.0f}")


if __name__ == "__main__":
    main()
