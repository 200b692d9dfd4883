"""An ensemble, loaded once, and what the user asks of it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.inference.device import DeviceInfo, Precision, available_memory, choose_precision, select_device
from densecell_batch.inference.planning import Plan, plan_tiles
from densecell_batch.io.stack import Stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.nets.predictor import Predictor
from densecell_batch.runs.hooks import MacroHooks
from densecell_batch.storage.opening import Reach

__all__ = ["SegmentOptions", "Segmenter", "identity_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentOptions:
    """What the user asks of every stack of a run; the flags of `densecell-batch segment`."""

    stitch: str = "crop"
    ensemble: str = "mean"
    probabilities: bool = False
    uncertainty: bool = False
    instances: tuple[str, ...] = ()  # class names
    min_volume: float = 0.0  # cubic micrometres; smaller instances are left out
    voxel_size: VoxelSize | None = None  # overrides that of the file
    precision: str = "auto"
    tile: tuple[int, int, int] | None = None  # output region (z, y, x)
    memory: int | None = None  # bytes; None: half of what is free
    device: str = "auto"
    file_format: str = "imagej"
    preview: bool = True
    overwrite: bool = False
    shard: tuple[int, int] | None = None  # (i, n): compute only part i of n of the pieces, from 1
    assemble: bool = False  # compute nothing
    unattended: bool = False  # nobody can be asked: keep the user's files under other names, do not wait for others
    inbox: Path | None = None  # folder below which links are not followed; None: only the stack itself may be one
    follow_links: bool = False  # follow all links
    hooks: MacroHooks = field(default_factory=MacroHooks)

    def as_dict(self) -> dict[str, Any]:
        """JSON values of the options that shape the result; not how much memory it takes, or who computes it."""
        elsewhere = ("memory", "overwrite", "shard", "assemble", "unattended", "inbox", "follow_links", "hooks")
        return {name: value for name, value in asdict(self).items() if name not in elsewhere}

    def reach(self, path: Path) -> Reach:
        """Which links are followed on the way to the files of a stack."""
        if self.inbox is None:
            return Reach.of(path, links=self.follow_links)
        return Reach(self.inbox, links=self.follow_links)


@dataclass
class Segmenter:
    """An ensemble loaded once, for any number of stacks: when it is first needed, or by `load`.

    Raises
    ------
    OptionError
        If a class of `options.instances` is not one of the bundle's, or there is a smallest volume of no class.
    """

    bundle: ModelBundle
    options: SegmentOptions

    def __post_init__(self) -> None:
        names = [c.name for c in self.bundle.classes]
        for name in self.options.instances:
            if name not in names:
                raise OptionError(f"--instances: the model has no class {name!r}; its classes are {', '.join(names)}")
        if self.options.min_volume > 0 and not self.options.instances:
            raise OptionError("--min-volume leaves out small instances; say of which class with --instances CLASS")

    @cached_property
    def device(self) -> DeviceInfo:
        """What the nets run on; raises DeviceError if the one asked for is not usable."""
        return select_device(self.options.device)

    @cached_property
    def precision(self) -> Precision:
        """What the nets compute in."""
        precision = choose_precision(self.options.precision, self.device)
        _log.info("device %s; precision %s (%s)", self.device, precision.name, precision.reason)
        return precision

    @cached_property
    def predictor(self) -> Predictor:
        """The nets with their weights; raises OptionError if these do not fit into the memory, before they are read."""
        # Once as arrays, and once as variables of the backend.
        needed, budget = 2 * self.bundle.weight_bytes, self._budget
        if needed > budget:
            raise OptionError(
                f"{budget / 2**30:.2f} GiB of memory do not suffice for the weights of {self.bundle.path}: "
                f"its nets need about {needed / 2**30:.2f} GiB; give more --memory, on a "
                "machine that has it"
            )
        weights = [self.bundle.weights(i) for i in range(len(self.bundle.members))]
        return Predictor(
            self.bundle.architecture, weights, self.precision.name, may_split=self.options.stitch != "deepest"
        )

    @property
    def _budget(self) -> int:
        """Bytes that the process may take."""
        return self.options.memory or available_memory() // 2

    def load(self) -> None:
        """Fail now for what would fail at the first stack.

        Raises
        ------
        DeviceError
            If the device asked for is not usable.
        ModelError
            If a member is not as the bundle says.
        """
        _ = self.predictor

    def check_memory(self, stack: Stack) -> None:
        """See that a slice can be read: what is packed as one piece is unpacked as one.

        Raises
        ------
        StackError
            If that takes more than half of the memory that the process may take.
        """
        if stack.block > self._budget // 2:
            raise StackError(
                f"{stack.info.path}: its slices are packed in pieces of {stack.block / 2**30:.2f} GiB each, which have "
                f"to be unpacked as a whole; {self._budget / 2**30:.2f} GiB of memory do not suffice for that: save it "
                f"uncompressed (in Fiji: File > Save As > Tiff), or give --memory {ceil(2 * stack.block / 2**30)}G, on "
                "a machine that has it"
            )

    def plan(self, shape: tuple[int, int, int]) -> Plan:
        """The tiles of a stack of `shape` (z, y, x)."""
        options = self.options
        return plan_tiles(
            shape,
            self.bundle.architecture,
            self.bundle.window,
            stitch=options.stitch,
            precision=self.precision.name,
            members=len(self.bundle.members),
            budget=self._budget,
            tile=options.tile,
            keep_probabilities=options.probabilities,
        )


def identity_of(segmenter: Segmenter) -> dict[str, Any]:
    """Model, options and first macro, as every report says them: what has to be the same for a result to stand."""
    bundle, pre = segmenter.bundle, segmenter.options.hooks.pre
    return {
        "model": {
            "name": bundle.name,
            "version": bundle.version,
            "licence": bundle.licence,
            "members": [member.sha256 for member in bundle.members],
        },
        "options": segmenter.options.as_dict(),
        **({} if pre is None else {"pre_macro": pre.sha256}),
    }
