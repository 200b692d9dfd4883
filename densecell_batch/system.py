"""What the machine has: memory that is left, threads, the processor, whether a graphics card is there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from densecell_batch.errors import StackError

__all__ = [
    "CPU_FEATURES",
    "amd_present",
    "available_memory",
    "cpu_features",
    "cpu_name",
    "need_memory",
    "nvidia_present",
    "threads",
]

# Instruction sets that decide how fast nets are.
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni", "avx_vnni", "amx_int8")


def available_memory() -> int:
    """Bytes that this process may still take: the smaller of free memory and what its control group leaves."""
    free = _meminfo().get("MemAvailable", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min([free, *_left_in_cgroups()])


def need_memory(path: Path, needed: int) -> None:
    """Refuse a file that is read as a whole and, as it describes itself, does not fit in memory.

    Raises
    ------
    StackError
        If there are no `needed` bytes.
    """
    free = available_memory()
    if needed > free:
        raise StackError(
            f"{path}: as it describes itself it takes {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are "
            "free; cut out a part of it, or use a machine with more"
        )


def _left_in_cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that the control groups of this process leave it: those of a container, or of a job of Slurm.

    The groups are nested, and each has a limit. What files in the cache take counts as used, but can be had.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        # Within a container the path may be that of the host; what is mounted at the top is then the container's own.
        for folder in [group, *group.parents][: len(group.parts) - len(top.parts) + 1]:
            try:
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                statistics = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group here, or no limit ("max")
                continue
            left.append(max(limit - used + int(statistics.get(names[2], 0)), 0))
    return left


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {
        key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines) if value.split()
    }


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none (macOS)."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def cpu_name() -> str:
    """What the processor calls itself."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Those of its instruction sets that decide how fast nets are."""
    flags = set(_cpuinfo().get("flags", "").split())
    return tuple(flag for flag in CPU_FEATURES if flag in flags)


def nvidia_present() -> str | None:
    """Where an NVIDIA device shows itself, if there is one."""
    return next((path for path in ("/proc/driver/nvidia/version", "/dev/nvidia0") if Path(path).exists()), None)


def amd_present() -> bool:
    """Whether there is a graphics card of AMD whose driver computes."""
    return Path("/dev/kfd").exists()
