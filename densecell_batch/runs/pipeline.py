"""One stack from disk to labels: the flow on one screen.

::

    open_stack -> first macro -> measure -> segment_slices -> pieces -> files, report -> second macro

What is there is not done again, and several processes can share the pieces (`pieces`). The macros are the user's
(`hooks`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import BusyError, OccupiedError, OptionError, StackError
from densecell_batch.identity import digest
from densecell_batch.inference.planning import Plan
from densecell_batch.inference.segmenter import Segmenter, SegmentOptions, identity_of
from densecell_batch.inference.streaming import segment_slices
from densecell_batch.io.discovery import Stamp, stamp_of
from densecell_batch.io.formats.tiff import is_whole_tiff
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.measure.tally import Tally
from densecell_batch.prepare.normalize import measure
from densecell_batch.runs.at_work import at_work, nobody_at_work
from densecell_batch.runs.checks import check_image, check_result_names
from densecell_batch.runs.hooks import forget_post, prepared, remove_prepared, run_post
from densecell_batch.runs.journal import Job, Piece, remove_jobs, shard_of, shared_sha256
from densecell_batch.runs.outputs import OutputPaths, StackOutputs, preview_of, shown_slices, stack_name
from densecell_batch.runs.ownership import add_files, compare, described, forget_announced, make_room, named_at
from densecell_batch.runs.report import (
    SCHEMA_VERSION,
    has_labels,
    is_same_work,
    read_report,
    versions,
    work_of,
    write_report,
)
from densecell_batch.storage.atomic import make_folder, need_space

__all__ = ["Progress", "SegmentedStack", "segment_stack"]

_log = logging.getLogger(__name__)

_ALIKE = 1.2  # voxel sizes that differ by no more than this factor need no warning

Progress = Callable[[str, int, int], None]  # (what, voxels done, voxels in all)


@dataclass(frozen=True)
class SegmentedStack:
    """Where the results of a stack are."""

    labels: Path
    report: Path
    skipped: bool = False  # it was done before, from the same input with the same nets and options
    missing: int = 0  # pieces that other shards have to make before there are results
    left_to_another: bool = False  # which makes the results of the pieces at this moment
    warnings: tuple[str, ...] = ()  # what whoever started this should know of it


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
    OccupiedError
        If the name of a result is taken by a file that is not ours; it is left as it is.
    BusyError
        If another process makes something else under the same name.
    MacroError
        If a macro of the user fails; if it was the one after the segmentation, the labels are there.
    """
    options, paths = segmenter.options, OutputPaths(folder, path)
    result = _make_labels(path, paths, segmenter, progress)
    if options.hooks.post is None or result.missing or result.left_to_another:
        return result
    if run_post(path, paths, options, segmenter.bundle):
        return result
    return replace(result, left_to_another=True)


def _make_labels(path: Path, paths: OutputPaths, segmenter: Segmenter, progress: Progress) -> SegmentedStack:
    """Segment a stack, unless that was done before."""
    options, folder = segmenter.options, paths.folder
    check_result_names(path, paths, options)
    check_image(path)
    reach = options.reach(path)
    before = stamp_of(path, reach)
    with ExitStack() as opened:
        given = opened.enter_context(open_stack(path, options.voxel_size, reach=reach))
        segmenter.check_memory(given)
        if options.shard or options.assemble:
            make_folder(folder)
            sha256 = opened.enter_context(shared_sha256(given, folder, stack_name(path)))
        else:
            sha256 = given.sha256()
        wanted = _identify(given, sha256, segmenter)
        if (done := _done_before(given, paths, wanted, segmenter)) is not None:
            return done
        make_folder(folder)
        # Pieces of another version may have been made otherwise; results stand until another one is asked for.
        work = work_of(wanted) | {"densecell-batch": wanted["versions"]["densecell-batch"]}
        alone = not options.shard
        waited = opened.enter_context(
            at_work(folder, stack_name(path), digest(work), alone=alone, wait=not options.unattended)
        )
        if waited and (done := _done_before(given, paths, wanted, segmenter)) is not None:
            return done
        _check_names(paths, wanted, options)
        stack = _prepare(given, folder, segmenter, wanted, opened)
        if options.min_volume > 0 and stack.info.voxel_size is None:
            raise StackError(
                f"{path}: it has no voxel size, so --min-volume cannot be applied; give --voxel-size as well"
            )
        for warning in wanted["warnings"]:
            _log.warning("%s: %s", path, warning)
        clock = {"start": time.perf_counter()}
        with _open_job(stack, segmenter, paths, wanted, work) as job:
            _check_job(job, stack, segmenter, paths)
            made = _make_pieces(job, stack, segmenter, clock, progress)
            missing = job.missing()
            if missing and (options.shard or options.assemble):
                return SegmentedStack(paths.labels, paths.report, missing=len(missing))
            with job.assembling(wait=alone and not options.unattended) as ours:
                if not ours and options.shard:  # a shard that was ready a moment earlier does it
                    return SegmentedStack(paths.labels, paths.report, left_to_another=True)
                if not ours:
                    if (done := _done_before(given, paths, wanted, segmenter)) is not None:
                        return done
                    raise BusyError(f"{paths.labels}: another process is writing it; wait until that is done")
                if stamp_of(path, reach) not in (before, None):  # of a file that was deleted we have all
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


def _done_before(
    stack: Stack, paths: OutputPaths, wanted: dict[str, Any], segmenter: Segmenter
) -> SegmentedStack | None:
    """The results that are there, if they are of this very work. Labels that somebody changed since are theirs."""
    options, path, name = segmenter.options, stack.info.path, stack_name(stack.info.path)
    report = read_report(paths.report)
    if options.overwrite or report is None or not is_same_work(report, wanted) or not has_labels(paths.report, report):
        return None
    missing, changed = compare(paths.report, report)
    damaged = [file for file in changed if file.suffix == ".tif" and not is_whole_tiff(file)]
    if damaged and options.unattended:
        return None
    if damaged:
        raise OccupiedError(
            f"{damaged[0]}: it is not what was written there, and cannot be read; if it is not yours, remove it and "
            "run the same command again"
        )
    warnings = []
    if changed:
        names = ", ".join(file.name for file in changed)
        warnings.append(
            f"{names}: changed since the results were made, so taken for yours and left as it is; --overwrite would "
            "make all results anew, and the changes would be lost"
        )
        _log.warning("%s: %s", path, warnings[0])
    _log.info("%s was done before: skipped", path)
    _tidy(paths, name)
    no_preview = "preview" not in report["outputs"] or paths.preview in missing
    if options.preview and no_preview and paths.labels not in changed and "pre_macro" not in report:
        _add_preview(stack, paths, report, segmenter)
    return SegmentedStack(paths.labels, paths.report, skipped=True, warnings=tuple(warnings))


def _tidy(paths: OutputPaths, name: str) -> None:
    """Remove what runs left that were killed after their results were there, if there is anything."""
    with os.scandir(paths.folder) as entries:
        if not any(entry.name.startswith(f".{name}.") for entry in entries):
            return  # as of nearly every stack; the folder may be read-only
    with nobody_at_work(paths.folder, name) as nobody:
        if nobody:
            remove_jobs(paths.folder, name)
            remove_prepared(paths.folder, name)
            forget_announced(paths.report)


def _add_preview(stack: Stack, paths: OutputPaths, report: dict[str, Any], segmenter: Segmenter) -> None:
    """Draw the preview of results that were made without."""
    with open_labels(paths.labels) as labels:
        shown = {z: labels.read(z) for z in shown_slices(labels.info.shape[0])}
    picture = preview_of(stack, segmenter.bundle, shown)
    entry = described(paths.preview.name, picture)
    report = report | {
        "options": report["options"] | {"preview": True},
        "outputs": report["outputs"] | {"preview": entry},
    }
    add_files(paths.report, report, {paths.preview: picture}, keep=segmenter.options.unattended)


def _check_names(paths: OutputPaths, wanted: dict[str, Any], options: SegmentOptions) -> None:
    """Refuse, before anything is computed, what could not take its name: a user's file or another stack's results have
    it.
    """
    for path in paths.wanted(options):
        if path.is_dir() and not path.is_symlink():
            raise OccupiedError(f"{path}: a folder is called so; rename it, or choose another output folder")
    if options.overwrite:
        return
    entry = (read_report(paths.report) or {}).get("input")
    if isinstance(entry, dict) and not options.unattended:
        same = any(entry.get(key) == wanted["input"][key] for key in ("path", "sha256"))
        if not same:
            raise OccupiedError(
                f"{paths.labels}: the results of another stack of this name, {entry.get('path')}, are there; choose "
                "another output folder, or replace them with --overwrite"
            )
    if not options.unattended:
        make_room(paths.report, paths.wanted(options), keep=False)


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


def _open_job(
    stack: Stack, segmenter: Segmenter, paths: OutputPaths, wanted: dict[str, Any], identity: dict[str, Any]
) -> Job:
    """The pieces of a stack that are there, or none yet."""
    options = segmenter.options

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
    report = job.report | {key: wanted[key] for key in ("input", "options")}
    report |= tally.summary(bundle.classes, stack.info.voxel_size)
    report |= {
        "statistics": job.statistics(lambda: measure(stack)).as_dict(),
        "instances": instances,
        "outputs": files,
        "timings": _timings(clock, made) | {"named_ns": named_at(paths.folder, (f["file"] for f in files.values()))},
    }
    write_report(paths.report, report)
    forget_announced(paths.report)


def _identify(stack: Stack, sha256: str, segmenter: Segmenter) -> dict[str, Any]:
    """What goes in and what is asked: the beginning of the report."""
    info = stack.info
    stamp = Stamp.of(*(stack.reach.stat(file) for file in stack.files))
    return {
        "schema_version": SCHEMA_VERSION,
        "input": {
            "path": str(info.path.absolute()),
            "container": info.container,
            **asdict(stamp),
            "sha256": sha256,
            "shape": info.shape,
            "dtype": info.dtype,
            "voxel_size_um": None if info.voxel_size is None else info.voxel_size.edges,
        },
        **identity_of(segmenter),
        "versions": versions(),
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
