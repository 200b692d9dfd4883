"""What the user asks of the watching."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["WatchOptions"]


@dataclass(frozen=True)
class WatchOptions:
    """What the user asks of the watching; the flags of `densecell-batch watch`."""

    interval: float = 30.0  # seconds between scans
    quiet: float = 30.0  # seconds without a change
    attempts: int = 3
    backoff: float = 60.0  # seconds after the first failure; doubled after each further one
    poll: bool = False
    once: bool = False
    slices: bool = True
    marker: str = ".done"
    hook: tuple[str, ...] = ()
    max_voxels: float = 1e13  # of a stack
    move_done: Path | None = None
    move_failed: Path | None = None
    summary: bool = True  # whether to write the page of all stacks
