"""The objects in labels that are there already: of an earlier run, corrected by a person, or from elsewhere.

What was measured is recorded beside the tables in `NAME_objects.json`, as a report is beside labels: the labels by
their hash, what was asked, the files that were written. Labels that a person changed since the nets made them say so in
their tables and in the names of these: `NAME_corrected_objects.csv`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from densecell_batch._version import __version__
from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OccupiedError, StackError
from densecell_batch.identity import digest
from densecell_batch.io.discovery import stamp_of
from densecell_batch.io.formats.own import own_result
from densecell_batch.io.label_look import label_look
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.labels import OUTSIDE
from densecell_batch.printable import printable
from densecell_batch.runs.at_work import at_work
from densecell_batch.runs.object_options import ObjectOptions
from densecell_batch.runs.objects import BY_HAND, BY_NETS, GIVEN, Made, Source, check_calibrated, make_objects
from densecell_batch.runs.ownership import is_intact, set_aside
from densecell_batch.runs.paths import StackPaths, without_suffix
from densecell_batch.runs.report import Instances, Report, read_report
from densecell_batch.storage.atomic import explained, make_folder, write_file
from densecell_batch.storage.opening import Reach, read_json
from densecell_batch.storage.records import FileRecord
from densecell_batch.storage.strict_json import JsonObject

__all__ = ["Measured", "MeasuredLabels", "labels_name", "measure_labels", "read_measured"]

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


class Measured(Struct, frozen=True, kw_only=True):
    """The record of a measurement."""

    schema_version: int = SCHEMA_VERSION
    version: str  # of the program
    labels: str  # path
    labels_sha256: str
    state: Literal["nets", "corrected", "given"]
    image: str | None
    image_sha256: str | None
    classes: tuple[str, ...]
    voxel_size_um: tuple[float, float, float] | None
    options: JsonObject
    objects: dict[str, Instances] = {}  # by class
    outputs: dict[str, FileRecord] = {}  # by kind


@dataclass(frozen=True)
class MeasuredLabels:
    """Where the results are.

    Attributes
    ----------
    table, record
        Files.
    skipped
        Whether they were there before.
    """

    table: Path
    record: Path
    skipped: bool = False


def measure_labels(
    path: Path,
    folder: Path,
    options: ObjectOptions,
    *,
    classes: Sequence[str] | None = None,
    voxel_size: VoxelSize | None = None,
    image: Path | None = None,
    overwrite: bool = False,
) -> MeasuredLabels:
    """Find the objects in a stack of labels and write what there is to say of them.

    Parameters
    ----------
    path
        The labels. A report beside them tells of their classes, of the image and of the nets' doubt.
    folder
        Where the results go.
    options
        What is asked. Without classes: all but the first.
    classes
        Names, from label 0 on; None for those of the report, or of the file's Info, or "class 1" and so on.
    voxel_size
        Instead of that of the file.
    image
        Grey values, of the same shape; None for those that the report names, if they are there.
    overwrite
        Whether to measure again, and to replace files that are not ours.

    Raises
    ------
    OptionError
        If there is no such class.
    StackError
        If the labels cannot be read, or have values that are no class.
    OccupiedError
        If a result would take the place of a file that is not ours.
    OutputError
        If a file cannot be written.
    """
    with ExitStack() as opened:
        stamp = stamp_of(path, Reach.of(path, links=True))
        source, usual, hashes = _source(opened, path, classes, voxel_size, image)
        options = _completed(options, usual)
        options.check(source.classes, "--class")
        _warn(path, source, options)
        check_calibrated(path, source.labels.info.voxel_size, options)
        paths = StackPaths(folder, Path(f"{source.name}_corrected" if source.state == BY_HAND else source.name))
        record = folder / f"{paths.name}_objects.json"
        asked = _asked(path, source, hashes, options)
        if not overwrite and _is_done(asked, record):
            return MeasuredLabels(paths.objects, record, skipped=True)
        make_folder(folder)
        waited = opened.enter_context(at_work(folder, paths.name, digest(msgspec.to_builtins(asked)), alone=True))
        if waited and _is_done(asked, record):
            return MeasuredLabels(paths.objects, record, skipped=True)
        before = read_measured(record)
        wanted = [*paths.of_objects(options), paths.objects, paths.classes]
        earlier = _earlier(paths, before)
        if not overwrite:
            _check_not_of_another(asked, before, record)
            _check_names([*wanted, record], earlier, record)
        files, objects = make_objects(source, paths, options, opened)
        if stamp_of(path, source.labels.reach) != stamp:
            raise StackError(f"{path}: it was changed while it was measured; run the same command again")
        _publish(
            paths, [*files.values()], earlier, same=before is not None and before.labels_sha256 == asked.labels_sha256
        )
        outputs = {kind: file.record for kind, file in files.items()}
        done = msgspec.structs.replace(asked, objects=objects, outputs=outputs)
        text = json.dumps(msgspec.to_builtins(done), indent=2, ensure_ascii=False) + "\n"
        write_file(record, text.encode())
        _announcement(paths).unlink(missing_ok=True)
    return MeasuredLabels(paths.objects, record)


def _publish(paths: StackPaths, files: Sequence[Made], earlier: Sequence[FileRecord], *, same: bool) -> None:
    """Give files their names. What earlier measurements left is kept under another one, if these do not replace it, or
    it is not of the `same` labels.
    """
    # If the process is killed before the record says so, the next one still knows that they are ours.
    write_file(_announcement(paths), msgspec.json.encode([*earlier, *(file.record for file in files)]))
    names = {file.path.name for file in files}
    for entry in earlier:
        path = paths.folder / entry.file
        if not (same and entry.file in names) and is_intact(path, entry):
            set_aside(path, paths.report)
    for file in files:
        file.publish(replace=file.path.exists())


def _warn(path: Path, source: Source, options: ObjectOptions) -> None:
    """Tell of labels that give no objects, or none in micrometres."""
    if not options.objects:
        _log.warning(
            "%s: it has no labels but 0, and %d for what is outside, so there are no objects; in a mask of 0 and 255, "
            "make the 255 a 1 (in Fiji: Process > Math > Divide...)", path, OUTSIDE,
        )  # fmt: skip
    if source.labels.info.voxel_size is None:
        _log.warning("%s: it has no voxel size, so nothing is in micrometres; give --voxel-size", path)


def _completed(options: ObjectOptions, usual: tuple[str, ...]) -> ObjectOptions:
    """The options with the `usual` classes where none is named."""
    if not options.objects:
        options = replace(options, instances=usual)
    if not options.objects:  # there is nothing but the first class
        options = replace(options, split=False, split_tolerance=None, min_volume=0.0, rois=False)
    return options


def _source(
    opened: ExitStack, path: Path, classes: Sequence[str] | None, voxel_size: VoxelSize | None, image: Path | None
) -> tuple[Source, tuple[str, ...], tuple[str, str | None]]:
    """The labels, and what is known of them; classes that are meant where none is asked for; the hashes of the labels
    and of the image.
    """
    kind = own_result(path) if path.is_file() else ""
    if kind in ("objects", "probabilities", "uncertainty"):
        raise StackError(f"{path}: these are {kind}; expected labels: one number for each class, as NAME_labels.tif")
    name = labels_name(path)
    if printable(name) != name:
        raise StackError(f"{printable(path)}: its name has signs that are no text; rename it")
    labels = opened.enter_context(open_labels(path, Reach.of(path, links=True)))
    report = read_report(path.with_name(f"{name}_report.json"))
    sha256 = labels.sha256()
    state = _state(report, path, sha256)
    if state == GIVEN or (report is not None and not report.classes):
        report = None
    if voxel_size is None and labels.info.voxel_size is None and report is not None and report.input.voxel_size_um:
        voxel_size = VoxelSize(*report.input.voxel_size_um)  # whoever corrected them saved them without
    if voxel_size is not None:
        labels.info = replace(labels.info, voxel_size=voxel_size)
    names, usual = _classes(path, labels, report, classes)
    grey, grey_sha256 = _grey(opened, labels, report, image)
    source = Source(name, labels, names, state, grey, _doubts(opened, path, report, labels))
    return source, usual, (sha256, grey_sha256)


def _asked(path: Path, source: Source, hashes: tuple[str, str | None], options: ObjectOptions) -> Measured:
    """The record, as far as it is known before anything is measured."""
    labels, image = source.labels, source.image
    values = {field.name: getattr(options, field.name) for field in fields(ObjectOptions)}
    return Measured(
        version=__version__,
        labels=str(path.absolute()),
        labels_sha256=hashes[0],
        state=source.state,  # type: ignore[arg-type] # one of the three
        image=None if image is None else str(image.info.path.absolute()),
        image_sha256=hashes[1],
        classes=tuple(source.classes),
        voxel_size_um=None if labels.info.voxel_size is None else labels.info.voxel_size.edges,
        options=dict(json.loads(json.dumps(values))),
    )


def labels_name(path: Path) -> str:
    """What the results of labels are named after: the stack, as far as their name tells it."""
    return without_suffix(path.name).removesuffix("_labels").strip(".") or "labels"


def read_measured(path: Path) -> Measured | None:
    """The record at `path`; None where there is none that this version knows."""
    try:
        found = msgspec.convert(read_json(path), Measured)
    except (OSError, ValueError):
        return None
    return found if found.schema_version == SCHEMA_VERSION else None


def _state(report: Report | None, path: Path, sha256: str) -> str:
    """What became of labels since the report beside them was written."""
    record = None if report is None else report.outputs.get("labels")
    if record is None or record.file != path.name:
        return GIVEN
    return BY_NETS if record.sha256 == sha256 else BY_HAND


def _classes(
    path: Path, labels: Stack, report: Report | None, asked: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes, and of those that are meant where none is asked for: all but the first, and of those that
    have no name only what occurs. All labels are seen to be one of them, or outside.
    """
    highest, where = 0, 0
    occurs = np.zeros(2**16, bool)
    for z in range(len(labels)):
        plane = labels.read(z)
        if int(plane.min()) < 0:
            raise StackError(f"{path}: slice {z + 1} has the label {int(plane.min())}; expected 0 or more")
        occurs[np.flatnonzero(np.bincount(plane.ravel()))] = True
        found = int(plane.max(initial=0, where=plane != OUTSIDE))
        if found > highest:
            highest, where = found, z
    told: dict[int, str] | None = None
    if asked is not None:
        names = [*asked]
    elif report is not None:
        names = [row.name for row in report.classes]
    else:
        told = label_look(path).names
        if highest > OUTSIDE:
            raise StackError(
                f"{path}: slice {where + 1} has the label {highest}; expected 0 to {OUTSIDE - 1}, or {OUTSIDE} "
                "for what is outside: are these numbers of objects?"
            )
        names = [told.get(i, f"class {i}") for i in range(1 + max(highest, *told, 0))]
    if len(names) > OUTSIDE:
        raise StackError(f"{path}: {len(names)} classes are named; expected at most {OUTSIDE}, for labels of 8 bits")
    if highest >= len(names):
        raise StackError(
            f"{path}: slice {where + 1} has the label {highest}; expected 0 to {len(names) - 1} for the classes "
            f"{', '.join(names)}, or {OUTSIDE} for what is outside: correct it, or name all classes with --classes"
        )
    usual = [name for i, name in enumerate(names) if i > 0 and (told is None or i in told or occurs[i])]
    return tuple(map(printable, names)), tuple(map(printable, usual))


def _grey(
    opened: ExitStack, labels: Stack, report: Report | None, image: Path | None
) -> tuple[Stack | None, str | None]:
    """The image of the labels, and its hash: the one that is given, or that the report names, if it is still there and
    as it was; a warning if it is not.
    """
    if image is not None:
        stack = opened.enter_context(open_stack(image, reach=Reach.of(image, links=True)))
        if stack.shape != labels.shape:
            found, expected = (" x ".join(map(str, shape)) for shape in (stack.shape, labels.shape))
            raise StackError(f"{image}: it is {found} (z, y, x), the labels {labels.info.path} are {expected}")
        return stack, stack.sha256()
    path = Path() if report is None else Path(report.input.path)
    try:
        if report is None or not path.is_absolute() or not path.exists():
            return None, None
        stack = opened.enter_context(open_stack(path, reach=Reach.of(path, links=True)))
        if (sha256 := stack.sha256()) != report.input.sha256:
            raise StackError(f"{path}: changed since the labels were made")
        part = stack if report.region is UNSET else stack.part(report.region.box)
        if part.shape != labels.shape:
            raise StackError(f"{path}: not of the shape of the labels")
    except (StackError, OSError) as error:
        _log.warning("%s; no grey values are measured", error)
        return None, None
    return part, sha256


def _doubts(
    opened: ExitStack, path: Path, report: Report | None, labels: Stack
) -> Iterator[tuple[None, np.ndarray | None]]:
    """The disagreement of the nets in each slice, if it lies beside the labels."""
    record = None if report is None else report.outputs.get("uncertainty")
    file = path if record is None else path.with_name(record.file)
    if record is None or not is_intact(file, record):
        return iter([(None, None)] * len(labels))
    stack = opened.enter_context(open_stack(file, stored=True, reach=Reach.of(file, links=True)))
    if stack.shape != labels.shape:
        return iter([(None, None)] * len(labels))
    return ((None, stack.read(z)) for z in range(len(labels)))


def _is_done(asked: Measured, record: Path) -> bool:
    """Whether this very measurement is there, all files as they were written."""
    before = read_measured(record)
    if before is None:
        return False
    same = msgspec.structs.replace(before, labels=asked.labels, image=asked.image, objects={}, outputs={})
    if same != asked or not all(is_intact(record.with_name(entry.file), entry) for entry in before.outputs.values()):
        return False
    _log.info("%s was measured before: skipped", asked.labels)
    return True


def _announcement(paths: StackPaths) -> Path:
    return paths.folder / f".{paths.name}.objects"


def _earlier(paths: StackPaths, before: Measured | None) -> list[FileRecord]:
    """What earlier measurements wrote, also one that was killed before its record was there."""
    found = [] if before is None else [*before.outputs.values()]
    with suppress(OSError, ValueError):
        found += msgspec.convert(read_json(_announcement(paths)), list[FileRecord])
    return found


def _check_not_of_another(asked: Measured, before: Measured | None, record: Path) -> None:
    """Refuse to replace the results of other labels of the same name."""
    if before is not None and before.labels != asked.labels and before.labels_sha256 != asked.labels_sha256:
        raise OccupiedError(
            f"{record}: the results of other labels of this name, {before.labels}, are there; choose another output "
            "folder, or replace them with --overwrite"
        )


def _check_names(wanted: Sequence[Path], earlier: Sequence[FileRecord], record: Path) -> None:
    """Refuse what would take the place of a file that is not of an earlier measurement."""
    for path in wanted:
        with explained(path):
            if not (path.exists() or path.is_symlink()):
                continue
        if path == record:
            is_ours = read_measured(path) is not None
        else:
            is_ours = any(is_intact(path, entry) for entry in earlier if entry.file == path.name)
        if not is_ours:
            raise OccupiedError(
                f"{path}: a file of that name is there that this command did not write, or that was changed since; it "
                "is left as it is. Move it, or choose another output folder; --overwrite would replace it for good"
            )
