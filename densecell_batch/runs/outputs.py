"""The files of one stack: where they go, and how they come to be whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from densecell_batch.errors import OutputError
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.io.writing import StackWriter
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.plots.overlay import render_preview
from densecell_batch.plots.png import as_png
from densecell_batch.runs.objects import Made, Source, made, make_objects
from densecell_batch.runs.options import RunOptions
from densecell_batch.runs.ownership import announce, make_room, set_aside
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.pieces import StoredSlice
from densecell_batch.runs.report import Instances, read_report
from densecell_batch.storage.atomic import sync
from densecell_batch.storage.records import FileRecord

__all__ = ["StackOutputs", "preview_of", "shown_slices"]

_PREVIEW_SLICES = 3


class StackOutputs:
    """Receives finished slices in ascending z and turns them into files.

    Everything is written under temporary names. `commit` gives the files their final names; leaving the context
    without it removes them.

    Raises
    ------
    OutputError
        If the folder cannot be made or a file cannot be written.
    """

    def __init__(
        self, paths: StackPaths, stack: Stack, bundle: ModelBundle, options: RunOptions, title: str = ""
    ) -> None:
        self._paths, self._stack, self._bundle, self._options = paths, stack, bundle, options
        self._title = title or paths.name  # of the preview
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
                n_members, n_classes = len(self._bundle.members), len(self._names)
                highest = np.log2(max(2, n_classes if n_members == 1 else min(n_members, n_classes)))
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
            path, shape, dtype, file_format=self._options.file_format, voxel_size=self._stack.info.voxel_size,
            offset=self._stack.info.offset, **look,
        )  # fmt: skip

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

    def commit(self, again: Callable[[], Iterator[StoredSlice]]) -> tuple[dict[str, FileRecord], dict[str, Instances]]:
        """Finish all files, and give them their names once all are whole.

        Parameters
        ----------
        again
            All slices once more, in ascending z.

        Returns
        -------
        files : dict
            Kind of output -> the record of its file.
        instances : dict
            Class -> what there is of it.

        Raises
        ------
        OccupiedError
            If a name is taken by a file that is not ours. The work that was done stays done.
        """
        files = {kind: Made(writer.path, writer.finish(), writer.publish) for kind, writer in self._writers.items()}
        instances: dict[str, Instances] = {}
        if self._options.objects:
            more, instances = self._make_objects(again)
            files |= more
        if self._options.preview:
            files["preview"] = made(self._paths.preview, [self._make_preview()], self._files)
        self._publish([*files.values()])
        return {kind: file.record for kind, file in files.items()}, instances

    def _make_objects(self, again: Callable[[], Iterator[StoredSlice]]) -> tuple[dict[str, Made], dict[str, Instances]]:
        """The files about objects, found in the finished labels."""
        with open_stack(self._writers["labels"].temporary, stored=True) as labels:
            doubts = ((stored.confidence, stored.disagreement) for stored in again())
            labels.info = replace(labels.info, voxel_size=self._stack.info.voxel_size, offset=self._stack.info.offset)
            source = Source(self._paths.name, labels, self._names, image=self._stack, doubts=doubts)
            return make_objects(source, self._paths, self._options, self._files)

    def _publish(self, files: Sequence[Made]) -> None:
        """Give all files their names. What is there and not ours is replaced only if the user said so."""
        options, report = self._options, self._paths.report
        wanted = self._paths.wanted(options)
        if not options.overwrite:
            make_room(report, wanted, keep=options.unattended)
        announce(report, [file.record for file in files])
        for path in self._stale(wanted):
            set_aside(path, report)
        there = {path for path in wanted if options.overwrite or path.exists()}
        self._forget_earlier_run()
        for file in files:
            file.publish(replace=file.path in there)

    def _stale(self, wanted: list[Path]) -> list[Path]:
        """Outputs of an earlier run that asked for more: they tell of labels that are about to be replaced."""
        earlier = read_report(self._paths.report)
        entries = () if earlier is None else earlier.outputs.values()
        files = [self._paths.folder / entry.file for entry in entries]
        return [file for file in files if self._paths.may_be(file.name) and file not in wanted and file.exists()]

    def _forget_earlier_run(self) -> None:
        """Its report must not vouch for files that are about to change, not even if we are killed in between."""
        if self._paths.report.exists():
            try:
                self._paths.report.unlink()
                sync(self._paths.folder)
            except OSError as error:
                raise OutputError(f"{self._paths.report}: cannot be replaced: {error.strerror}") from error

    def _make_preview(self) -> bytes:
        shown = dict(zip(self._shown, self._shown_labels, strict=True))
        return preview_of(self._title, self._stack, self._bundle, shown)


def shown_slices(depth: int) -> list[int]:
    """The slices that a preview of a stack of so many shows."""
    return sorted({(2 * i + 1) * depth // (2 * _PREVIEW_SLICES) for i in range(_PREVIEW_SLICES)})


def preview_of(title: str, stack: Stack, bundle: ModelBundle, labels: Mapping[int, np.ndarray]) -> bytes:
    """The content of the preview; `labels` are (y, x) class indices (uint8) of the slices to show."""
    images = [(z, stack.read(z)) for z in labels]
    classes = [(c.name, c.colour) for c in bundle.classes]
    return as_png(render_preview(images, list(labels.values()), classes, stack.info.voxel_size, title))
