"""Labelled stacks in, a model bundle out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.fetching import find_bundle
from densecell_batch.prepare.examine import zoom_to
from densecell_batch.prepare.preparation import Aim
from densecell_batch.prepare.scale import grid_at
from densecell_batch.storage.atomic import make_folder
from densecell_batch.training.distil import answers_of, check_teacher, taught
from densecell_batch.training.naming import UNLABELLED
from densecell_batch.training.options import TrainingOptions, training_run
from densecell_batch.training.restarts import Progress, TrainingRun, train_ensemble
from densecell_batch.training.stacks import Pair, Stacks
from densecell_batch.training.volumes import LabelledVolume, load_labelled
from densecell_batch.training.voxel_sizes import (
    aim_at,
    aim_of,
    check_alike,
    known_aim,
    known_size,
    scale_of,
    stack_info,
)
from densecell_batch.training.working_scale import ONE, Factors, Volumes, with_plan

__all__ = ["train"]

Triple = tuple[int, int, int]

_log = logging.getLogger(__name__)


def train(
    images: Sequence[Path],
    labels: Sequence[Path],
    evaluation: Sequence[Pair],
    out: Path,
    classes: Sequence[ClassInfo],
    options: TrainingOptions,
    *,
    weights: Sequence[Path] = (),
    unlabelled: Sequence[Path] = (),
    progress: Progress = lambda run, seed, row: None,
) -> ModelBundle:
    """Train an ensemble on labelled stacks and make a bundle of the best members.

    Parameters
    ----------
    images, labels
        Stacks to train on, and their labels: class indices from 0 on.
    evaluation
        Stacks and their labels that the members are chosen on, all of them together; where there are none, the last
        fifth of the labelled slices of each training stack is held back for it.
    out
        Run folder; a run in it that was interrupted goes on.
    classes
        What the labels mean (`training.naming` tells).
    options
        What is asked.
    weights
        For each image a stack that says how much each voxel counts, or none.
    unlabelled
        More stacks, of which nets learn what the ensemble of `options.distil` says.
    progress
        Called after each evaluation with the run, the seed of the member and the row of its history.

    Returns
    -------
    ModelBundle

    Raises
    ------
    OptionError
        If the options contradict each other, classes have no voxel, stacks of different voxel sizes would be mixed, or
        `out` holds another run.
    StackError
        If a stack cannot be read, or does not fit its labels.
    Stopped
        If the training is stopped; the same call goes on.
    """
    _check_teaching(unlabelled, classes, options)
    stacks = Stacks.of(images, labels, weights, evaluation, options)
    infos = [*stacks.infos, *(stack_info(path) for path in unlabelled)]
    known = known_aim(options)
    of_first = stacks.infos[0].voxel_size if known else known_size(stacks.infos)
    scale = scale_of(options, of_first)
    aim = partial(_aim, options, known, of_first)
    first = aim(scale or ONE)
    check_alike([*infos, *stacks.judge_infos], options, known, as_they_are=first is None)
    grids = [grid_at(info.shape, zoom_to(first or Aim(), info.voxel_size)[0]) for info in infos]
    start, run = training_run(classes, options, grids)
    run = _told_of_held_back(replace(run, held_back=stacks.held_back))
    depth, height, width = run.recipe.window
    smallest = (depth - 2 * run.architecture.context, height, width)

    def load(scale: Factors) -> Volumes:
        return stacks.load(run.architecture.n_classes, smallest, aim(scale))

    volumes, chosen_on = load(scale or ONE)
    _check_data(stacks, (volumes, chosen_on), run, options)
    if options.distil is not None:
        run, volumes = _with_teacher(run, (volumes, chosen_on), unlabelled, options.distil, smallest)
    if options.epochs is not None:
        epoch = run.recipe.sampler(volumes, run.architecture, run.seed).epoch
        run = replace(run, recipe=run.recipe.over(options.epochs * epoch))
    if scale is None:
        make_folder(out)
        run, (volumes, chosen_on) = with_plan(run, load, (volumes, chosen_on), out)
    else:
        run = replace(run, scale=scale)
    return train_ensemble(run, volumes, chosen_on, out, start=start, progress=progress)


def _aim(options: TrainingOptions, known: Aim | None, of_first: VoxelSize | None, scale: Factors) -> Aim | None:
    """What the nets see at a scale; None for the stacks as they are."""
    if options.scale == "off" or (options.preset == "published" and scale == ONE):
        return None
    return known or aim_at(of_first, scale)


def _told_of_held_back(run: TrainingRun) -> TrainingRun:
    for part in run.held_back:
        _log.info("without --eval-images, some slices are held back to judge the nets by: %s", part)
    return run


def _check_data(stacks: Stacks, volumes: Volumes, run: TrainingRun, options: TrainingOptions) -> None:
    """See to the classes, and warn of stacks to judge by that are trained on, too; those divided are so once."""
    train, chosen_on = volumes
    _check_classes(train, chosen_on, run, options)
    learned, expected = Counter(volume.sha256[0] for volume in train), 0 if stacks.judges else 1
    divided = [path for path, division in zip(stacks.images, stacks.divisions, strict=True) if division.judge]
    for path, volume in zip([path for path, _ in stacks.judges] or divided, chosen_on, strict=True):
        if learned[volume.sha256[0]] > expected:
            _log.warning("%s is trained on, and judges: where the same slices are labelled, scores will flatter", path)


def _check_teaching(unlabelled: Sequence[Path], classes: Sequence[ClassInfo], options: TrainingOptions) -> None:
    """Refuse stacks that nobody would speak of, and classes that are not the teacher's."""
    if unlabelled and options.distil is None:
        raise OptionError("--unlabelled is for --distil: without labels there is only what an ensemble says to learn")
    if options.distil is not None:
        check_teacher(find_bundle(options.distil), classes)


def _with_teacher(
    run: TrainingRun, volumes: Volumes, unlabelled: Sequence[Path], name: str, smallest: Triple
) -> tuple[TrainingRun, list[LabelledVolume]]:
    """A run on volumes, more of them, that have the answers of an ensemble."""
    labelled, chosen_on = volumes
    teacher = find_bundle(name)
    more = [load_labelled(path, None, len(run.classes), smallest, aim=aim_of(teacher)) for path in unlabelled]
    judges = {volume.sha256[0] for volume in chosen_on}
    for path, volume in zip(unlabelled, more, strict=True):
        if volume.sha256[0] in judges:
            _log.warning("%s is what the nets are judged on: its scores will flatter", path)
    return replace(run, taught_by=answers_of(teacher)), taught(labelled, more, teacher)


def _check_classes(
    volumes: list[LabelledVolume], evaluation: list[LabelledVolume], run: TrainingRun, options: TrainingOptions
) -> None:
    """Refuse classes that nothing can be learned of; warn of those whose score will say nothing."""
    where = " (some slices are held back; --eval-images spares them)" if run.held_back else ""
    if any(volume.original is not None for volume in volumes):
        where += " at the voxel size of the nets, where what is thin is lost (--scale off keeps it)"
    for index, info in enumerate(run.classes):
        if info == UNLABELLED:
            continue
        if options.distil is None and not any(volume.has(index) for volume in volumes):
            if index != options.ignore_label:
                raise OptionError(
                    f"--labels have no voxel of class {index}, {info.name!r}{where}; expected some of each class: "
                    "label some, or name only the classes that are labelled"
                )
            _log.warning("class %d, %r, is what --ignore-label leaves out: nets learn nothing of it", index, info.name)
        elif not any(volume.has(index) for volume in evaluation):
            told = "the slices that are held back" if run.held_back else "--eval-labels"
            _log.warning("%s have no voxel of class %d, %r: its IoU will not count", told, index, info.name)
