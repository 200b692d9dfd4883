"""Open a stack, whatever its container: a TIFF file (`formats.tiff`), a set of OME-TIFFs (`formats.ome_set`), or a
folder of single-slice TIFFs.
"""

from __future__ import annotations

import glob
import shlex
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.discovery import is_slice, leads_nowhere
from densecell_batch.io.formats.ome_set import OmeSet, find_set
from densecell_batch.io.formats.tiff import open_tiff
from densecell_batch.io.formats.tiff_tags import ome_voxel_size
from densecell_batch.io.slice_names import SliceOrder, order_slices
from densecell_batch.io.stack import Stack, StackInfo, explained_reading
from densecell_batch.storage.opening import Reach

__all__ = ["open_labels", "open_stack"]

_SMALL_BLOCK = 2**26  # bytes that any slice may be packed in


def open_stack(
    path: Path, voxel_size: VoxelSize | None = None, *, stored: bool = False, reach: Reach | None = None
) -> Stack:
    """Open a stack and check all that its header says.

    Parameters
    ----------
    path
        A TIFF file, any file of a set of OME-TIFFs, or a folder of single-slice TIFFs or of one such set.
    voxel_size
        Overrides that of the file.
    stored
        Whether to read the values as they are stored, as labels want it. Images are read as a viewer shows them:
        turned round where the file says that 0 is white, and through its colour table if that is grey.
    reach
        Which links are followed; by default only `path` itself, not those in a folder, nor other files of a set.

    Returns
    -------
    Stack

    Raises
    ------
    StackError
        If it is not there, not readable, not a TIFF, truncated, or not one grey-value volume of a dtype in `DTYPES`; if
        files of its set are missing, or a folder holds several series.
    """
    path = Path(path)
    reach = reach or Reach.of(path)
    try:
        kind = reach.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise StackError(f"{path}: no such file or folder") from error
    if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind) and not stat.S_ISLNK(kind):
        raise StackError(f"{path}: it is neither a file nor a folder; expected a TIFF file or a folder of slices")
    stack = (_open_folder if stat.S_ISDIR(kind) else _open_file)(path, reach, stored=stored)
    stack.reach = reach
    if voxel_size is not None:
        stack.info = replace(stack.info, voxel_size=voxel_size)
        stack.notes = tuple(note for note in stack.notes if note not in stack.calibration_notes)
    return stack


def open_labels(path: Path, reach: Reach | None = None) -> Stack:
    """Open a stack of labels: whole numbers, as they are stored; `reach` is as for `open_stack`.

    Raises
    ------
    StackError
        As for `open_stack`, and if the values are float32.
    """
    stack = open_stack(path, stored=True, reach=reach)
    if stack.info.dtype == "float32":
        stack.close()
        raise StackError(
            f"{path}: the labels are float32; expected whole numbers: in Fiji, take the tick off Edit > Options > "
            "Conversions > Scale when converting, then Image > Type > 8-bit"
        )
    return stack


def _open_file(path: Path, reach: Reach, *, stored: bool) -> Stack:
    ome = find_set(path, reach)
    if ome is not None:
        return _open_set(ome, stored=stored)
    with explained_reading(path, "it cannot be opened"):
        stream = reach.open(path)
    return open_tiff(path, stream, stored=stored)


# A folder of slices


def _open_folder(folder: Path, reach: Reach, *, stored: bool) -> Stack:
    with explained_reading(folder, "the folder cannot be read"):
        there = list(folder.iterdir())
        order = order_slices([file.name for file in there if is_slice(file)])
        lost = sorted(file.name for file in there if leads_nowhere(file))
    if lost:
        raise StackError(
            f"{folder}: {lost[0]} is a link to a file that is not there ({len(lost)} such); is a disk not mounted? "
            "Bring the files back, or remove the links"
        )
    files = [folder / name for name in order.names]
    if not files:
        raise StackError(f"{folder}: the folder holds no TIFF file; expected single-slice TIFFs (.tif or .tiff)")
    ome = find_set(files[0], reach)
    if ome is not None and len(ome.files) > 1:
        return _open_set_folder(folder, ome, order, stored=stored)
    with _open_file(files[0], reach, stored=stored) as first:
        info, notes, of_calibration, block = first.info, first.notes, first.calibration_notes, first.block
    if info.shape[0] > 1:
        raise _no_slices(folder, files, info, reach)
    if order.series:
        described = "; ".join(f"{names[0]} to {names[-1]}, {len(names)} files" for names in order.series)
        raise StackError(
            f"{folder}: its names are those of {len(order.series)} series of slices ({described}); expected one stack: "
            "put each series into a folder of its own, or, if they are one stack, give all files one running number"
        )

    def read(z: int, start: int, stop: int) -> np.ndarray:
        with _open_file(files[z], reach, stored=stored) as single:
            if single.info.shape[0] > 1:
                raise StackError(f"{files[z]}: has {single.info.shape[0]} slices; expected one, as in {files[0].name}")
            if _look(single.info) != _look(info):
                raise _unlike(files, z, single.info, reach)
            if single.block > max(block, _SMALL_BLOCK):
                raise StackError(
                    f"{files[z]}: it is packed in pieces of {single.block:.3g} bytes, those of {files[0].name} have "
                    f"{block:.3g}; expected all slices alike: save it uncompressed"
                )
            return single.read(0, (start, stop))

    info = replace(info, path=folder, shape=(len(files), *info.shape[1:]), container="folder")
    others = [note for note in notes if note not in of_calibration]
    stack = Stack(info, files, read, lambda: None, [*others, *order.notes], of_calibration)
    stack.remarks, stack.block = order.notes, block
    return stack


def _look(info: StackInfo) -> str:
    """What the slices of a stack have in common, in words."""
    return f"{info.shape[1:]} {info.dtype}"


def _infos(files: Sequence[Path], reach: Reach) -> dict[Path, StackInfo]:
    """Of all files of a folder that can be opened."""
    found = {}
    for file in files:
        try:
            with _open_file(file, reach, stored=True) as stack:
                found[file] = stack.info
        except StackError:
            continue
    return found


def _no_slices(folder: Path, files: Sequence[Path], first: StackInfo, reach: Reach) -> StackError:
    """What to say of a folder whose first file is no slice: it may be alone with that."""
    infos = _infos(files, reach)
    stacks = [file for file, info in infos.items() if info.shape[0] > 1]
    if 2 * len(stacks) < len(infos):
        others = f"the other files have one: take {stacks[0].name} out of the folder"
        return StackError(f"{stacks[0]}: it has {infos[stacks[0]].shape[0]} slices, {others}")
    pattern = shlex.quote(f"{glob.escape(str(folder))}/*{files[0].suffix}")
    return StackError(
        f"{folder}: {files[0].name} has {first.shape[0]} slices; expected a folder of single-slice TIFFs: to segment "
        f"each file as a stack of its own, give {pattern}"
    )


def _unlike(files: Sequence[Path], z: int, here: StackInfo, reach: Reach) -> StackError:
    """What to say where slice `z` is not like the first: that is wrong of the two which is not like most others."""
    looks = {file: _look(info) for file, info in _infos(files, reach).items()}
    (usual, most), *others = Counter(looks.values()).most_common() or [("", 0)]
    if not most or (others and others[0][1] == most):  # nobody is in the majority: the first one counts
        usual = looks.get(files[0], "another shape or type")
    odd = next((i for i, file in enumerate(files) if looks.get(file, usual) != usual), z)
    wrong = z if _look(here) != usual else odd
    return StackError(
        f"{files[wrong]}: slice {wrong} is {looks.get(files[wrong], _look(here))}; expected {usual} as in "
        f"{most if most > 1 else 'the first'} of the {len(files)} files: all slices of a stack must be alike: take it "
        "out of the folder, or export it again"
    )


# A set of OME-TIFFs


def _open_set_folder(folder: Path, ome: OmeSet, order: SliceOrder, *, stored: bool) -> Stack:
    """A folder that holds a set of OME-TIFFs, and nothing else."""
    if others := [name for name in order.names if name not in ome.names]:
        pattern = shlex.quote(f"{glob.escape(str(folder))}/*{Path(ome.files[0]).suffix}")
        raise StackError(
            f"{folder}: it holds a set of {len(ome.files)} OME-TIFFs ({ome.files[0]} and others) and {len(others)} "
            f"files that are no part of it ({', '.join(others[:3])}); expected one stack: to segment each as a "
            f"stack of its own, give {pattern}"
        )
    stack = _open_set(ome, stored=stored)
    stack.info = replace(stack.info, path=folder)
    return stack


def _open_set(ome: OmeSet, *, stored: bool) -> Stack:
    """All files are looked into before the first slice is read: one that is missing must not cost a night."""
    wrong = [
        f"{ome.size(axis)} {what}" for axis, what in (("C", "channels"), ("T", "time points")) if ome.size(axis) > 1
    ]
    if wrong:
        raise StackError(
            f"{ome.path}: the set of {len(ome.files)} files has {' and '.join(wrong)}; expected one volume of slices: "
            "keep one channel and one time point (in Fiji: Image > Duplicate), and save it as one file"
        )
    members = _Members(ome, stored=stored)
    try:
        opened = {name: members.open(name) for name in ome.files}
        infos = {name: one.info for name, one in opened.items()}
        first, planes = _where(ome, infos)
    except BaseException:
        members.close()
        raise
    voxel_size, notes = _set_voxel_size(ome)
    info = StackInfo(ome.path, (len(planes), *first.shape[1:]), first.dtype, voxel_size, "ome-tiff")

    def read(z: int, start: int, stop: int) -> np.ndarray:
        name, page = planes[z]
        return members.open(name).read(page, (start, stop))

    used = Counter(name for name, _ in planes)
    unused = [
        f"{name} has {info.shape[0]} slices, of which the OME-XML names {used[name]}"
        for name, info in infos.items()
        if info.shape[0] > used[name]
    ]
    remarks = (*members.remarks, *unused)
    stack = Stack(info, ome.paths, read, members.close, remarks, notes)
    stack.remarks, stack.block = remarks, max(one.block for one in opened.values())
    return stack


def _where(ome: OmeSet, infos: dict[str, StackInfo]) -> tuple[StackInfo, list[tuple[str, int]]]:
    """The first file of a set, and file and page of each slice; StackError where something is not there."""
    first = infos[ome.files[0]]
    planes = ome.planes({name: info.shape[0] for name, info in infos.items()})
    found = [plane for plane in planes if plane is not None]
    needed = dict.fromkeys(infos, 0)
    for name, page in found:
        needed[name] = max(needed[name], page + 1)
    for name, info in infos.items():
        if _look(info) != _look(first):
            raise StackError(f"{info.path}: it is {_look(info)}; expected {_look(first)} as in {ome.files[0]}")
        if needed[name] > info.shape[0]:
            raise StackError(
                f"{info.path}: it has {info.shape[0]} slices; expected {needed[name]}, as the OME-XML of "
                f"{ome.path.name} says: it is incomplete; copy or export it again"
            )
    if len(found) < max(1, len(planes)):
        raise StackError(
            f"{ome.path}: its OME-XML says {len(planes)} slices, and of {len(planes) - len(found)} of them not where "
            "they are; export it again"
        )
    return first, found


class _Members:
    """The files of a set, one of them open: a set can have more files than a process may open."""

    def __init__(self, ome: OmeSet, *, stored: bool) -> None:
        self._ome, self._stored, self._name = ome, stored, ""
        self._opened = ExitStack()
        self.remarks: list[str] = []

    def open(self, name: str) -> Stack:
        """The pages of a file, until another one is asked for."""
        if name != self._name:
            self.close()
            with ExitStack() as opened:
                stream = opened.enter_context(self._ome.opened(name))
                if not self._ome.knows(name, stream):
                    remark = f"{name} is not known to the OME-XML of {self._ome.path.name}: is it of another set?"
                    self.remarks += [remark] if remark not in self.remarks else []
                self._stack = opened.enter_context(
                    open_tiff(self._ome.path.with_name(name), stream, stored=self._stored, of_set=True)
                )
                self._opened = opened.pop_all()
            self._name = name
        return self._stack

    def close(self) -> None:
        """Close the file that is open."""
        self._name = ""
        self._opened.close()


def _set_voxel_size(ome: OmeSet) -> tuple[VoxelSize | None, list[str]]:
    try:
        return ome_voxel_size({"OME": {"Image": {"Pixels": dict(ome.image.pixels)}}})
    except (OptionError, ValueError) as error:
        return None, [f"the calibration of the files is not usable ({error}); give --voxel-size"]
