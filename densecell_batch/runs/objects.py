"""The objects in finished labels as files: instances, tables, regions for ImageJ, pictures.

They are found slice by slice in the labels themselves, so that it does not matter who computed these, or in how many
parts.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from math import ceil
from pathlib import Path

import numpy as np
from msgspec import UNSET

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.stack import Stack
from densecell_batch.io.writing import StackWriter, instance_colours, instance_range
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.instances import Instances, Read, find_instances, of_class
from densecell_batch.measure.objects import Columns, ObjectSums, rows_of
from densecell_batch.measure.rois import write_rois
from densecell_batch.measure.split import default_tolerance, split_instances
from densecell_batch.plots.objects import Projection, render_objects
from densecell_batch.plots.png import as_png
from densecell_batch.runs.object_options import CELLS, ObjectOptions
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.report import Instances as InstancesRecord
from densecell_batch.storage.atomic import explained, open_new, place, sync_open, temporary_name
from densecell_batch.storage.records import FileRecord, write_parts
from densecell_batch.system import need_memory

__all__ = ["BY_HAND", "BY_NETS", "GIVEN", "Made", "Source", "check_calibrated", "csv_parts", "made", "make_objects"]

_log = logging.getLogger(__name__)

_PART = 2**16  # characters of a table that are written at once
_SPLITTING = 400  # bytes for each pixel of a slice, where objects are everywhere

# What a table says of the labels that it was made of.
BY_NETS = "nets"
BY_HAND = "corrected"
GIVEN = "given"


@dataclass(frozen=True)
class Source:
    """What objects are found in.

    Attributes
    ----------
    name
        Of the stack, as tables call it.
    labels
        The class map; its voxel size is that of the tables.
    classes
        Names.
    state
        `BY_NETS`: as the nets made them; `BY_HAND`: changed since; `GIVEN`: nobody knows.
    image
        Grey values; None where there are none.
    doubts
        Confidence (1/255) and disagreement (bits) of each slice, in ascending z, (y, x) or None.
    """

    name: str
    labels: Stack
    classes: Sequence[str]
    state: str = BY_NETS
    image: Stack | None = None
    doubts: Iterable[tuple[np.ndarray | None, np.ndarray | None]] = ()


@dataclass(frozen=True)
class Made:
    """A file that is whole under a temporary name, which `publish(replace=...)` changes into its own."""

    path: Path
    record: FileRecord
    publish: Callable[..., None]


def check_calibrated(path: Path, voxel_size: VoxelSize | None, options: ObjectOptions) -> None:
    """Refuse, of a stack without voxel size, what needs one; raises StackError."""
    for option, asked in (("--min-volume", options.min_volume > 0), ("--split", options.split)):
        if asked and voxel_size is None:
            raise StackError(f"{path}: it has no voxel size, so {option} cannot be applied; give --voxel-size as well")
    if options.objects and voxel_size is not None:
        least, most = min(voxel_size.edges), max(voxel_size.edges)
        if not 1e-7 <= least <= most <= 1e5 or most > 1000 * least:
            raise StackError(
                f"{path}: its voxels are {voxel_size}, of which no objects can be measured; give the true --voxel-size"
            )


def make_objects(
    source: Source, paths: StackPaths, options: ObjectOptions, opened: ExitStack
) -> tuple[dict[str, Made], dict[str, InstancesRecord]]:
    """Find the objects that are asked for and write what there is to say of them, under temporary names.

    Parameters
    ----------
    source
        What they are found in.
    paths
        Of the results.
    options
        What is asked; see `check_calibrated`.
    opened
        Removes, when it is left, what was not published.

    Returns
    -------
    files : dict
        By kind of output.
    objects : dict
        What there is of each kind of objects.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    found, writers = {}, {}
    for name in options.objects:
        found[name] = _find(source, name, options, opened, paths.folder)
        if not len(found[name]):
            _log.warning("%s: there are no objects of %s", source.name, name)
        writers[name] = opened.enter_context(_writer(source, found[name], paths.instances(name), options))
    tables = {name: ObjectSums(len(found[name]), source.classes, source.labels.info.voxel_size) for name in found}
    seen = {name: Projection() for name in found}
    of_classes = _measure(source, found, writers, tables, seen)
    files, told = {}, {}
    for name, objects in found.items():
        kind = f"instances of {name}"
        files[kind] = Made(paths.instances(name), writers[name].finish(), writers[name].publish)
        told[name] = _record(objects, source.labels.info.voxel_size, options)
        from_above = seen[name].numbers
        if options.preview and from_above is not None:
            title = f"{source.name}: {name}" + (" (corrected labels)" if source.state == BY_HAND else "")
            drawn = render_objects(
                from_above, objects.voxels, instance_colours(),
                source.labels.info.voxel_size, title,
            )  # fmt: skip
            files[f"picture of {name}"] = made(paths.picture(name), [as_png(drawn)], opened)
        if options.rois:
            files |= _outlines(objects, name, paths.rois(name), opened)
    counts = {name: len(objects) for name, objects in found.items() if name in options.instances}
    for kind, path, rows in (
        ("objects", paths.objects, _object_rows(source, tables)),
        ("classes", paths.classes, _class_rows(source, of_classes.columns(), counts)),
    ):
        files[kind] = made(path, csv_parts(rows), opened)
    return files, told


def _find(source: Source, name: str, options: ObjectOptions, opened: ExitStack, folder: Path) -> Instances:
    """The objects of a class, or cells."""
    labels, voxel_size = source.labels, source.labels.info.voxel_size
    read: Read
    if name == CELLS and options.cells_from:
        walls = [*map(source.classes.index, options.cells_from), OUTSIDE]
        read = lambda z: ~np.isin(labels.read(z), walls)
    else:
        read = of_class(labels.read, source.classes.index(name))
    least = 1 if voxel_size is None else max(1, ceil(options.min_volume / voxel_size.volume))
    if not options.split or voxel_size is None:
        return find_instances(read, len(labels), min_voxels=least)
    need_memory(labels.info.path, _SPLITTING * labels.shape[1] * labels.shape[2])
    with explained(folder):
        scratch = opened.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (open as long as the others)
        return split_instances(
            read, len(labels), voxel_size, scratch,
            tolerance=options.split_tolerance, min_voxels=least, folder=folder,
        )  # fmt: skip


def _writer(source: Source, found: Instances, path: Path, options: ObjectOptions) -> StackWriter:
    info, file_format = source.labels.info, options.file_format
    if found.dtype == "uint32":
        file_format = "ome-tiff"
    return StackWriter(
        path, info.shape, found.dtype, file_format=file_format, voxel_size=info.voxel_size, offset=info.offset,
        colours=instance_colours(), display_range=instance_range(len(found)), kind="objects",
    )  # fmt: skip


def _measure(
    source: Source,
    found: dict[str, Instances],
    writers: dict[str, StackWriter],
    tables: dict[str, ObjectSums],
    seen: dict[str, Projection],
) -> ObjectSums:
    """Read all slices once: write the numbers of the objects, and add up what is said of these, and of the classes."""
    labels, doubts = source.labels, iter(source.doubts or repeat((None, None)))
    of_classes = ObjectSums(len(source.classes), source.classes, labels.info.voxel_size)
    for z in range(len(labels)):
        plane = labels.read(z)
        confidence, disagreement = next(doubts)
        values = {
            "grey": None if source.image is None else source.image.read(z),
            "confidence": None if confidence is None else confidence.astype(np.float32) / 255,
            "uncertainty_bits": disagreement,
        }
        of_classes.add(np.where(plane == OUTSIDE, 0, plane.astype(np.uint16) + 1), plane, **values)
        for name, objects in found.items():
            numbers = objects.read(z)
            writers[name].write(z, numbers)
            tables[name].add(numbers, plane, **values)
            seen[name].add(numbers)
    return of_classes


def _outlines(found: Instances, name: str, path: Path, opened: ExitStack) -> dict[str, Made]:
    """The zip for the ROI Manager; none of no objects, which ImageJ takes for damaged."""
    temporary = temporary_name(path)
    opened.callback(temporary.unlink, missing_ok=True)
    try:
        n = write_rois(
            temporary, enumerate(found.slices()), name, instance_colours(), objects=len(found), depth=found.depth
        )
    except OptionError as error:  # all else is there
        _log.warning("%s, so there is no %s", error, path.name)
        return {}
    if n == 0:
        return {}
    with explained(path), temporary.open("rb") as stream:
        record = FileRecord(
            file=path.name, bytes=temporary.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest()
        )
    return {f"rois of {name}": Made(path, record, lambda *, replace: place(temporary, path, replace=replace))}


def _record(found: Instances, voxel_size: VoxelSize | None, options: ObjectOptions) -> InstancesRecord:
    median = float(np.median(found.voxels)) if len(found) else None
    volume = None if median is None or voxel_size is None else float(f"{median * voxel_size.volume:.6g}")
    many = found.dtype == "uint32" and options.file_format == "imagej"
    tolerance: float | None = None
    if options.split and voxel_size is not None:
        tolerance = options.split_tolerance or default_tolerance(voxel_size)
    return InstancesRecord(
        count=len(found),
        dropped=found.dropped,
        voxels=int(found.voxels.sum()),
        note="more than 65,535 instances: written as OME-TIFF uint32" if many else UNSET,
        median_voxels=UNSET if median is None else median,
        median_volume_um3=UNSET if volume is None else volume,
        split_tolerance_um=UNSET if tolerance is None else float(f"{tolerance:.6g}"),
    )


# Tables

_MEANS = ("mean_grey", "mean_confidence", "mean_uncertainty_bits")


def _with_all_means(columns: Columns) -> Columns:
    """The columns with those of means that there are not, so that all tables have the same."""
    found: Columns = {}
    n = len(columns["voxels"])
    for name, column in columns.items():
        if name not in _MEANS:
            found[name] = column
        if name == "touches_outside":
            found |= {mean: columns.get(mean, np.full(n, np.nan)) for mean in _MEANS}
    return found


def _object_rows(source: Source, tables: dict[str, ObjectSums]) -> Iterable[list[str]]:
    """A head, and a row for each object."""
    for i, (name, sums) in enumerate((tables or {"": ObjectSums(0, source.classes, None)}).items()):
        table = sums.columns()
        columns = {"object": np.arange(1, len(table["voxels"]) + 1), **_with_all_means(table)}
        if i == 0:
            yield ["stack", "labels", "class", *columns]
        yield from rows_of(columns, stack=source.name, labels=source.state, kind=name)


def _class_rows(source: Source, table: Columns, counts: dict[str, int]) -> Iterable[list[str]]:
    """A head, and a row for each class; cells are none."""
    tissue = int(table["voxels"].sum())
    columns = {
        "objects": np.array([float(counts.get(name, np.nan)) for name in source.classes]),
        "voxels": table["voxels"],
        "volume_um3": table["volume_um3"],
        "volume_fraction": table["voxels"] / max(1, tissue),
        "surface_um2": table["surface_um2"],
        **{name: column for name, column in _with_all_means(table).items() if name in _MEANS},
        **{name: column for name, column in table.items() if name.startswith("contact_")},
    }
    yield ["stack", "labels", "class", *columns]
    for i, name in enumerate(source.classes):
        one = {column: values[i : i + 1] for column, values in columns.items()}
        yield from rows_of(one, stack=source.name, labels=source.state, kind=name)


def csv_parts(rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """A table as text, some rows after the others."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow(row)
        if stream.tell() >= _PART:
            yield stream.getvalue().encode()
            stream.seek(0)
            stream.truncate()
    yield stream.getvalue().encode()


def made(path: Path, parts: Iterable[bytes], opened: ExitStack) -> Made:
    """A file of some content, under a temporary name; `opened` removes it if it is not published."""
    temporary = temporary_name(path)
    opened.callback(temporary.unlink, missing_ok=True)
    with explained(path), open_new(temporary) as stream:
        record = write_parts(path.name, parts, stream)
        stream.flush()
        sync_open(stream.fileno())
    return Made(path, record, lambda *, replace: place(temporary, path, replace=replace))
