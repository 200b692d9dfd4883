"""What SIGTERM and SIGINT do. Whatever is on disk is consistent at any moment, so a process may always end at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from densecell_batch.errors import Stopped

__all__ = ["Stop", "leave_on_signals", "left_in_imports", "stop_on_signals"]


def leave_on_signals() -> None:
    """From now on a signal ends the process: while nothing has begun. An exception could get lost in an import."""
    _listen(_leave)


def stop_on_signals() -> None:
    """From now on a signal raises Stopped in the main thread, which tidies up."""
    _listen(_stop)


@contextmanager
def left_in_imports() -> Iterator[None]:
    """A block of imports: a signal that would raise Stopped ends the process, for an exception could get lost there."""
    raising = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _stop
    if raising:
        leave_on_signals()
    try:
        yield
    finally:
        if raising:
            stop_on_signals()


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


class Stop:
    """Whether the process was asked to stop.

    Parameters
    ----------
    patience
        Seconds until a process that puts off the end ends whatever it does.
    """

    def __init__(self, *, patience: float = 8.0) -> None:
        self._patience = patience
        self._asked = ""
        self._heeding = False

    def install(self) -> None:
        """Take over the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:  # once is enough: what follows tidies up
            return
        self._asked = signal.Signals(number).name
        timer = threading.Timer(self._patience, os._exit, (Stopped.exit_code,))
        timer.daemon = True
        timer.start()
        if self._heeding:
            raise self._stopped()

    def _stopped(self) -> Stopped:
        return Stopped(f"stopped by {self._asked}; run the same command again to continue")

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """A block that a signal ends at once, with Stopped."""
        if self._asked:
            raise self._stopped()
        before, self._heeding = self._heeding, True
        try:
            if self._asked:  # between the lines above
                raise self._stopped()
            yield
        finally:
            self._heeding = before
