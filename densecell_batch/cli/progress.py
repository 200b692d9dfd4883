"""How far a run is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Self

__all__ = ["ProgressBar", "duration"]

_log = logging.getLogger(__name__)

_OFTEN = 600.0  # seconds


def duration(seconds: float) -> str:
    """Seconds in words."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


class ProgressBar:
    """A bar with voxels/s and time left on a terminal. Elsewhere a line for each tenth and each ten minutes: ImageJ's
    `exec` hangs once a child has written 64 KiB to stderr, and who hears nothing for long takes it for dead.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._what, self._since, self._said = "", 0.0, time.monotonic()
        self._first, self._last, self._tenth = 0, 0, 0  # what was there when it began, was last said, was last shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` voxels are done."""
        if what != self._what or done < self._last:
            self.close()
            self._what, self._since = what, time.monotonic()
            self._first, self._tenth = done, 10 * done // total
        self._last = done
        if sys.stderr.isatty():
            self._draw(what, done, total)
        elif time.monotonic() > self._said + _OFTEN or (what == "segmenting" and 10 * done // total > self._tenth):
            self._tenth, self._said = 10 * done // total, time.monotonic()
            seconds = max(time.monotonic() - self._since, 1e-9)
            rate = (done - self._first) / seconds  # what an earlier run made was not computed now
            percent = 100 * done // total
            if what == "segmenting" and rate > 0:
                _log.info("%s: %d %%, %.3g voxels/s, %s left", what, percent, rate, duration((total - done) / rate))
            else:
                _log.info("%s: %d %%", what, percent)

    def _draw(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, desc=what, unit="voxel" if what == "segmenting" else "slice",
                unit_scale=True, leave=False,
            )  # fmt: skip
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar, so that other lines can be written."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""
