"""An ensemble, loaded once, and what the user asks of it."""

from __future__ import annotations

import logging
from functools import cached_property
from math import ceil
from typing import Generic, TypeVar

from densecell_batch.errors import OptionError, StackError
from densecell_batch.inference.device import DeviceInfo, Precision, choose_precision, select_device
from densecell_batch.inference.options import InferenceOptions
from densecell_batch.inference.planning import Plan, plan_tiles
from densecell_batch.io.stack import Stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.nets.predictor import Predictor
from densecell_batch.system import available_memory

__all__ = ["Segmenter"]

_log = logging.getLogger(__name__)


Options = TypeVar("Options", bound=InferenceOptions, covariant=True)


class Segmenter(Generic[Options]):
    """An ensemble loaded once, for any number of stacks: when it is first needed, or by `load`.

    Parameters
    ----------
    bundle
        The model.
    options
        What is asked of it.

    Raises
    ------
    OptionError
        If the model cannot do what is asked.
    """

    def __init__(self, bundle: ModelBundle, options: Options) -> None:
        self.bundle, self.options = bundle, options
        options.check([c.name for c in bundle.classes])

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
