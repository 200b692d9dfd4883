"""The files of one stack: where they go, and how they come to be whole or not at all."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from densecell_batch.errors import OutputError
from densecell_batch.io.discovery import exists
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.io.writing import StackWriter, instance_colours
from densecell_batch.measure.instances import find_instances
from densecell_batch.models.bundle import ModelBundle, file_word
from densecell_batch.plots.overlay import as_png, render_preview
from densecell_batch.runs.journal import StoredSlice
from densecell_batch.runs.ownership import announce, described, entries_of, make_room, set_aside
from densecell_batch.runs.report import read_report
from densecell_batch.storage.atomic import sync, write_file

if TYPE_CHECKING:
    from densecell_batch.inference.segmenter import SegmentOptions

__all__ = [
    "OutputPaths",
    "StackOutputs",
    "is_like_result",
    "preview_of",
    "shown_slices",
    "stack_name",
    "without_suffix",
]

_PREVIEW_SLICES = 3

_WORD = "[0-9A-Za-z._-]+"  # what `file_word` and titles of tables leave
_ENDS = rf"_(labels|probabilities|uncertainty|{_WORD}_instances)\.tif|_preview\.png|_macro_{_WORD}\.csv"


def stack_name(path: Path) -> str:
    """What the outputs of a stack are named after: the file name without .tif, .tiff or .ome.tif; a folder's own
    name.
    """
    if exists(path) and path.is_dir():
        return os.path.basename(os.path.abspath(path))  # noqa: PTH100, PTH119 (a link is named as it is; "." is not)
    return without_suffix(path.name)


def without_suffix(file_name: str) -> str:
    """A file name without .tif, .tiff or .ome.tif."""
    return re.sub(r"(\.ome)?\.tiff?$", "", file_name, flags=re.IGNORECASE)


def is_like_result(file_name: str) -> bool:
    """Whether a file name is one that a result of some stack may have."""
    return re.search(rf"({_ENDS}|_report\.json)$", file_name) is not None


class OutputPaths:
    """The final names of the outputs of a stack.

    Parameters
    ----------
    folder
        Where they go.
    stack
        TIFF file or folder of slices.
    """

    def __init__(self, folder: Path, stack: Path) -> None:
        self.folder, self.base = folder, stack_name(stack)
        self.labels = folder / f"{self.base}_labels.tif"
        self.probabilities = folder / f"{self.base}_probabilities.tif"
        self.uncertainty = folder / f"{self.base}_uncertainty.tif"
        self.preview = folder / f"{self.base}_preview.png"
        self.report = folder / f"{self.base}_report.json"

    def made(self) -> set[Path]:
        """Absolute paths of the stacks that a finished run left: those whose report is there."""
        if not exists(self.report):
            return set()
        images = (
            self.labels,
            self.probabilities,
            self.uncertainty,
            *self.folder.glob(f"{glob.escape(self.base)}_*_instances.tif"),
        )
        return {image.absolute() for image in images}

    def wanted(self, options: SegmentOptions) -> list[Path]:
        """All files that a run with these options writes, but for the tables of the second macro, whose names it alone
        knows.
        """
        return [
            self.labels,
            *([self.probabilities] if options.probabilities else []),
            *([self.uncertainty] if options.uncertainty else []),
            *map(self.instances, options.instances),
            *([self.preview] if options.preview else []),
            self.report,
        ]

    def may_be(self, file_name: str) -> bool:
        """Whether a file name is one that a result of this stack may have."""
        return re.fullmatch(rf"{re.escape(self.base)}({_ENDS})", file_name) is not None

    def instances(self, class_name: str) -> Path:
        """The instances of a class."""
        return self.folder / f"{self.base}_{file_word(class_name)}_instances.tif"


class StackOutputs:
    """Receives finished slices in ascending z and turns them into files.

    Everything is written under temporary names. `commit` gives the files their final names; leaving the context
    without it removes them.

    Raises
    ------
    OutputError
        If the folder cannot be made or a file cannot be written.
    """

    def __init__(self, paths: OutputPaths, stack: Stack, bundle: ModelBundle, options: SegmentOptions) -> None:
        self._paths, self._stack, self._bundle, self._options = paths, stack, bundle, options
        self._names = [c.name for c in bundle.classes]
        self._colours = np.array([c.colour for c in bundle.classes], np.uint8)
        depth = stack.info.shape[0]
        self._shown = shown_slices(depth)
        self._shown_labels: list[np.ndarray] = []
        self._files = ExitStack()
        self._writers: dict[str, StackWriter] = {}

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            z, y, x = self._stack.info.shape
            labels = self._writer(
                self._paths.labels, (z, y, x), "uint8", class_names=self._names, colours=self._colours, kind="class map"
            )
            self._writers["labels"] = opened.enter_context(labels)
            if self._options.probabilities:
                path, shape = self._paths.probabilities, (z, len(self._names), y, x)
                writer = self._writer(
                    path, shape, "float32", channels=self._names, display_range=(0.0, 1.0), kind="probabilities"
                )
                self._writers["probabilities"] = opened.enter_context(writer)
            if self._options.uncertainty:
                highest = np.log2(max(2, min(len(self._bundle.members), len(self._names))))
                writer = self._writer(
                    self._paths.uncertainty,
                    (z, y, x),
                    "float32",
                    display_range=(0.0, float(highest)),
                    kind="uncertainty",
                )
                self._writers["uncertainty"] = opened.enter_context(writer)
            self._files = opened.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._files.__exit__(*details)

    def _writer(self, path: Path, shape: tuple[int, ...], dtype: str, **look: Any) -> StackWriter:
        return StackWriter(
            path, shape, dtype, file_format=self._options.file_format, voxel_size=self._stack.info.voxel_size, **look
        )

    def write(self, finished: StoredSlice) -> None:
        """Write one slice to every file that is wanted."""
        self._writers["labels"].write(finished.z, finished.labels)
        if finished.probabilities is not None:
            planes = np.ascontiguousarray(np.moveaxis(finished.probabilities, -1, 0))
            self._writers["probabilities"].write(finished.z, planes)
        if finished.disagreement is not None:
            self._writers["uncertainty"].write(finished.z, finished.disagreement)
        if finished.z in self._shown:
            self._shown_labels.append(finished.labels.copy())

    def commit(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Finish all files, and give them their names once all are whole.

        Returns
        -------
        files : dict
            Kind of output -> its name, size in bytes and SHA-256.
        instances : dict
            Class -> number of instances, their voxels, and a note where the file differs from what was asked.

        Raises
        ------
        OccupiedError
            If a name is taken by a file that is not ours. The work that was done stays done.
        """
        entries = {kind: writer.finish() for kind, writer in self._writers.items()}
        instances = {}
        for name in self._options.instances:
            kind = f"instances of {name}"
            entries[kind], instances[name] = self._make_instances(kind, name)
        preview = self._make_preview() if self._options.preview else None
        if preview is not None:
            entries["preview"] = described(self._paths.preview.name, preview)
        self._publish(entries, preview)
        return entries, instances

    def _publish(self, entries: dict[str, dict[str, Any]], preview: bytes | None) -> None:
        """Give all files their names. What is there and not ours is replaced only if the user said so."""
        options, report = self._options, self._paths.report
        wanted = self._paths.wanted(options)
        if not options.overwrite:
            make_room(report, wanted, keep=options.unattended)
        announce(report, entries.values())
        for path in self._stale(wanted):
            set_aside(path, report)
        there = {path for path in wanted if options.overwrite or path.exists()}
        self._forget_earlier_run()
        for writer in self._writers.values():
            writer.publish(replace=writer.path in there)
        if preview is not None:
            write_file(self._paths.preview, preview, replace=self._paths.preview in there)

    def _stale(self, wanted: list[Path]) -> list[Path]:
        """Outputs of an earlier run that asked for more: they tell of labels that are about to be replaced."""
        earlier = (read_report(self._paths.report) or {}).get("outputs")
        files = [self._paths.folder / entry["file"] for entry in entries_of({"outputs": earlier})]
        return [file for file in files if self._paths.may_be(file.name) and file not in wanted and file.exists()]

    def _forget_earlier_run(self) -> None:
        """Its report must not vouch for files that are about to change, not even if we are killed in between."""
        if self._paths.report.exists():
            try:
                self._paths.report.unlink()
                sync(self._paths.folder)
            except OSError as error:
                raise OutputError(f"{self._paths.report}: cannot be replaced: {error.strerror}") from error

    def _make_instances(self, kind: str, class_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The objects of a class as a file of their own, found in the finished labels: its entry, and what is in it."""
        path, voxel_size = self._paths.instances(class_name), self._stack.info.voxel_size
        least = 1 if voxel_size is None else max(1, ceil(self._options.min_volume / voxel_size.volume))
        with open_stack(self._writers["labels"].temporary, stored=True) as labels:
            found = find_instances(labels.read, labels.info.shape[0], self._names.index(class_name), min_voxels=least)
            record: dict[str, Any] = {"count": len(found), "dropped": found.dropped, "voxels": int(found.voxels.sum())}
            file_format = self._options.file_format
            if found.dtype == "uint32" and file_format == "imagej":
                file_format = "ome-tiff"
                record["note"] = "more than 65,535 instances: written as OME-TIFF uint32"
            shape, top = labels.info.shape, max(255, len(found))
            writer = StackWriter(
                path, shape, found.dtype, file_format=file_format, voxel_size=voxel_size,
                colours=instance_colours(), display_range=(0.0, float(top)), kind="objects",
            )  # fmt: skip
            self._writers[kind] = self._files.enter_context(writer)
            for z, numbers in enumerate(found.slices()):
                writer.write(z, numbers)
        if len(found):
            record["median_voxels"] = float(np.median(found.voxels))
            if voxel_size is not None:
                record["median_volume_um3"] = float(f"{record['median_voxels'] * voxel_size.volume:.6g}")
        return writer.finish(), record

    def _make_preview(self) -> bytes:
        return preview_of(self._stack, self._bundle, dict(zip(self._shown, self._shown_labels, strict=True)))


def shown_slices(depth: int) -> list[int]:
    """The slices that a preview of a stack of so many shows."""
    return sorted({(2 * i + 1) * depth // (2 * _PREVIEW_SLICES) for i in range(_PREVIEW_SLICES)})


def preview_of(stack: Stack, bundle: ModelBundle, labels: Mapping[int, np.ndarray]) -> bytes:
    """The content of the preview; `labels` are (y, x) class indices of the slices to show."""
    images = [(z, stack.read(z)) for z in labels]
    classes = [(c.name, c.colour) for c in bundle.classes]
    title = stack_name(stack.info.path)
    return as_png(render_preview(images, list(labels.values()), classes, stack.info.voxel_size, title))
