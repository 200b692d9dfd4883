"""What is run after each stack: words, never a shell, with what happened in environment variables."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from densecell_batch.errors import OptionError
from densecell_batch.printable import printable_path
from densecell_batch.runs.batch import Verdict

__all__ = ["parse_hook", "run_hook"]

_log = logging.getLogger(__name__)

_PATIENCE = 600.0  # seconds; a hook that hangs must not end the watching


def parse_hook(text: str) -> tuple[str, ...]:
    """The words of a command line.

    Raises
    ------
    OptionError
        If its quotes do not match, or there is no such program.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise OptionError(f"--hook {text!r}: {error}; expected a program and its arguments") from error
    if not words or shutil.which(words[0]) is None:
        raise OptionError(f"--hook {text!r}: no such program; expected one that can be run, and its arguments")
    return words


def run_hook(words: Sequence[str], verdict: Verdict, out: Path) -> None:
    """Run a hook and wait for it. If it fails, the log says so, and nothing else happens."""
    said = {
        "STATUS": "ok" if verdict.ok else "failed",
        "STACK": verdict.stack.absolute(),
        "OUT": out.absolute(),
        "LABELS": verdict.labels.absolute() if verdict.labels else "",
        "REPORT": verdict.report.absolute() if verdict.report else "",
        "REASON": verdict.reason,
    }
    environment = {**os.environ, **{f"DENSECELL_{name}": printable_path(value) for name, value in said.items()}}
    sys.stderr.flush()
    try:
        # Its output goes to stderr: on stdout are the verdicts, and nothing else.
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=2)
    except OSError as error:
        _log.error("--hook %s: %s", words[0], error.strerror)
        return
    try:
        code = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        _log.error("--hook %s: ended after %.0f s", words[0], _PATIENCE)
        return
    finally:
        if process.poll() is None:  # too slow, or we are stopped: the next start runs it again
            process.kill()
            process.wait()
    if code:
        _log.error("--hook %s: exit code %d for %s", words[0], code, verdict.stack)
