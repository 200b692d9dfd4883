"""Which TIFFs are results of this program: they are no stacks to segment."""

from __future__ import annotations

import re
from pathlib import Path

from densecell_batch.io.formats.tiff_head import Head, read_head
from densecell_batch.storage.opening import open_plainly

__all__ = ["mark", "own_result"]

_PROGRAM = "densecell-batch"
_MARK = re.compile(rf"{_PROGRAM} \((.+)\)".encode())
_CLASSES = re.compile(r"class 0 = [^\n]*\n(class \d+ = [^\n]*\n)*class 1 = ")  # other text may stand before it


def mark(kind: str) -> str:
    """What the tag Software of a result says, such as "densecell-batch (class map)"."""
    return f"{_PROGRAM} ({kind})"


def own_result(path: Path) -> str:
    """What kind of result a file is; "" if it is none of ours.

    The mark goes when labels are corrected and saved again; the names of the classes stay, in the Info of ImageJ.
    """
    try:
        with open_plainly(path, follow=True) as stream:
            head = read_head(stream)
    except OSError:
        return ""
    if head is None:
        return ""
    if match := _MARK.fullmatch(head.software):
        return match[1].decode("ascii", "replace")
    return "class map" if any(_CLASSES.search(text) for text in _texts(head)) else ""


def _texts(head: Head) -> list[str]:
    """What a file says of itself, as text; ImageJ writes its properties in UTF-16 of either byte order."""
    found = [head.description.decode("utf-8", "replace")]
    if head.imagej:
        start = len(head.imagej) % 2
        for order in ("le", "be"):
            found += [head.imagej[s:].decode(f"utf-16-{order}", "replace") for s in {start, 0}]
    return found
