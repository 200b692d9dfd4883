"""`densecell-batch slurm`: the job scripts for a cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import click

from densecell_batch.cli.options import OF_THE_RESULT, as_words, with_options
from densecell_batch.cli.params import verbosity
from densecell_batch.cli.segment import segment
from densecell_batch.errors import OptionError

__all__ = ["slurm"]

_log = logging.getLogger(__name__)

_PATHS = {"model", "mask", "pre_macro", "post_macro", "imagej"}  # where they are files; tasks run in another folder


@click.command()
@click.argument("stacks", nargs=-1, required=True, metavar="STACK...")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option(
    "--array", "tasks", required=True, type=click.IntRange(1, 100_000), help="Tasks to divide the work among."
)
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs of a task.")
@click.option("--cpus", type=click.IntRange(1), help="Cores of a task.")
@click.option("--mem", "ram", metavar="SIZE", help="Memory of a task, such as 32G.")
@click.option("--time", metavar="LIMIT", help="Time limit of a task, such as 4:00:00.")
@click.option("--partition", metavar="NAME")
@click.option(
    "--image", type=click.Path(path_type=Path), help="Apptainer image (densecell.sif); else this installation."
)
@click.option("--extra", default="", metavar="WORDS", help="Further options of sbatch, such as '--account=lab'.")
@click.option("--name", default="densecell", show_default=True, help="Of the job and its scripts.")
@click.option("--submit", "submitting", is_flag=True, help="Submit the array and, after it, the jobs that assemble.")
@click.option("--no-summary", is_flag=True, help="Have no last job that makes a page of several stacks.")
@click.option("--dry-run", is_flag=True, help="Only show the script.")
@with_options(*as_words(OF_THE_RESULT))
@verbosity
@click.pass_context
def slurm(
    ctx: click.Context,
    /,
    stacks: tuple[str, ...],
    out: Path,
    ram: str | None,
    submitting: bool,
    no_summary: bool,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Write the job array that segments stacks on a Slurm cluster, and submit it with --submit.

    Each task makes its part of the pieces of every stack; the last one writes the results. A second array after it has
    a task for each stack, which says whether all is there. Tasks that are preempted, or stopped by their time limit, go
    on later. The options of `segment` can be given, too.
    """
    from densecell_batch.io.discovery import find_stacks
    from densecell_batch.runs.batch import without_outputs
    from densecell_batch.runs.slurm import ArrayJob, array_script, submit, write_scripts

    words = _words(ctx, flags)
    asked = segment.make_context("segment", [*stacks, "-o", str(out), *words]).params  # complains of bad values
    found = without_outputs(find_stacks(stacks), out)
    missing = [stack for stack in found if not stack.exists()]
    if missing:
        raise OptionError(f"{missing[0]}: no such file or folder")
    files = [path for path in map(Path, words) if path.is_absolute() and path.exists()]
    job = ArrayJob(found, out, segment=words, files=files, memory=ram, summary=not no_summary, **flags)
    if job.image is not None and not job.image.exists():
        raise OptionError(f"{job.image}: no such image; build it, or give the path that the nodes of the cluster see")
    _check(asked, in_image=job.image is not None)
    if dry_run:
        click.echo(array_script(job, out.absolute() / "slurm" / f"{job.name}.sbatch"), nl=False)
        return
    scripts = write_scripts(job)
    if not submitting:
        click.echo("\n".join(map(str, scripts.paths)))
        return
    for number, script in zip(submit(scripts), scripts.paths, strict=True):
        click.echo(f"{number}\t{script}")


def _check(asked: Mapping[str, Any], *, in_image: bool) -> None:
    """Complain now, once, of what all tasks would complain of hours later: no such model, class or macro.

    What is no file here can be one of the image.
    """
    from densecell_batch.imagej.macro import Macro
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.models.registry import bundled_names
    from densecell_batch.runs.options import RunOptions, RunSegmenter

    for path in (asked["pre_macro"], asked["post_macro"]):
        if path is not None and (path.exists() or not in_image):
            Macro.read(path)
    if in_image and not Path(asked["model"]).exists():
        if asked["model"] not in bundled_names():
            _log.info("whether the image has a model %s is seen when the tasks run", asked["model"])
        return
    options = RunOptions.__dataclass_fields__
    RunSegmenter(find_bundle(asked["model"]), RunOptions(**{k: v for k, v in asked.items() if k in options}))


def _words(ctx: click.Context, flags: MutableMapping[str, Any]) -> list[str]:
    """Take the options of `segment` out of the flags, as words of its command line."""
    words = []
    for option in OF_THE_RESULT:
        name = str(option.name)
        value = flags.pop(name)
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if option.is_flag:
            words.append(option.opts[-1])
            continue
        for each in value if option.multiple else [value]:
            if name in _PATHS and Path(each).exists():
                each = str(Path(each).absolute())
            words += [option.opts[-1], each]
    return words
