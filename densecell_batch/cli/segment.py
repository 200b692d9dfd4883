"""`densecell-batch segment`: stacks in, labels out."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from densecell_batch.cli.params import MEMORY, SECONDS, SHARD, TILE, VOXEL_SIZE, verbosity
from densecell_batch.errors import DensecellError, MacroError, OccupiedError, OptionError, StackError
from densecell_batch.signals import stop_on_signals

if TYPE_CHECKING:
    from densecell_batch.inference.segmenter import Segmenter
    from densecell_batch.runs.hooks import MacroHooks

__all__ = ["DEFAULT_MODEL", "run_segment", "segment", "take_hooks"]

DEFAULT_MODEL = "fly-vnc-2d3d"

_log = logging.getLogger(__name__)


@click.command()
@click.argument("stacks", nargs=-1, required=True, metavar="STACK...")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name or path of a model bundle.")
@click.option(
    "--stitch",
    type=click.Choice(["crop", "deepest", "blend"]),
    default="crop",
    show_default=True,
    help="How tiles become a volume: each voxel from its best tile, the published rule, or a weighted mean.",
)
@click.option(
    "--ensemble",
    type=click.Choice(["mean", "vote"]),
    default="mean",
    show_default=True,
    help="Mean of the members' probabilities, or majority of their classes.",
)
@click.option("--probabilities", is_flag=True, help="Also write the class probabilities.")
@click.option("--uncertainty", is_flag=True, help="Also write the disagreement of the members, in bits.")
@click.option(
    "--instances", multiple=True, metavar="CLASS", help="Also write the connected objects of a class. Repeatable."
)
@click.option(
    "--min-volume",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="UM3",
    help="Leave out instances below this volume in cubic micrometres.",
)
@click.option("--voxel-size", type=VOXEL_SIZE, help="Voxel size in nm (or with a unit), instead of that of the file.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="What the nets compute in; auto takes the faster of float32 and bfloat16.",
)
@click.option("--tile", type=TILE, help="Output region of a tile, instead of the largest that fits the memory.")
@click.option("--memory", type=MEMORY, help="Memory to use, such as 4G.  [default: half of what is free]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["imagej", "ome-tiff"]),
    default="imagej",
    show_default=True,
    help="Of all images written.",
)
@click.option("--pre-macro", type=click.Path(path_type=Path), metavar="FILE.ijm",
              help="ImageJ macro to run on each stack before; what it leaves active is segmented.")  # fmt: skip
@click.option("--post-macro", type=click.Path(path_type=Path), metavar="FILE.ijm",
              help="ImageJ macro to run on the labels after; its tables are saved as CSV.")  # fmt: skip
@click.option("--macro-timeout", type=SECONDS, default=1800.0, show_default=True,
              help="Seconds that a macro may take on a stack.")  # fmt: skip
@click.option("--imagej", metavar="WHERE",
              help="Fiji or ImageJ folder, or ij.jar, for the macros.  [default: usual places]")  # fmt: skip
@click.option("--follow-links", is_flag=True,
              help="Follow links in the folders that you name, too: you know where they lead.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Segment again what was already done.")
@click.option("--workers", default="1", metavar="N|auto", help="Processes to share the work; auto: one for each GPU.")
@click.option("--shard", type=SHARD, help="Compute only part I of N; whoever is last writes the results.")
@click.option("--array-task", is_flag=True, hidden=True)  # with --shard: another job tells of stacks that fail for all
@click.option("--assemble", is_flag=True, help="Compute nothing: write the results of the parts that are there.")
@click.option("--no-preview", is_flag=True, help="Write no preview picture.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done: tiles, memory, time.")
@verbosity
def segment(stacks: tuple[str, ...], out: Path, model: str, dry_run: bool, no_preview: bool, **flags: Any) -> None:
    """Segment TIFF stacks (files, folders of slices, or globs) with an ensemble of 2D-3D nets.

    For each stack one line goes to stdout: DENSECELL, "ok" with labels and report, or "failed" with stack and reason,
    separated by tabs. Stacks that were done before, with the same input, model and options, are skipped; what was
    interrupted goes on where it was.
    """
    sys.exit(run_segment(stacks, out, model, dry_run=dry_run, preview=not no_preview, **flags))


def run_segment(
    patterns: tuple[str, ...],
    out: Path,
    model: str,
    *,
    dry_run: bool = False,
    workers: str = "1",
    array_task: bool = False,
    **flags: Any,
) -> int:
    """Segment what the patterns name; the exit code (0 all done, 1 some failed).

    For the task of an array, only failures of its own count: that a stack itself is at fault all tasks find, and it is
    told once, by the job after the array.
    """
    from densecell_batch.cli.workers import SHARD_VARIABLE, count_workers, run_workers
    from densecell_batch.inference.device import available_memory
    from densecell_batch.inference.segmenter import Segmenter, SegmentOptions
    from densecell_batch.io.discovery import find_stacks
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.runs.batch import segment_batch, without_outputs

    if flags.get("shard") and (flags.get("assemble") or flags.get("overwrite")):
        raise OptionError(
            "--shard goes neither with --assemble nor with --overwrite: the shards would undo each other's work"
        )
    flags["hooks"] = take_hooks(flags)
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
        Segmenter(bundle, SegmentOptions(**flags))  # complains once, not in each worker
        stop_on_signals()
        reasons = run_workers(n_workers)
        flags["assemble"] = True
    segmenter = Segmenter(bundle, SegmentOptions(**flags))
    if not segmenter.options.assemble:
        segmenter.load()
    if dry_run:
        return _dry_run(found, out, segmenter)
    stop_on_signals()
    failed = settled = 0  # of those, how many another job tells of
    with ProgressBar() as bar:
        for verdict in segment_batch(found, out, segmenter, bar):
            bar.close()
            if not verdict.ok and str(verdict.stack) in reasons:
                verdict = replace(verdict, reason=reasons[str(verdict.stack)])
            for line in verdict.lines():
                click.echo(line)
            failed += not verdict.ok
            settled += array_task and isinstance(verdict.error, StackError | OptionError | MacroError | OccupiedError)
    if len(found) > 1:
        _log.info("%d of %d stacks done", len(found) - failed, len(found))
    return 1 if failed > settled else 0


def take_hooks(flags: dict[str, Any]) -> MacroHooks:
    """The user's macros, taken out of the flags; raises as `read_hooks` does."""
    from densecell_batch.runs.hooks import read_hooks

    pre, post = flags.pop("pre_macro", None), flags.pop("post_macro", None)
    return read_hooks(pre, post, flags.pop("macro_timeout", 1800.0), flags.pop("imagej", None))


def _dry_run(stacks: list[Path], out: Path, segmenter: Segmenter) -> int:
    """Say for each stack what would be done; a line on stdout as in a real run, with "plan" as its verdict."""
    from densecell_batch.inference.device import convolution_rates
    from densecell_batch.io.reading import open_stack
    from densecell_batch.runs.batch import verdict_line
    from densecell_batch.runs.checks import check_image, check_result_names
    from densecell_batch.runs.outputs import OutputPaths

    rate = convolution_rates(segmenter.precision.name)[segmenter.precision.name]
    failed = 0
    for path in stacks:
        try:
            check_result_names(path, OutputPaths(out, path), segmenter.options)
            check_image(path)
            options = segmenter.options
            with open_stack(path, options.voxel_size, reach=options.reach(path)) as stack:
                segmenter.check_memory(stack)
                info = stack.info
            for note in stack.notes:
                _log.warning("%s: %s", path, note)
            plan = segmenter.plan(info.shape)
        except DensecellError as error:
            failed += 1
            click.echo(verdict_line("failed", path, " ".join(str(error).split())))
            continue
        z, y, x = plan.grid.output
        text = (
            f"{' x '.join(map(str, info.shape))} {info.dtype}, {info.voxel_size or 'no voxel size'}; "
            f"{plan.grid.n_tiles} tiles of "
            f"{z} x {y} x {x}, redundancy {plan.grid.redundancy:.2f}; about {plan.memory / 2**30:.1f} GiB; about "
            f"{_duration(plan.gflop / rate)} on {segmenter.device.kind} in {plan.precision}"
        )
        click.echo(verdict_line("plan", path, text))
    return 1 if failed else 0


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


class ProgressBar:
    """A bar with voxels/s and time left on a terminal; a line for each tenth elsewhere, since ImageJ's `exec` hangs
    once a child has written 64 KiB to stderr.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._what, self._since = "", 0.0
        self._first, self._last, self._tenth = 0, 0, 0  # what was there when it began, was last said, was last shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what or done < self._last:
            self.close()
            self._what, self._since = what, time.monotonic()
            self._first, self._tenth = done, 10 * done // total
        self._last = done
        if sys.stderr.isatty():
            self._draw(what, done, total)
        elif what == "segmenting" and done and 10 * done // total > self._tenth:
            self._tenth = 10 * done // total
            seconds = max(time.monotonic() - self._since, 1e-9)
            rate = (done - self._first) / seconds  # what an earlier run made was not computed now
            left = _duration((total - done) / rate)
            _log.info("%s: %d %%, %.3g voxels/s, %s left", what, 100 * done // total, rate, left)

    def _draw(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, desc=what, unit="voxel" if what == "segmenting" else "slice",
                unit_scale=True, leave=False,
            )  # fmt: skip
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar, so that other lines can be written."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""
