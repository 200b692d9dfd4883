"""One stack from disk to labels: the flow on one screen.

::

    open_stack -> measure -> tiles of a row -> members predict each tile -> combine -> canvas -> finished slices ->
    files
                  reader thread               net thread                   finisher thread

Memory is that of a row of slices. Reading ahead, stitching and writing run beside the nets.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.bundle import ModelBundle
from densecell_batch.device import DeviceInfo, Precision, available_memory, choose_precision, select_device
from densecell_batch.ensemble import combine
from densecell_batch.errors import OptionError, StackError
from densecell_batch.normalize import Statistics, measure, normalize
from densecell_batch.outputs import OutputPaths, StackOutputs
from densecell_batch.planning import Plan, plan_tiles
from densecell_batch.predict import Predictor
from densecell_batch.report import SCHEMA_VERSION, is_done, versions, write_report
from densecell_batch.stack_io import Stack, content_sha256, open_stack
from densecell_batch.stitch import Canvas, FinishedSlice
from densecell_batch.tally import Tally
from densecell_batch.tiling import Tile
from densecell_batch.volume import VoxelSize

__all__ = ["Progress", "SegmentOptions", "SegmentedStack", "Segmenter", "segment_slices", "segment_stack"]

_log = logging.getLogger(__name__)

_ALIKE = 1.2  # voxel sizes that differ by no more than this factor need no warning

Progress = Callable[[str, int, int], None]  # (what, voxels done, voxels in all)


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

    def as_dict(self) -> dict[str, Any]:
        """JSON values of the options that shape the result; how much memory it takes and whether to overwrite do
        not.
        """
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in ("memory", "overwrite")}


@dataclass(frozen=True)
class SegmentedStack:
    """Where the results of a stack are."""

    labels: Path
    report: Path
    skipped: bool = False  # it was done before, from the same input with the same nets and options


@dataclass
class Segmenter:
    """An ensemble loaded once, for any number of stacks.

    Raises
    ------
    DeviceError
        If the device asked for is not usable.
    OptionError
        If a class of `options.instances` is not one of the bundle's, or there is a smallest volume of no class.
    """

    bundle: ModelBundle
    options: SegmentOptions
    device: DeviceInfo = field(init=False)
    precision: Precision = field(init=False)
    predictor: Predictor = field(init=False)

    def __post_init__(self) -> None:
        names = [c.name for c in self.bundle.classes]
        for name in self.options.instances:
            if name not in names:
                raise OptionError(f"--instances: the model has no class {name!r}; its classes are {', '.join(names)}")
        if self.options.min_volume > 0 and not self.options.instances:
            raise OptionError("--min-volume leaves out small instances; say of which class with --instances CLASS")
        weights = [self.bundle.weights(i) for i in range(len(self.bundle.members))]
        self.device = select_device(self.options.device)
        self.precision = choose_precision(self.options.precision, self.device)
        _log.info("device %s; precision %s (%s)", self.device, self.precision.name, self.precision.reason)
        self.predictor = Predictor(
            self.bundle.architecture, weights, self.precision.name, may_split=self.options.stitch != "deepest"
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
            budget=options.memory or available_memory() // 2,
            tile=options.tile,
            keep_probabilities=options.probabilities,
        )


def segment_stack(
    path: Path, folder: Path, segmenter: Segmenter, progress: Progress = lambda what, done, total: None
) -> SegmentedStack:
    """Segment one stack into files in `folder`.

    Parameters
    ----------
    path
        TIFF file, or folder of single-slice TIFFs.
    folder
        Where the results go; made if it is not there.
    segmenter
        The ensemble and the options.
    progress
        Called with what is being done, voxels done and voxels in all.

    Returns
    -------
    SegmentedStack

    Raises
    ------
    StackError, OptionError, OutputError
        If the stack cannot be read or segmented, or the results cannot be written. No output then stands under its
        final name, and a result of an earlier run is as it was.
    """
    options, bundle = segmenter.options, segmenter.bundle
    paths = OutputPaths(folder, path)
    with open_stack(path, options.voxel_size) as stack:
        if options.min_volume > 0 and stack.info.voxel_size is None:
            raise StackError(
                f"{path}: it has no voxel size, so --min-volume cannot be applied; give --voxel-size as well"
            )
        plan = segmenter.plan(stack.info.shape)
        report = _describe(stack, segmenter, plan)
        if not options.overwrite and is_done(paths.report, report):
            _log.info("%s was done before: skipped", path)
            return SegmentedStack(paths.labels, paths.report, skipped=True)
        for warning in report["warnings"]:
            _log.warning("%s: %s", path, warning)
        clock = {"start": time.perf_counter()}
        statistics = measure(stack, lambda z: progress("measuring", z + 1, stack.info.shape[0]))
        clock["measured"] = time.perf_counter()
        tally = Tally(len(bundle.classes))
        with StackOutputs(paths, stack, bundle, options) as outputs:

            def finish(finished: FinishedSlice) -> None:
                tally.add(finished.labels, finished.confidence, finished.disagreement)
                outputs.write(finished)

            segment_slices(stack, statistics, plan, segmenter, finish, progress)
            clock["segmented"] = time.perf_counter()
            files, instances = outputs.commit()
        clock["written"] = time.perf_counter()
    report |= tally.summary(bundle.classes, stack.info.voxel_size)
    report |= {
        "statistics": statistics.as_dict(),
        "instances": instances,
        "outputs": files,
        "timings": _timings(clock, stack),
    }
    write_report(paths.report, report)
    return SegmentedStack(paths.labels, paths.report)


def segment_slices(
    stack: Stack,
    statistics: Statistics,
    plan: Plan,
    segmenter: Segmenter,
    finish: Callable[[FinishedSlice], None],
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Run the nets over all tiles of a stack and hand each slice to `finish` as soon as no later tile touches it.

    `finish` is called in another thread, with slices in ascending z; what it gets is overwritten after it returns.
    """
    options, grid = segmenter.options, plan.grid
    canvas = Canvas(
        grid,
        plan.rule,
        len(segmenter.bundle.classes),
        keep_probabilities=options.probabilities,
        keep_disagreement=options.uncertainty,
    )

    def look(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return combine(segmenter.predictor(voxels), options.ensemble, with_disagreement=options.uncertainty)

    def paint(tile: Tile, probabilities: np.ndarray, disagreement: np.ndarray | None, last: bool) -> None:
        canvas.paint(tile, probabilities, disagreement)
        if last:
            for finished in canvas.finished(tile.index[0]):
                finish(finished)

    total = int(np.prod(grid.shape))
    progress("segmenting", 0, total)
    with ExitStack() as threads:
        reader, finisher = threads.enter_context(_Thread("reader")), threads.enter_context(_Thread("finisher"))
        net = threads.enter_context(_Thread("net", patient=False))
        painting: deque[Future[None]] = deque()
        tiles = _read_ahead(stack, statistics, plan, reader)
        for n, (tile, voxels) in enumerate(tiles, start=1):
            # The main thread only waits, so that a signal is answered at once.
            probabilities, disagreement = net.submit(look, voxels).result()
            last = n % grid.tiles_per_row == 0
            painting.append(finisher.submit(paint, tile, probabilities, disagreement, last))
            while len(painting) > 1:
                painting.popleft().result()
            progress("segmenting", total * n // grid.n_tiles, total)
        while painting:
            painting.popleft().result()


class _Thread(ThreadPoolExecutor):
    """One worker. Leaving the context by an exception drops what has not begun, and waits for what has only if
    `patient`: a tile can take a minute, and a net writes nowhere.
    """

    def __init__(self, name: str, patient: bool = True) -> None:
        super().__init__(max_workers=1, thread_name_prefix=f"densecell-{name}")
        self._patient = patient

    def __exit__(self, kind: Any, *details: Any) -> None:
        self.shutdown(wait=kind is None or self._patient, cancel_futures=kind is not None)


def _read_ahead(
    stack: Stack, statistics: Statistics, plan: Plan, reader: ThreadPoolExecutor
) -> Iterator[tuple[Tile, np.ndarray]]:
    """The tiles and their normalized input regions (z, y, x) float32, the next one being read while one is in use."""
    voxels = _input_regions(stack, statistics, plan)
    upcoming = reader.submit(next, voxels, None)
    while True:
        current = upcoming.result()
        if current is None:
            return
        upcoming = reader.submit(next, voxels, None)
        yield current


def _input_regions(stack: Stack, statistics: Statistics, plan: Plan) -> Iterator[tuple[Tile, np.ndarray]]:
    """Read each slice once: a row keeps the normalized slices that the next one shares."""
    grid = plan.grid
    slices: dict[int, np.ndarray] = {}
    for row in range(len(grid.z.corners)):
        needed = grid.z.input_indices(row)
        slices = {
            z: slices[z] if z in slices else normalize(stack.read(z), statistics) for z in sorted(set(needed.tolist()))
        }
        for tile in grid.row(row):
            y, x = grid.y.input_indices(tile.index[1]), grid.x.input_indices(tile.index[2])
            yield tile, np.stack([slices[z][np.ix_(y, x)] for z in needed.tolist()])


def _describe(stack: Stack, segmenter: Segmenter, plan: Plan) -> dict[str, Any]:
    """The report as far as it is known before the work begins."""
    info, bundle, grid = stack.info, segmenter.bundle, plan.grid
    files = [file.stat() for file in stack.files]
    return {
        "schema_version": SCHEMA_VERSION,
        "input": {
            "path": str(info.path.absolute()),
            "container": info.container,
            "files": len(files),
            "bytes": sum(file.st_size for file in files),
            "mtime_ns": max(file.st_mtime_ns for file in files),
            "sha256": content_sha256(stack.files),
            "shape": info.shape,
            "dtype": info.dtype,
            "voxel_size_um": None if info.voxel_size is None else info.voxel_size.edges,
        },
        "model": {
            "name": bundle.name,
            "version": bundle.version,
            "licence": bundle.licence,
            "members": [member.sha256 for member in bundle.members],
        },
        "options": segmenter.options.as_dict(),
        "device": str(segmenter.device),
        "precision": asdict(segmenter.precision),
        "tiles": {
            "input": grid.input,
            "output": grid.output,
            "number": grid.n_tiles,
            "redundancy": round(grid.redundancy, 4),
            "memory_bytes": plan.memory,
        },
        "versions": versions(),
        "warnings": [*stack.notes, *_calibration_warnings(info.voxel_size, bundle.voxel_size)],
    }


def _calibration_warnings(found: VoxelSize | None, trained: VoxelSize | None) -> list[str]:
    """What to say when a stack is not of the scale that the nets were trained on."""
    if trained is None:
        return []
    if found is None:
        return [f"the stack has no voxel size; the model was trained on {trained}"]
    if found.worst_ratio(trained) <= _ALIKE:
        return []
    return [
        f"the voxel size is {found}, the model was trained on {trained}: they differ by a factor of "
        f"{found.worst_ratio(trained):.2f}; scale the stack (in Fiji: Image > Scale) or take another model"
    ]


def _timings(clock: dict[str, float], stack: Stack) -> dict[str, float]:
    """Seconds of each stage, and voxels per second of the whole."""
    steps = list(clock.items())
    seconds = {name: round(b - a, 3) for (_, a), (name, b) in pairwise(steps)}
    whole = clock["written"] - clock["start"]
    return {**seconds, "total": round(whole, 3), "voxels_per_second": round(stack.info.n_voxels / whole, 1)}
