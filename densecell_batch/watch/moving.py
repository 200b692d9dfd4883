"""Move stacks that are done with out of the watched folder, also to another disk, without a moment of half a file."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from densecell_batch.atomic import explained, sync, temporary_name

__all__ = ["move_below"]


def move_below(stack: Path, root: Path, folder: Path) -> Path:
    """Move a stack to the same place below another folder, beside what is there under its name.

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
    wanted = target = folder / stack.relative_to(root)
    number = 1
    while target.exists():
        number += 1
        target = wanted.with_name(f"{stack.stem}-{number}{stack.suffix}")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(stack, target)
    return target


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
