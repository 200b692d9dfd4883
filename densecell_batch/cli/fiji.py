"""`densecell-batch fiji`: macros of the user, and those of this package in Fiji."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
from click import Option

from densecell_batch.cli.options import with_options
from densecell_batch.cli.params import SECONDS, verbosity
from densecell_batch.errors import DensecellError
from densecell_batch.signals import stop_on_signals

__all__ = ["fiji"]

_log = logging.getLogger(__name__)


# How the macros start the tool.
_RUNNER = (
    Option(["--runner"], type=click.Choice(["local", "docker", "apptainer", "ssh"]), default="local", show_default=True,
           help="How the macros start the tool: as a program, in a container, or on another machine."),
    Option(["--command"], default="",
           help="Program: densecell-batch or the launcher densecell; docker or podman; apptainer; for ssh, the program "
           "as the host knows it.  [default: this installation, or by its name for a site; docker; apptainer; "
           "densecell-batch]"),
    Option(["--target"], default="", metavar="IMAGE|FILE|HOST", help="Image, .sif file, or host."),
    Option(["--words"], default="", help="Further words for docker, apptainer or ssh, such as '--gpus all'."),
)  # fmt: skip


@click.group()
def fiji() -> None:
    """Put macros into Fiji or ImageJ, and run macros without a screen."""


@fiji.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.ijm")
@click.argument("argument", default="", metavar="[ARG]")
@click.option("--imagej", metavar="WHERE",
              help="Fiji or ImageJ folder, ij.jar, or Maven endpoint.  [default: usual places]")  # fmt: skip
@click.option("--time-limit", type=SECONDS, default=600.0, show_default=True, help="Seconds that the macro may take.")
@click.option("--download", is_flag=True, help="Fetch the jars of a Maven endpoint, if they are not on this machine.")
@verbosity
def macro(file: Path, argument: str, imagej: str | None, time_limit: float, download: bool) -> None:
    """Run one macro in ImageJ and print what it returns.

    ARG is what its getArgument() returns. What the macro prints goes to stderr. Exit code: 0, 1 the macro failed, took
    too long or opened a dialog, 2 misuse, 3 no ImageJ or no Java, 75 stopped.
    """
    from densecell_batch.imagej.macro import Macro, MacroTask, run_apart

    stop_on_signals()
    task = MacroTask(Macro.read(file), argument, imagej=imagej, time_limit=time_limit, download=download)
    value = run_apart(task, echo=True).value
    if value is not None:
        click.echo(value)
    sys.exit(0)


@fiji.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[FIJI_DIR]")
@with_options(*_RUNNER)
@click.option("--uninstall", "removing", is_flag=True, help="Remove the macros.")
def install(folder: Path | None, runner: str, command: str, target: str, words: str, removing: bool) -> None:
    """Put the macros into the Fiji or ImageJ in FIJI_DIR as commands of Plugins > DenseCell. Without FIJI_DIR, it is
    looked for in the usual places.
    """
    from densecell_batch.imagej import install as macros
    from densecell_batch.imagej.find import find_folder

    imagej = folder if folder is not None else find_folder()
    if removing:
        found = macros.uninstall(imagej)
        _log.info("%s %s", "removed from" if found else "no macros of ours were in", imagej)
        return
    click.echo(macros.install(imagej, macros.Runner(runner, command, target, words)))
    _log.info("start Fiji or ImageJ anew: the commands are in Plugins > DenseCell")


@fiji.command("export-site")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@with_options(*_RUNNER)
def export_site(folder: Path, runner: str, command: str, target: str, words: str) -> None:
    """Write the macros into DIR as an update site of Fiji has them, below DIR/plugins. What is not ours there stays."""
    from densecell_batch.imagej import install as macros

    click.echo(macros.export_site(folder, macros.Runner(runner, command, target, words)))


@fiji.command()
@click.argument("instances", type=click.Path(path_type=Path), metavar="INSTANCES")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the zip.")
@click.option(
    "--class", "class_name", default="", metavar="CLASS", help="Class of the objects.  [default: as in the name]"
)
@click.option("--name", default="", metavar="FILE.zip", help="Name of the zip.  [default: NAME_CLASS_rois.zip]")
@verbosity
def rois(instances: Path, out: Path, class_name: str, name: str) -> None:
    """Write the outlines of the objects in NAME_CLASS_instances.tif, also of corrected ones, for the ROI Manager.

    One line goes to stdout: DENSECELL, "ok" with the zip and the number of regions, or "failed" with the file and the
    reason, separated by tabs.
    """
    from densecell_batch.runs.batch import verdict_line
    from densecell_batch.runs.regions import write_regions

    stop_on_signals()
    try:
        click.echo(verdict_line("ok", *write_regions(instances, out, class_name, name)))
    except DensecellError as error:
        click.echo(verdict_line("failed", instances, error))
        sys.exit(error.exit_code)
