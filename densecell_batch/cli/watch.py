"""`densecell-batch watch`: a folder in which stacks drop in, for months."""

from __future__ import annotations

import logging
import os
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from densecell_batch.cli.options import OF_THE_RESULT, take_published, with_options
from densecell_batch.cli.params import verbosity
from densecell_batch.cli.progress import ProgressBar
from densecell_batch.cli.segment import take_hooks
from densecell_batch.errors import OptionError

__all__ = ["watch"]

_log = logging.getLogger(__name__)

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("inbox", required=False, type=_FOLDER, metavar="IN")
@click.option("-o", "--out", required=True, type=_FOLDER, help="Folder for the results; folders of IN are mirrored.")
@click.option("--once", is_flag=True, help="Work until nothing is left to do, then exit (for cron).")
@click.option("--status", is_flag=True, help="Print what is queued, running, failed and done, and exit.")
@click.option("--retry", is_flag=True, help="Queue again all that failed; without IN, do only that.")
@click.option("--redo", is_flag=True, help="Make all again with another model or options; old results are kept.")
@click.option("--interval", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds between scans.")
@click.option(
    "--quiet", type=click.FloatRange(0), default=30.0, show_default=True,
    help="Seconds without a change after which a stack is complete.",
)  # fmt: skip
@click.option("--poll", is_flag=True, help="Use no events of the file system, scans only.")
@click.option("--slices/--no-slices", default=True, show_default=True,
              help="Whether a folder below IN whose TIFFs have one slice each is one stack.")  # fmt: skip
@click.option("--marker", default=".done", show_default=True, metavar="NAME",
              help="File in a folder of slices that says that it is complete.")  # fmt: skip
@click.option("--attempts", type=click.IntRange(1), default=3, show_default=True, help="Before a stack has failed.")
@click.option("--backoff", type=click.FloatRange(0), default=60.0, show_default=True,
              help="Seconds to the second attempt; doubled for each further one.")  # fmt: skip
@click.option("--max-voxels", type=click.FloatRange(1), default=1e13, show_default=True,
              help="A stack with more has failed: nobody's work waits for weeks behind it.")  # fmt: skip
@click.option("--hook", metavar="CMD", help="Program and arguments to run after each stack; not through a shell.")
@click.option("--move-done", type=_FOLDER, metavar="DIR", help="Move stacks there that are done.")
@click.option("--move-failed", type=_FOLDER, metavar="DIR", help="Move stacks there that failed.")
@click.option("--no-summary", is_flag=True, help="Write no page of all stacks (summary.html).")
@with_options(*OF_THE_RESULT)
@partial(verbosity, short=True)  # --quiet are seconds here
def watch(
    inbox: Path | None,
    out: Path,
    model: str,
    no_preview: bool,
    no_summary: bool,
    status: bool,
    retry: bool,
    redo: bool,
    **flags: Any,
) -> None:
    """Watch the folder IN: each stack that is dropped there is segmented into OUT, once.

    For each stack that is done or given up, one line goes to stdout, as with `segment`, whose options can be given,
    too. OUT/status.html shows what is going on, OUT/summary.html what came of it. Several watchers, on several
    machines, can share IN and OUT. Stopped by SIGTERM or SIGINT (exit code 75), or killed, the same command goes on.
    """
    from densecell_batch.watch.ledger import read_tables
    from densecell_batch.watch.place import ledgers_of
    from densecell_batch.watch.status_page import status_text

    if status:
        if not out.is_dir():
            raise OptionError(f"{out}: no such folder; expected the output folder of a watcher")
        click.echo(status_text(read_tables(ledgers_of(out))))
        return
    if retry:
        _retry(out)
        if inbox is None:
            return
    if inbox is None:
        raise OptionError("watch needs the folder IN that stacks are dropped into")
    sys.exit(_run(inbox, out, model, redo, preview=not no_preview, summary=not no_summary, **take_published(flags)))


def _retry(out: Path) -> None:
    """Remove error texts: that is what makes a watcher try again, whichever one it is."""
    from densecell_batch.watch.results import error_texts

    texts = error_texts(out) if out.is_dir() else []
    for text in texts:
        text.unlink(missing_ok=True)
    _log.info("%d stacks that failed are tried again", len(texts))


def _run(inbox: Path, out: Path, model: str, redo: bool, **flags: Any) -> int:
    """Watch; the exit code."""
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.runs.identity import Identity
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.signals import Stop
    from densecell_batch.watch.command import parse_hook
    from densecell_batch.watch.ledger import Ledger
    from densecell_batch.watch.options import WatchOptions
    from densecell_batch.watch.place import Place
    from densecell_batch.watch.watcher import Watcher

    stop = Stop()
    stop.install()
    names = WatchOptions.__dataclass_fields__
    hook = parse_hook(flags["hook"]) if flags["hook"] else ()
    options = WatchOptions(**{name: value for name, value in flags.items() if name in names} | {"hook": hook})
    _check_folders(inbox, out, options.move_done, options.move_failed)
    with stop.heeded():
        of_segment = {name: value for name, value in flags.items() if name not in names}
        of_segment = take_hooks(**of_segment)
        segmenter = RunSegmenter(find_bundle(model), RunOptions(unattended=True, inbox=inbox, **of_segment))
        if not options.once:
            segmenter.load()  # a folder may be empty for days, and what fails shall fail now
    place = Place(out, Identity.of_any_stack(segmenter), redo=redo)
    with place.ledger() as path, ProgressBar() as lines:

        def say(verdict: object) -> None:
            lines.close()
            click.echo(str(verdict))
            sys.stdout.flush()

        ledger = Ledger(path, f"{platform.node()} {os.getpid()}")
        try:
            _log.info("watching %s", inbox)
            return Watcher(inbox, place, ledger, segmenter, options, say, lines, stop).run()
        finally:
            ledger.close()


def _check_folders(inbox: Path, out: Path, *moves: Path | None) -> None:
    """Refuse what cannot be meant."""
    if not inbox.is_dir():
        raise OptionError(f"{inbox}: no such folder; expected the folder that stacks are dropped into")
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder")
    if out.resolve() == inbox.resolve():
        raise OptionError(f"--out {out} is the watched folder; results would be taken for stacks: give another one")
    for folder in moves:
        if folder is not None and folder.resolve() == inbox.resolve():
            raise OptionError(f"{folder}: stacks would be moved to where they are; give another folder")
