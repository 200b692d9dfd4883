"""`densecell-batch fiji`: macros of the user, and those of this package in Fiji."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from densecell_batch.cli.params import SECONDS, verbosity
from densecell_batch.cli.signals import stop_on_signals

__all__ = ["fiji"]


@click.group()
def fiji() -> None:
    """Run ImageJ macros without a screen."""


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
    from densecell_batch.macro import Macro, MacroTask, run_apart

    stop_on_signals()
    task = MacroTask(Macro.read(file), argument, imagej=imagej, time_limit=time_limit, download=download)
    value = run_apart(task, echo=True).value
    if value is not None:
        click.echo(value)
    sys.exit(0)
