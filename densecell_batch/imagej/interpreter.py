"""A user's macro in the ImageJ of this process, watched: what it says, what it leaves, and what it waits for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from densecell_batch.errors import MacroError
from densecell_batch.imagej.jvm import running
from densecell_batch.imagej.macro import Macro, Table

__all__ = ["MacroRun", "run_macro", "tables"]

_POLL = 0.1  # seconds between looks at a running macro
_KEPT_LINES = 20  # of what a macro printed


@dataclass(frozen=True)
class MacroRun:
    """How a macro ended."""

    value: str | None  # what it returned
    image: Any  # ij.ImagePlus that was active at the end, or None
    seconds: float


def run_macro(
    macro: Macro,
    argument: str = "",
    image: Any = None,
    *,
    time_limit: float = 600.0,
    heard: Callable[[str], None] = lambda line: None,
) -> MacroRun:
    """Run a macro of the user in batch mode, with an image open and active.

    A macro cannot be stopped against its will: after a time limit or a dialog it goes on in a thread of this process,
    so give the macros of others to `macro.run_apart`.

    Parameters
    ----------
    macro
        What to run.
    argument
        What its getArgument() returns.
    image
        ij.ImagePlus, or None.
    time_limit
        Seconds.
    heard
        Called with each line that the macro prints.

    Raises
    ------
    MacroError
        If it fails, takes too long or opens a dialog; the message quotes it.
    """
    watched = _Watched(macro, argument, image, heard)
    begin = time.monotonic()
    watched.start()
    while watched.is_alive():
        watched.join(_POLL)
        watched.listen()
        if watched.is_alive() and (dialog := _dialog()):
            if (problem := watched.own_error()) is not None:
                raise MacroError(watched.place(problem))
            raise MacroError(watched.place(f"it opened a dialog, and nobody is there to answer: {dialog}"))
        if watched.is_alive() and time.monotonic() - begin > time_limit:
            raise MacroError(watched.place(f"still running after its limit of {time_limit:g} s"))
    watched.listen()
    watched.check()
    from scyjava import jimport

    return MacroRun(watched.value, jimport("ij.WindowManager").getCurrentImage(), time.monotonic() - begin)


class _Watched(threading.Thread):
    """A macro in a thread of its own, and what it says and does."""

    def __init__(self, macro: Macro, argument: str, image: Any, heard: Callable[[str], None]) -> None:
        super().__init__(name="densecell-macro", daemon=True)
        from scyjava import jimport

        self._macro, self._argument, self._heard = macro, argument, heard
        self._ij, self._interpreter = jimport("ij.IJ"), jimport("ij.macro.Interpreter")()
        self._system = jimport("java.lang.System")
        self._said, self._rest = jimport("java.io.ByteArrayOutputStream")(), b""
        self._lines: list[str] = []
        self._error: BaseException | None = None
        self.value: str | None = None
        static = jimport("ij.macro.Interpreter")
        static.batchMode = True
        if image is not None:
            static.addBatchModeImage(image)

    def run(self) -> None:
        """Run the macro to its end."""
        from scyjava import jimport

        # ImageJ's own name for such threads: an error of a plugin then ends the macro.
        jimport("java.lang.Thread").currentThread().setName("densecell_Macro$")
        kept = self._system.out
        self._system.setOut(jimport("java.io.PrintStream")(self._said, True, "UTF-8"))
        self._ij.getErrorMessage()  # forgets that of an earlier macro
        try:
            value = self._interpreter.run(self._macro.text, self._argument)
            self.value = None if value is None else str(value)
        except BaseException as error:  # Java's exceptions are of any class
            self._error = error
        finally:
            self._system.setOut(kept)

    def listen(self) -> None:
        """Pass on the lines that it printed since the last time."""
        import jpype

        with jpype.synchronized(self._said):  # its methods are synchronized, too: no line is lost in between
            self._rest += bytes(self._said.toByteArray())
            self._said.reset()
        *lines, self._rest = self._rest.split(b"\n")
        if self._rest and not self.is_alive():
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            self._lines = [*self._lines, text][-_KEPT_LINES:]
            self._heard(text)

    def own_error(self) -> str | None:
        """The message of an error that the interpreter found in the macro."""
        message = self._interpreter.getErrorMessage()
        return None if message is None else str(message)

    def check(self) -> None:
        """Raise MacroError unless the macro ended well."""
        said = " ".join(line.strip() for line in self._lines[-3:] if line.strip())
        if (problem := self.own_error()) is not None:
            raise MacroError(self.place(self._hinted(problem)))
        if (missed := self._ij.getErrorMessage()) is not None:  # in a window, without batch mode; it went on
            raise MacroError(f"{self._macro.name}: {' '.join(str(missed).split())}")
        if self._error is None:
            return
        text = " ".join(str(self._error).split()) or type(self._error).__name__
        if "Macro canceled" not in text:
            raise MacroError(self.place(self._hinted(text)))
        if re.search(r"\bexit\s*(\(\s*\))?\s*(;|\}|$)", self._macro.line(self._line())):
            return  # `exit` without a message is a way to end well
        raise MacroError(self.place(f"it stopped: {said}" if said else "it stopped"))

    def _hinted(self, problem: str) -> str:
        """The problem, and what is missing where it is the want of a screen."""
        imagej = running()
        if imagej is None or not imagej.headless or not re.search("Headless|Unrecognized command", problem):
            return problem
        return (
            f"{problem} ({imagej} runs without a screen: there are no dialogs, and without the patches of a whole Fiji "
            "neither run(...) nor open(); install Xvfb and a whole Java (openjdk-17-jre, no -headless), or name a Fiji "
            "folder with --imagej)"
        )

    def _line(self) -> int:
        try:
            if self.own_error() is None:
                return int(self._interpreter.getLineNumber())
            # The interpreter has read on, to the end of the line, but remembers it.
            remembered = self._interpreter.getClass().getDeclaredField("lineNumber")
            remembered.setAccessible(True)
            return int(remembered.getInt(self._interpreter))
        except Exception:  # Java's NullPointerException, where the macro was not even parsed
            return 0

    def place(self, problem: str) -> str:
        """A message that names the line and quotes it."""
        number = self._line()
        source = self._macro.line(number)
        parts = [self._macro.name, f"line {number}" if number else "", problem, source]
        return ": ".join(part for part in parts if part)


def _dialog() -> str:
    """Title and text of a dialog that waits for somebody; empty where there is none."""
    from scyjava import jimport

    if jimport("java.awt.GraphicsEnvironment").isHeadless():
        return ""
    dialog_class = jimport("java.awt.Dialog")
    for window in jimport("java.awt.Window").getWindows():
        if isinstance(window, dialog_class) and window.isShowing():
            words = [str(window.getTitle() or ""), *_texts(window)]
            return " | ".join(word for word in (" ".join(w.split()) for w in words) if word)
    return ""


def _texts(container: Any) -> Iterable[str]:
    """The labels in a window."""
    for component in container.getComponents():
        kind = str(component.getClass().getName())
        if hasattr(component, "getComponents") and not hasattr(component, "getText"):
            yield from _texts(component)
        elif kind == "ij.gui.MultiLineLabel":
            lines = component.getClass().getDeclaredField("lines")
            lines.setAccessible(True)
            yield " ".join(str(line) for line in lines.get(component))
        elif hasattr(component, "getText"):
            yield str(component.getText() or "")


def tables() -> list[Table]:
    """The tables that macros filled: that of the results, and those with windows of their own."""
    from scyjava import jimport

    results = jimport("ij.measure.ResultsTable")
    found = [("Results", results.getResultsTable())]
    if not jimport("java.awt.GraphicsEnvironment").isHeadless():
        titles = {str(title) for title in jimport("ij.WindowManager").getNonImageTitles()} - {"Results"}
        found += [(title, results.getResultsTable(title)) for title in sorted(titles)]
    return [_table(title, table) for title, table in found if table is not None and table.size()]


def _table(title: str, table: Any) -> Table:
    headings = [str(heading) for heading in table.getHeadings()]
    columns = [i for i in range(int(table.getLastColumn()) + 1) if table.columnExists(i)]
    labelled = len(headings) > len(columns)
    rows = []
    for row in range(int(table.size())):
        label: list[float | str | None] = [str(table.getLabel(row) or "")] if labelled else []
        rows.append(label + [_cell(table, column, row) for column in columns])
    return Table(title, headings, rows)


def _cell(table: Any, column: int, row: int) -> float | str | None:
    """A number with all its digits, or a text."""
    value = float(table.getValueAsDouble(column, row))
    if np.isfinite(value):
        return value
    text = str(table.getStringValue(column, row))
    return None if text in ("", "NaN", "Infinity", "-Infinity", "∞", "-∞") else text
