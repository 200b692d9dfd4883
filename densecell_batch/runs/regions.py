"""An image of instances in, also one that a person corrected, a zip of regions for the ROI Manager out."""

from __future__ import annotations

import os
from pathlib import Path

from densecell_batch.errors import OptionError
from densecell_batch.io.reading import open_labels
from densecell_batch.io.writing import instance_colours
from densecell_batch.measure.rois import write_rois
from densecell_batch.runs.ownership import set_aside, sha256_of
from densecell_batch.runs.paths import without_suffix
from densecell_batch.storage.atomic import explained, make_folder, place, temporary_name

__all__ = ["write_regions"]

_END = "_instances"


def write_regions(instances: Path, folder: Path, class_name: str = "", name: str = "") -> tuple[Path, int]:
    """Write a region for each object and slice, in the colours of the objects, as `segment --rois` does.

    Parameters
    ----------
    instances
        A TIFF of whole numbers, one for each object, 0 elsewhere.
    folder
        Where the zip goes.
    class_name
        Comes last in the names of the regions; by default that in the file's name, NAME_CLASS_instances.tif.
    name
        File name of the zip; by default NAME_CLASS_rois.zip.

    Returns
    -------
    tuple
        The zip and the number of regions. Where there is none, no zip is written. One that is there and differs is kept
        as NAME.old-DATE.zip.

    Raises
    ------
    StackError
        If the file cannot be read, or holds no whole numbers.
    OptionError
        If no class is given and none is in the name, the name is no zip's, or there are too many regions.
    OutputError
        If the zip cannot be written.
    """
    stem = without_suffix(instances.name)
    if not class_name and not stem.endswith(_END):
        raise OptionError(
            f"{instances.name} is no file of instances; expected NAME_CLASS_instances.tif, or the class with it"
        )
    stem = stem.removesuffix(_END)
    name = name or f"{stem}_rois.zip"
    if not name.endswith(".zip") or Path(name).name != name:
        raise OptionError(f"{name}: expected the name of a .zip file")
    make_folder(folder)
    target = folder / name
    temporary = temporary_name(target)
    try:
        with open_labels(instances) as stack:
            depth = stack.info.shape[0]
            highest = max(int(stack.read(z).max()) for z in range(depth))
            numbers = ((z, stack.read(z).clip(0).astype("uint32")) for z in range(depth))
            count = write_rois(
                temporary, numbers, class_name or _class_in(instances.parent, stem), instance_colours(),
                objects=highest, depth=depth,
            )  # fmt: skip
        if count:
            with explained(target):
                same = target.is_file() and sha256_of(target) == sha256_of(temporary)
            if not same:
                if os.path.lexists(target):
                    set_aside(target, folder / f"{name.removesuffix('.zip')}_report.json")
                place(temporary, target, replace=False)
    finally:
        temporary.unlink(missing_ok=True)
    return target, count


def _class_in(folder: Path, stem: str) -> str:
    """The class in NAME_CLASS: both may have a "_", but NAME_labels.tif lies beside, unless it was moved."""
    for at in (i for i, character in enumerate(stem) if character == "_"):
        if (folder / f"{stem[:at]}_labels.tif").exists():
            return stem[at + 1 :]
    return stem.rpartition("_")[2]
