"""One stack from disk to labels: the flow on one screen.

::

    open_stack -> measure -> tiles of a row -> members predict each tile -> combine -> canvas -> pieces -> files
                  reader thread               net thread                   finisher thread

Memory is that of a row of slices. Reading ahead, stitching and writing run beside the nets. Pieces that are there are
not computed again, and several processes can share them (`pieces`). A macro of the user may come before all of that,
and another one after it (`hooks`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.atomic import make_folder, need_space
from densecell_batch.bundle import ModelBundle
from densecell_batch.device import DeviceInfo, Precision, available_memory, choose_precision, select_device
from densecell_batch.ensemble import combine
from densecell_batch.errors import OptionError, OutputError, StackError
from densecell_batch.hooks import MacroHooks, forget_post, prepared, remove_prepared, run_post
from densecell_batch.normalize import Statistics, measure, normalize
from densecell_batch.outputs import OutputPaths, StackOutputs, stack_name
from densecell_batch.pieces import Job, Piece, remove_jobs, shard_of
from densecell_batch.planning import Plan, plan_tiles
from densecell_batch.predict import Predictor
from densecell_batch.report import SCHEMA_VERSION, is_done, versions, write_report
from densecell_batch.stack_io import Stack, content_sha256, open_stack, stamp_of
from densecell_batch.stitch import Canvas, FinishedSlice
from densecell_batch.tally import Tally
from densecell_batch.tiling import Tile, TileGrid
from densecell_batch.volume import VoxelSize

__all__ = [
    "Progress",
    "SegmentOptions",
    "SegmentedStack",
    "Segmenter",
    "identity_of",
    "segment_slices",
    "segment_stack",
]

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
    shard: tuple[int, int] | None = None  # (i, n): compute only part i of n of the pieces, from 1
    assemble: bool = False  # compute nothing
    hooks: MacroHooks = field(default_factory=MacroHooks)

    def as_dict(self) -> dict[str, Any]:
        """JSON values of the options that shape the result; not how much memory it takes, or who computes it."""
        elsewhere = ("memory", "overwrite", "shard", "assemble", "hooks")
        return {name: value for name, value in asdict(self).items() if name not in elsewhere}


@dataclass(frozen=True)
class SegmentedStack:
    """Where the results of a stack are."""

    labels: Path
    report: Path
    skipped: bool = False  # it was done before, from the same input with the same nets and options
    missing: int = 0  # pieces that other shards have to make before there are results
    left_to_another: bool = False  # which makes the results of the pieces at this moment


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
        """The nets with their weights."""
        weights = [self.bundle.weights(i) for i in range(len(self.bundle.members))]
        return Predictor(
            self.bundle.architecture, weights, self.precision.name, may_split=self.options.stitch != "deepest"
        )

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
    MacroError
        If a macro of the user fails; if it was the one after the segmentation, the labels are there.
    """
    options, paths = segmenter.options, OutputPaths(folder, path)
    result = _make_labels(path, paths, segmenter, progress)
    if options.hooks.post is None or result.missing or result.left_to_another:
        return result
    if run_post(path, paths, options.hooks, segmenter.bundle, options.memory):
        return result
    if not options.shard:
        raise OutputError(f"{paths.labels}: another process runs {options.hooks.post.name} on it; wait for that")
    return replace(result, left_to_another=True)


def _make_labels(path: Path, paths: OutputPaths, segmenter: Segmenter, progress: Progress) -> SegmentedStack:
    """Segment a stack, unless that was done before."""
    options, folder, before = segmenter.options, paths.folder, stamp_of(path)
    with ExitStack() as opened:
        given = opened.enter_context(open_stack(path, options.voxel_size))
        wanted = _identify(given, segmenter)
        if not options.overwrite and is_done(paths.report, wanted):
            _log.info("%s was done before: skipped", path)
            remove_jobs(folder, stack_name(path))
            remove_prepared(folder, stack_name(path))
            return SegmentedStack(paths.labels, paths.report, skipped=True)
        stack = _prepare(given, folder, segmenter, wanted, opened)
        if options.min_volume > 0 and stack.info.voxel_size is None:
            raise StackError(
                f"{path}: it has no voxel size, so --min-volume cannot be applied; give --voxel-size as well"
            )
        for warning in wanted["warnings"]:
            _log.warning("%s: %s", path, warning)
        clock = {"start": time.perf_counter()}
        with _open_job(stack, segmenter, paths, wanted) as job:
            _check_job(job, stack, segmenter, paths)
            made = _make_pieces(job, stack, segmenter, clock, progress)
            missing = job.missing()
            if missing and (options.shard or options.assemble):
                return SegmentedStack(paths.labels, paths.report, missing=len(missing))
            with job.assembling() as ours:
                if not ours and options.shard:  # a shard that was ready a moment earlier does it
                    return SegmentedStack(paths.labels, paths.report, left_to_another=True)
                if not ours:
                    raise OutputError(f"{paths.labels}: another process is writing it; wait until that is done")
                if stamp_of(path) not in (before, None):  # of a file that was deleted we have all
                    job.remove()
                    raise StackError(
                        f"{path}: it was changed while it was segmented, so nothing was kept; run the same command "
                        "again once it is complete"
                    )
                forget_post(paths)
                _assemble(job, stack, segmenter, paths, wanted, clock, made)
                job.remove()
                remove_prepared(folder, stack_name(path))
    return SegmentedStack(paths.labels, paths.report)


def _prepare(given: Stack, folder: Path, segmenter: Segmenter, wanted: dict[str, Any], opened: ExitStack) -> Stack:
    """What the user's first macro makes of a stack; itself without one. Adds to `wanted` what is known by then."""
    options = segmenter.options
    if options.overwrite and folder.exists():
        remove_prepared(folder, stack_name(given.info.path))
    identity = {
        "input": {key: wanted["input"][key] for key in ("sha256", "voxel_size_um")},
        "pre_macro": wanted.get("pre_macro"),
        "densecell-batch": wanted["versions"]["densecell-batch"],
    }
    stack, record = opened.enter_context(prepared(given, folder, options.hooks, identity, options.memory))
    if record is not None:
        wanted["preprocessing"] = record
    trained = segmenter.bundle.voxel_size
    wanted["warnings"] = [*stack.notes, *_calibration_warnings(stack.info.voxel_size, trained)]
    return stack


def _open_job(stack: Stack, segmenter: Segmenter, paths: OutputPaths, wanted: dict[str, Any]) -> Job:
    """The pieces of a stack that are there, or none yet."""
    options = segmenter.options
    make_folder(paths.folder)
    identity = {key: wanted[key] for key in ("model", "options")}
    # Other nodes of a cluster may see the stack under another path.
    identity["input"] = {key: value for key, value in wanted["input"].items() if key != "path"}
    if "pre_macro" in wanted:
        identity["pre_macro"] = wanted["pre_macro"]
    identity["densecell-batch"] = wanted["versions"]["densecell-batch"]

    def describe() -> tuple[dict[str, Any], Plan]:
        plan = segmenter.plan(stack.info.shape)
        return wanted | _describe_tiles(segmenter, plan), plan

    return Job(paths.folder, stack_name(stack.info.path), identity, describe, fresh=options.overwrite)


def _check_job(job: Job, stack: Stack, segmenter: Segmenter, paths: OutputPaths) -> None:
    """Refuse to go on with pieces that this process would not make, or without room for all of it."""
    options, missing = segmenter.options, len(job.missing())
    if missing and not options.assemble:
        begun, here = job.report["precision"]["name"], segmenter.precision.name
        if begun != here:
            raise OptionError(
                f"{stack.info.path}: the work was begun in {begun}, here it would go on in {here}; give "
                f"--precision {begun}, or --overwrite to begin anew"
            )
    n_classes = len(segmenter.bundle.classes)
    per_voxel = 1 + 4 * n_classes * options.probabilities + 4 * options.uncertainty
    twice = (missing / len(job.pieces) + 1) * per_voxel + 2 * len(options.instances)  # pieces, then outputs
    need_space(paths.labels, int(twice * stack.info.n_voxels))


def _make_pieces(job: Job, stack: Stack, segmenter: Segmenter, clock: dict[str, float], progress: Progress) -> int:
    """Compute the missing pieces of this process; how many voxels that were."""
    depth, options = stack.info.shape[0], segmenter.options
    share = shard_of(len(job.pieces), *options.shard or (1, 1))
    missing = [] if options.assemble else job.missing(share)
    if missing:
        statistics = job.statistics(lambda: measure(stack, lambda z: progress("measuring", z + 1, depth)))
    clock["measured"] = time.perf_counter()
    if len(missing) < len(share) and not options.assemble:
        _log.info("%s: %d of %d pieces are there already", stack.info.path, len(share) - len(missing), len(share))
    counts = [(p.z[1] - p.z[0]) * (p.y[1] - p.y[0]) * stack.info.shape[2] for p in job.pieces]
    total, done = sum(counts[i] for i in share), sum(counts[i] for i in share if i not in missing)
    begun = done
    for pieces in _neighbours(missing, job.pieces):
        first, last = job.pieces[pieces[0]], job.pieces[pieces[-1]]
        size = sum(counts[i] for i in pieces)

        def say(share_done: float, size: int = size, done: int = done) -> None:
            progress("segmenting", round(done + size * share_done), total)

        with job.writer(pieces, len(segmenter.bundle.classes)) as finish:
            segment_slices(stack, statistics, job.plan, segmenter, finish, (first.z[0], last.z[1]), first.y, say)
        done += size
    clock["segmented"] = time.perf_counter()
    return done - begun


def _neighbours(numbers: list[int], pieces: list[Piece]) -> Iterator[list[int]]:
    """Runs of consecutive numbers of an ascending list, of pieces in one band."""
    run: list[int] = []
    for number in numbers:
        if run and (number > run[-1] + 1 or pieces[number].band != pieces[run[-1]].band):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _assemble(
    job: Job,
    stack: Stack,
    segmenter: Segmenter,
    paths: OutputPaths,
    wanted: dict[str, Any],
    clock: dict[str, float],
    made: int,
) -> None:
    """Make the outputs of the pieces, and the report."""
    bundle = segmenter.bundle
    tally = Tally(len(bundle.classes))
    with StackOutputs(paths, stack, bundle, segmenter.options) as outputs:
        for stored in job.slices():
            tally.add(stored.sums)
            outputs.write(stored)
        files, instances = outputs.commit()
    clock["written"] = time.perf_counter()
    # As the one who began the job described it, but the input as it is called here.
    report = job.report | {"input": wanted["input"]}
    report |= tally.summary(bundle.classes, stack.info.voxel_size)
    report |= {
        "statistics": job.statistics(lambda: measure(stack)).as_dict(),
        "instances": instances,
        "outputs": files,
        "timings": _timings(clock, made),
    }
    write_report(paths.report, report)


def segment_slices(
    stack: Stack,
    statistics: Statistics,
    plan: Plan,
    segmenter: Segmenter,
    finish: Callable[[FinishedSlice], None],
    slices: tuple[int, int],
    band: tuple[int, int],
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Run the nets over the tiles that decide the slices [start, stop) of a stack, or a band of rows [start, stop) of
    them, and hand each slice to `finish` as soon as no later tile touches it.

    `finish` is called in another thread, with slices in ascending z; what it gets is overwritten after it returns. It
    gets slices outside of `slices`, too, those that the tiles touch: they are not right. `progress` gets the share of
    the tiles that is done.
    """
    options, grid = segmenter.options, plan.grid
    rows, ys = grid.z.touching(plan.rule, *slices), grid.y.touching(plan.rule, *band)
    canvas = Canvas(
        grid,
        plan.rule,
        len(segmenter.bundle.classes),
        keep_probabilities=options.probabilities,
        keep_disagreement=options.uncertainty,
        first_row=rows[0],
        band=band,
    )

    def look(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return combine(segmenter.predictor(voxels), options.ensemble, with_disagreement=options.uncertainty)

    def paint(tile: Tile, probabilities: np.ndarray, disagreement: np.ndarray | None, last: bool) -> None:
        canvas.paint(tile, probabilities, disagreement)
        if last:
            for finished in canvas.finished(tile.index[0]):
                finish(finished)

    per_row = len(ys) * len(grid.x.corners)
    n_tiles = len(rows) * per_row
    progress(0)
    with ExitStack() as threads:
        reader, finisher = threads.enter_context(_Thread("reader")), threads.enter_context(_Thread("finisher"))
        net = threads.enter_context(_Thread("net", patient=False))
        painting: deque[Future[None]] = deque()
        tiles = _read_ahead(stack, statistics, plan.grid, rows, ys, reader)
        for n, (tile, voxels) in enumerate(tiles, start=1):
            # The main thread only waits, so that a signal is answered at once.
            probabilities, disagreement = net.submit(look, voxels).result()
            last = n % per_row == 0
            painting.append(finisher.submit(paint, tile, probabilities, disagreement, last))
            while len(painting) > 1:
                painting.popleft().result()
            progress(n / n_tiles)
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
    stack: Stack, statistics: Statistics, grid: TileGrid, rows: range, ys: range, reader: ThreadPoolExecutor
) -> Iterator[tuple[Tile, np.ndarray]]:
    """The tiles and their normalized input regions (z, y, x) float32, the next one being read while one is in use."""
    voxels = _input_regions(stack, statistics, grid, rows, ys)
    upcoming = reader.submit(next, voxels, None)
    while True:
        current = upcoming.result()
        if current is None:
            return
        upcoming = reader.submit(next, voxels, None)
        yield current


def _input_regions(
    stack: Stack, statistics: Statistics, grid: TileGrid, rows: range, ys: range
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Read each slice once: a row keeps the normalized slices that the next one shares."""
    slices: dict[int, np.ndarray] = {}
    top, bottom = grid.y.read_by(ys)
    for row in rows:
        needed = grid.z.input_indices(row)
        slices = {
            z: slices[z] if z in slices else normalize(stack.read(z, (top, bottom)), statistics)
            for z in sorted(set(needed.tolist()))
        }
        for tile in grid.row(row, ys):
            y, x = grid.y.input_indices(tile.index[1]) - top, grid.x.input_indices(tile.index[2])
            yield tile, np.stack([slices[z][np.ix_(y, x)] for z in needed.tolist()])


def identity_of(segmenter: Segmenter) -> dict[str, Any]:
    """Model and options, as every report says them: what has to be the same for a result to stand."""
    bundle = segmenter.bundle
    return {
        "model": {
            "name": bundle.name,
            "version": bundle.version,
            "licence": bundle.licence,
            "members": [member.sha256 for member in bundle.members],
        },
        "options": segmenter.options.as_dict(),
    }


def _identify(stack: Stack, segmenter: Segmenter) -> dict[str, Any]:
    """What goes in and what is asked: the beginning of the report."""
    info = stack.info
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
        **identity_of(segmenter),
        "versions": versions(),
        **({"pre_macro": pre.sha256} if (pre := segmenter.options.hooks.pre) else {}),
    }


def _describe_tiles(segmenter: Segmenter, plan: Plan) -> dict[str, Any]:
    """How it is computed, for the report."""
    grid = plan.grid
    return {
        "device": str(segmenter.device),
        "precision": asdict(segmenter.precision),
        "tiles": {
            "input": grid.input,
            "output": grid.output,
            "number": grid.n_tiles,
            "redundancy": round(grid.redundancy, 4),
            "bands": len(plan.bands),
            "memory_bytes": plan.memory,
        },
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


def _timings(clock: dict[str, float], voxels: int) -> dict[str, float]:
    """Seconds of each stage in the process that made the outputs, and the voxels that it computed in a second."""
    steps = list(clock.items())
    seconds = {name: round(b - a, 3) for (_, a), (name, b) in pairwise(steps)}
    whole = clock["written"] - clock["start"]
    return {**seconds, "total": round(whole, 3), "voxels_per_second": round(voxels / whole, 1)}
