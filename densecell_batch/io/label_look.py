"""What a label file says of its labels beside their values: names and colours of classes.

ImageJ keeps both: a colour table, and the Info property, in which this program writes a line for each class
(`writing.class_lines`) and anybody may do the same with *Image > Show Info*. Neither changes a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

import numpy as np
import tifffile

from densecell_batch.io.reading import open_labels
from densecell_batch.io.stack import explained_reading
from densecell_batch.labels import OUTSIDE
from densecell_batch.storage.opening import Reach

__all__ = ["LabelLook", "label_look"]

Colour = tuple[int, int, int]

_LINE = re.compile(r"^\s*(?:class|label)\s+(\d{1,3})\s*[=:]\s*(\S.*?)(?:\s+(#[0-9a-f]{6}))?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelLook:
    """Names and colours by label."""

    names: dict[int, str] = field(default_factory=dict)
    colours: dict[int, Colour] = field(default_factory=dict)  # of those that have a name and a colour beside it
    table: np.ndarray | None = None  # (256, 3) uint8: the colour of each value; None if there is none, or a grey one


def label_look(path: Path) -> LabelLook:
    """Read names and colours of a label stack.

    Parameters
    ----------
    path
        TIFF file, or folder of slices, of which the first one is asked.

    Raises
    ------
    StackError
        If it cannot be read as labels.
    """
    reach = Reach.of(path, links=True)
    with open_labels(path, reach) as labels:
        first, eight_bits = labels.files[0], labels.info.dtype == "uint8"
        what = "its header cannot be read"
        with (
            explained_reading(first, what),
            labels.reach.open(first) as stream,
            tifffile.TiffFile(stream, _multifile=False) as tiff,
        ):
            names, colours = _named(_text(tiff))
            return LabelLook(names, colours, _table(tiff) if eight_bits else None)


def _text(tiff: tifffile.TiffFile) -> str:
    """The Info of ImageJ, or the description of OME."""
    if tiff.is_imagej:
        return str((tiff.imagej_metadata or {}).get("Info", ""))
    found = re.search(r"<Description>(.*?)</Description>", tiff.ome_metadata or "", re.DOTALL)
    return unescape(found[1]) if found else ""


def _named(text: str) -> tuple[dict[int, str], dict[int, Colour]]:
    names: dict[int, str] = {}
    colours: dict[int, Colour] = {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or int(found[1]) >= OUTSIDE:
            continue
        names[int(found[1])] = found[2]
        if found[3]:
            red, green, blue = bytes.fromhex(found[3][1:])
            colours[int(found[1])] = red, green, blue
    return names, colours


def _table(tiff: tifffile.TiffFile) -> np.ndarray | None:
    """Colours of the values of 8 bits, (256, 3) uint8; None where they say no more than grey does."""
    found = tiff.pages.first.colormap
    if found is None:
        tables = (tiff.imagej_metadata or {}).get("LUTs") or [None]
        found = tables[0]
    if found is None or np.shape(found) != (3, 256):
        return None
    table = np.asarray(found)
    table = (table >> 8 if table.max() > 255 else table).astype(np.uint8).T  # some write values of 8 bits
    return None if (table == table[:, :1]).all() else table
