"""`densecell-batch evaluate`: how well class maps agree with the truth."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click
import numpy as np

from densecell_batch.errors import OptionError

__all__ = ["evaluate"]

_log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("predicted", nargs=-1, type=_FILE, metavar="[LABELS...]")
@click.option("--labels", required=True, type=_FILE, help="The truth: class of each voxel.")
@click.option("--model", multiple=True, help="Score what this bundle makes of --images. Repeatable.")
@click.option("--members", is_flag=True, help="Also score each member of the bundles alone.")
@click.option("--images", type=_FILE, help="Image stack of the labels, for --model.")
@click.option("--mask", type=_FILE, help="Stack of the same shape; only voxels above 0 count.")
@click.option("--ignore-label", type=int, help="Voxels with this true label do not count.")
@click.option("--json", "json_path", type=_FILE, help="Also write the scores to this file.")
@click.option("--confusion", type=_FILE, help="Also draw the confusion matrix of the first one, as PNG.")
def evaluate(
    predicted: tuple[Path, ...],
    labels: Path,
    model: tuple[str, ...],
    members: bool,
    images: Path | None,
    mask: Path | None,
    ignore_label: int | None,
    json_path: Path | None,
    confusion: Path | None,
) -> None:
    """Score class maps (LABELS...), or what models make of an image stack, against the true labels.

    Prints a table: mean IoU with and without class 0, accuracy, adjusted Rand index, variation of information in bits,
    boundary F-score (2 voxels of tolerance), and the IoU of each class. Voxels that LABELS... says are outside (255)
    are not scored; how many they are is said below.
    """
    from msgspec import to_builtins

    from densecell_batch.measure.compare import (
        as_table,
        compare,
        n_classes_of,
        read_classes,
        read_truth,
        same_shape,
    )
    from densecell_batch.plots.confusion import render_confusion
    from densecell_batch.plots.png import write_png
    from densecell_batch.storage.atomic import write_file

    if not predicted and not model:
        raise OptionError("nothing to score: give label files, or --model with --images")
    if model and images is None:
        raise OptionError("--model needs --images: the stack that the labels belong to")
    truth, counted = read_truth(labels, ignore_label, mask)
    found: list[tuple[str, np.ndarray]] = [
        (path.stem, same_shape(read_classes(path, outside=True)[0], truth, path)) for path in predicted
    ]
    names: list[str] = []
    for bundle_name in model:
        made, names = _segmented(bundle_name, images, members)
        found += [(name, same_shape(volume, truth, labels)) for name, volume in made]
    n_classes = max(n_classes_of(truth, *(volume for _, volume in found)), len(names))
    names = [*names, *(f"class {i}" for i in range(len(names), n_classes))]
    results = [(name, *compare(truth, volume, n_classes, counted, name=name)) for name, volume in found]
    click.echo(as_table([(name, summary) for name, _, summary in results], names))
    if json_path is not None:
        write_file(
            json_path, json.dumps({name: to_builtins(summary) for name, _, summary in results}, indent=2).encode()
        )
    if confusion is not None:
        write_png(confusion, render_confusion(results[0][1].confusion, names))


def _segmented(name: str, images: Path | None, members: bool) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """Class maps of a bundle, and of each of its members if wanted; names of its classes."""
    from densecell_batch.inference.segmenter import Segmenter
    from densecell_batch.inference.volume import segment_volume
    from densecell_batch.io.reading import open_stack
    from densecell_batch.storage.opening import Reach
    from densecell_batch.system import need_memory

    segmenter = Segmenter(name, fit="off")  # the scores tell
    bundle, path = segmenter.bundle, Path(str(images))
    chosen = [(bundle.name, [*range(len(bundle.members))])]
    if members:
        chosen += [(f"member {i}", [i]) for i in range(len(bundle.members))]
    made = []
    with open_stack(path, reach=Reach.of(path, links=True)) as stack:
        need_memory(path, 6 * stack.info.n_voxels)
        preparation = segmenter.examine(stack)
        for warning in preparation.warnings:
            _log.warning("%s: %s", path, warning)
        prepared = segmenter.prepared(stack, preparation)
        plan = segmenter.plan_of(prepared)
        for label, which in chosen:
            look = segmenter.predictor_of(which).together
            made.append((label, segment_volume(prepared, plan, look, bundle.classes).labels))
    return made, [c.name for c in bundle.classes]
