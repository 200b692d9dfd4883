"""`densecell-batch instances`: labels in, objects and their tables out; no nets."""

from __future__ import annotations

import glob
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from densecell_batch.cli.options import OF_OBJECTS, with_options
from densecell_batch.cli.params import VOXEL_SIZE, verbosity
from densecell_batch.errors import OptionError
from densecell_batch.io.discovery import natural_key
from densecell_batch.signals import stop_on_signals

__all__ = ["instances"]

_log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("patterns", nargs=-1, required=True, metavar="LABELS...")
@click.option("-o", "--out", required=True, type=_FILE, help="Folder for the results.")
@click.option("--class", "wanted", multiple=True, metavar="CLASS",
              help="Class whose objects are wanted. Repeatable.  [default: all but the first]")  # fmt: skip
@with_options(*OF_OBJECTS)
@click.option("--classes", help="NAME,... from label 0 on, or a file with one in each line.  [default: as the report "
              "or the labels say]")  # fmt: skip
@click.option("--images", multiple=True, type=_FILE, help="Grey values of each LABELS, in order.")
@click.option("--voxel-size", type=VOXEL_SIZE, help="Voxel size in nm (or with a unit), instead of that of the file.")
@click.option("--format", "file_format", type=click.Choice(["imagej", "ome-tiff"]), default="imagej", show_default=True,
              help="Of all images written.")  # fmt: skip
@click.option("--no-preview", is_flag=True, help="Draw no pictures.")
@click.option("--overwrite", is_flag=True, help="Measure again, and replace what is there.")
@verbosity
def instances(
    patterns: tuple[str, ...],
    out: Path,
    wanted: tuple[str, ...],
    classes: str | None,
    images: tuple[Path, ...],
    no_preview: bool,
    **flags: Any,
) -> None:
    """Number and measure the objects in finished labels: of a run, corrected by hand, or from elsewhere.

    For each stack of labels one line goes to stdout: DENSECELL, "ok" with the table of objects and the record, or
    "failed" with labels and reason, separated by tabs. Labels that a person changed are measured as they are; their
    tables say so.
    """
    from densecell_batch.models.classes import class_entries
    from densecell_batch.runs.batch import measure_batch
    from densecell_batch.runs.object_options import ObjectOptions
    from densecell_batch.runs.run_tables import write_run_tables

    labels = [path for pattern in patterns for path in _matches(pattern)]
    if images and len(images) != len(labels):
        raise OptionError(f"{len(images)} --images and {len(labels)} LABELS; expected one for each, or none")
    more = {name: flags.pop(name) for name in ("voxel_size", "overwrite")}
    options = ObjectOptions(instances=wanted, preview=not no_preview, **flags)
    names = None if classes is None else [entry.partition("=")[0].strip() for entry in class_entries(classes)]
    stop_on_signals()
    failed = 0
    for verdict in measure_batch(labels, out, options, images, classes=names, **more):
        failed += not verdict.ok
        for line in verdict.lines():
            click.echo(line)
    if out.is_dir():
        write_run_tables(out)
    sys.exit(1 if failed else 0)


def _matches(pattern: str) -> list[Path]:
    """The file or folder of this name, or those that match a glob, in natural order."""
    if os.path.lexists(pattern) or not glob.has_magic(pattern):
        return [Path(pattern)]
    found = sorted(map(Path, glob.glob(pattern)), key=natural_key)  # noqa: PTH207 (pathlib takes no absolute pattern)
    if not found:
        raise OptionError(f"{pattern} matches no file")
    return found
