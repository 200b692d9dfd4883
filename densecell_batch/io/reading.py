"""Open a stack, whatever its container: a TIFF file (`formats.tiff`) or a folder of single-slice TIFFs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from densecell_batch.errors import StackError
from densecell_batch.io.discovery import is_slice, natural_key
from densecell_batch.io.formats.tiff import open_tiff
from densecell_batch.io.stack import Stack, explained_reading
from densecell_batch.volume import VoxelSize

__all__ = ["open_labels", "open_stack"]


def open_stack(path: Path, voxel_size: VoxelSize | None = None, *, stored: bool = False) -> Stack:
    """Open a stack and check all that its header says.

    Parameters
    ----------
    path
        A TIFF file, or a folder of single-slice TIFFs.
    voxel_size
        Overrides that of the file.
    stored
        Whether to read the values as they are stored, as labels want it. Images are read as a viewer shows them:
        turned round where the file says that 0 is white, and through its colour table if that is grey.

    Returns
    -------
    Stack

    Raises
    ------
    StackError
        If it is not there, not readable, not a TIFF, truncated, or not one grey-value volume of a dtype in `DTYPES`.
    """
    path = Path(path)
    if not path.exists():
        raise StackError(f"{path}: no such file or folder")
    if not path.is_dir() and not path.is_file():
        raise StackError(f"{path}: it is neither a file nor a folder; expected a TIFF file or a folder of slices")
    stack = _open_folder(path, stored=stored) if path.is_dir() else open_tiff(path, stored=stored)
    if voxel_size is not None:
        stack.info = replace(stack.info, voxel_size=voxel_size)
        stack.notes = tuple(note for note in stack.notes if note not in stack.calibration_notes)
    return stack


def open_labels(path: Path) -> Stack:
    """Open a stack of labels: whole numbers, as they are stored.

    Raises
    ------
    StackError
        As for `open_stack`, and if the values are float32.
    """
    stack = open_stack(path, stored=True)
    if stack.info.dtype == "float32":
        stack.close()
        raise StackError(
            f"{path}: the labels are float32; expected whole numbers: in Fiji, take the tick off Edit > Options > "
            "Conversions > Scale when converting, then Image > Type > 8-bit"
        )
    return stack


def _open_folder(folder: Path, *, stored: bool) -> Stack:
    with explained_reading(folder, "the folder cannot be read"):
        files = sorted(filter(is_slice, folder.iterdir()), key=natural_key)
    if not files:
        raise StackError(f"{folder}: the folder holds no TIFF file; expected single-slice TIFFs (.tif or .tiff)")
    with open_tiff(files[0], stored=stored) as first:
        info, notes, of_calibration = first.info, first.notes, first.calibration_notes
    if info.shape[0] > 1:
        raise StackError(
            f"{folder}: {files[0].name} has {info.shape[0]} slices; expected a folder of single-slice TIFFs: to "
            "segment each file as a "
            f"stack of its own, give {folder}/*{files[0].suffix}"
        )

    def read(z: int, start: int, stop: int) -> np.ndarray:
        with open_tiff(files[z], stored=stored) as single:
            if single.info.shape[0] > 1:
                raise StackError(f"{files[z]}: has {single.info.shape[0]} slices; expected one, as in {files[0].name}")
            if single.info.shape[1:] != info.shape[1:]:
                return single.read(0)  # of another shape, as the caller will say
            return single.read(0, (start, stop))

    info = replace(info, path=folder, shape=(len(files), *info.shape[1:]), container="folder")
    others = [note for note in notes if note not in of_calibration]
    return Stack(info, files, read, lambda: None, others, of_calibration)
