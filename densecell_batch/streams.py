"""The standard streams: where a program prints must not decide what becomes of its work.

stdout can be a file on a disk that is full, a pipe whose reader has left, or closed, and so can stderr. From `secure`
on, printing never fails: what stdout does not take is kept, tried again with the next line, and told of at the end;
what stderr does not take is dropped, for nobody is there to be told.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
from typing import Any

__all__ = ["Outlet", "secure"]

_log = logging.getLogger(__name__)


class Outlet(io.FileIO):
    """The raw end of stdout or stderr, which takes all that it is given.

    Parameters
    ----------
    descriptor
        1 or 2.
    keeps
        Whether what cannot be written is kept for another try.
    """

    def __init__(self, descriptor: int, *, keeps: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._keeps, self._waiting = keeps, bytearray()
        self._reason = ""

    def write(self, data: Any) -> int:
        """Write, or keep, or drop; the number of bytes, always all of them."""
        content = bytes(data)
        self._waiting += content
        self._drain()
        return len(content)

    def _drain(self) -> None:
        try:
            while self._waiting:
                written = super().write(self._waiting)
                if written is None:  # a pipe that is full, and was set not to wait
                    select.select([], [self], [])
                else:
                    del self._waiting[:written]
        except OSError as error:
            if error.errno == errno.EPIPE or not self._keeps:  # the reader has all that it wanted
                self._waiting.clear()
                return
            if not self._reason:
                reason = error.strerror or str(error)
                _log.warning("stdout cannot be written (%s); the work goes on", reason)
            self._reason = error.strerror or str(error)

    def unwritten(self) -> str:
        """How much could not be written, and why, after a last try; "" if all was."""
        self._drain()
        if not self._waiting:
            return ""
        lines = len(self._waiting.splitlines())
        return f"{self._reason}, so {lines} line{' is' if lines == 1 else 's are'} missing there"


def secure() -> Outlet | None:
    """Make sure that there are standard streams and that printing to them never fails.

    Returns
    -------
    Outlet or None
        stdout; None if something else has taken its place, as in tests.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (for as long as the process lives)
    stdout = None
    if sys.stdout is sys.__stdout__:
        stdout = Outlet(1, keeps=True)
        sys.stdout = _text(stdout, sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(Outlet(2, keeps=False), sys.__stderr__)
    return stdout


def _text(outlet: Outlet, like: object) -> io.TextIOWrapper:
    """A text stream in place of another one, or of none; also of names that its encoding does not have."""
    errors = getattr(like, "errors", "strict")
    return io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding=getattr(like, "encoding", "utf-8"),
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=getattr(like, "line_buffering", False),
    )
