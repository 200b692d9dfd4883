"""What stands in the output folder for a stack: its report, the results of an earlier version, or why there are none.

Two watchers, or a watcher and the one that was killed, see the same here: these files are the truth.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import OutputError
from densecell_batch.imagej.macro import Macro
from densecell_batch.io.discovery import Stamp
from densecell_batch.printable import printable
from densecell_batch.runs.checks import longest_name
from densecell_batch.runs.hooks import post_is_done
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.ownership import set_aside
from densecell_batch.runs.paths import StackPaths, is_like_result
from densecell_batch.runs.report import Report, has_labels, read_report, write_report
from densecell_batch.storage.atomic import explained, sync, temporary_name, write_file
from densecell_batch.storage.opening import read_small
from densecell_batch.watch.inbox import Sighting
from densecell_batch.watch.place import Place

__all__ = ["Result", "Results", "error_texts"]

_log = logging.getLogger(__name__)

_SUFFIX = ".error.txt"
_OWN = re.compile(r"\.(error|same)\.txt$|^status\.html$")
_TWIN = "has the very content of a stack that was segmented before as"
_WHY = re.compile(r"^Why: (.*)$", re.M)
_STAMP = re.compile(
    r"^\[(?P<files>\d+) files?, (?P<bytes>\d+) bytes, changed (?P<mtime_ns>-?\d+), (?P<name>.*)\]$", re.M
)


@dataclass(frozen=True)
class Result:
    """Results that are there, whole."""

    labels: Path
    report: Path
    content: Report

    @property
    def sha256(self) -> str:
        """Of the input."""
        return self.content.input.sha256


class Results:
    """The results of the stacks of a watched folder, in the same folders below the output folder.

    Parameters
    ----------
    place
        What watchers keep there.
    root
        The watched folder.
    post
        The macro that has to have run on the labels.
    """

    def __init__(self, place: Place, root: Path, post: Macro | None = None) -> None:
        self._place, self._root, self._out, self._post = place, root, place.out, post

    def paths(self, stack: Path) -> StackPaths:
        """Where the results of a stack go."""
        return StackPaths(self._out / stack.relative_to(self._root).parent, stack)

    def wrong_place(self, paths: StackPaths) -> str | None:
        """Why results cannot lie where those of a stack would; None if they can. Folders of IN decide how folders of
        OUT are called, and nothing is written outside of it.
        """
        try:
            return self._wrong_place(paths)
        except OSError as error:  # too long, for example
            return f"its results cannot lie below {self._out} ({error.strerror}); rename it or its folders"

    def _wrong_place(self, paths: StackPaths) -> str | None:
        folder = self._out
        for part in paths.folder.relative_to(self._out).parts:
            folder /= part
            if is_like_result(part) or _OWN.search(part):
                return f"it lies in a folder that is called like a result, {part}; rename that"
            if folder.is_symlink() and not folder.resolve().is_relative_to(self._out.resolve()):
                return f"{folder} is a link that leads out of the output folder; remove it"
            if folder.exists() and not folder.is_dir():
                return f"{folder} is a file, where a folder for results would be; rename one of the two"
        return None

    def shown(self, path: Path) -> str:
        """A path below the output folder, as the table has it."""
        return path.relative_to(self._out).as_posix()

    def is_there(self, report: str, sha256: str) -> bool:
        """Whether results that the table speaks of are still there, and of this model."""
        found = self._result(self._out / report) if report else None
        return found is not None and found.sha256 == sha256

    def current(self, paths: StackPaths) -> Result | None:
        """The results under some name, whatever they were made of, if it was with this model."""
        return self._result(paths.report)

    def of_stamp(self, paths: StackPaths, stamp: Stamp) -> Result | None:
        """The results of a stack, if they were made of a file of the same size and time, with this model."""
        found = self.current(paths)
        if found is None:
            return None
        told = found.content.input
        return found if (told.files, told.bytes, told.mtime_ns) == _numbers(stamp) else None

    def of_content(self, paths: StackPaths, sha256: str) -> Result | None:
        """The results of the same content under the stack's own name, or else under another one."""
        for report in (paths.report, self._place.recall(sha256)):
            found = None if report is None else self._result(report)
            if found is not None and found.sha256 == sha256:
                return found
        return None

    def _result(self, report: Path) -> Result | None:
        content = read_report(report)
        if content is None or not self._is_ours(content):
            return None
        if not has_labels(report, content):
            return None
        if self._post is not None and not post_is_done(report, content, self._post):
            return None
        return Result(report.with_name(content.outputs["labels"].file), report, content)

    def _is_ours(self, content: Report) -> bool:
        """Whether a report is of this model, these options and this first macro."""
        return self._place.identity.is_same(Identity.of(content).on_any_stack())

    def made_from(self, paths: StackPaths) -> str:
        """File name of the stack that the results under some name were made from; "" where there are none."""
        found = read_report(paths.report)
        return "" if found is None else Path(found.input.path).name

    def keep_earlier(self, paths: StackPaths, sha256: str) -> None:
        """Rename the results of other content, or of another model, so that new ones can take their names.

        The report goes last, and says what the suffix is: a process that is killed in between leaves a state from
        which the next one goes on.

        Raises
        ------
        OutputError
            If they cannot be renamed.
        """
        content = read_report(paths.report)
        if content is None or (self._is_ours(content) and content.input.sha256 == sha256):
            return
        with explained(paths.report):
            made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(paths.report.stat().st_mtime))
            kept, number = f"{paths.name}.old-{made}", 1
            # One of the same input is of this very renaming, which was interrupted.
            while (other := read_report(paths.folder / f"{kept}_report.json")) and other.input != content.input:
                number += 1
                kept = f"{paths.name}.old-{made}-{number}"
            names = {}
            for file in (entry.file for entry in content.files()):
                if not paths.may_be(file):
                    continue  # a report that somebody edited
                source, target = paths.folder / file, kept + file.removeprefix(paths.name)
                if source.exists():
                    if (paths.folder / target).exists():
                        target = set_aside(source, paths.report).name
                    else:
                        source.rename(paths.folder / target)
                names[file] = target
            write_report(paths.folder / f"{kept}_report.json", content.renamed(names), onto=paths.report)
            paths.report.unlink()
            sync(paths.folder)
        _log.info("%s: the earlier results are kept as %s_...", paths.folder / paths.name, kept)

    def error_text(self, paths: StackPaths) -> Path:
        """Where it is said why a stack has no results; shortened, if it is its name that is too long for them."""
        name = paths.name
        over = len(os.fsencode(temporary_name(Path(name + _SUFFIX)).name)) - longest_name(paths.folder)
        if over > 0:
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
            name = f"{os.fsencode(name)[: -over - 9].decode('utf-8', 'ignore')}~{digest}"
        return paths.report.with_name(name + _SUFFIX)

    def error_of(self, paths: StackPaths, name: str, stamp: Stamp) -> str | None:
        """Why a stack failed for good, as it is said in its error text; None if there is none of this version."""
        try:
            text = read_small(self.error_text(paths)).decode()
        except (OSError, ValueError):
            return None
        match = _STAMP.search(text)
        if match is None or match["name"] != _one_line(name):
            return None
        if tuple(int(match[key]) for key in ("files", "bytes", "mtime_ns")) != _numbers(stamp):
            return None
        reason = _WHY.search(text)
        return reason[1] if reason else "see its error text"

    def write_error(self, paths: StackPaths, sighting: Sighting, reason: str, attempts: int) -> Path:
        """Say, to the person who dropped the stack, why there are no results.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        files, size, mtime = _numbers(sighting.stamp)
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        text = f"""This stack could not be segmented: {_one_line(sighting.name)}

Why: {_one_line(reason)}

It was tried {attempts} time{"s" if attempts != 1 else ""}, the last time on {when}. Your file was not changed.

What to do: put the stack right, or copy it again under the same name; then it is tried again by itself.
To have it tried again as it is, delete this text.

densecell-batch
[{files} file{"s" if files != 1 else ""}, {size} bytes, changed {mtime}, {_one_line(sighting.name)}]
"""
        path = self.error_text(paths)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _is_error_text(path):
            set_aside(path, paths.report)
        write_file(path, text.encode("utf-8", "backslashreplace"))
        return path

    def forget_texts(self, paths: StackPaths, found: Result) -> None:
        """Remove what was said of a stack that is done now."""
        texts = [text for text in [self.error_text(paths)] if _is_error_text(text)]
        if found.report == paths.report:
            texts += [text for text in [self._twin_text(paths)] if _is_twin_text(text)]
        for text in texts:
            try:
                text.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s: cannot be removed: %s", text, error.strerror)

    def remember(self, found: Result) -> None:
        """Note which results some content has. Without the note they are made again for a copy: no reason to fail."""
        try:
            self._place.remember(found.sha256, found.report)
        except OutputError as error:
            _log.warning("%s", error)

    def _twin_text(self, paths: StackPaths) -> Path:
        return paths.folder / f"{paths.name}.same.txt"

    def name_twin(self, sighting: Sighting, twin: Result) -> None:
        """Leave word where the results of a stack are whose content was done under another name.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        paths = self.paths(sighting.path)
        if twin.report == paths.report:
            return
        path = self._twin_text(paths)
        text = (
            f"{_one_line(sighting.name)} {_TWIN} "
            f"{Path(twin.content.input.path).name}.\nIts labels: {self.shown(twin.labels)}\n"
        )
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _is_twin_text(path):
            set_aside(path, paths.report)
        write_file(path, text.encode("utf-8", "backslashreplace"))


def error_texts(out: Path) -> list[Path]:
    """All error texts of watchers below an output folder."""
    return [path for path in sorted(out.rglob(f"*{_SUFFIX}")) if _is_error_text(path)]


def failures(out: Path) -> dict[Path, str]:
    """Stacks that watchers gave up, and why; by where their results would lie, without an end such as _labels.tif."""
    found = {}
    for path in error_texts(out):
        reason = _WHY.search(_text(path))
        found[path.with_name(path.name.removesuffix(_SUFFIX))] = reason[1] if reason else "see its error text"
    return found


def _is_error_text(path: Path) -> bool:
    return _STAMP.search(_text(path)) is not None


def _is_twin_text(path: Path) -> bool:
    return f" {_TWIN} " in _text(path)


def _text(path: Path) -> str:
    try:
        return read_small(path).decode()
    except (OSError, ValueError):
        return ""


def _numbers(stamp: Stamp) -> tuple[int, int, int]:
    return stamp.files, stamp.bytes, stamp.mtime_ns


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
