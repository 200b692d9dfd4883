"""`densecell-batch demo`: the main job on real data, with nothing to prepare."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from densecell_batch.data import SAMPLE

__all__ = ["demo"]


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("densecell-demo"), show_default=True,
              help="Folder for the results.")  # fmt: skip
def demo(out: Path) -> None:
    """Segment a small EM stack of fly nerve cord (CC BY-NC-SA 3.0) that comes with the package. The stack itself is put
    beside the results.
    """
    from densecell_batch.cli.segment import run_segment
    from densecell_batch.models.registry import DEFAULT_MODEL
    from densecell_batch.storage.atomic import write_file

    code = run_segment(
        (str(SAMPLE),), out, DEFAULT_MODEL, uncertainty=True,
        instances=("mitochondrion",), split=True, min_volume=0.001,  # um³: smaller than mitochondria are
    )  # fmt: skip
    if code == 0:
        if not (out / SAMPLE.name).exists():
            write_file(out / SAMPLE.name, SAMPLE.read_bytes())
        words = f"the results are in {out}: look at the preview, open {SAMPLE.name} and its labels in Fiji"
        click.echo(f"densecell-batch: {words}", err=True)
    sys.exit(code)
