"""`segment --workers N`: the same command in N processes, one for each GPU, each with its shard of every stack."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from densecell_batch.errors import OptionError, Stopped
from densecell_batch.own_python import python_command, python_environment

__all__ = ["SHARD_VARIABLE", "count_workers", "run_workers"]

_log = logging.getLogger(__name__)

SHARD_VARIABLE = "DENSECELL_WORKER_SHARD"  # I/N; set for the processes that are started here
_PATIENCE = 15.0  # seconds for a worker to stop


def count_workers(text: str) -> int:
    """The number in `--workers N`; for "auto" that of the GPUs, at least 1.

    Raises
    ------
    OptionError
        If it is no number from 1 on.
    """
    if text == "auto":
        return max(1, len(_gpus()))
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise OptionError(f"--workers is {text!r}; expected a number from 1 on, or auto: one for each GPU")
    return int(text)


def _gpus() -> list[str]:
    """The GPUs that this process may use, by what CUDA calls them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [str(i) for i in range(64) if Path(f"/dev/nvidia{i}").exists()]


def run_workers(n: int) -> dict[str, str]:
    """Run this very command in `n` processes and wait for them.

    Returns
    -------
    dict
        Stack -> why it failed, as a worker said.

    Raises
    ------
    Stopped
        If this process was stopped, or a worker was.
    """
    gpus, workers = _gpus(), []
    try:
        for i in range(n):
            environment = python_environment(**{SHARD_VARIABLE: f"{i + 1}/{n}"})
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
            workers.append(
                subprocess.Popen(
                    python_command("densecell_batch", *sys.argv[1:]),
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        _log.info("%d workers%s", n, f" on {len(gpus)} GPUs" if gpus else "")
        said = [worker.communicate()[0] for worker in workers]
    except BaseException:
        _stop(workers)
        raise
    codes = [worker.returncode for worker in workers]
    if Stopped.exit_code in codes:
        raise Stopped("a worker was stopped; run the same command again to continue")
    reasons = {}
    for line in "".join(said).splitlines():
        fields = line.split("\t")
        if fields[:2] == ["DENSECELL", "failed"] and len(fields) == 4:
            reasons[fields[2]] = fields[3]
    killed = [code for code in codes if code < 0]
    if killed:
        _log.error("%d workers were killed (signal %s): too little memory?", len(killed), -killed[0])
    return reasons


def _stop(workers: list[subprocess.Popen[str]]) -> None:
    """End all workers, kindly at first."""
    for worker in workers:
        worker.terminate()
    until = time.monotonic() + _PATIENCE
    for worker in workers:
        try:
            worker.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
