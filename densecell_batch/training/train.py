"""Labelled stacks in, a model bundle out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from densecell_batch.errors import OptionError
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.training.options import TrainingOptions, training_run
from densecell_batch.training.restarts import Progress, TrainingRun, train_ensemble
from densecell_batch.training.volumes import LabelledVolume, load_labelled

__all__ = ["train"]

_log = logging.getLogger(__name__)


def train(
    images: Sequence[Path],
    labels: Sequence[Path],
    evaluation: tuple[Path, Path],
    out: Path,
    classes: Sequence[ClassInfo],
    options: TrainingOptions,
    *,
    weights: Sequence[Path] = (),
    progress: Progress = lambda run, seed, row: None,
) -> ModelBundle:
    """Train an ensemble on labelled stacks and make a bundle of the best members.

    Parameters
    ----------
    images, labels
        Stacks to train on, and their labels: class indices from 0 on.
    evaluation
        Stack and labels that the members are chosen on.
    out
        Run folder; a run in it that was interrupted goes on.
    classes
        What the labels mean.
    options
        What is asked.
    weights
        For each image a stack that says how much each voxel counts, or none.
    progress
        Called after each evaluation with the run, the seed of the member and the row of its history.

    Returns
    -------
    ModelBundle

    Raises
    ------
    OptionError
        If the options contradict each other, classes have no voxel, or `out` holds another run.
    StackError
        If a stack cannot be read, or does not fit its labels.
    Stopped
        If the training is stopped; the same call goes on.
    """
    if len(images) != len(labels):
        raise OptionError(f"{len(images)} --images and {len(labels)} --labels; expected one --labels for each --images")
    if weights and len(weights) != len(labels):
        raise OptionError(f"{len(weights)} --weights and {len(labels)} --labels; expected one for each, or none")
    start, run = training_run(classes, options)
    outside = "off" if options.preset == "published" else "auto"
    n, window = run.architecture.n_classes, run.recipe.window
    volumes = [
        load_labelled(image, label, n, window, errors, outside=outside)
        for image, label, errors in zip(images, labels, weights or (None,) * len(labels), strict=True)
    ]
    if options.epochs is not None:
        epoch = run.recipe.sampler(volumes, run.architecture, run.seed).epoch
        run = replace(run, recipe=run.recipe.over(options.epochs * epoch))
    chosen_on = load_labelled(*evaluation, n, outside=outside)
    _check_classes(volumes, chosen_on, run)
    return train_ensemble(run, volumes, chosen_on, out, start=start, progress=progress)


def _check_classes(volumes: list[LabelledVolume], evaluation: LabelledVolume, run: TrainingRun) -> None:
    """Refuse classes that nothing can be learned of; warn of those whose score will say nothing."""
    for index, info in enumerate(run.classes):
        if not any((volume.labels == index).any() for volume in volumes):
            raise OptionError(
                f"--labels have no voxel of class {index}, {info.name!r}; expected some of each class: label some, or "
                "name only the classes that are labelled"
            )
        if not (evaluation.labels == index).any():
            _log.warning("--eval-labels have no voxel of class %d, %r: its IoU will not count", index, info.name)
