"""Move stacks that are done with out of the watched folder, also to another disk, without a moment of half a file."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from densecell_batch.atomic import explained, sync, temporary_name
from densecell_batch.io.formats.ome_set import files_of

__all__ = ["move_below"]


def move_below(stack: Path, root: Path, folder: Path) -> Path:
    """Move a stack to the same place below another folder, beside what is there under its name. The files of a set stay
    together, under their names, since they name each other: if need be in a folder of their own.

    Parameters
    ----------
    stack
        File or folder of slices.
    root
        The folder that `stack` lies in, somewhere below.
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
    files = files_of(stack)
    if len(files) > 1:
        return _move_set(stack, files, (folder / stack.relative_to(root)).parent)
    wanted = target = folder / stack.relative_to(root)
    number = 1
    while target.exists():
        number += 1
        target = wanted.with_name(f"{stack.stem}-{number}{stack.suffix}")
    _move(stack, target)
    return target


def _move_set(stack: Path, files: Sequence[Path], folder: Path) -> Path:
    """Move the files of a set, the one that stands for it last: as long as it is there, the set is seen."""
    place, number = folder, 1
    while any((place / file.name).exists() for file in files):
        number += 1
        place = folder / f"{stack.stem}-{number}"
    for file in sorted(files, key=lambda file: file == stack):
        _move(file, place / file.name)
    return place / stack.name


def _move(stack: Path, target: Path) -> None:
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(stack, target)


def _copy(stack: Path, target: Path) -> None:
    """To another disk: first a copy, then its name, then the original goes."""
    temporary = temporary_name(target)
    try:
        if stack.is_dir():
            shutil.copytree(stack, temporary)
        else:
            shutil.copy2(stack, temporary)
            sync(temporary)
        temporary.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
        raise
    if stack.is_dir():
        shutil.rmtree(stack)
    else:
        stack.unlink()
