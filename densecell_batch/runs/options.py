"""What the user asks of a run: how a volume goes through the nets, and what files come of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.imagej.macro import MacroHooks
from densecell_batch.inference.options import SHAPES, TOLD, UNTOLD, InferenceOptions, Side
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.io.reading import open_stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.runs.object_options import ObjectOptions
from densecell_batch.storage.opening import Reach
from densecell_batch.storage.strict_json import JsonObject

__all__ = ["RunOptions", "RunSegmenter"]


@dataclass(frozen=True)
class RunOptions(InferenceOptions, ObjectOptions):
    """What the user asks of every stack of a run, beside `InferenceOptions` and `ObjectOptions`; the flags of
    `densecell-batch segment`.

    Attributes
    ----------
    voxel_size
        Overrides that of the file.
    mask
        Stack that is 0 where there is no tissue, for all stacks of the run; of one slice for all slices.
    overwrite
        Whether to segment again what was done, and to replace files that are not ours.
    shard
        (i, n): compute only part i of n of the pieces, from 1.
    assemble
        Compute nothing: write the results of the parts that are there.
    unattended
        Nobody can be asked: keep the user's files under other names, do not wait for others.
    inbox
        Folder below which links are not followed; None: only the stack itself may be one.
    follow_links
        Follow all links.
    hooks
        The user's macros.

    Raises
    ------
    OptionError
        If an option is none of what it may be.
    """

    voxel_size: Annotated[VoxelSize | None, SHAPES] = None
    mask: Annotated[Path | None, SHAPES] = None
    overwrite: Annotated[bool, UNTOLD] = False
    shard: Annotated[tuple[Side, Side] | None, UNTOLD] = None
    assemble: Annotated[bool, UNTOLD] = False
    unattended: Annotated[bool, UNTOLD] = False
    inbox: Annotated[Path | None, UNTOLD] = None
    follow_links: Annotated[bool, UNTOLD] = False
    hooks: Annotated[MacroHooks, UNTOLD] = field(default_factory=MacroHooks)

    def __post_init__(self) -> None:
        if isinstance(self.mask, str):
            object.__setattr__(self, "mask", Path(self.mask))
        super().__post_init__()
        if self.shard is not None and self.shard[0] > self.shard[1]:
            raise OptionError(f"shard is {self.shard}; expected (i, n) with i from 1 to n")

    def told(self) -> JsonObject:
        """JSON values of what the report says of them."""
        told = self.marked(SHAPES, TOLD)
        values = {name: value for name, value in asdict(self).items() if name in told}
        values["mask"] = self.mask_sha256
        return dict(json.loads(json.dumps(values)))  # as they are after a file: lists, not tuples

    @cached_property
    def mask_sha256(self) -> str | None:
        """What the mask is, wherever it lies; read once."""
        if self.mask is None:
            return None
        with open_stack(self.mask, stored=True, reach=Reach.of(self.mask, links=True)) as mask:
            return mask.sha256()

    def reach(self, path: Path) -> Reach:
        """Which links are followed on the way to the files of a stack."""
        if self.inbox is None:
            return Reach.of(path, links=self.follow_links)
        return Reach(self.inbox, links=self.follow_links)


class RunSegmenter(Segmenter):
    """An ensemble for the stacks of a run.

    Raises
    ------
    OptionError
        If the model cannot do what is asked.
    """

    options: RunOptions

    def __init__(self, model: ModelBundle | str | Path, options: RunOptions | None = None) -> None:
        asked = RunOptions() if options is None else options
        if not isinstance(asked, RunOptions):
            raise OptionError(f"the options are {asked!r}; expected RunOptions(...)")
        super().__init__(model, **{field.name: getattr(asked, field.name) for field in fields(InferenceOptions)})
        self.options = asked
        asked.check([c.name for c in self.bundle.classes])
        asked.told()  # reads what it names
