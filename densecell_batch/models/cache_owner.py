"""Whose files these are: what lies in a cache is used without being asked for, so not everybody may have put it there.

Trusted are the files of the user and of root; those on a file system that is mounted read-only, as an image is; and in
a cache that a group shares, those of that group. A cache is shared by a group when its folder says so: the group is one
of the user's, and the folder hands it down to what is made in it (``chgrp GROUP CACHE; chmod g+s CACHE``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["distrusted"]


def distrusted(path: Path, root: Path) -> str:
    """Why something in a cache is not to be trusted, and what to do.

    Parameters
    ----------
    path
        A file, or a folder with all that is in it; below `root`.
    root
        The folder of the cache.

    Returns
    -------
    str
        Empty if everything from `root` down to `path`, and in it, is trusted, or is not there.
    """
    if not hasattr(os, "getuid"):  # Windows: a folder of the user's profile is his alone
        return ""
    group = _sharing_group(root)
    for place in _places(path, root):
        try:
            # Of a link both count: who made it, and whose file it shows.
            owners = [place.lstat(), place.stat()]
            read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place} cannot be read ({error.strerror})"
        for found in owners:
            if found.st_uid not in (os.getuid(), 0) and not read_only and (group is None or found.st_gid != group):
                return (
                    f"{place} belongs to another account (user {found.st_uid}): whoever owns it decides what it holds. "
                    f"If it shall be shared in a group, let its owner do: chgrp -R GROUP {root} && chmod g+s {root}; "
                    "else delete it, or set DENSECELL_CACHE to a folder of yours"
                )
    return ""


def _sharing_group(root: Path) -> int | None:
    """The group that shares a cache; None where none does."""
    try:
        found = root.stat()
    except OSError:
        return None
    shared = bool(found.st_mode & stat.S_ISGID) and not found.st_mode & stat.S_IWOTH
    return found.st_gid if shared and found.st_gid in {*os.getgroups(), os.getegid()} else None


def _places(path: Path, root: Path) -> Iterator[Path]:
    """The cache, the folders from there to `path`, and what is in it."""
    yield root
    for part in reversed(path.relative_to(root).parents[:-1]):
        yield root / part
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in (*folders, *files))
