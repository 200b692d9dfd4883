"""What SIGTERM and SIGINT do. Whatever is on disk is consistent at any moment, so a process may always end at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from densecell_batch.errors import Stopped

__all__ = ["leave_on_signals", "stop_on_signals"]


def leave_on_signals() -> None:
    """From now on a signal ends the process: while nothing has begun. An exception could get lost in an import."""
    _listen(_leave)


def stop_on_signals() -> None:
    """From now on a signal raises Stopped in the main thread, which tidies up."""
    _listen(_stop)


def _listen(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _words(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}; run the same command again to continue"


def _leave(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # a full disk
        os.write(2, f"densecell-batch: {_words(number)}\n".encode())
    os._exit(Stopped.exit_code)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends more than one; what follows tidies up, once
    signal.signal(signal.SIGINT, _leave)
    raise Stopped(_words(number))
