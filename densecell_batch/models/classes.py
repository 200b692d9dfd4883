"""The classes of a model: names and colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecell_batch.errors import BundleError, OptionError
from densecell_batch.models.manifest import is_whole, short

__all__ = [
    "PLATELET_CLASSES",
    "ClassInfo",
    "class_entries",
    "default_classes",
    "jet_colours",
    "named_classes",
    "parse_classes",
]


@dataclass(frozen=True)
class ClassInfo:
    """A class of the nets: what a voxel can be.

    Attributes
    ----------
    name
        1 to 64 printable characters; it becomes part of file names, so no slash.
    colour
        (red, green, blue), each 0 to 255.

    Raises
    ------
    BundleError
        If the name or the colour is outside its domain.
    """

    name: str
    colour: tuple[int, int, int]

    def __post_init__(self) -> None:
        name = self.name
        whole = isinstance(name, str) and re.fullmatch(r"[^/\\]{1,64}", name) and name.isprintable()
        if not whole or name.strip(" .") != name:
            raise BundleError(
                f"class name {short(name)}: expected 1 to 64 printable characters without slashes, and no space or "
                "dot at the ends"
            )
        if len(self.colour) != 3 or not all(is_whole(c) and 0 <= c <= 255 for c in self.colour):
            raise BundleError(
                f"class {name}: colour is {short(list(self.colour))}; expected 3 whole numbers from 0 to 255"
            )


# The classes of the published nets, in the order of their outputs.
PLATELET_CLASSES = (
    "background",
    "cell",
    "mitochondrion",
    "alpha granule",
    "canalicular vessel",
    "dense granule body",
    "dense granule core",
)


def default_classes(n_classes: int) -> tuple[ClassInfo, ...]:
    """The platelet classes of the published nets where there are 7, else class-0, class-1, ...; jet colours."""
    names = PLATELET_CLASSES if n_classes == len(PLATELET_CLASSES) else [f"class-{i}" for i in range(n_classes)]
    return tuple(ClassInfo(name, colour) for name, colour in zip(names, jet_colours(n_classes), strict=True))


def jet_colours(n: int) -> list[tuple[int, int, int]]:
    """`n` colours at equal steps through the colour map jet, dark blue to dark red; for 7 those of the lab."""
    # Steps of a table of 256 entries, as plots of the lab have them.
    place = np.minimum(np.linspace(0, 1, n) * 256, 255).astype(int) / 255
    red = np.interp(place, [0.35, 0.66, 0.89, 1], [0, 1, 1, 0.5])
    green = np.interp(place, [0.125, 0.375, 0.64, 0.91], [0, 1, 1, 0])
    blue = np.interp(place, [0, 0.11, 0.34, 0.65], [0.5, 1, 1, 0])
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in zip(red, green, blue, strict=True)]


def parse_classes(text: str) -> tuple[ClassInfo, ...]:
    """Names and colours of the classes, from the option or from the file that it names."""
    return named_classes(class_entries(text))


def class_entries(text: str) -> list[str]:
    """The entries of `named_classes`, from the option --classes or from the file that it names."""
    path = Path(text)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except OSError:  # no file can be called so
        lines = text.split(",")
    entries = [line.strip() for line in lines if line.strip()]
    if len(entries) < 2:
        raise OptionError(
            f"--classes names {len(entries)} class; expected at least two, such as background,cell=#ff0000"
        )
    return entries


def named_classes(
    entries: Sequence[ClassInfo | str], colours: Sequence[tuple[int, int, int] | None] = ()
) -> tuple[ClassInfo, ...]:
    """Classes, where each is one, or its name, or "name=#rrggbb".

    Parameters
    ----------
    entries
        The classes.
    colours
        Of those that say none, or too few of them; where there is none, it is one of `jet_colours`.

    Raises
    ------
    OptionError
        If a colour is none.
    BundleError
        If a name is none.
    """
    known = [*colours, *([None] * len(entries))]
    return tuple(
        entry if isinstance(entry, ClassInfo) else _class(entry, mine or colour)
        for entry, mine, colour in zip(entries, known, jet_colours(len(entries)), strict=False)
    )


def _class(entry: str, colour: tuple[int, int, int]) -> ClassInfo:
    name, _, given = (part.strip() for part in entry.partition("="))
    if given:
        try:
            if len(given) != 7 or given[0] != "#":
                raise ValueError
            red, green, blue = bytes.fromhex(given[1:])
        except ValueError as error:
            raise OptionError(f"--classes: {given!r} is no colour; expected #rrggbb, such as #ff0000") from error
        colour = (red, green, blue)
    return ClassInfo(name, colour)
