"""An ensemble, loaded once, for any number of volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np

from densecell_batch.calibration import VoxelSize, check_voxel_size
from densecell_batch.errors import DensecellError, OptionError, StackError
from densecell_batch.inference.device import DeviceInfo, Precision, choose_precision, select_engine
from densecell_batch.inference.options import InferenceOptions
from densecell_batch.inference.planning import Plan, plan_tiles
from densecell_batch.inference.rates import net_rates
from densecell_batch.inference.trial import try_stack
from densecell_batch.inference.volume import Segmentation, segment_volume
from densecell_batch.io.stack import Stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.fetching import find_bundle
from densecell_batch.nets.ensemble import Answer
from densecell_batch.nets.predictor import Predictor
from densecell_batch.nets.quantization import with_ranges
from densecell_batch.prepare.examine import examine, expected_grid
from densecell_batch.prepare.mask import Mask
from densecell_batch.prepare.preparation import Aim, Preparation, Steps
from densecell_batch.prepare.prepared import Prepared
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
        Whether to compute the disagreement of the members, in bits; of a single net its entropy.
    precision
        What the nets compute in: "auto", "float32", "bfloat16", "float16" or "int8".
    device
        "auto", "cpu" or "gpu".
    engine
        What computes the nets: "openvino", on processors; "tensorflow" or "jax"; or "auto" for the fastest that is
        there.
    outside
        "auto": constant fill that touches the border, and blank slices, are no tissue: they get the label 255. "off":
        everything is tissue.
    contrast
        "auto": the grey values that the model knows, where its bundle says them. "stack", "slice": by mean and standard
        deviation of the stack or of each slice. "match": each slice as the model knows it. "none": as they are.
    fit
        "warn": a few windows are tried first, and whoever uses the result is told if the stack does not look like the
        model's own data. "auto": and what makes it look so is done. "off": nobody asks.
    defects
        "report": damaged slices are named in the report. "replace": the nets also see the next good slice in the place
        of one that is blank or destroyed. "off": nobody looks.
    scale
        "auto": what has another pixel size than the model's training is resampled for the nets. "off", or a factor:
        how many times as many voxels along y and x they see; or three (z, y, x).
    roi
        ((z0, z1), (y0, y1), (x0, x1)): region that is segmented, with what lies around it seen; None for all.
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
    >>> segmenter = Segmenter("fly-vnc", precision="float32")
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
        engine: str = "auto",
        outside: str = "auto",
        contrast: str = "auto",
        fit: str = "warn",
        defects: str = "report",
        scale: str | float | tuple[float, float, float] = "auto",
        roi: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None,
        tile: tuple[int, int, int] | None = None,
        memory: int | None = None,
    ) -> None:
        self.bundle = model if isinstance(model, ModelBundle) else find_bundle(str(model))
        self.unloadable: DensecellError | None = None  # why `load` failed
        self.options = InferenceOptions(
            stitch=stitch,  # type: ignore[arg-type] # whatever it is: it is checked there
            ensemble=ensemble,  # type: ignore[arg-type]
            probabilities=probabilities,
            uncertainty=uncertainty,
            precision=precision,  # type: ignore[arg-type]
            outside=outside,  # type: ignore[arg-type]
            contrast=contrast,  # type: ignore[arg-type]
            fit=fit,  # type: ignore[arg-type]
            defects=defects,  # type: ignore[arg-type]
            scale=scale,  # type: ignore[arg-type]
            roi=roi,
            tile=tile,
            device=device,  # type: ignore[arg-type]
            engine=engine,  # type: ignore[arg-type]
            memory=memory,
        )

    @cached_property
    def _computing(self) -> tuple[str, DeviceInfo]:
        return select_engine(self.options.engine, self.options.device)

    @property
    def engine(self) -> str:
        """What computes the nets: "openvino", "tensorflow" or "jax"; raises DeviceError as `device` does."""
        return self._computing[0]

    @property
    def device(self) -> DeviceInfo:
        """What the nets run on; raises DeviceError if what was asked for is not usable."""
        return self._computing[1]

    @cached_property
    def precision(self) -> Precision:
        """What the nets compute in."""
        rounded = self.bundle.quantization if self.engine == "openvino" else None
        int8 = "absent" if rounded is None else "near" if rounded.is_near else "far"
        precision = choose_precision(self.options.precision, self.device, self.rates, int8=int8)
        _log.info("engine %s; device %s; precision %s (%s)", self.engine, self.device, precision.name, precision.reason)
        return precision

    def rates(self, *precisions: str) -> dict[str, float]:
        """Voxels that a member computes in a second, in each precision; measured once on a machine."""
        return net_rates(self.bundle, self.engine, self.device, precisions)

    @cached_property
    def predictor(self) -> Predictor:
        """The nets with their weights; raises OptionError if these do not fit into the memory, before they are read."""
        # Once as arrays, and once as the engine keeps them.
        needed, budget = 2 * self.bundle.weight_bytes, self._budget
        if needed > budget:
            raise OptionError(
                f"{budget / 2**30:.2f} GiB of memory do not suffice for the weights of {self.bundle.path}: "
                f"its nets need about {needed / 2**30:.2f} GiB; give more --memory, on a "
                "machine that has it"
            )
        return self.predictor_of(range(len(self.bundle.members)))

    def weights(self, i: int) -> dict[str, np.ndarray]:
        """The tensors of a member, with all that its precision needs."""
        weights, rounded = self.bundle.weights(i), self.bundle.quantization
        return with_ranges(weights, rounded.ranges[i]) if self.precision.name == "int8" and rounded else weights

    def predictor_of(self, members: Iterable[int]) -> Predictor:
        """Some of the nets, computed as all are."""
        return Predictor(
            self.bundle.architecture,
            [self.weights(i) for i in members],
            self.precision.name,
            may_split=self.options.stitch != "deepest",
            offsets=self.bundle.class_offsets,
            engine=self.engine,
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
        OptionError
            If the memory does not suffice for their weights.
        """
        try:
            _ = self.predictor
        except DensecellError as error:
            self.unloadable = error
            raise

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

    def examine(
        self, stack: Stack, mask: Mask | None = None, on_slice: Callable[[int], None] | None = None
    ) -> Preparation:
        """Look at a stack, once, and decide what is to be done to it before the nets see it; raises as
        `prepare.examine.examine` does.
        """
        seen = examine(stack, self._steps, self._aim, mask, on_slice)
        own, asked = self.bundle.known.fit, self.options.fit
        if asked == "off" or own is None:
            return seen.preparation()

        def prepared(preparation: Preparation) -> Prepared:
            return self.prepared(stack, preparation, mask)

        return try_stack(seen, prepared, self.predictor, self.bundle.window, own, mend=asked == "auto")

    @property
    def _steps(self) -> Steps:
        asked = self.options
        return Steps(asked.outside, asked.contrast, asked.defects, asked.scale, asked.roi)

    @property
    def _aim(self) -> Aim:
        architecture = self.bundle.architecture
        depth, around = self.bundle.window[0] - 1, architecture.halo + architecture.margin
        known = self.bundle.known
        return Aim(self.bundle.voxel_size, known.scale, known.grey_values, (depth, around, around))

    def prepared(self, stack: Stack, preparation: Preparation, mask: Mask | None = None) -> Prepared:
        """A stack as the nets see it, by what `examine` found."""
        return Prepared(stack, preparation, find=self.options.outside == "auto", mask=mask)

    def plan(self, shape: tuple[int, int, int], *, resampled: bool = False, fill: bool = False) -> Plan:
        """The tiles of what the nets see, of `shape` (z, y, x).

        `resampled` if the stack has other voxels, `fill` if some of what they see is filled.
        """
        options = self.options
        return plan_tiles(
            shape,
            self.bundle.architecture,
            self.bundle.window,
            stitch=options.stitch,
            precision=self.precision.name,
            engine=self.engine,
            members=len(self.bundle.members),
            budget=self._budget,
            tile=options.tile,
            keep_probabilities=options.probabilities or resampled,
            fill=fill,
        )

    def plan_of(self, prepared: Prepared) -> Plan:
        """The tiles of a stack."""
        return self.plan(prepared.shape, resampled=prepared.is_resampled, fill=prepared.has_fill)

    def expected_plan(self, stack: Stack) -> Plan:
        """The tiles of a stack that nobody looked at yet, if all of it is tissue."""
        grid, resampled = expected_grid(stack, self._steps, self._aim)
        return self.plan(grid, resampled=resampled)

    def look(self, tile: np.ndarray, with_probabilities: bool = False) -> Answer:
        """What the ensemble says of a normalized tile (z, y, x), with disagreement if the options ask for it."""
        rule, uncertainty = self.options.ensemble, self.options.uncertainty
        return self.predictor.together(tile, with_probabilities, rule=rule, with_disagreement=uncertainty)

    def __call__(
        self, volume: np.ndarray, voxel_size: VoxelSize | None = None, *, mask: np.ndarray | None = None
    ) -> Segmentation:
        """Segment a volume.

        Parameters
        ----------
        volume
            (z, y, x) uint8, uint16, int16 or float32: grey values.
        voxel_size
            Of the volume; decides whether it is resampled for the nets, and is handed on.
        mask
            (z, y, x), or (1, y, x) for all slices: 0 outside, where there is no tissue.

        Returns
        -------
        Segmentation

        Raises
        ------
        StackError
            If the volume is none of these, or has no contrast or no tissue, or the memory does not suffice.
        OptionError
            If the voxel size is none, or an option does not go with the volume.
        """
        check_voxel_size(voxel_size)
        stack = Stack.of_array(np.asanyarray(volume), voxel_size)
        tissue = None if mask is None else Mask.of_array(mask, stack)
        preparation = self.examine(stack, tissue)
        for warning in preparation.warnings:
            _log.warning("%s", warning)
        prepared = self.prepared(stack, preparation, tissue)
        found = segment_volume(
            prepared,
            self.plan_of(prepared),
            self.look,
            self.bundle.classes,
            keep_probabilities=self.options.probabilities,
            keep_disagreement=self.options.uncertainty,
            voxel_size=voxel_size,
        )
        return replace(found, warnings=preparation.warnings)
