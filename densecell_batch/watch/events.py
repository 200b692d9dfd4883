"""Events of the file system, which only make the next scan come earlier: nothing is decided by what they say."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Events"]

_log = logging.getLogger(__name__)

_CHANGES = {"created", "modified", "moved", "deleted", "closed"}  # reading is none


class Events:
    """Calls `wake`, in another thread, when something changes below a folder.

    Where there are no events (no `watchdog` installed, too many folders, a system without them), the log says so once;
    scans at intervals find everything all the same.

    Parameters
    ----------
    root
        The watched folder.
    skip
        Folders whose changes are our own.
    wake
        What to call.
    """

    def __init__(self, root: Path, skip: Sequence[Path], wake: Callable[[], None]) -> None:
        self._root, self._wake = root, wake
        self._skip = tuple(os.path.join(os.path.abspath(path), "") for path in skip)  # noqa: PTH100, PTH118
        self._observer: Any = None
        self._folder: tuple[int, int] | None = None  # device and inode of the one that is watched
        self._hopeless = False

    def attend(self) -> None:
        """Begin, or begin again where the folder is another one than before: it was unmounted and came back."""
        if self._hopeless:
            return
        try:
            found = self._root.stat()
        except OSError:
            self.close()
            return
        folder = (found.st_dev, found.st_ino)
        if folder == self._folder and self._observer is not None and self._observer.is_alive():
            return
        self.close()
        try:
            from watchdog.events import FileSystemEventHandler
            from watchdog.observers import Observer
        except ImportError:
            self._give_up("watchdog is not installed")
            return
        events = self

        class Handler(FileSystemEventHandler):
            """Passes on what changes something."""

            def on_any_event(self, event: Any) -> None:
                path = os.path.abspath(os.fsdecode(event.src_path))  # noqa: PTH100
                if event.event_type in _CHANGES and not os.path.join(path, "").startswith(events._skip or ("\0",)):  # noqa: PTH118
                    events._wake()

        observer = Observer()
        try:
            observer.schedule(Handler(), str(self._root.absolute()), recursive=True)
            observer.start()
        except OSError as error:
            self._give_up(f"{error.strerror or error}")
            return
        self._observer, self._folder = observer, folder
        self._wake()  # what came in between

    def _give_up(self, reason: str) -> None:
        self._hopeless = True
        _log.warning("%s: no events (%s); it is scanned at intervals only", self._root, reason)

    def close(self) -> None:
        """End the thread."""
        if self._observer is not None:
            with suppress(RuntimeError, OSError):
                self._observer.stop()
                self._observer.join(2)
        self._observer = self._folder = None
