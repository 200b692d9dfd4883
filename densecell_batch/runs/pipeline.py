"""One stack from disk to labels: the flow on one screen.

::

    open_stack -> first macro -> examine -> segment_prepared -> pieces -> files, report -> second macro

What is there is not done again, and several processes can share the pieces (`journal`). The macros are the user's
(`hooks`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from densecell_batch.errors import BusyError, OccupiedError, OptionError, StackError
from densecell_batch.inference.planning import Plan
from densecell_batch.inference.volume import segment_prepared
from densecell_batch.io.discovery import stamp_of
from densecell_batch.io.formats.tiff import is_whole_tiff
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.io.stack import Stack
from densecell_batch.measure.tally import Tally
from densecell_batch.prepare.mask import Mask
from densecell_batch.prepare.preparation import Preparation
from densecell_batch.prepare.prepared import Prepared
from densecell_batch.runs.at_work import at_work, nobody_at_work
from densecell_batch.runs.checks import check_image, check_result_names, told_of_gaps
from densecell_batch.runs.found import FitRecord, Outside
from densecell_batch.runs.hooks import forget_post, prepared, remove_prepared, run_post
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.journal import Job, Piece, remove_jobs, shard_of, shared_sha256
from densecell_batch.runs.objects import check_calibrated
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.outputs import StackOutputs, preview_of, shown_slices
from densecell_batch.runs.ownership import add_files, compare, forget_announced, make_room, named_at
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.report import (
    Begun,
    Clock,
    Order,
    Preprocessing,
    Report,
    begun,
    has_labels,
    order_of,
    read_report,
    write_report,
)
from densecell_batch.storage.atomic import make_folder, need_space
from densecell_batch.storage.opening import Reach
from densecell_batch.storage.records import described

__all__ = ["Progress", "SegmentedStack", "segment_stack", "tidy"]

_log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]  # (what, voxels done, voxels in all)


@dataclass(frozen=True)
class SegmentedStack:
    """Where the results of a stack are.

    Attributes
    ----------
    labels, report
        Their files.
    skipped
        Whether it was done before, from the same input with the same nets and options.
    missing
        Pieces that other shards have to make before there are results.
    left_to_another
        Whether another process makes the results of the pieces at this moment.
    warnings
        What whoever started this should know of it.
    """

    labels: Path
    report: Path
    skipped: bool = False
    missing: int = 0
    left_to_another: bool = False
    warnings: tuple[str, ...] = ()


def segment_stack(
    path: Path, folder: Path, segmenter: RunSegmenter, progress: Progress = lambda what, done, total: None
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
    ModelError, DeviceError
        If the nets cannot be loaded (`Segmenter.load`).
    MacroError
        If a macro of the user fails; if it was the one after the segmentation, the labels are there.
    """
    options, paths = segmenter.options, StackPaths(folder, path)
    result = _make_labels(path, paths, segmenter, progress)
    if options.hooks.post is None or result.missing or result.left_to_another:
        return result
    if run_post(path, paths, options, segmenter.bundle):
        return result
    return replace(result, left_to_another=True)


def _make_labels(path: Path, paths: StackPaths, segmenter: RunSegmenter, progress: Progress) -> SegmentedStack:
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
            sha256 = opened.enter_context(shared_sha256(given, folder, paths.name))
        else:
            sha256 = given.sha256()
        order = order_of(given, sha256, segmenter)
        identity = Identity.of(order)
        if (done := _done_before(given, paths, identity, segmenter)) is not None:
            return done
        if not options.assemble:
            segmenter.load()
        make_folder(folder)
        alone = not options.shard
        waited = opened.enter_context(
            at_work(folder, paths.name, identity.digest(), alone=alone, wait=not options.unattended)
        )
        if waited and (done := _done_before(given, paths, identity, segmenter)) is not None:
            return done
        _check_names(paths, order, options)
        if options.overwrite:
            remove_prepared(folder, paths.name)
        stack, preprocessing = opened.enter_context(prepared(given, paths, options.hooks, identity, options.memory))
        warnings = _warnings(stack, segmenter)
        clock = Clock()
        if options.assemble and not Job.is_begun(folder, paths.name, identity):  # nothing is there, nor computed now
            grid, bands = (plan := segmenter.expected_plan(stack)).grid, plan.bands
            pieces = len(bands) * sum(start < stop for start, stop in grid.z.deepest)
            return SegmentedStack(paths.labels, paths.report, missing=pieces)
        mask = opened.enter_context(_opened_mask(options, stack))
        with _open_job(stack, mask, paths, segmenter, identity, order, preprocessing, warnings, progress) as job:
            _check_job(job, stack, segmenter, paths)
            made = _make_pieces(job, segmenter.prepared(stack, job.preparation, mask), segmenter, clock, progress)
            missing = job.missing()
            if missing and (options.shard or options.assemble):
                return SegmentedStack(paths.labels, paths.report, missing=len(missing))
            with job.assembling(wait=alone and not options.unattended) as ours:
                if not ours and options.shard:  # a shard that was ready a moment earlier does it
                    return SegmentedStack(paths.labels, paths.report, left_to_another=True)
                if not ours:
                    if (done := _done_before(given, paths, identity, segmenter)) is not None:
                        return done
                    raise BusyError(f"{paths.labels}: another process is writing it; wait until that is done")
                if stamp_of(path, reach) not in (before, None):  # of a file that was deleted we have all
                    job.remove()
                    raise StackError(
                        f"{path}: it was changed while it was segmented, so nothing was kept; run the same command "
                        "again once it is complete"
                    )
                forget_post(paths)
                _assemble(job, stack.part(job.preparation.result), segmenter, paths, order, clock, made)
                told = _told(job.begun)
                job.remove()
                remove_prepared(folder, paths.name)
    return SegmentedStack(paths.labels, paths.report, warnings=told)


def _done_before(stack: Stack, paths: StackPaths, identity: Identity, segmenter: RunSegmenter) -> SegmentedStack | None:
    """The results that are there, if they are of this very work. Labels that somebody changed since are theirs."""
    options, path = segmenter.options, stack.info.path
    report = read_report(paths.report)
    if (
        options.overwrite
        or report is None
        or not identity.is_same(Identity.of(report))
        or not has_labels(paths.report, report)
    ):
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
    warnings = [*_told(report)]
    if changed:
        names = ", ".join(file.name for file in changed)
        warnings.append(
            f"{names}: changed since the results were made, so taken for yours and left as it is; --overwrite would "
            "make all results anew, and the changes would be lost"
        )
        _log.warning("%s: %s", path, warnings[-1])
    _log.info("%s was done before: skipped", path)
    tidy(paths)
    no_preview = "preview" not in report.outputs or paths.preview in missing
    if options.preview and no_preview and paths.labels not in changed and report.pre_macro is UNSET:
        _add_preview(stack, paths, report, segmenter)
    return SegmentedStack(paths.labels, paths.report, skipped=True, warnings=tuple(warnings))


def tidy(paths: StackPaths) -> None:
    """Remove what runs left that were killed after their results were there, if there is anything."""
    with os.scandir(paths.folder) as entries:
        if not any(entry.name.startswith(f".{paths.name}.") for entry in entries):
            return  # as of nearly every stack; the folder may be read-only
    with nobody_at_work(paths.folder, paths.name) as nobody:
        if nobody:
            remove_jobs(paths.folder, paths.name)
            remove_prepared(paths.folder, paths.name)
            forget_announced(paths.report)


def _add_preview(stack: Stack, paths: StackPaths, report: Report, segmenter: RunSegmenter) -> None:
    """Draw the preview of results that were made without."""
    with open_labels(paths.labels) as labels:
        shown = {z: labels.read(z) for z in shown_slices(labels.info.shape[0])}
    if report.region is not UNSET:
        stack = stack.part(report.region.box)
    picture = preview_of(_title(paths, report.fit), stack, segmenter.bundle, shown)
    report = report.with_fields(
        options=report.options | {"preview": True},
        outputs=report.outputs | {"preview": described(paths.preview.name, picture)},
    )
    add_files(paths.report, report, {paths.preview: picture}, keep=segmenter.options.unattended)


def _told(found: Begun | Report) -> tuple[str, ...]:
    """What scripts, too, should be told of results: what their report warns of, and that they were resampled."""
    part = found.preparation
    if part is UNSET or part.resampled is UNSET or found.options.get("scale") != "auto":
        return found.warnings
    _, *sides = (stop - start for start, stop in part.seen)
    factors = " and ".join(f"{n / side:.2g}" for n, side in zip(part.resampled[1:], sides, strict=True))
    told = f"the nets saw it resampled by {factors} (y, x); if its voxel size is wrong, give the true one"
    return (*found.warnings, told)


def _title(paths: StackPaths, fit: FitRecord | UnsetType) -> str:
    """Of the preview, which also says whether the labels are to be trusted."""
    if fit is UNSET or fit.alike:
        return paths.name
    return f"{paths.name} (taken as {fit.remedy})" if fit.taken else f"{paths.name} (unlike the model's own data)"


def _check_names(paths: StackPaths, order: Order, options: RunOptions) -> None:
    """Refuse, before anything is computed, what could not take its name: a user's file or another stack's results have
    it.
    """
    for path in paths.wanted(options):
        if path.is_dir() and not path.is_symlink():
            raise OccupiedError(f"{path}: a folder is called so; rename it, or choose another output folder")
    if options.overwrite or options.unattended:
        return
    found = read_report(paths.report)
    if found is not None and order.input.sha256 != found.input.sha256 and order.input.path != found.input.path:
        raise OccupiedError(
            f"{paths.labels}: the results of another stack of this name, {found.input.path}, are there; choose "
            "another output folder, or replace them with --overwrite"
        )
    make_room(paths.report, paths.wanted(options), keep=False)


def _warnings(stack: Stack, segmenter: RunSegmenter) -> list[str]:
    """What whoever uses the results should know of the stack that goes into the nets.

    Raises
    ------
    StackError
        If it cannot be done what is asked, for want of a voxel size.
    """
    path, found = stack.info.path, stack.info.voxel_size
    check_calibrated(path, found, segmenter.options)
    warnings = [*stack.notes]
    for warning in warnings:
        _log.warning("%s: %s", path, warning)
    return warnings


def _open_job(
    stack: Stack,
    mask: Mask | None,
    paths: StackPaths,
    segmenter: RunSegmenter,
    identity: Identity,
    order: Order,
    preprocessing: Preprocessing | UnsetType,
    warnings: list[str],
    progress: Progress,
) -> Job:
    """The pieces of a stack that are there, or none yet."""

    def prepare() -> Preparation:
        return segmenter.examine(stack, mask, lambda z: progress("measuring", z + 1, len(stack)))

    def describe(preparation: Preparation) -> tuple[Begun, Plan]:
        seen = segmenter.prepared(stack, preparation, mask)
        plan = segmenter.plan_of(seen)
        told = [*warnings, *told_of_gaps(preparation, segmenter.options)]
        return begun(order, segmenter, preparation, plan, preprocessing, told), plan

    job = Job(paths.folder, paths.name, identity, prepare, describe, fresh=segmenter.options.overwrite)
    for warning in (*job.preparation.warnings, *told_of_gaps(job.preparation, segmenter.options)):
        _log.warning("%s: %s", stack.info.path, warning)
    return job


@contextmanager
def _opened_mask(options: RunOptions, stack: Stack) -> Iterator[Mask | None]:
    """The user's mask of a stack, if there is one."""
    if options.mask is None:
        yield None
        return
    with open_stack(options.mask, stored=True, reach=Reach.of(options.mask, links=True)) as mask:
        if mask.sha256() != options.mask_sha256:
            raise StackError(f"{options.mask}: the mask was changed since this run began; run the same command again")
        yield Mask(mask, stack.shape)


def _check_job(job: Job, stack: Stack, segmenter: RunSegmenter, paths: StackPaths) -> None:
    """Refuse to go on with pieces that this process would not make, or without room for all of it."""
    options, missing = segmenter.options, len(job.missing())
    if missing and not options.assemble:
        before, here = job.precision, segmenter.precision.name
        if before != here:
            raise OptionError(
                f"{stack.info.path}: the work was begun in {before}, here it would go on in {here}; give "
                f"--precision {before}, or --overwrite to begin anew"
            )
    n_classes = len(segmenter.bundle.classes)
    per_voxel = 1 + 4 * n_classes * options.probabilities + 4 * options.uncertainty + bool(options.objects)
    twice = (missing / len(job.pieces) + 1) * per_voxel + 6 * len(options.objects)  # pieces, then outputs
    need_space(paths.labels, int(twice * sum(piece.n_voxels for piece in job.pieces)))


def _make_pieces(job: Job, stack: Prepared, segmenter: RunSegmenter, clock: Clock, progress: Progress) -> int:
    """Compute the missing pieces of this process; how many voxels that were."""
    options = segmenter.options
    share = shard_of(len(job.pieces), *options.shard or (1, 1))
    missing = [] if options.assemble else job.missing(share)
    clock.stage()
    if len(missing) < len(share) and not options.assemble:
        _log.info("%s: %d of %d pieces are there already", stack.path, len(share) - len(missing), len(share))
    counts = [piece.n_voxels for piece in job.pieces]
    total, done = sum(counts[i] for i in share), sum(counts[i] for i in share if i not in missing)
    begun = done
    for pieces in _neighbours(missing, job.pieces):
        first, last = job.pieces[pieces[0]], job.pieces[pieces[-1]]
        size = sum(counts[i] for i in pieces)

        def say(share_done: float, size: int = size, done: int = done) -> None:
            progress("segmenting", round(done + size * share_done), total)

        with job.writer(pieces, len(segmenter.bundle.classes), keep_confidence=bool(options.objects)) as finish:
            segment_prepared(
                stack, job.plan, segmenter.look, len(segmenter.bundle.classes), finish,
                (first.z[0], last.z[1]), first.y, progress=say,
                keep_probabilities=options.probabilities, keep_disagreement=options.uncertainty,
            )  # fmt: skip
        done += size
    clock.stage()
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
    job: Job, stack: Stack, segmenter: RunSegmenter, paths: StackPaths, order: Order, clock: Clock, made: int
) -> None:
    """Make the outputs of the pieces, and the report."""
    bundle = segmenter.bundle
    tally = Tally(len(bundle.classes))
    with StackOutputs(paths, stack, bundle, segmenter.options, _title(paths, job.begun.fit)) as outputs:
        for stored in job.slices():
            tally.add(stored.sums, stored.labels.size)
            outputs.write(stored)
        files, instances = outputs.commit(job.slices)
    clock.stage()
    confidence, disagreement = tally.means()
    outside, volume = tally.outside(stack.info.voxel_size)
    # As the one who began the job described it, but the input as it is called here.
    told = msgspec.structs.asdict(job.begun) | {"input": order.input, "options": order.options}
    report = Report(
        **told,
        classes=tally.rows(bundle.classes, stack.info.voxel_size),
        mean_confidence=confidence,
        mean_disagreement_bits=disagreement,
        outside=Outside(voxels=outside, volume_um3=volume),
        statistics=job.preparation.statistics,
        instances=instances,
        outputs=files,
        timings=clock.timings(made, named_at(paths.folder, (entry.file for entry in files.values()))),
    )
    write_report(paths.report, report)
    forget_announced(paths.report)
