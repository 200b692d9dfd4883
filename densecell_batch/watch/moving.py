"""Move stacks that are done with out of the watched folder, also to another disk, without a moment of half a file."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from densecell_batch.io.formats.ome_set import files_of
from densecell_batch.storage.atomic import explained, sync, temporary_name
from densecell_batch.storage.opening import Reach

__all__ = ["move_below"]


def move_below(stack: Path, reach: Reach, folder: Path) -> Path:
    """Move a stack to the same place below another folder, beside what is there under its name. The files of a set stay
    together, under their names, since they name each other: if need be in a folder of their own.

    Parameters
    ----------
    stack
        File or folder of slices.
    reach
        The folder that `stack` lies in, somewhere below, and whether links in it are followed. A link itself is moved,
        never what it leads to.
    folder
        Where it goes; made if it is not there.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    OutputError
        If it cannot be moved; it is then where it was.
    """
    place = stack.relative_to(reach.root).parent
    files = files_of(stack, reach)
    if len(files) > 1:
        return _move_set(stack, files, reach, folder, place)
    name, number = stack.name, 1
    while _is_there(folder / place / name):
        number += 1
        name = f"{stack.stem}-{number}{stack.suffix}"
    return _move(stack, reach, folder, place / name)


def _move_set(stack: Path, files: Sequence[Path], reach: Reach, folder: Path, place: Path) -> Path:
    """Move the files of a set, the one that stands for it last: as long as it is there, the set is seen."""
    inner, number = place, 1
    while any(_is_there(folder / inner / file.name) for file in files):
        number += 1
        inner = place / f"{stack.stem}-{number}"
    for file in sorted(files, key=lambda file: file == stack):
        _move(file, reach, folder, inner / file.name)
    return folder / inner / stack.name


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _move(stack: Path, reach: Reach, folder: Path, place: Path) -> Path:
    """Move to `place` below `folder`. Links there may be of somebody who had them moved before: none is followed."""
    target = folder / place
    with explained(target):
        folder.mkdir(parents=True, exist_ok=True)
        with reach.folder(stack.parent) as source, Reach(folder).folder(target.parent, make=True) as goal:
            try:
                os.rename(stack.name, target.name, src_dir_fd=source, dst_dir_fd=goal)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(_by_descriptor(stack, source), _by_descriptor(target, goal))
    return target


def _by_descriptor(path: Path, folder: int) -> Path:
    """A file by the descriptor of its folder, where the system has paths for that: no link can get in between."""
    there = Path(f"/proc/self/fd/{folder}")
    return there / path.name if there.exists() else path


def _copy(stack: Path, target: Path) -> None:
    """To another disk: first a copy, then its name, then the original goes. Links are copied as links."""
    temporary = temporary_name(target)
    is_folder = stack.is_dir() and not stack.is_symlink()
    try:
        if is_folder:
            shutil.copytree(stack, temporary, symlinks=True)
        else:
            shutil.copy2(stack, temporary, follow_symlinks=False)
            if not temporary.is_symlink():
                sync(temporary)
        temporary.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
        raise
    if is_folder:
        shutil.rmtree(stack)
    else:
        stack.unlink()
