"""What something takes, told so that it does not matter who else is at work on the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def processor_seconds(pid: int) -> float:
    """What a process took of the processors so far; 0 if it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work_until(ended: Callable[[], bool], pid: int, patience: float = 60) -> float:
    """Wait until a process has ended; the seconds of the processor that it took meanwhile."""
    begun = last = processor_seconds(pid)
    until = time.monotonic() + patience
    while not ended():
        assert time.monotonic() < until, f"it did not end in {patience:g} s"
        last = max(last, processor_seconds(pid))
        time.sleep(0.01)
    return last - begun


def least(function: Callable[[], object], clock: Callable[[], float] = time.process_time, times: int = 5) -> float:
    """The seconds that a function takes at least: others can make it slower, nobody quicker."""
    found = []
    for _ in range(times):
        begun = clock()
        function()
        found.append(clock() - begun)
    return min(found)


def children_seconds() -> float:
    """What the children of this process that were waited for took of the processors so far."""
    times = os.times()
    return times.children_user + times.children_system
