"""The user's macros before and after the segmentation of a stack.

::

    stack -> pre macro -> .NAME.pre-0123456789ab/stack.tif -> nets -> labels, report -> post macro -> tables, report

The stack that the first macro leaves stays beside the pieces until the labels are there, so that a run that is killed
goes on without it, and shards share it. The second macro gets labels and a report that are whole: whatever it does,
they stay, and the next run needs no more than the macro.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from densecell_batch.errors import BusyError, DensecellError, MacroError, OutputError
from densecell_batch.imagej.macro import Macro, MacroHooks, MacroTask, Table, run_apart
from densecell_batch.io.formats.tiff import is_whole_tiff
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.journal import job_folders
from densecell_batch.runs.options import RunOptions
from densecell_batch.runs.ownership import add_files, foreign
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.report import PostMacro, Preprocessing, Report, TableRecord, read_report, write_report
from densecell_batch.storage.atomic import explained, make_folder, remove_remains
from densecell_batch.storage.claims import claimed, once, pause
from densecell_batch.storage.records import described
from densecell_batch.storage.strict_json import parse_json

__all__ = ["forget_post", "post_is_done", "prepared", "remove_prepared", "run_post"]

_log = logging.getLogger(__name__)


# Before


@contextmanager
def prepared(
    stack: Stack, paths: StackPaths, hooks: MacroHooks, identity: Identity, memory: int | None
) -> Iterator[tuple[Stack, Preprocessing | UnsetType]]:
    """The stack to segment: what the first macro makes of `stack`, or without one the stack itself.

    Parameters
    ----------
    stack
        As the user gave it.
    paths
        Of the outputs.
    hooks
        The macros.
    identity
        What decides the result.
    memory
        Bytes for ImageJ; None for half of what is free.

    Yields
    ------
    Stack
        Under the path of the one that was given.
    Preprocessing or UNSET
        What was done, for the report.

    Raises
    ------
    MacroError
        If the macro fails, runs too long or opens a dialog, or leaves no image.
    """
    if hooks.pre is None:
        yield stack, UNSET
        return
    folder, name = paths.folder, paths.name
    make_folder(folder)
    with explained(folder):
        place = folder / f".{name}.pre-{identity.before_the_nets().digest()}"
        for other in _prepared_folders(folder, name):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)
    try:
        record = _record(place, stack, paths, hooks, hooks.pre, memory)
        with open_stack(place / "stack.tif", stored=True) as made:
            made.info = replace(made.info, path=stack.info.path)
            made.notes = (*stack.remarks, *made.notes, *record.notes)
            yield made, record
    except DensecellError:
        if not job_folders(folder, name):  # nothing was begun that could go on
            shutil.rmtree(place, ignore_errors=True)
        raise


def _record(
    place: Path, stack: Stack, paths: StackPaths, hooks: MacroHooks, macro: Macro, memory: int | None
) -> Preprocessing:
    """What the macro did: now, or in an earlier run, or in another process, for which this one waits."""
    path = place / "record.json"

    def run() -> bytes:
        remove_remains(place)
        return msgspec.json.encode(_run_pre(place, stack, paths, hooks, macro, memory))

    def say() -> None:
        _log.info("%s: another process runs %s on it; waiting for that", stack.info.path, macro.name)

    while True:
        with explained(place):
            if place.is_symlink():  # whoever made it chose where it leads
                place.unlink()
            place.mkdir(exist_ok=True)
        try:
            content = once(path, run, say, valid=lambda content: _is_record(content, place))
            break
        except OutputError:
            if place.exists():  # it goes if another one fails
                raise
    return msgspec.convert(parse_json(content), Preprocessing)


def _is_record(content: bytes, place: Path) -> bool:
    """Whether it says what the macro did, and what it made is there."""
    try:
        msgspec.convert(parse_json(content), Preprocessing)
    except ValueError:
        return False
    made = place / "stack.tif"
    return made.is_file() and not made.is_symlink() and is_whole_tiff(made)


def _run_pre(
    place: Path, stack: Stack, paths: StackPaths, hooks: MacroHooks, macro: Macro, memory: int | None
) -> Preprocessing:
    info = stack.info
    _log.info("%s: running %s on it", info.path, macro.name)
    argument = _argument("pre", info.path, paths)
    outcome = run_apart(
        MacroTask(
            macro,
            argument,
            image=info.path.absolute(),
            voxel_size=None if info.voxel_size is None else info.voxel_size.edges,
            result=place / "stack.tif",
            time_limit=hooks.time_limit,
            imagej=hooks.imagej,
            heap=memory,
        )
    )
    with open_stack(place / "stack.tif", stored=True) as made:
        voxel_size = None if made.info.voxel_size is None else made.info.voxel_size.edges
        shape, dtype = made.info.shape, made.info.dtype
    return Preprocessing(
        macro=macro.name,
        imagej=outcome.imagej,
        seconds=outcome.seconds,
        shape=shape,
        dtype=dtype,
        voxel_size_um=voxel_size,
        notes=tuple(outcome.notes),
    )


def remove_prepared(folder: Path, name: str) -> None:
    """Remove what the first macro made of a stack whose labels are there, or that begins anew."""
    for place in _prepared_folders(folder, name):
        shutil.rmtree(place, ignore_errors=True)


def _prepared_folders(folder: Path, name: str) -> list[Path]:
    pattern = re.compile(re.escape(f".{name}.pre-") + "[0-9a-f]{12}")
    return [Path(entry.path) for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]


# After


def post_is_done(path: Path, report: Report | None, macro: Macro) -> bool:
    """Whether the report at `path` says that this very macro has run on these labels, and its tables are there; whoever
    changed one may.
    """
    if report is None or report.post_macro is UNSET or report.post_macro.sha256 != macro.sha256:
        return False
    return all(path.with_name(table.file).is_file() for table in report.post_macro.tables)


def forget_post(paths: StackPaths) -> None:
    """Remove the tables of earlier labels, which are about to change; those that somebody changed stay."""
    report = read_report(paths.report)
    if report is None or report.post_macro is UNSET:
        return
    tables = [path for path in _tables_of(paths, report.post_macro) if not foreign(paths.report, [path])]
    made = paths.report.stat().st_mtime_ns
    with explained(paths.report):
        for path in tables:
            path.unlink(missing_ok=True)
    write_report(paths.report, report.with_fields(post_macro=UNSET), onto=paths.report, mtime_ns=made)


def _tables_of(paths: StackPaths, post: PostMacro) -> list[Path]:
    """The tables that a report names; of other names than ours are, nothing is touched."""
    return [paths.folder / table.file for table in post.tables if paths.may_be(table.file)]


def run_post(stack: Path, paths: StackPaths, options: RunOptions, bundle: ModelBundle) -> bool:
    """Run the second macro on labels that are there, unless it was done before; put its tables beside them.

    Returns
    -------
    bool
        False if another process is at it, and this one computes a shard.

    Raises
    ------
    MacroError
        If it fails, runs too long or opens a dialog. The labels and the report stay.
    OccupiedError
        If a table cannot have its name, which a file has that is not ours.
    BusyError
        If another process is at it, and is not to be waited for.
    """
    macro, waits = options.hooks.post, False
    while macro is not None and not post_is_done(paths.report, read_report(paths.report), macro):
        with claimed(paths.folder / f".{paths.name}.post") as ours:
            if ours and not post_is_done(paths.report, read_report(paths.report), macro):
                forget_post(paths)
                _log.info("%s: running %s on its labels", stack, macro.name)
                _run_post(stack, paths, options, macro, bundle)
        if ours:
            break
        if options.shard:
            return False
        if options.unattended:
            raise BusyError(f"{paths.labels}: another process runs {macro.name} on it; wait until that is done")
        if not waits:
            _log.info("%s: another process runs %s on it; waiting for that", stack, macro.name)
        waits = True
        pause()
    return True


def _run_post(stack: Path, paths: StackPaths, options: RunOptions, macro: Macro, bundle: ModelBundle) -> None:
    report = read_report(paths.report)
    if report is None:
        raise OutputError(f"{paths.report}: the report is gone; run the command again")
    outputs = report.outputs.items()
    files = {kind.replace(" of ", "_", 1): paths.folder / output.file for kind, output in outputs}
    argument = _argument(
        "post", stack, paths, report=paths.report.absolute(), **{k: p.absolute() for k, p in files.items()},
        **{f"class_{i}": c.name for i, c in enumerate(bundle.classes)},
    )  # fmt: skip
    try:
        outcome = run_apart(
            MacroTask(
                macro,
                argument,
                image=paths.labels.absolute(),
                colours=[list(c.colour) for c in bundle.classes],
                class_names=[c.name for c in bundle.classes],
                time_limit=options.hooks.time_limit,
                imagej=options.hooks.imagej,
                heap=options.memory,
            )
        )
    except MacroError as error:
        remedy = "once the macro is mended, the same command runs nothing but it"
        raise MacroError(f"{error}; the labels are done ({paths.labels}): {remedy}") from error
    contents = dict(zip(_table_paths(paths, outcome.tables), map(_csv, outcome.tables), strict=True))
    tables = tuple(
        TableRecord(title=table.title, rows=len(table.rows), **msgspec.structs.asdict(described(path.name, content)))
        for table, (path, content) in zip(outcome.tables, contents.items(), strict=True)
    )
    entry = PostMacro(
        macro=macro.name,
        sha256=macro.sha256,
        imagej=outcome.imagej,
        seconds=outcome.seconds,
        value=outcome.value,
        tables=tables,
    )
    report = report.with_fields(post_macro=entry)
    add_files(paths.report, report, contents, keep=options.unattended, overwrite=options.overwrite)


def _table_paths(paths: StackPaths, tables: list[Table]) -> list[Path]:
    """A name for each table: that of the stack, "macro", and its title; what a file name cannot hold becomes "-"."""
    base, taken = paths.name, set[str]()
    found = []
    for number, table in enumerate(tables, start=1):
        title = re.sub(r"[^0-9A-Za-z._-]+", "-", table.title.lower().removesuffix(".csv")).strip("-.") or str(number)
        if title in taken:
            title = f"{title}-{number}"
        taken.add(title)
        found.append(paths.folder / f"{base}_macro_{title}.csv")
    return found


# What spreadsheets take for the begin of a formula, in some languages in full width, too; but numbers are numbers.
_FORMULA = re.compile(r"(?![+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z)[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")


def _csv(table: Table) -> bytes:
    """A table as RFC 4180 says; a text that a spreadsheet would take for a formula gets an apostrophe in front."""
    rows: list[Sequence[float | str | None]] = [table.headings, *table.rows]
    return "".join((",".join(map(_csv_cell, row)) or '""') + "\n" for row in rows).encode()


def _csv_cell(cell: float | str | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float | int):
        return f"{cell:.12g}"
    text = f"'{cell}" if _FORMULA.match(cell) else cell
    # Spreadsheets of some languages divide at ";".
    return '"' + text.replace('"', '""') + '"' if re.search('[,;"\t\r\n]', text) else text


def _argument(stage: str, stack: Path, paths: StackPaths, **more: object) -> str:
    """What getArgument() returns in the macro: a line `key=value` for all that it may want to know, with the escapes
    of Java's properties, so that `List.setList(getArgument())` takes any path.
    """
    values = {"stage": stage, "stack": stack.absolute(), "name": paths.name, "out": paths.folder.absolute(), **more}
    return "".join(f"{_escaped(key, ' =:#!')}={_escaped(str(value))}\n" for key, value in values.items())


def _escaped(text: str, special: str = "") -> str:
    escapes = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"} | {c: f"\\{c}" for c in special}
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2").tolist()
    words = [escapes.get(chr(u), chr(u) if 31 < u < 127 else f"\\u{u:04x}") for u in units]
    return "\\" + "".join(words) if text.startswith(" ") and not special else "".join(words)
