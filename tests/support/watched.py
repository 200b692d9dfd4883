"""A watcher in a process of its own, and stacks to drop."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import tifffile

from densecell_batch.data import SAMPLE

BUNDLE = Path(__file__).parents[1] / "data/fly-vnc-small.zip"
PATIENCE = 90.0  # seconds; the machine may be busy
_VOLUME = tifffile.imread(SAMPLE)


def save(path: Path, number: int = 0, shape: tuple[int, int, int] = (3, 40, 44)) -> Path:
    """A small real stack; another content for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shift = number % 200
    volume = np.resize(np.roll(_VOLUME, (shift, number // 200), (1, 2)), (max(shape[0], 10), *_VOLUME.shape[1:]))
    volume = np.tile(volume, (1, -(-shape[1] // 256), -(-shape[2] // 256)))
    volume = np.ascontiguousarray(volume[: shape[0], : shape[1], : shape[2]])
    volume[0, 0, :4] = np.frombuffer(np.uint32(number).tobytes(), np.uint8)
    resolution = (1 / 0.0092, 1 / 0.0092)
    tifffile.imwrite(
        path, volume, imagej=True, resolution=resolution, metadata={"axes": "ZYX", "spacing": 0.047, "unit": "um"}
    )
    return path


def words(inbox: Path, out: Path, *arguments: object) -> list[str]:
    found = ["watch", inbox, "-o", out, "--model", BUNDLE, *arguments, "--precision", "float32"]
    return [str(word) for word in found]


def command(inbox: Path, out: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "densecell_batch", *words(inbox, out, *arguments)]


class Running:
    """A watcher process; its verdicts as they come."""

    def __init__(self, inbox: Path, out: Path, *arguments: object) -> None:
        self.inbox, self.out = inbox, out
        self.log = out.with_name(out.name + ".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words(inbox, out, *arguments),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.verdicts: list[list[str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def words(self, inbox: Path, out: Path, *arguments: object) -> list[str]:
        return command(inbox, out, *arguments)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.verdicts.append(line.rstrip("\n").split("\t"))

    def said(self, *what: str) -> int:
        """How many verdicts there are with these texts in them."""
        return sum(all(text in "\t".join(verdict) for text in what) for verdict in list(self.verdicts))

    def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait for something, as long as the process runs."""
        wait_until(condition, lambda: self.process.poll() is None, patience, self.log)

    def row(self, name: str) -> dict[str, object]:
        """What the table says of a stack."""
        return rows(self.out).get(name, {})

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        self.process.stdout.close()
        return code


def wait_until(
    condition: Callable[[], object],
    alive: Callable[[], bool] = lambda: True,
    patience: float = PATIENCE,
    log: Path | None = None,
) -> None:
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until or not alive():
            said = log.read_text()[-3000:] if log is not None else ""
            raise AssertionError(f"it did not happen{'' if alive() else ': the process ended'}\n{said}")
        time.sleep(0.05)


def rows(out: Path) -> dict[str, dict[str, object]]:
    """The tables of all watchers, read as anybody would; of a stack that is in several, what was written last."""
    found = {}
    for path in sorted((out / ".densecell-watch").glob("ledger-*.sqlite")):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
                database.row_factory = sqlite3.Row
                for row in database.execute("SELECT * FROM stacks"):
                    if row["updated"] >= found.get(row["name"], row)["updated"]:
                        found[row["name"]] = dict(row)
        except sqlite3.OperationalError:
            continue  # it is just being made
    return found


def partial_outputs(out: Path) -> list[str]:
    """Files under a final name that are not whole."""
    broken = []
    for path in everything(out):
        if not path.name.endswith("_labels.tif"):
            continue
        try:
            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                if path.stat().st_size < series.dataoffset + series.nbytes:
                    broken.append(path.name)
        except Exception as error:
            broken.append(f"{path.name}: {error}")
    return broken


def everything(folder: Path) -> list[Path]:
    """All files below a folder, which may change meanwhile."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def kill(process: subprocess.Popen[str]) -> None:
    """As power does."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
