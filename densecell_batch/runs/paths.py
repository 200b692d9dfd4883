"""Names: of a stack, and of its results."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from densecell_batch.models.names import file_word
from densecell_batch.runs.object_options import ObjectOptions
from densecell_batch.runs.options import RunOptions
from densecell_batch.storage.opening import exists

__all__ = ["StackPaths", "is_like_result", "stack_name", "without_suffix"]

_WORD = "[0-9A-Za-z._-]+"  # what `file_word` and titles of tables leave
_ENDS = (
    rf"_(labels|probabilities|uncertainty|{_WORD}_instances)\.tif|_preview\.png|_macro_{_WORD}\.csv"
    rf"|_(objects|classes)\.csv|_{_WORD}_objects\.png|_{_WORD}_rois\.zip"
)


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


class StackPaths:
    """The final names of the outputs of a stack.

    Parameters
    ----------
    folder
        Where they go.
    stack
        TIFF file or folder of slices.
    """

    def __init__(self, folder: Path, stack: Path) -> None:
        self.folder, self.name = folder, stack_name(stack)
        self.bare = folder / self.name  # what all names begin with
        self.labels = folder / f"{self.name}_labels.tif"
        self.probabilities = folder / f"{self.name}_probabilities.tif"
        self.uncertainty = folder / f"{self.name}_uncertainty.tif"
        self.preview = folder / f"{self.name}_preview.png"
        self.objects = folder / f"{self.name}_objects.csv"
        self.classes = folder / f"{self.name}_classes.csv"
        self.report = folder / f"{self.name}_report.json"

    def made(self) -> set[Path]:
        """Absolute paths of the stacks that a finished run left: those whose report is there."""
        if not exists(self.report):
            return set()
        images = (
            self.labels,
            self.probabilities,
            self.uncertainty,
            *self.folder.glob(f"{glob.escape(self.name)}_*_instances.tif"),
        )
        return {image.absolute() for image in images}

    def wanted(self, options: RunOptions) -> list[Path]:
        """All files that a run with these options writes, but for the tables of the second macro, whose names it alone
        knows.
        """
        return [
            self.labels,
            *([self.probabilities] if options.probabilities else []),
            *([self.uncertainty] if options.uncertainty else []),
            *self.of_objects(options),
            *([self.preview] if options.preview else []),
            self.report,
        ]

    def of_objects(self, options: ObjectOptions) -> list[Path]:
        """The files about objects that are written with these options."""
        return [
            *map(self.instances, options.objects),
            *(map(self.rois, options.objects) if options.rois else []),
            *(map(self.picture, options.objects) if options.preview else []),
            *([self.objects, self.classes] if options.objects else []),
        ]

    def may_be(self, file_name: str) -> bool:
        """Whether a file name is one that a result of this stack may have."""
        return re.fullmatch(rf"{re.escape(self.name)}({_ENDS})", file_name) is not None

    def instances(self, class_name: str) -> Path:
        """The instances of a class."""
        return self.folder / f"{self.name}_{file_word(class_name)}_instances.tif"

    def rois(self, class_name: str) -> Path:
        """The outlines of the objects of a class."""
        return self.folder / f"{self.name}_{file_word(class_name)}_rois.zip"

    def picture(self, class_name: str) -> Path:
        """The picture of the objects of a class."""
        return self.folder / f"{self.name}_{file_word(class_name)}_objects.png"
