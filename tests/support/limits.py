"""Run a command with no more than so much memory: a cgroup, version 1 or 2."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def memory_limit(size: int) -> Iterator[Path | None]:
    """A cgroup whose processes get `size` bytes; None where none can be made (no root, or in a container)."""
    root = _V1 if (_V1 / "memory.limit_in_bytes").exists() else _V2
    try:
        group = Path(tempfile.mkdtemp(prefix="densecell-", dir=root))
    except OSError:
        yield None
        return
    try:
        limit = next(
            (group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()), None
        )
        if limit is None:
            yield None
            return
        limit.write_text(str(size))
        yield group
    finally:
        group.rmdir()


def run_in(group: Path, command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run a command in a cgroup."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
    )


def peak(group: Path) -> int:
    """Most bytes that the processes of a cgroup held, the cache of files included."""
    name = next(n for n in ("memory.max_usage_in_bytes", "memory.peak") if (group / n).exists())
    return int((group / name).read_text())
