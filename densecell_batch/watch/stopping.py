"""SIGTERM and SIGINT: heeded where work may be dropped, put off where a state is being written, never for long."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from densecell_batch.errors import Stopped

__all__ = ["Stop"]

_PATIENCE = 8.0  # seconds until the process ends whatever it does: what is on disk is consistent at any moment


class Stop:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
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
        timer = threading.Timer(_PATIENCE, os._exit, (Stopped.exit_code,))
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
