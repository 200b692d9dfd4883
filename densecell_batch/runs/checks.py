"""What is refused before any work is done for a stack: names that cannot be written, and results taken for a stack; and
what is told, for the work cannot mend it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from densecell_batch.errors import StackError
from densecell_batch.io.formats.own import own_result
from densecell_batch.prepare.defects import named_slices
from densecell_batch.prepare.preparation import Preparation
from densecell_batch.printable import printable, printable_path
from densecell_batch.runs.options import RunOptions
from densecell_batch.runs.paths import StackPaths
from densecell_batch.storage.atomic import temporary_name
from densecell_batch.storage.opening import exists

__all__ = ["check_image", "check_result_names", "longest_name", "told_of_gaps"]

_KEPT = ".old-20000101T000000Z-99"  # what an earlier result gets behind the name of its stack
_HASH = ".hash-0123456789ab.making"  # the claim on the hash that shards share
_CLAIM = ".at-0123456789ab-part-01234567"  # of who works on it
_NAME_MAX, _PATH_MAX = 255, 4096  # bytes, where a file system does not say


def check_result_names(stack: Path, paths: StackPaths, options: RunOptions) -> None:
    """See that all names that a run writes, for a moment or for good, can be written.

    Raises
    ------
    StackError
        If a name is not text in UTF-8, as reports are, or too long for the file system.
    """
    for path in (stack.absolute(), paths.folder.absolute()):
        if printable_path(path) != str(path):
            raise StackError(
                f"{printable(path)}: its name is not text in UTF-8, or has a control character such as a line break, "
                "which results cannot have; rename it"
            )
    if not paths.name.strip("."):  # "" or dots would be the folder itself, or the one above
        raise StackError(f"{stack}: it has no name that results could be called after; rename it")
    longest = max(_names(paths, options), key=_bytes)
    limit, over = longest_name(paths.folder), _bytes(longest)
    if over > limit:
        raise StackError(
            f"{stack}: its name is too long: results need names of up to {over} bytes, such as {paths.name[:12]}..."
            f"{longest[-24:]}, and {paths.folder} takes {limit}; shorten it by {over - limit} letters or more"
        )
    whole = _bytes(str(paths.folder.absolute())) + 1 + over
    if whole >= _PATH_MAX:
        raise StackError(
            f"{stack}: the path of its results would have {whole} bytes, and {_PATH_MAX - 1} are possible; choose an "
            "output folder with a shorter path"
        )


def check_image(stack: Path) -> None:
    """See that a stack is no result of this program.

    Raises
    ------
    StackError
        If it is one.
    """
    kind = own_result(stack)
    if kind:
        raise StackError(
            f"{stack}: this is a result that densecell-batch wrote ({kind}), no image; give the stack that it was made "
            "of"
        )


def told_of_gaps(preparation: Preparation, options: RunOptions) -> list[str]:
    """A warning if objects are counted that slices without tissue cut in two."""
    if not options.instances or not preparation.gaps:
        return []
    where = named_slices(preparation.gaps)
    return [
        f"an object that passes through {where}, where no tissue is, counts as two: such parts have touches_outside 1 "
        "in the table"
    ]


def longest_name(folder: Path) -> int:
    """How many bytes a file name may have in a folder that may not be there yet."""
    while not exists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _NAME_MAX


def _names(paths: StackPaths, options: RunOptions) -> Iterator[str]:
    """The longest names of each kind that a run may write for a stack."""
    name = paths.name
    for output in paths.wanted(options):
        yield _temporary(output.name)
        yield name + _KEPT + output.name.removeprefix(name)
    yield _temporary(f"{name}{_KEPT}_report.json")
    yield f".{name}{_CLAIM}"
    if options.shard or options.assemble:
        yield _temporary(f".{name}{_HASH}")


def _temporary(name: str) -> str:
    """A temporary name with the longest number that a process may have."""
    return temporary_name(Path(name)).name.replace(f".{os.getpid()}.tmp", ".4194304.tmp")


def _bytes(name: str) -> int:
    return len(os.fsencode(name))
