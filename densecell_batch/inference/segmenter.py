"""An ensemble, loaded once, for any number of volumes."""

from __future__ import annotations

import logging
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np

from densecell_batch.calibration import VoxelSize, check_voxel_size
from densecell_batch.errors import OptionError, StackError
from densecell_batch.inference.device import DeviceInfo, Precision, choose_precision, select_device
from densecell_batch.inference.options import InferenceOptions
from densecell_batch.inference.planning import Plan, plan_tiles
from densecell_batch.inference.volume import Segmentation, segment_volume
from densecell_batch.io.stack import Stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.fetching import find_bundle
from densecell_batch.nets.ensemble import combine
from densecell_batch.nets.predictor import Predictor
from densecell_batch.prepare.normalize import measure, normalize
from densecell_batch.system import available_memory

__all__ = ["Segmenter"]

_log = logging.getLogger(__name__)


class Segmenter:
    """An ensemble loaded once, for any number of volumes: when it is first needed, or by `load`.

    Parameters
    ----------
    model
        A model, its name, or the path of its bundle.
    stitch
        How tiles become a volume: "crop", each voxel from its best tile; "deepest", the published rule; or "blend", a
        weighted mean.
    ensemble
        "mean" of the members' probabilities, or "vote", the majority of their classes.
    probabilities
        Whether to keep the probabilities of all classes.
    uncertainty
        Whether to compute the disagreement of the members, in bits.
    precision
        What the nets compute in: "auto", "float32", "bfloat16" or "float16".
    device
        "auto", "cpu" or "gpu".
    tile
        Output region (z, y, x) of a tile; None for the largest that fits the memory.
    memory
        Bytes that may be used; None for half of what is free.

    Raises
    ------
    ModelError
        If there is no such model, or it is not whole.
    OptionError
        If an option is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from densecell_batch import Segmenter
    >>> segmenter = Segmenter("fly-vnc-2d3d", precision="float32")
    >>> volume = np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    >>> found = segmenter(volume)
    >>> found.labels.shape, found.labels.dtype
    ((5, 64, 64), dtype('uint8'))
    """

    def __init__(
        self,
        model: ModelBundle | str | Path,
        *,
        stitch: str = "crop",
        ensemble: str = "mean",
        probabilities: bool = False,
        uncertainty: bool = False,
        precision: str = "auto",
        device: str = "auto",
        tile: tuple[int, int, int] | None = None,
        memory: int | None = None,
    ) -> None:
        self.bundle = model if isinstance(model, ModelBundle) else find_bundle(str(model))
        self.options = InferenceOptions(
            stitch=stitch,  # type: ignore[arg-type] # whatever it is: it is checked there
            ensemble=ensemble,  # type: ignore[arg-type]
            probabilities=probabilities,
            uncertainty=uncertainty,
            precision=precision,  # type: ignore[arg-type]
            tile=tile,
            device=device,  # type: ignore[arg-type]
            memory=memory,
        )

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

    def look(self, tile: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """What the ensemble says of a normalized tile (z, y, x): probabilities and, if asked for, disagreement."""
        return combine(self.predictor(tile), self.options.ensemble, with_disagreement=self.options.uncertainty)

    def __call__(self, volume: np.ndarray, voxel_size: VoxelSize | None = None) -> Segmentation:
        """Segment a volume.

        Parameters
        ----------
        volume
            (z, y, x) uint8, uint16, int16 or float32: grey values.
        voxel_size
            Of the volume, to be handed on.

        Returns
        -------
        Segmentation

        Raises
        ------
        StackError
            If the volume is none of these, or has no contrast, or the memory does not suffice.
        OptionError
            If the voxel size is none.
        """
        check_voxel_size(voxel_size)
        stack = Stack.of_array(np.asanyarray(volume), voxel_size)
        statistics = measure(stack)
        return segment_volume(
            lambda z, rows: normalize(stack.read(z, rows), statistics),
            self.plan(stack.info.shape),
            self.look,
            self.bundle.classes,
            keep_probabilities=self.options.probabilities,
            keep_disagreement=self.options.uncertainty,
            voxel_size=voxel_size,
        )
