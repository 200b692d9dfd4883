"""`densecell-batch evaluate`: how well class maps agree with the truth."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from densecell_batch.errors import OptionError

if TYPE_CHECKING:
    from densecell_batch.measure.compare import Agreement

__all__ = ["evaluate"]

_log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("predicted", nargs=-1, type=_FILE, metavar="[LABELS...]")
@click.option("--labels", multiple=True, required=True, type=_FILE, help="The truth: class of each voxel. Repeatable.")
@click.option("--model", multiple=True, help="Score what this bundle makes of --images. Repeatable.")
@click.option("--members", is_flag=True, help="Also score each member of the bundles alone.")
@click.option("--images", multiple=True, type=_FILE, help="Image stack of each --labels, for --model.")
@click.option("--mask", multiple=True, type=_FILE, help="Stack of the same shape as --labels, one for each; only "
              "voxels above 0 count.")  # fmt: skip
@click.option("--ignore-label", type=int, help="Voxels with this true label do not count.")
@click.option("--json", "json_path", type=_FILE, help="Also write the scores to this file.")
@click.option("--confusion", type=_FILE, help="Also draw the confusion matrix of the first one, as PNG.")
def evaluate(
    predicted: tuple[Path, ...],
    labels: tuple[Path, ...],
    model: tuple[str, ...],
    members: bool,
    images: tuple[Path, ...],
    mask: tuple[Path, ...],
    ignore_label: int | None,
    json_path: Path | None,
    confusion: Path | None,
) -> None:
    """Score class maps (LABELS...), or what models make of image stacks, against the true labels.

    Prints a table: mean IoU with and without class 0, accuracy, adjusted Rand index, variation of information in bits,
    boundary F-score (2 voxels of tolerance), and the IoU of each class. Voxels that LABELS... says are outside (255)
    are not scored; how many they are is said below.

    Of several --labels each has its own --images, or its own one of LABELS..., in the same order; each is scored for
    itself, and all together, as if they were one stack.
    """
    from msgspec import to_builtins

    from densecell_batch.measure.compare import as_table, n_classes_of, read_truth
    from densecell_batch.plots.confusion import render_confusion
    from densecell_batch.plots.png import write_png
    from densecell_batch.storage.atomic import write_file

    _check_numbers(predicted, labels, model, images, mask)
    masks = mask or (None,) * len(labels)
    truths = [read_truth(path, ignore_label, hidden) for path, hidden in zip(labels, masks, strict=True)]
    found, names = _class_maps(predicted, labels, [truth for truth, _ in truths], (model, images, members))
    n_classes = max(*(n_classes_of(truths[part.which][0], part.volume) for part in found), len(names))
    told = {} if model else _told_names([*labels, *predicted])
    names = [*names, *(told.get(i, f"class {i}") for i in range(len(names), n_classes))]
    results = _agreements(found, truths, n_classes)
    scored = [(name, common.comparison) for name, common in results]
    click.echo(as_table(scored, names))
    if json_path is not None:
        write_file(json_path, json.dumps({name: to_builtins(scores) for name, scores in scored}, indent=2).encode())
    if confusion is not None:
        write_png(confusion, render_confusion(results[0][1].scores.confusion, names))


def _check_numbers(
    predicted: tuple[Path, ...],
    labels: tuple[Path, ...],
    model: tuple[str, ...],
    images: tuple[Path, ...],
    mask: tuple[Path, ...],
) -> None:
    """Refuse numbers of files that do not go with each other."""
    if not predicted and not model:
        raise OptionError("nothing to score: give label files, or --model with --images")
    if model and not images:
        raise OptionError("--model needs --images: the stack that the labels belong to")
    if model and len(images) != len(labels):
        raise OptionError(f"{len(images)} --images and {len(labels)} --labels; expected one --labels for each --images")
    if mask and len(mask) != len(labels):
        raise OptionError(f"{len(mask)} --mask and {len(labels)} --labels; expected one for each, or none")
    if predicted and len(labels) > 1 and len(predicted) != len(labels):
        raise OptionError(
            f"{len(predicted)} label files to score and {len(labels)} --labels; expected one for each, in the same "
            "order, or one --labels for all of them"
        )


@dataclass(frozen=True)
class _Part:
    """A class map, and the truth that it is held against."""

    result: str  # what it is a part of; "" for label files of several truths
    name: str  # its own, beside others of the result
    which: int  # number of the truth
    volume: np.ndarray  # (z, y, x) uint8


def _class_maps(
    predicted: tuple[Path, ...],
    labels: tuple[Path, ...],
    truths: list[np.ndarray],
    made: tuple[tuple[str, ...], tuple[Path, ...], bool],
) -> tuple[list[_Part], list[str]]:
    """What is to be scored, and names of classes, as far as models know them."""
    from densecell_batch.measure.compare import read_classes, same_shape

    found: list[_Part] = []
    several = len(labels) > 1
    for i, path in enumerate(predicted):
        which = i if several else 0
        volume = same_shape(read_classes(path, outside=True)[0], truths[which], path)
        found.append(_Part("" if several else path.stem, path.stem, which, volume))
    models, images, members = made
    names: list[str] = []
    for bundle_name in models:
        for i, path in enumerate(images):
            maps, names = _segmented(bundle_name, path, members)
            found += [_Part(name, path.stem, i, same_shape(volume, truths[i], labels[i])) for name, volume in maps]
    return found, names


def _told_names(paths: list[Path]) -> dict[int, str]:
    """Names of the classes by label, as the first of the label files that names any says."""
    from densecell_batch.io.label_look import label_look

    return next((names for names in (label_look(path).names for path in paths) if names), {})


def _agreements(
    found: list[_Part], truths: list[tuple[np.ndarray, np.ndarray | None]], n_classes: int
) -> list[tuple[str, Agreement]]:
    """Each class map against its truth; where there are several truths, first all of a result together."""
    from densecell_batch.measure.compare import agreement

    def of(part: _Part, name: str) -> Agreement:
        truth, counted = truths[part.which]
        return agreement(truth, part.volume, n_classes, counted, name=name)

    if len(truths) == 1:
        return [(part.result, of(part, part.result)) for part in found]
    results: list[tuple[str, Agreement]] = []
    for result in dict.fromkeys(part.result for part in found):
        parts = [part for part in found if part.result == result]
        named = [part.name for part in parts]
        if len({*named}) < len(named):  # files of the same name in several folders
            named = [f"{part.which + 1} {part.name}" for part in parts]
        before = f"{result}: " if result else ""
        alone = [(before + name, of(part, before + name)) for part, name in zip(parts, named, strict=True)]
        together = alone[0][1]
        for _, part_of_it in alone[1:]:
            together += part_of_it
        results += [(f"{before}together", together), *alone]
    return results


def _segmented(name: str, path: Path, members: bool) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """Class maps of a bundle, and of each of its members if wanted; names of its classes."""
    from densecell_batch.inference.segmenter import Segmenter
    from densecell_batch.inference.volume import segment_volume
    from densecell_batch.io.reading import open_stack
    from densecell_batch.storage.opening import Reach
    from densecell_batch.system import need_memory

    segmenter = Segmenter(name, fit="off")  # the scores tell
    bundle = segmenter.bundle
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
