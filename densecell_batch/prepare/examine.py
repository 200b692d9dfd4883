"""One pass over a stack: what is to be done to it before the nets see it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, isqrt

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.stack import Stack
from densecell_batch.labels import OUTSIDE
from densecell_batch.prepare.contrast import Curve, SliceGreys, describe, grey_curves, inverted, of_negative
from densecell_batch.prepare.defects import Defect, SliceLook, SliceWatcher, find_defects, named_slices, replacements
from densecell_batch.prepare.mask import Mask, outside_of
from densecell_batch.prepare.normalize import Statistics, StatisticsOf
from densecell_batch.prepare.outside import box_of
from densecell_batch.prepare.preparation import Aim, Box, Preparation, Steps, Triple, whole
from densecell_batch.prepare.scale import grid_at

__all__ = ["Examination", "examine", "expected_grid", "zoom_to"]

_ALIKE = 1.1  # pixel sizes that differ by no more than this factor are the same to the nets
_WARN_Z = 1.5  # along z, from which it is told
_MOST = 6.0  # times as many pixels along an axis: a voxel size that asks for more is more likely wrong
_FEWEST = 100.0  # times as few, the same
_LEAST = 32  # voxels along y and x that a stack may be scaled down to
_TILES, _FEWEST_TILES, _MOST_TILES = 200_000, 4, 20  # that contrast is judged by: of a stack; along an edge of a slice
_REPLACED = ("blank", "destroyed")  # kinds of damaged slices of which nothing can be known


def examine(
    stack: Stack,
    steps: Steps | None = None,
    aim: Aim | None = None,
    mask: Mask | None = None,
    on_slice: Callable[[int], None] | None = None,
) -> Examination:
    """Look at a stack, once.

    Parameters
    ----------
    stack
        Open.
    steps
        What is asked for.
    aim
        What the nets want to see.
    mask
        What is tissue.
    on_slice
        Called with the index of each slice that was read.

    Raises
    ------
    StackError
        If a value is NaN or infinite, all values are the same, or there is no tissue.
    OptionError
        If the region is none of the stack, or what is left of it at the pixel size of the nets is too small for them.
    """
    steps, aim = steps or Steps(), aim or Aim()
    statistics, tissue, watcher = StatisticsOf(stack), _Tissue(stack), SliceWatcher()
    looks: list[SliceLook] = []
    greys: list[SliceGreys] = []
    matched = steps.contrast in ("auto", "match") and aim.greys is not None
    tiles = min(max(isqrt(_TILES // len(stack)), _FEWEST_TILES), _MOST_TILES) if matched else 0
    with ThreadPoolExecutor(1, "densecell-looks") as beside:
        looking: Future[SliceLook] | None = None
        for z in range(len(stack)):
            plane = stack.read(z)
            where = outside_of(plane, z, steps.outside == "auto", mask)
            tissue.add(z, plane, where)
            moments = statistics.add(z, plane, where)  # first: it refuses what is not finite
            if looking is not None:
                looks.append(looking.result())
            if steps.defects != "off":
                looking = beside.submit(watcher.look, plane, where)
            greys.append(describe(plane, None if where is None else ~where, tiles, moments))
            if on_slice is not None:
                on_slice(z)
        if looking is not None:
            looks.append(looking.result())
    seen = tissue.box(masked=mask is not None)
    return Examination(stack, steps, aim, statistics.found(), seen, tissue, tuple(find_defects(looks)), greys)


@dataclass(frozen=True)
class Examination:
    """What was seen of a stack."""

    _stack: Stack
    _steps: Steps
    _aim: Aim
    _statistics: Statistics
    _seen: Box
    _tissue: _Tissue
    _defects: tuple[Defect, ...]
    _greys: list[SliceGreys]

    def preparation(self, *, negative: bool = False, enlarged: float = 1.0) -> Preparation:
        """What is to be done to the stack.

        Parameters
        ----------
        negative
            Whether dark and bright are exchanged.
        enlarged
            How many times as many voxels along y and x the nets see, beside what the voxel size asks for.

        Raises
        ------
        OptionError
            If what is left of it is too small for the nets.
        """
        steps, stack, defects = self._steps, self._stack, self._defects
        result, box, grid, warnings = _decided(stack, steps, self._aim, self._seen, enlarged)
        destroyed = [d.z for d in defects if d.kind in _REPLACED] if steps.defects == "replace" else []
        return Preparation(
            statistics=self._statistics,
            shape=stack.shape,
            result=result,
            box=box,
            grid=grid,
            curves=self._curves(negative),
            outside=self._tissue.outside,
            stand_ins=tuple(sorted(self._tissue.stand_ins(destroyed).items())),
            defects=defects,
            warnings=(*warnings, *_told(defects, steps, self._tissue.empty)),
        )

    def _curves(self, negative: bool) -> tuple[Curve, ...]:
        slices = inverted(self._greys) if negative else self._greys
        curves = grey_curves(self._steps.contrast, slices, self._aim.greys)
        if negative:
            curves = [of_negative(curve) for curve in curves]
        return tuple(curves[:1] if all(curve == curves[0] for curve in curves) else curves)


def expected_grid(stack: Stack, steps: Steps, aim: Aim) -> tuple[Triple, bool]:
    """What the nets will see at most of a stack that nobody looked at yet (z, y, x), and whether it is resampled."""
    _, box, grid, _ = _decided(stack, steps, aim, whole(stack.shape), 1.0)
    return grid, grid != tuple(stop - start for start, stop in box)


def _decided(
    stack: Stack, steps: Steps, aim: Aim, tissue: Box, enlarged: float
) -> tuple[Box, Box, Triple, tuple[str, ...]]:
    """What is segmented, what the nets see of the stack, as how many voxels, and what is to be said about it."""
    result = _region(steps.roi, stack)
    (z, y, x), warnings = zoom_to(aim, stack.info.voxel_size, steps.scale)
    zoom = (z, y * enlarged, x * enlarged)
    box = _seen(tissue, result, aim.context, zoom, stack)
    return result, box, _grid(box, zoom, stack), tuple(warnings)


class _Tissue:
    """Where there is any, slice by slice."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._counts = stack, [0] * len(stack)
        self._low, self._high = list(stack.shape), [0, 0, 0]
        self._darkest, self._brightest = float("inf"), float("-inf")

    def add(self, z: int, plane: np.ndarray, outside: np.ndarray | None) -> None:
        if outside is None:
            found: tuple[int, int, int, int] | None = (0, plane.shape[0], 0, plane.shape[1])
        else:
            self._counts[z] = int(np.count_nonzero(outside))
            found = box_of(outside, (plane.shape[0], plane.shape[1]))
        if found is not None:
            y0, y1, x0, x1 = found
            self._low = [*map(min, self._low, (z, y0, x0))]
            self._high = [*map(max, self._high, (z + 1, y1, x1))]
        else:
            self._darkest = min(self._darkest, float(plane.min()))
            self._brightest = max(self._brightest, float(plane.max()))

    @property
    def outside(self) -> tuple[int, ...]:
        """Voxels of each slice; empty where there are none."""
        return tuple(self._counts) if any(self._counts) else ()

    def box(self, *, masked: bool) -> Box:
        """The smallest one that holds all; StackError if there is none."""
        if self._high[0] > 0:
            z, y, x = zip(self._low, self._high, strict=True)
            return z, y, x
        path, value = self._stack.info.path, self._darkest
        if masked:
            raise StackError(f"{path}: all of it is outside: no voxel of the mask is above 0 where there is an image")
        if value == self._brightest:
            raise StackError(
                f"{path}: every voxel is {value:g}; expected an image with contrast: was an empty channel exported, or "
                "a mask instead of the image?"
            )
        raise StackError(
            f"{path}: all of it is outside: each slice is blank; expected tissue: was an empty channel exported? "
            "(--outside off takes it as it is)"
        )

    def stand_ins(self, damaged: Iterable[int]) -> dict[int, int]:
        """For each slice that is damaged, or without tissue, the nearest that is neither; of two the lower."""
        found = replacements(len(self._counts), {*self.empty, *damaged})
        return found or replacements(len(self._counts), {*self.empty})

    @property
    def empty(self) -> list[int]:
        """Slices without tissue."""
        area = self._stack.shape[1] * self._stack.shape[2]
        return [z for z, n in enumerate(self._counts) if n == area]


def _told(defects: Iterable[Defect], steps: Steps, empty: Collection[int]) -> Iterator[str]:
    """What is to be said of damaged slices, some of which have no tissue."""
    kinds: dict[str, list[int]] = {}
    for defect in defects:
        kinds.setdefault(defect.kind, []).append(defect.z)
    for kind, slices in kinds.items():
        remedy = ""
        if set(slices) <= {*empty}:
            remedy = f": labels there are {OUTSIDE}, outside"
        elif kind in _REPLACED and steps.defects == "replace":
            remedy = ": the nets see the next good slice there, so its labels are interpolated"
        elif kind == "destroyed":
            remedy = ": --defects replace would take the next good slice there"
        yield f"{named_slices(slices)}: {kind}{remedy}"


def _region(roi: Box | None, stack: Stack) -> Box:
    """What is to be segmented."""
    if roi is None:
        return whole(stack.shape)
    for axis, (start, stop), side in zip("zyx", roi, stack.shape, strict=True):
        if not 0 <= start < stop <= side:
            raise OptionError(
                f"{stack.info.path}: --roi asks for {axis} from {start} to {stop}, the stack has 0 to {side}; expected "
                "z0:z1,y0:y1,x0:x1 within it, counted from 0, the last one not included"
            )
    return roi


def zoom_to(
    aim: Aim, found: VoxelSize | None, scale: str | tuple[float, float, float] = "auto"
) -> tuple[tuple[float, float, float], list[str]]:
    """Voxels of the nets for each voxel of a stack (z, y, x), and what is to be said about it.

    Parameters
    ----------
    aim
        What the nets want to see.
    found
        Voxel size of the stack.
    scale
        What is asked for, as in `Steps`.
    """
    if isinstance(scale, tuple):
        return scale, []
    wanted = aim.voxel_size
    if wanted is None or found is None:  # it is taken for one like those of the training
        told = [] if wanted is None else [f"the stack has no voxel size; the model was trained on {wanted}"]
        return (1.0, 1.0, 1.0) if scale == "off" else aim.scale, told
    z, y, x = (a / b for a, b in zip(found.edges, wanted.edges, strict=True))
    warnings, resampled_z = [], aim.scale[0] != 1
    if not resampled_z and (z > _WARN_Z or 1 / _FEWEST < z < 1 / _WARN_Z):
        warnings.append(
            f"the slices are {found.nanometres[0]:g} nm thick, those of the model's training {wanted.nanometres[0]:g} "
            f"nm; if labels are poor, try --scale {z:.3g},{y:.3g},{x:.3g}, which resamples along z, too, or another "
            "model"
        )
    if scale == "off":
        if max(y, 1 / y, x, 1 / x) > _ALIKE:
            warnings.append(
                f"the voxel size is {found}, the model was trained on {wanted}: they differ by a factor of "
                f"{max(y, 1 / y, x, 1 / x):.2f} within the slice, and --scale off leaves it so"
            )
        return (1.0, 1.0, 1.0), warnings
    if not resampled_z:
        z = 1.0
    if max(z, y, x) > _MOST or min(z, y, x) < 1 / _FEWEST:
        warnings.append(
            f"the voxel size is {found}, the model was trained on {wanted}; it is not resampled so far: give the true "
            "one with --voxel-size, or --scale FACTOR, or take another model"
        )
        return (1.0, 1.0, 1.0), warnings
    z, y, x = (1.0 if max(side, 1 / side) <= _ALIKE else side for side in (z, y, x))
    return (z, y, x), warnings


def _seen(tissue: Box, result: Box, context: Triple, zoom: tuple[float, float, float], stack: Stack) -> Box:
    """What the nets see: the tissue of the region, and around it what decides about it."""
    spans = []
    for (low, high), (start, stop), around, factor in zip(tissue, result, context, zoom, strict=True):
        more = ceil(around / factor)
        spans.append((max(low, start - more), min(high, stop + more)))
    if any(max(low, start) >= min(high, stop) for (low, high), (start, stop) in zip(tissue, result, strict=True)):
        raise OptionError(f"{stack.info.path}: --roi asks for a region without tissue; expected some in it")
    z, y, x = spans
    return z, y, x


def _grid(box: Box, zoom: tuple[float, float, float], stack: Stack) -> Triple:
    sides = grid_at(tuple(stop - start for start, stop in box), zoom)
    for axis, side, (start, stop) in zip("yx", sides[1:], box[1:], strict=True):
        if side < min(_LEAST, stop - start):
            raise OptionError(
                f"{stack.info.path}: at the pixel size of the model's training its {stop - start} voxels along {axis} "
                f"are {side}, fewer than the {_LEAST} that the nets need; check the voxel size, give a larger stack, "
                "or --scale off"
            )
    return sides
