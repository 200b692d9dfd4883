"""A user's ImageJ macro, run in a process of its own, so that one that fails, hangs or opens a dialog harms nothing.

::

    this process                             python -P -m densecell_batch.imagej.worker FOLDER
    MacroTask -> FOLDER/task.json      ->    screen, JVM, ImageJ, image, macro
    MacroOutcome <- FOLDER/outcome.json <-   value, tables, resulting image

The other process watches the macro: its time limit, and windows that wait for somebody to click.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from densecell_batch.errors import ImageJError, MacroError, OptionError
from densecell_batch.imagej.find import find_imagej, find_java
from densecell_batch.own_python import python_command, python_environment
from densecell_batch.system import available_memory

__all__ = ["Ended", "Macro", "MacroHooks", "MacroOutcome", "MacroTask", "Table", "read_hooks", "read_task", "run_apart"]

_log = logging.getLogger(__name__)

_SUFFIXES = (".ijm", ".txt")
_LEAST_HEAP = 2**29  # bytes


@dataclass(frozen=True)
class Macro:
    """The text of a macro, read once: what is checked, hashed and run is the same."""

    name: str  # of the file
    text: str
    sha256: str  # of the file's bytes

    @classmethod
    def read(cls, path: Path) -> Macro:
        """Read a macro; UTF-8, or Latin-1 as ImageJ itself does.

        Raises
        ------
        OptionError
            If it cannot be read or is no ImageJ macro.
        """
        if path.suffix.lower() not in _SUFFIXES:
            raise OptionError(f"{path}: expected an ImageJ macro, whose name ends in {' or '.join(_SUFFIXES)}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise OptionError(f"{path}: the macro cannot be read: {error.strerror}") from error
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        if not text.strip() or "\0" in text:
            found = "none" if not text.strip() else "binary data"
            raise OptionError(f"{path}: expected the text of an ImageJ macro, found {found}")
        return cls(path.name, text.replace("\r\n", "\n").replace("\r", "\n"), hashlib.sha256(content).hexdigest())

    def line(self, number: int) -> str:
        """Line `number`, from 1; empty where there is none."""
        lines = self.text.split("\n")
        return lines[number - 1].strip() if 1 <= number <= len(lines) else ""


@dataclass(frozen=True)
class MacroTask:
    """What the other process is to do."""

    macro: Macro
    argument: str = ""  # what getArgument() returns
    image: Path | None = None  # stack that is open and active when the macro begins
    voxel_size: tuple[float, float, float] | None = None  # (z, y, x) in um; overrides that of the image
    colours: Sequence[Sequence[int]] | None = None  # (n, 3), colour of each value of the image
    class_names: Sequence[str] | None = None
    result: Path | None = None  # where the image that is active at the end goes
    time_limit: float = 600.0  # seconds for the macro, without the start of ImageJ
    imagej: str | None = None  # see `find_imagej`
    download: bool = False
    heap: int | None = None  # bytes for Java; None: half of what is free


@dataclass(frozen=True)
class Table:
    """A table that a macro filled."""

    title: str
    headings: list[str]
    rows: list[list[float | str | None]]


@dataclass(frozen=True)
class MacroOutcome:
    """What a macro left."""

    value: str | None  # what it returned
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on the resulting image
    imagej: str = ""  # version and place
    seconds: float = 0.0  # that the macro took


@dataclass(frozen=True)
class Ended:
    """How the other process ended: with what the macro left, or what went wrong."""

    outcome: MacroOutcome | None = None
    imagej_error: str = ""
    macro_error: str = ""


def read_task(path: Path) -> MacroTask:
    """The task that `run_apart` wrote down."""
    return msgspec.json.decode(path.read_bytes(), type=MacroTask, dec_hook=lambda kind, value: kind(value))


def run_apart(task: MacroTask, *, echo: bool = False, grace: float = 60.0) -> MacroOutcome:
    """Run a macro in a process of its own and wait for it.

    Parameters
    ----------
    task
        What to run on what.
    echo
        Whether what the macro prints goes to stderr; it is logged for -v otherwise.
    grace
        Seconds beyond its limit that the other process has to notice and say so.

    Raises
    ------
    ImageJError
        If there is no ImageJ or no Java, or they do not start.
    MacroError
        If the macro failed, ran too long or opened a dialog.
    """
    find_java()
    if not task.download:  # what may take long is left to the worker
        find_imagej(task.imagej)
    with tempfile.TemporaryDirectory(prefix="densecell-macro-") as name:
        folder = Path(name)
        task = replace(task, heap=task.heap or max(_LEAST_HEAP, available_memory() // 2))
        (folder / "task.json").write_bytes(msgspec.json.encode(task, enc_hook=os.fsdecode))
        with (folder / "said.txt").open("wb") as said:
            code = _wait(folder, task, None if echo else said, task.time_limit + grace)
        text = (folder / "said.txt").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            _log.debug("%s: %s", task.macro.name, line)
        ended = _read(folder / "outcome.json")
    if ended is None:
        last = " ".join(text.split()[-40:])
        raise MacroError(f"{task.macro.name}: the process that ran it ended with {code}; it said: {last or 'nothing'}")
    if ended.imagej_error:
        raise ImageJError(ended.imagej_error)
    if ended.outcome is None:
        raise MacroError(ended.macro_error)
    return ended.outcome


def _wait(folder: Path, task: MacroTask, output: Any, patience: float) -> int:
    """Run the worker to its end; its exit code. However this is left, it and what it started are gone. `patience` is
    what it has from the beginning of the macro to its end, in seconds.
    """
    worker = subprocess.Popen(
        python_command("densecell_batch.imagej.worker", str(folder), str(os.getpid())),
        env=python_environment(),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if output is None else output,
        stderr=None if output is None else output,
        start_new_session=True,
    )
    try:
        begun = 0.0
        while worker.poll() is None:
            if not begun and (folder / "begun").exists():
                begun = time.monotonic()
            if begun and not (folder / "over").exists() and time.monotonic() - begun > patience:
                raise MacroError(f"{task.macro.name}: still running after its limit of {task.time_limit:g} s")
            time.sleep(0.05)
    finally:
        _end(worker)
    return worker.returncode


def _end(worker: subprocess.Popen[bytes]) -> None:
    """End the worker's process group: itself, and the screen that it started, which stays if the worker was killed."""
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(worker.pid, number)
            worker.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _read(path: Path) -> Ended | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ended)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class MacroHooks:
    """The macros of a run."""

    pre: Macro | None = None
    post: Macro | None = None
    time_limit: float = 1800.0  # seconds for each macro on each stack
    imagej: str | None = None  # as for `find_imagej`


def read_hooks(pre: Path | None, post: Path | None, time_limit: float, imagej: str | None) -> MacroHooks:
    """Read the macros, and fail now for what would fail at the first stack.

    Raises
    ------
    OptionError
        If a macro cannot be read.
    ImageJError
        If there is no ImageJ or no Java for them.
    """
    hooks = MacroHooks(
        None if pre is None else Macro.read(pre), None if post is None else Macro.read(post), time_limit, imagej
    )
    if hooks.pre or hooks.post:
        find_java()
        _log.info("macros run in the ImageJ of %s", find_imagej(imagej).where)
    return hooks
