"""`densecell-batch segment`: stacks in, labels out."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densecell_batch.cli.options import OF_A_RUN, OF_THE_RESULT, take_published, with_options
from densecell_batch.cli.params import verbosity
from densecell_batch.cli.progress import ProgressBar, duration
from densecell_batch.errors import (
    BusyError,
    DensecellError,
    MacroError,
    OccupiedError,
    OptionError,
    OutputError,
    StackError,
)
from densecell_batch.signals import stop_on_signals

if TYPE_CHECKING:
    from densecell_batch.runs.options import RunSegmenter

__all__ = ["run_segment", "segment", "take_hooks"]

_log = logging.getLogger(__name__)


@click.command()
@click.argument("stacks", nargs=-1, required=True, metavar="STACK...")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@with_options(*OF_THE_RESULT, *OF_A_RUN)
@verbosity
def segment(
    stacks: tuple[str, ...],
    out: Path,
    model: str,
    dry_run: bool,
    no_preview: bool,
    no_summary: bool,
    **flags: Any,
) -> None:
    """Segment TIFF stacks (files, folders of slices, or globs) with an ensemble of nets.

    For each stack one line goes to stdout: DENSECELL, "ok" with labels and report, or "failed" with stack and reason,
    separated by tabs. Stacks that were done before, with the same input, model and options, are skipped; what was
    interrupted goes on where it was.
    """
    flags = take_published(flags | {"preview": not no_preview})
    sys.exit(run_segment(stacks, out, model, dry_run=dry_run, summary=not no_summary, **flags))


def run_segment(
    patterns: tuple[str, ...],
    out: Path,
    model: str,
    *,
    dry_run: bool = False,
    workers: str = "1",
    array_task: bool = False,
    summary: bool = True,
    **flags: Any,
) -> int:
    """Segment what the patterns name; the exit code (0 all done, 1 some failed).

    For the task of an array, only failures of its own count: that a stack itself is at fault all tasks find, and it is
    told once, by the job after the array.
    """
    from densecell_batch.cli.workers import SHARD_VARIABLE, count_workers, run_workers
    from densecell_batch.io.discovery import find_stacks
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.runs.batch import segment_batch, without_outputs
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.paths import StackPaths
    from densecell_batch.runs.run_tables import write_run_tables
    from densecell_batch.system import amd_present, available_memory, nvidia_present

    if flags.get("shard") and (flags.get("assemble") or flags.get("overwrite")):
        raise OptionError(
            "--shard goes neither with --assemble nor with --overwrite: the shards would undo each other's work"
        )
    flags = take_hooks(**flags)
    found = without_outputs(find_stacks(patterns), out)
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder")
    bundle = find_bundle(model)
    n_workers, reasons = count_workers(workers), {}
    if SHARD_VARIABLE in os.environ:  # this is a worker
        index, n_workers = map(int, os.environ[SHARD_VARIABLE].split("/"))
        share = available_memory() // 2 // n_workers
        flags |= {"shard": (index, n_workers), "memory": flags.get("memory") or share}
    elif n_workers > 1 and not dry_run:
        if flags.get("shard") or flags.get("assemble") or flags.get("overwrite"):
            raise OptionError("--workers goes neither with --shard, --assemble nor --overwrite")
        first = RunSegmenter(bundle, RunOptions(**flags))  # complains once, not in each worker
        if first.options.device == "cpu" or not (nvidia_present() or amd_present()):
            _ = first.precision  # measured by one, not by all at once on the same cores
        stop_on_signals()
        reasons = run_workers(n_workers)
        flags["assemble"] = True
    segmenter = RunSegmenter(bundle, RunOptions(**flags))
    if dry_run:
        segmenter.load()
        return _dry_run(found, out, segmenter)
    stop_on_signals()
    failed: dict[Path, str] = {}
    settled = 0  # of those, how many another job tells of
    results = False  # whether any are there: of a shard only if it is the last one
    with ProgressBar() as bar:
        for verdict in segment_batch(found, out, segmenter, bar):
            bar.close()
            if not verdict.ok and str(verdict.stack) in reasons:
                verdict = replace(verdict, reason=reasons[str(verdict.stack)])
            for line in verdict.lines():
                click.echo(line)
            results |= verdict.labels is not None
            if not verdict.ok:
                failed[StackPaths(out, verdict.stack).bare] = verdict.reason
            settled += array_task and isinstance(verdict.error, StackError | OptionError | MacroError | OccupiedError)
    if segmenter.options.objects and (results or not segmenter.options.shard) and out.is_dir():
        write_run_tables(out)
    if summary and len(found) > 1 and not segmenter.options.shard and out.is_dir():
        _sum_up(out, failed)
    if len(found) > 1:
        _log.info("%d of %d stacks done", len(found) - len(failed), len(found))
    return 1 if len(failed) > settled else 0


def _sum_up(out: Path, failed: dict[Path, str]) -> None:
    """Write the page of all stacks; that it cannot be written is no reason for the run to fail."""
    from densecell_batch.runs.summary import SUMMARY, write_summary

    try:
        written = write_summary([out], out / SUMMARY, failed=failed)
    except (BusyError, OutputError) as error:
        _log.warning("%s", error)
        return
    except Exception as error:  # the stacks are done: whatever their reports hold, a page fails no run
        _log.error("%s: internal error: %s: %s", out / SUMMARY, type(error).__name__, error)
        _log.debug("traceback", exc_info=True)
        return
    if written:
        _log.info("all stacks, those to look at first on top: %s", written[0])


def take_hooks(
    pre_macro: Path | None = None,
    post_macro: Path | None = None,
    macro_timeout: float = 1800.0,
    imagej: str | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """The flags with the user's macros read; raises as `read_hooks` does."""
    from densecell_batch.imagej.macro import read_hooks

    return {"hooks": read_hooks(pre_macro, post_macro, macro_timeout, imagej), **flags}


def _dry_run(stacks: list[Path], out: Path, segmenter: RunSegmenter) -> int:
    """Say for each stack what would be done; a line on stdout as in a real run, with "plan" as its verdict."""
    from densecell_batch.io.reading import open_stack
    from densecell_batch.nets.architecture import flop_per_voxel
    from densecell_batch.runs.batch import verdict_line
    from densecell_batch.runs.checks import check_image, check_result_names
    from densecell_batch.runs.paths import StackPaths

    (rate,) = segmenter.rates(segmenter.precision.name).values()
    gflops = rate * flop_per_voxel(segmenter.bundle.architecture) / 1e9
    failed = 0
    for path in stacks:
        try:
            check_result_names(path, StackPaths(out, path), segmenter.options)
            check_image(path)
            options = segmenter.options
            with open_stack(path, options.voxel_size, reach=options.reach(path)) as stack:
                segmenter.check_memory(stack)
                info, plan = stack.info, segmenter.expected_plan(stack)
            for note in stack.notes:
                _log.warning("%s: %s", path, note)
        except DensecellError as error:
            failed += 1
            click.echo(verdict_line("failed", path, " ".join(str(error).split())))
            continue
        z, y, x = plan.grid.output
        text = (
            f"{' x '.join(map(str, info.shape))} {info.dtype}, {info.voxel_size or 'no voxel size'}; "
            f"{plan.grid.n_tiles} tiles of "
            f"{z} x {y} x {x}, redundancy {plan.grid.redundancy:.2f}; about {plan.memory / 2**30:.1f} GiB; about "
            f"{duration(plan.gflop / gflops)} on {segmenter.device.kind} in {plan.precision}"
        )
        click.echo(verdict_line("plan", path, text))
    return 1 if failed else 0
