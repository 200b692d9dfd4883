"""The command line: parse, make options, call the library once, turn the outcome into an exit code.

A verb's module is imported when it is asked for, so that `--help` needs neither TensorFlow nor a JVM.
"""

from __future__ import annotations

import importlib
import logging
import os
import stat
import sys
from pathlib import Path

import click

from densecell_batch._version import __version__
from densecell_batch.cli.params import verbosity
from densecell_batch.errors import DensecellError, OutputError, Stopped
from densecell_batch.printable import printable
from densecell_batch.signals import leave_on_signals
from densecell_batch.streams import secure

__all__ = ["cli", "main", "run_command"]

# Verb -> what it does; the command itself is `densecell_batch.cli.VERB.VERB`.
_VERBS = {
    "segment": "Segment TIFF stacks with an ensemble of nets.",
    "instances": "Number and measure the objects in finished labels.",
    "summary": "Make one page of many finished stacks, worst first.",
    "watch": "Watch a folder and segment each stack that is dropped there.",
    "train": "Train an ensemble on labelled stacks and make a model bundle of it.",
    "evaluate": "Score class maps, or models, against true labels.",
    "models": "List, show, import, export, pack, verify, fetch, calibrate and quantize model bundles.",
    "fiji": "Put macros into Fiji or ImageJ, and run macros without a screen.",
    "slurm": "Write, and submit, the job array that segments stacks on a Slurm cluster.",
    "doctor": "Check what this machine has and whether it suffices.",
    "demo": "Segment a small real EM stack that comes with the package.",
    "completion": "Print the script that completes commands in your shell.",
}


class _Verbs(click.Group):
    """Commands that are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


class _OneLine(logging.Formatter):
    """Messages quote names of files, which may hold line breaks and what a terminal obeys: they forge no line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))


def _log_to(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Send stderr to a file, also that of libraries and children: some programs that start us never read it."""
    if path is None:
        return
    from densecell_batch.cli.workers import SHARD_VARIABLE

    if os.path.islink(path) and os.lstat(path).st_uid not in (0, os.geteuid()):  # noqa: PTH114
        raise OutputError(f"--log {printable(path)}: it is a link of another user; choose another file")
    fresh = 0 if SHARD_VARIABLE in os.environ else os.O_TRUNC  # workers have the same arguments, and one log
    _refuse_no_text(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh, 0o666)
    except OSError as error:
        raise OutputError(f"--log {path}: cannot be written: {error.strerror}; choose another file") from error
    sys.stderr.flush()
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _refuse_no_text(path: str) -> None:
    """A log takes the place of an earlier one; of an image, it would be a slip of the hand."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return
        with Path(path).open("rb") as stream:
            binary = b"\0" in stream.read(4096)
    except OSError:
        return
    if binary:
        raise OutputError(f"--log {path}: this file is no text, so it is left as it is; choose another file")


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="densecell-batch")
@click.option("--log", type=click.Path(), expose_value=False, is_eager=True, callback=_log_to, metavar="FILE",
              help="Write to this file what would go to stderr.")  # fmt: skip
@verbosity
def cli() -> None:
    """Segment dense EM stacks without a screen.

    \b
    Exit codes: 0 all done; 1 some stack failed; 2 misuse; 3 cannot start (no such model, no GPU when
    asked for); 75 stopped by a signal, run the same command again to continue.
    """  # noqa: D301 (click reads the control character)


def main() -> None:
    """Entry point of `densecell-batch`."""
    _leave(run_command())


def run_command() -> int:
    """Run the command of `sys.argv`, and say on stderr what went wrong; the exit code."""
    stdout = secure()
    leave_on_signals()  # before the slow imports of a verb
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("densecell-batch: %(message)s"))
    logger = logging.getLogger("densecell_batch")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        code = _outcome()
    except Stopped as error:
        click.echo(f"densecell-batch: {printable(error)}", err=True)
        return error.exit_code
    if stdout is not None and (unwritten := stdout.unwritten()):
        click.echo(f"densecell-batch: error: stdout cannot be written: {unwritten}; nothing else is", err=True)
        code = code or OutputError.exit_code
    return code


def _outcome() -> int:
    """Run the command; its exit code. Stopped may come out of any line of it, but none once it returned."""
    try:
        return cli.main(prog_name="densecell-batch", standalone_mode=False) or 0
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        raise Stopped("stopped; run the same command again to continue") from None
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DensecellError as error:
        click.echo(f"densecell-batch: error: {printable(error)}", err=True)
        return error.exit_code
    finally:
        leave_on_signals()


def _leave(code: int) -> None:
    """Exit at once. A net in another thread may need a minute for its tile, and nothing waits for that tile; taking
    nets and libraries down takes a quarter of a second, and everything is on disk.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
