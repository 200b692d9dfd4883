"""What the user asks of the objects in a class map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from densecell_batch.errors import OptionError
from densecell_batch.inference.options import SHAPES, TOLD, check_options
from densecell_batch.models.names import file_word

__all__ = ["CELLS", "ObjectOptions"]

CELLS = "cells"  # how objects are called that lie between walls


@dataclass(frozen=True)
class ObjectOptions:
    """Which objects are told apart, and what is written of them.

    Attributes
    ----------
    instances
        Classes, by name, whose objects are numbered and measured.
    cells_from
        Classes, by name, that are walls: what lies between them, of whatever class, are the objects "cells".
    split
        Whether objects that touch are parted at their necks.
    split_tolerance
        In micrometres: how much narrower than its parts a neck has to be; None for what suits the voxels.
    min_volume
        In cubic micrometres; smaller objects are left out.
    rois
        Whether to write a zip for the ROI Manager of ImageJ.
    file_format
        "imagej" or "ome-tiff", of all images written.
    preview
        Whether to draw pictures.
    """

    instances: Annotated[tuple[str, ...], SHAPES] = ()
    cells_from: Annotated[tuple[str, ...], SHAPES] = ()
    split: Annotated[bool, SHAPES] = False
    split_tolerance: Annotated[Annotated[float, Meta(gt=0, le=1e6)] | None, SHAPES] = None
    min_volume: Annotated[float, SHAPES, Meta(ge=0, le=1e30)] = 0.0
    rois: Annotated[bool, SHAPES] = False
    file_format: Annotated[Literal["imagej", "ome-tiff"], SHAPES] = "imagej"
    preview: Annotated[bool, TOLD] = True

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def objects(self) -> tuple[str, ...]:
        """The kinds of objects that are wanted: classes, and cells."""
        return (*dict.fromkeys(self.instances), *((CELLS,) if self.cells_from else ()))

    def check(self, classes: Sequence[str], option: str = "--instances") -> None:
        """See that what is asked goes together, and with these classes; `option` is what names them.

        Raises
        ------
        OptionError
            If a class is none of them, all are walls, or something is asked of no objects.
        """
        twice = [name for name in classes if [*classes].count(name) > 1 or not name]
        if twice:
            raise OptionError(
                f"there are classes of the name {twice[0]!r} twice, or without a name; expected each once"
            )
        words: dict[str, str] = {}
        for name in self.objects:
            other = words.setdefault(file_word(name).casefold(), name)
            if other != name:
                raise OptionError(f"{option}: files of {other!r} and {name!r} would be called the same; ask for one")
        unnamed = "; say their names with --classes" if [*classes][:1] == ["class 0"] else ""
        for what, names in ((option, self.instances), ("--cells-from", self.cells_from)):
            for name in names:
                if name not in classes:
                    raise OptionError(
                        f"{what}: there is no class {name!r}; the classes are {', '.join(classes)}{unnamed}"
                    )
        if {*classes} <= {*self.cells_from}:
            raise OptionError("--cells-from: all classes are walls; expected one at least to lie between them")
        if self.cells_from and CELLS in self.instances:
            raise OptionError(f"--cells-from makes objects called {CELLS!r}, as a class is; give only one of them")
        if self.split_tolerance is not None and not self.split:
            raise OptionError("--split-tolerance says where to part objects; give --split as well")
        asked = {"--min-volume leaves out small": self.min_volume > 0, "--split parts touching": self.split}
        asked["--rois outlines"] = self.rois
        for what, is_asked in asked.items():
            if is_asked and not self.objects:
                raise OptionError(f"{what} instances; say of which class with {option} CLASS")
