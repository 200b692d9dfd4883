"""What a watcher has to survive, at any length::

    python tests/support/soak_watch.py --kills 100         # one watcher, killed at random moments
    python tests/support/soak_watch.py --nodes 100         # so many stacks, two watchers, one of them killed
    python tests/support/soak_watch.py --burst 500         # so many stacks at once

`test_watch_soak.py` runs less of the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from watched import Running, command, kill, partial_outputs, rows, save, wait_until

QUICK = ("--quiet", 0.3, "--interval", 0.5, "--backoff", 0.3, "--attempts", 2, "--no-preview")

# A node with a name of its own, whose claims expire sooner, so that the test does not take five minutes.
NODE = """
import sys
from densecell_batch import cli
from densecell_batch.storage import claims
claims.PATIENCE = claims.Patience(heartbeat=1.0, expiry=6.0)
sys.argv = ["densecell-batch", *sys.argv[1:]]
cli.main()
"""


class Once:
    """That what is done stays done: each result is the same file for ever."""

    def __init__(self, out: Path) -> None:
        self.out, self.seen, self.errors = out, {}, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *details):
        self._over.set()
        self._thread.join()
        if details[0] is None:
            assert not self.errors, self.errors

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            try:
                self.check()
            except AssertionError as error:
                self.errors.append(str(error))

    def check(self) -> None:
        broken = partial_outputs(self.out)
        assert not broken, broken
        for report in self.out.glob("*_report.json"):
            try:
                found = report.stat()
            except FileNotFoundError:
                continue
            identity = (found.st_ino, found.st_mtime_ns)
            assert self.seen.setdefault(report.name, identity) == identity, f"{report.name} was made twice"


def check_results(inbox: Path, out: Path, expected: int) -> None:
    """Every stack has whole results of its very content, once."""
    reports = list(out.glob("*_report.json"))
    assert len(reports) == expected, (len(reports), expected)
    for path in reports:
        report = json.loads(path.read_text())
        source = inbox / path.name.replace("_report.json", ".tif")
        assert report["input"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        for output in report["outputs"].values():
            assert (out / output["file"]).stat().st_size == output["bytes"]
    states = [row["state"] for row in rows(out).values()]
    assert states == ["done"] * expected, states
    assert not list(out.glob("*.old-*")), "nothing changed, so nothing is old"
    assert not list(out.glob(".*.parts-*")), "work that was begun and forgotten"
    left = [path.name for path in (out / ".densecell-watch" / "claims").iterdir()]
    assert not left, f"claims that nobody has: {left}"


def kills(place: Path, number: int, seed: int = 0, longest: float = 7.0) -> dict[str, object]:
    """Kill a watcher again and again while stacks drop in; then let it finish."""
    chance = random.Random(seed)
    inbox, out = place / "in", place / "out"
    inbox.mkdir()
    shapes = [(3, 40, 44), (12, 200, 220), (24, 256, 256)]
    stacks, during = 0, dict.fromkeys(("before any work", "between stacks", "in a stack"), 0)
    with Once(out) as once:
        for i in range(number):
            begun = time.time()
            running = Running(inbox, out, *QUICK)
            for _ in range(chance.choice([1, 1, 2])):
                save(inbox / f"{stacks}.tif", stacks, chance.choice(shapes))
                stacks += 1

            def worked(begun=begun) -> list[object]:
                return [row["state"] for row in rows(out).values() if row["started"] >= begun]

            # Most of the time soon after it began to work on something, else at any moment.
            if i % 4 and stacks:
                until = time.monotonic() + 60
                while time.monotonic() < until and not worked():
                    time.sleep(0.02)
                time.sleep(chance.uniform(0, 1.5))
            else:
                time.sleep(chance.uniform(0, longest))
            kill(running.process)
            states = worked()
            during["in a stack" if "running" in states else "between stacks" if states else "before any work"] += 1
            running.end()
        last = subprocess.run(
            command(inbox, out, *QUICK, "--once"), capture_output=True, text=True, timeout=600, check=False
        )
        assert last.returncode == 0, last.stderr[-3000:]
        once.check()
    check_results(inbox, out, stacks)
    return {"kills": number, "stacks": stacks, **during, "done once": len(once.seen)}


class Node(Running):
    """A watcher on a machine of another name."""

    def __init__(self, name: str, inbox: Path, out: Path, *arguments: object) -> None:
        self.name = name
        super().__init__(inbox, out, *arguments)

    def words(self, inbox: Path, out: Path, *arguments: object) -> list[str]:
        words = command(inbox, out, *arguments)
        start = f'hostname {self.name}; exec "$@"'
        return ["unshare", "--uts", "sh", "-c", start, "sh", sys.executable, "-c", NODE, *words[3:]]


def can_be_nodes() -> bool:
    """Whether machine names can be given here."""
    done = subprocess.run(["unshare", "--uts", "hostname", "a-node"], capture_output=True, check=False)
    return done.returncode == 0


def nodes(place: Path, number: int) -> dict[str, object]:
    """Two watchers on one folder, one killed with a claim in its hand; what the other makes of it."""
    inbox, out = place / "in", place / "out"
    for i in range(number):
        save(inbox / f"{i}.tif", i, (6, 100, 100))
    first, second = (Node(name, inbox, out, *QUICK) for name in ("node-a", "node-b"))
    try:
        with Once(out) as once:
            # In the midst of it, and of a stack.
            wait_until(lambda: first.said("ok") > number // 5 and second.said("ok") > number // 5, patience=400)
            wait_until(lambda: any(r["state"] == "running" and "node-a" in r["watcher"] for r in rows(out).values()))
            kill(first.process)
            first.end()
            killed = time.monotonic()
            second.until(lambda: len(list(out.glob("*_report.json"))) == number, patience=400)
            recovered = time.monotonic() - killed
            assert second.end() == 75
        # What the one that was killed left in its own table, the next one finds there.
        last = Node("node-c", inbox, out, *QUICK, "--once")
        assert last.process.wait(600) == 0, last.log.read_text()[-3000:]
        last.end()
        verdicts = [verdict[2] for node in (first, second, last) for verdict in node.verdicts]
        assert len(set(verdicts)) == len(verdicts), "a stack was done twice"
        once.check()
        check_results(inbox, out, number)
    finally:
        for node in (first, second):
            node.end()
    shares = {node.name: len(node.verdicts) for node in (first, second)}
    return {"stacks": number, **shares, "seconds after the kill": round(recovered, 1)}


def burst(place: Path, number: int) -> dict[str, object]:
    """Many stacks at once."""
    inbox, out = place / "in", place / "out"
    inbox.mkdir()
    running = Running(inbox, out, *QUICK)
    try:
        wait_until((out / "status.html").exists)
        for i in range(number):
            save(place / "source" / f"{i}.tif", i)
        begun = time.monotonic()
        for i in range(number):
            (place / "source" / f"{i}.tif").rename(inbox / f"{i}.tif")
        running.until(lambda: len(running.verdicts) >= number, patience=500)
        seconds = time.monotonic() - begun
    finally:
        assert running.end() == 75
    assert all(verdict[1] == "ok" for verdict in running.verdicts)
    assert len({verdict[2] for verdict in running.verdicts}) == len(running.verdicts) == number
    check_results(inbox, out, number)
    return {"stacks": number, "seconds": round(seconds, 1), "a stack": round(seconds / number, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("kills", "nodes", "burst"):
        parser.add_argument(f"--{name}", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, function in (("kills", kills), ("nodes", nodes), ("burst", burst)):
        number = getattr(options, name)
        if number:
            with tempfile.TemporaryDirectory() as scratch:
                more = (options.seed,) if name == "kills" else ()
                print(name, function(Path(scratch), number, *more), flush=True)


if __name__ == "__main__":
    main()
