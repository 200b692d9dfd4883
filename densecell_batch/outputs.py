"""The files of one stack: where they go, and how they come to be whole or not at all."""

from __future__ import annotations

import re
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from densecell_batch.atomic import sync
from densecell_batch.bundle import ModelBundle, file_word
from densecell_batch.errors import OutputError
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.labels import find_instances
from densecell_batch.pieces import StoredSlice
from densecell_batch.preview import render_preview, write_preview
from densecell_batch.stack_writer import StackWriter, instance_colours

if TYPE_CHECKING:
    from densecell_batch.segmenter import SegmentOptions

__all__ = ["OutputPaths", "StackOutputs", "stack_name", "without_suffix"]

_PREVIEW_SLICES = 3


def stack_name(path: Path) -> str:
    """What the outputs of a stack are named after: the file name without .tif, .tiff or .ome.tif; a folder's own
    name.
    """
    if path.is_dir():
        return path.resolve().name
    return without_suffix(path.name)


def without_suffix(file_name: str) -> str:
    """A file name without .tif, .tiff or .ome.tif."""
    return re.sub(r"(\.ome)?\.tiff?$", "", file_name, flags=re.IGNORECASE)


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
        base = folder / stack_name(stack)
        self.folder = folder
        self.labels = base.with_name(base.name + "_labels.tif")
        self.probabilities = base.with_name(base.name + "_probabilities.tif")
        self.uncertainty = base.with_name(base.name + "_uncertainty.tif")
        self.preview = base.with_name(base.name + "_preview.png")
        self.report = base.with_name(base.name + "_report.json")
        self._base = base

    def made(self) -> set[Path]:
        """Absolute paths of the stacks that a finished run left: those whose report is there."""
        if not self.report.exists():
            return set()
        images = (
            self.labels,
            self.probabilities,
            self.uncertainty,
            *self.folder.glob(f"{self._base.name}_*_instances.tif"),
        )
        return {image.absolute() for image in images}

    def instances(self, class_name: str) -> Path:
        """The instances of a class."""
        return self._base.with_name(f"{self._base.name}_{file_word(class_name)}_instances.tif")


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
        self._shown = sorted({(2 * i + 1) * depth // (2 * _PREVIEW_SLICES) for i in range(_PREVIEW_SLICES)})
        self._shown_labels: list[np.ndarray] = []
        self._files = ExitStack()
        self._writers: dict[str, StackWriter] = {}

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            z, y, x = self._stack.info.shape
            labels = self._writer(
                self._paths.labels, (z, y, x), "uint8", class_names=self._names, colours=self._colours
            )
            self._writers["labels"] = opened.enter_context(labels)
            if self._options.probabilities:
                path, shape = self._paths.probabilities, (z, len(self._names), y, x)
                writer = self._writer(path, shape, "float32", channels=self._names, display_range=(0.0, 1.0))
                self._writers["probabilities"] = opened.enter_context(writer)
            if self._options.uncertainty:
                highest = np.log2(max(2, min(len(self._bundle.members), len(self._names))))
                writer = self._writer(
                    self._paths.uncertainty, (z, y, x), "float32", display_range=(0.0, float(highest))
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
        """Finish all files.

        Returns
        -------
        files : dict
            Kind of output -> its name and size in bytes.
        instances : dict
            Class -> number of instances, their voxels, and a note where the file differs from what was asked.
        """
        self._forget_earlier_run()
        for writer in self._writers.values():
            writer.commit()
        files = {kind: writer.path for kind, writer in self._writers.items()}
        instances = {}
        for name in self._options.instances:
            files[f"instances of {name}"], instances[name] = self._write_instances(name)
        if self._options.preview:
            self._write_preview()
            files["preview"] = self._paths.preview
        described = {kind: {"file": path.name, "bytes": path.stat().st_size} for kind, path in files.items()}
        return described, instances

    def _forget_earlier_run(self) -> None:
        """Its report must not vouch for files that are about to change, not even if we are killed in between."""
        if self._paths.report.exists():
            try:
                self._paths.report.unlink()
                sync(self._paths.folder)
            except OSError as error:
                raise OutputError(f"{self._paths.report}: cannot be replaced: {error.strerror}") from error

    def _write_instances(self, class_name: str) -> tuple[Path, dict[str, Any]]:
        """The objects of a class as a file of their own, found in the committed labels."""
        path, voxel_size = self._paths.instances(class_name), self._stack.info.voxel_size
        least = 1 if voxel_size is None else max(1, ceil(self._options.min_volume / voxel_size.volume))
        with open_stack(self._paths.labels) as labels:
            found = find_instances(labels.read, labels.info.shape[0], self._names.index(class_name), min_voxels=least)
            record: dict[str, Any] = {"count": len(found), "dropped": found.dropped, "voxels": int(found.voxels.sum())}
            file_format = self._options.file_format
            if found.dtype == "uint32" and file_format == "imagej":
                file_format = "ome-tiff"
                record["note"] = "more than 65,535 instances: written as OME-TIFF uint32"
            shape, top = labels.info.shape, max(255, len(found))
            writer = StackWriter(
                path, shape, found.dtype, file_format=file_format, voxel_size=voxel_size,
                colours=instance_colours(), display_range=(0.0, float(top)),
            )  # fmt: skip
            with writer:
                for z, numbers in enumerate(found.slices()):
                    writer.write(z, numbers)
                writer.commit()
        if len(found):
            record["median_voxels"] = float(np.median(found.voxels))
            if voxel_size is not None:
                record["median_volume_um3"] = float(f"{record['median_voxels'] * voxel_size.volume:.6g}")
        return path, record

    def _write_preview(self) -> None:
        images = [(z, self._stack.read(z)) for z in self._shown]
        classes = [(c.name, c.colour) for c in self._bundle.classes]
        title = stack_name(self._stack.info.path)
        write_preview(
            self._paths.preview, render_preview(images, self._shown_labels, classes, self._stack.info.voxel_size, title)
        )
