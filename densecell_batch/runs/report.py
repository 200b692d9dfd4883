"""The JSON record of a run on one stack: what went in, what was asked, what came out. It is written last; a stack is
done when its report is there and is of the same work.

::

    Order   what goes in and what is asked
    Begun   and how it is computed: what a job knows before its first piece
    Report  and what came of it

What of it decides the result is its `identity.Identity`. All else is information: the path of a stack, the device.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from densecell_batch._version import __version__
from densecell_batch.identity import digest
from densecell_batch.inference.planning import Plan
from densecell_batch.io.discovery import Stamp
from densecell_batch.io.stack import Stack
from densecell_batch.measure.tally import ClassRow
from densecell_batch.nets.architecture import architecture_to_dict
from densecell_batch.prepare.normalize import Statistics
from densecell_batch.prepare.preparation import Preparation
from densecell_batch.runs.found import FitRecord, Found, Outside, Region, fit_of, found_in, region_of
from densecell_batch.runs.options import RunSegmenter
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import read_json
from densecell_batch.storage.records import FileRecord
from densecell_batch.storage.strict_json import JsonObject

__all__ = [
    "SCHEMA_VERSION",
    "Begun",
    "Clock",
    "Input",
    "Instances",
    "Model",
    "Order",
    "PostMacro",
    "Preprocessing",
    "Report",
    "TableRecord",
    "Timings",
    "begun",
    "has_labels",
    "model_of",
    "order_of",
    "read_report",
    "versions",
    "write_report",
]

SCHEMA_VERSION = 1

Triple = tuple[int, int, int]
Record = TypeVar("Record", bound=FileRecord)


class Input(Struct, frozen=True, kw_only=True):
    """The stack, as it was found."""

    path: str = ""
    container: str | UnsetType = UNSET
    files: int | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    mtime_ns: int | UnsetType = UNSET
    sha256: str  # of the grey values' files
    shape: Triple
    dtype: str
    voxel_size_um: tuple[float, float, float] | None  # (z, y, x), that was used


class Model(Struct, frozen=True, kw_only=True):
    """The bundle."""

    name: str
    version: str
    licence: str
    members: tuple[str, ...]  # SHA-256 of each
    content: str | UnsetType = UNSET  # digest of what else shapes results: architecture, classes, window, normalization


class Precision(Struct, frozen=True, kw_only=True):
    """What the nets computed in, and why."""

    name: str
    reason: str = ""


class Tiles(Struct, frozen=True, kw_only=True):
    """How the stack was cut."""

    input: Triple
    output: Triple
    number: int
    redundancy: float  # voxels computed for each voxel of the stack
    bands: int
    memory_bytes: int


class Preprocessing(Struct, frozen=True, kw_only=True):
    """What the first macro did."""

    macro: str
    imagej: str
    seconds: float
    shape: Triple
    dtype: str
    voxel_size_um: tuple[float, float, float] | None
    notes: tuple[str, ...] = ()


class TableRecord(FileRecord, frozen=True, kw_only=True):
    """A table that the second macro left, as a CSV file."""

    title: str
    rows: int


class PostMacro(Struct, frozen=True, kw_only=True):
    """What the second macro did."""

    macro: str
    sha256: str  # of the macro
    imagej: str = ""
    seconds: float = 0.0
    value: str | None = None
    tables: tuple[TableRecord, ...] = ()


class Instances(Struct, frozen=True, kw_only=True):
    """The objects of a class."""

    count: int
    dropped: int  # smaller than asked for
    voxels: int
    note: str | UnsetType = UNSET
    median_voxels: float | UnsetType = UNSET
    median_volume_um3: float | UnsetType = UNSET
    split_tolerance_um: float | UnsetType = UNSET  # where objects that touch were parted


class Timings(Struct, frozen=True, kw_only=True):
    """Seconds of each stage in the process that made the outputs."""

    measured: float | UnsetType = UNSET
    segmented: float | UnsetType = UNSET
    written: float | UnsetType = UNSET
    total: float | UnsetType = UNSET
    voxels_per_second: float | UnsetType = UNSET
    named_ns: dict[str, int] = {}  # when a file got its name (ctime): one that nobody touched since needs no reading


class Order(Struct, frozen=True, kw_only=True):
    """What goes in and what is asked."""

    schema_version: int = SCHEMA_VERSION
    input: Input
    model: Model
    options: JsonObject
    pre_macro: str | UnsetType = UNSET  # SHA-256
    versions: dict[str, str] = {}


class Begun(Order, frozen=True, kw_only=True):
    """And how it is computed."""

    preprocessing: Preprocessing | UnsetType = UNSET
    warnings: tuple[str, ...] = ()
    device: str | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    precision: Precision | UnsetType = UNSET
    tiles: Tiles | UnsetType = UNSET
    preparation: Found | UnsetType = UNSET
    region: Region | UnsetType = UNSET
    fit: FitRecord | UnsetType = UNSET


class Report(Begun, frozen=True, kw_only=True):
    """And what came of it."""

    classes: tuple[ClassRow, ...] = ()
    outside: Outside | UnsetType = UNSET
    mean_confidence: float | None = None
    mean_disagreement_bits: float | None = None  # of the members, or a net's entropy; None where not computed
    statistics: Statistics | UnsetType = UNSET
    instances: dict[str, Instances] = {}  # by class
    outputs: dict[str, FileRecord]  # by kind
    timings: Timings = Timings()
    post_macro: PostMacro | UnsetType = UNSET

    def files(self) -> list[FileRecord]:
        """The files beside the report: outputs, and tables of the second macro."""
        return [*self.outputs.values(), *(() if self.post_macro is UNSET else self.post_macro.tables)]

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same with other names of some files."""

        def record(entry: Record) -> Record:
            return msgspec.structs.replace(entry, file=names.get(entry.file, entry.file))

        post = self.post_macro
        if post is not UNSET:
            post = msgspec.structs.replace(post, tables=tuple(map(record, post.tables)))
        outputs = {kind: record(entry) for kind, entry in self.outputs.items()}
        return self.with_fields(outputs=outputs, post_macro=post)

    def with_fields(self, **changes: Any) -> Self:
        """The same with other fields."""
        return msgspec.structs.replace(self, **changes)


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that compute."""
    libraries = ("openvino", "tensorflow", "tensorflow-cpu", "jax", "keras", "numpy", "scikit-image", "tifffile")
    found = {"densecell-batch": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:  # one backend is enough
            continue
    return found


def write_report(path: Path, report: Report, *, onto: Path | None = None, mtime_ns: int | None = None) -> None:
    """Write a report so that it is there whole or not at all.

    Parameters
    ----------
    path, report
        Its name and its values.
    onto
        The report that it adds to, or comes of: what others wrote into that one is taken over.
    mtime_ns
        Time of change to give it: that of the report that it adds to, since its time says when the outputs were made.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    values = msgspec.to_builtins(report)
    if onto is not None:
        found = _read_object(onto)
        earlier = _as_report(found)
        if earlier is not None:
            values = _with_what_is_not_ours(values, found, msgspec.to_builtins(earlier))
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode(), mtime_ns=mtime_ns)


def _with_what_is_not_ours(values: Any, found: Any, ours: Any) -> Any:
    """Add to JSON values what `found` has, and `ours`, what we understand of it, has not."""
    if isinstance(values, dict) and isinstance(found, dict) and isinstance(ours, dict):
        more = {key: value for key, value in found.items() if key not in ours and key not in values}
        return {
            **{key: _with_what_is_not_ours(value, found.get(key), ours.get(key)) for key, value in values.items()},
            **more,
        }
    if isinstance(values, list | tuple) and isinstance(found, list) and len(values) == len(found) == len(ours or ()):
        return [_with_what_is_not_ours(*each) for each in zip(values, found, ours, strict=True)]
    return values


def read_report(path: Path) -> Report | None:
    """The report at `path`; None where there is none that this version knows: the stack is then not done."""
    return _as_report(_read_object(path))


def _as_report(values: JsonObject | None) -> Report | None:
    try:
        report = None if values is None else msgspec.convert(values, Report)
    except ValueError:
        return None
    return report if report is not None and report.schema_version == SCHEMA_VERSION else None


def _read_object(path: Path) -> JsonObject | None:
    try:
        values = read_json(path)
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def has_labels(path: Path, report: Report) -> bool:
    """Whether the outputs that the report at `path` speaks of are all there, labels among them; pictures can be done
    without. Whether somebody changed them is another question: see `ownership.compare`.
    """
    files = [
        path.with_name(entry.file)
        for kind, entry in report.outputs.items()
        if kind != "preview" and not kind.startswith("picture of ")
    ]
    labels = report.outputs.get("labels")  # those of another stack vouch for nothing here
    named = labels is not None and labels.file == f"{path.name.removesuffix('_report.json')}_labels.tif"
    return named and all(file.is_file() for file in files)


def order_of(stack: Stack, sha256: str, segmenter: RunSegmenter) -> Order:
    """What is to be done: the beginning of a report."""
    info, pre = stack.info, segmenter.options.hooks.pre
    stamp = Stamp.of(*(stack.reach.stat(file) for file in stack.files))
    return Order(
        input=Input(
            path=str(info.path.absolute()),
            container=info.container,
            files=stamp.files,
            bytes=stamp.bytes,
            mtime_ns=stamp.mtime_ns,
            sha256=sha256,
            shape=info.shape,
            dtype=info.dtype,
            voxel_size_um=None if info.voxel_size is None else info.voxel_size.edges,
        ),
        model=model_of(segmenter),
        options=segmenter.options.told(),
        pre_macro=UNSET if pre is None else pre.sha256,
        versions=versions(),
    )


def model_of(segmenter: RunSegmenter) -> Model:
    """What a report says of the bundle."""
    bundle = segmenter.bundle
    return Model(
        name=bundle.name,
        version=bundle.version,
        licence=bundle.licence,
        members=tuple(member.sha256 for member in bundle.members),
        content=digest(
            [
                architecture_to_dict(bundle.architecture),
                [[c.name, *c.colour] for c in bundle.classes],
                bundle.window,
                bundle.normalization,
                *([] if bundle.own_data is None else [msgspec.to_builtins(bundle.own_data)]),
                *([] if bundle.class_offsets is None else [bundle.class_offsets]),
                *([] if bundle.quantization is None else [msgspec.to_builtins(bundle.quantization.ranges)]),
            ]
        ),
    )


def begun(
    order: Order,
    segmenter: RunSegmenter,
    preparation: Preparation,
    plan: Plan,
    preprocessing: Preprocessing | UnsetType,
    warnings: Iterable[str],
) -> Begun:
    """An order, and how this process computes it."""
    grid, precision = plan.grid, segmenter.precision
    return Begun(
        **msgspec.structs.asdict(order),
        preprocessing=preprocessing,
        warnings=(*warnings, *preparation.warnings),
        device=str(segmenter.device),
        engine=segmenter.engine,
        precision=Precision(name=precision.name, reason=precision.reason),
        tiles=Tiles(
            input=grid.input,
            output=grid.output,
            number=grid.n_tiles,
            redundancy=round(grid.redundancy, 4),
            bands=len(plan.bands),
            memory_bytes=plan.memory,
        ),
        preparation=found_in(preparation),
        region=region_of(preparation),
        fit=fit_of(preparation),
    )


class Clock:
    """When the stages of a run ended."""

    def __init__(self) -> None:
        self._ends = [time.perf_counter()]

    def stage(self) -> None:
        """The next stage is over: the stack is measured, segmented, written."""
        self._ends.append(time.perf_counter())

    def timings(self, voxels: int, named: dict[str, int]) -> Timings:
        """Of all three stages, and the voxels that were computed in a second."""
        start, measured, segmented, written = self._ends
        return Timings(
            measured=round(measured - start, 3),
            segmented=round(segmented - measured, 3),
            written=round(written - segmented, 3),
            total=round(written - start, 3),
            voxels_per_second=round(voxels / (written - start), 1),
            named_ns=named,
        )
