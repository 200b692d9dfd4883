"""`densecell-batch summary`: finished results in, one page of all of them out."""

from __future__ import annotations

from pathlib import Path

import click

from densecell_batch.cli.params import verbosity
from densecell_batch.errors import OccupiedError, OptionError

__all__ = ["summary"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=_PATH, metavar="OUT...")
@click.option("-o", "--page", type=_PATH, metavar="PAGE.html", help="Where the page goes.  [default: OUT/summary.html]")
@click.option("--expect", multiple=True, type=_PATH, metavar="STACK",
              help="A stack whose results should be in the first OUT; without them it has failed.")  # fmt: skip
@verbosity
def summary(folders: tuple[Path, ...], page: Path | None, expect: tuple[Path, ...]) -> None:
    """Make one page of all stacks whose results lie in OUT, or below: those to look at first on top.

    The page needs no server, no network and nothing beside it but the results that it links. A table of the same name,
    PAGE.csv, goes beside it. Both paths go to stdout.
    """
    from densecell_batch.runs.joint_files import is_of_the_user
    from densecell_batch.runs.paths import StackPaths
    from densecell_batch.runs.report import read_report
    from densecell_batch.runs.run_tables import is_run_table
    from densecell_batch.runs.summary import SUMMARY, write_summary
    from densecell_batch.watch.results import failures

    for folder in folders:
        if not folder.is_dir():
            raise OptionError(f"{folder}: no such folder; expected one with results")
    page = folders[0] / SUMMARY if page is None else page
    if page.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--page {page}: expected a name that ends in .html")
    if is_run_table(page.with_suffix(".csv").name):
        raise OptionError(
            f"--page {page}: beside it goes {page.with_suffix('.csv').name}, which is what the table of all stacks is "
            "called that segment writes; choose another name, such as summary.html"
        )
    for path in (page, page.with_suffix(".csv")):
        if is_of_the_user(path):
            raise OccupiedError(
                f"{path}: a file of that name is there that densecell-batch did not write, or that was changed since; "
                "it is left as it is. Move it, or choose another name with -o"
            )
    failed = {StackPaths(folders[0], stack).bare: "it has no results" for stack in expect}
    failed = {
        place: reason
        for place, reason in failed.items()
        if read_report(place.with_name(f"{place.name}_report.json")) is None
    }
    failed |= {place: reason for folder in folders for place, reason in failures(folder).items()}
    for path in write_summary(folders, page, failed=failed, below=True):
        click.echo(path)
