"""`densecell-batch` in processes that are forked from one that has imported TensorFlow but not used it.

Each is as fresh as one that was started anew, but for its imports, which take seconds. A test of the very start of a
process (its streams, its environment, signals while it imports) starts a real one.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROCESSES = multiprocessing.get_context("forkserver")
_IMPORTED = [
    "densecell_batch.nets.build",  # TensorFlow, as the program imports it: without its greetings
    "densecell_batch.cli.segment", "densecell_batch.cli.train", "densecell_batch.cli.watch",
    "densecell_batch.inference.segmenter", "densecell_batch.runs.batch", "densecell_batch.training.restarts",
    "densecell_batch.watch.watcher",
]  # fmt: skip


def _body(words: list[str], streams: tuple[str, str], environment: dict[str, str], prepare: Any) -> None:
    """What the process does: `densecell-batch WORDS`, with stdout and stderr in files."""
    for descriptor, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["densecell-batch", *words]
    faulthandler.register(signal.SIGUSR2, file=2, chain=False)
    if prepare is not None:
        prepare()
    from densecell_batch.cli import main

    main()


def start(words: list[str], stdout: Path, stderr: Path, prepare: Callable[[], None] | None = None) -> Any:
    """Start a command in the environment and the folder of this process; `prepare` is called in it before."""
    _PROCESSES.set_forkserver_preload(_IMPORTED)
    streams = (str(stdout), str(stderr))
    process = _PROCESSES.Process(target=_body, args=(words, streams, dict(os.environ), prepare))
    process.start()
    return process


class Command:
    """A command that runs, with the methods of `subprocess.Popen` that tests use.

    Parameters
    ----------
    *words
        The command line, without the program.
    prepare
        What is called in the process before; it can be pickled.
    """

    def __init__(self, *words: object, prepare: Callable[[], None] | None = None) -> None:
        self.args = ["densecell-batch", *map(str, words)]
        folder = Path(tempfile.mkdtemp(prefix="densecell-command-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._streams = folder / "stdout", folder / "stderr"
        for path in self._streams:
            path.touch()
        self._process = start(self.args[1:], *self._streams, prepare)
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.returncode

    def heard(self) -> tuple[str, str]:
        """What it said so far, to stdout and to stderr."""
        stdout, stderr = (path.read_text() for path in self._streams)
        return stdout, stderr

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it ended."""
        self._process.join(timeout)
        if self.returncode is None:
            self.send_signal(signal.SIGUSR2)  # where each of its threads is, to stderr
            self._process.join(2)
            raise AssertionError(f"{self.args} still runs after {timeout} s:\n" + "\n".join(self.heard()))
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said in all."""
        self.wait(timeout)
        return self.heard()

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it ends at this moment
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; killed, and an error, after so many seconds."""
    command = Command(*words)
    try:
        stdout, stderr = command.communicate(timeout)
    finally:
        command.kill()
    return subprocess.CompletedProcess(command.args, command.returncode, stdout, stderr)
