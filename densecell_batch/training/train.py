"""Labelled stacks in, a model bundle out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import StackInfo
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.fetching import find_bundle
from densecell_batch.models.manifest import MOST_SCALED
from densecell_batch.prepare.examine import zoom_to
from densecell_batch.prepare.preparation import Aim
from densecell_batch.prepare.scale import grid_at
from densecell_batch.storage.atomic import make_folder
from densecell_batch.storage.opening import Reach
from densecell_batch.training.distil import answers_of, check_teacher, taught
from densecell_batch.training.options import TrainingOptions, training_run
from densecell_batch.training.restarts import Progress, TrainingRun, train_ensemble
from densecell_batch.training.volumes import LabelledVolume, load_labelled
from densecell_batch.training.working_scale import ONE, Factors, Volumes, with_plan

__all__ = ["train"]

Triple = tuple[int, int, int]

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
    unlabelled: Sequence[Path] = (),
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
        If the options contradict each other, classes have no voxel, or `out` holds another run.
    StackError
        If a stack cannot be read, or does not fit its labels.
    Stopped
        If the training is stopped; the same call goes on.
    """
    _check_asked(images, labels, weights, unlabelled, classes, options)
    infos = [_info(path) for path in (*images, *unlabelled)]
    of_first, known = infos[0].voxel_size, _known(options)
    scale = _scale(options, of_first)
    wanted = Aim() if options.scale == "off" else known or _aim(of_first, scale or ONE)
    shapes = [grid_at(info.shape, zoom_to(wanted, info.voxel_size)[0]) for info in infos]
    start, run = training_run(classes, options, shapes)
    n, (depth, height, width) = run.architecture.n_classes, run.recipe.window
    smallest = (depth - 2 * run.architecture.context, height, width)

    def load(scale: Factors) -> tuple[list[LabelledVolume], LabelledVolume]:
        published = options.preset == "published"
        as_it_is = options.scale == "off" or (published and scale == ONE)
        aim = None if as_it_is else known or _aim(of_first, scale)
        outside = "off" if published else "auto"
        volumes = [
            load_labelled(image, label, n, smallest, errors, outside=outside, aim=aim)
            for image, label, errors in zip(images, labels, weights or (None,) * len(labels), strict=True)
        ]
        return volumes, load_labelled(*evaluation, n, outside=outside, aim=aim)

    volumes, chosen_on = load(scale or ONE)
    _check_classes(volumes, chosen_on, run, taught=options.distil is not None)
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


def _check_asked(
    images: Sequence[Path],
    labels: Sequence[Path],
    weights: Sequence[Path],
    unlabelled: Sequence[Path],
    classes: Sequence[ClassInfo],
    options: TrainingOptions,
) -> None:
    """Refuse numbers of stacks that do not go with each other, and classes that are not the teacher's."""
    if len(images) != len(labels):
        raise OptionError(f"{len(images)} --images and {len(labels)} --labels; expected one --labels for each --images")
    if weights and len(weights) != len(labels):
        raise OptionError(f"{len(weights)} --weights and {len(labels)} --labels; expected one for each, or none")
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
    more = [load_labelled(path, None, len(run.classes), smallest, aim=_aim_of(teacher)) for path in unlabelled]
    for path, volume in zip(unlabelled, more, strict=True):
        if volume.sha256[0] == chosen_on.sha256[0]:
            _log.warning("%s is what the nets are judged on: its scores will flatter", path)
    return replace(run, taught_by=answers_of(teacher)), taught(labelled, more, teacher)


def _known(options: TrainingOptions) -> Aim | None:
    """What the nets of a bundle that is gone on from, or learned from, see; None if nothing says so."""
    name = options.distil or options.init
    if name is None or options.scale != "auto" or options.voxel_size_trained is not None:
        return None
    return _aim_of(find_bundle(name))


def _aim_of(bundle: ModelBundle) -> Aim:
    return Aim(bundle.voxel_size, bundle.known.scale)


def _info(path: Path) -> StackInfo:
    with open_stack(path, reach=Reach.of(path, links=True)) as stack:
        return stack.info


def _aim(of_first: VoxelSize | None, scale: Factors) -> Aim:
    """What the nets see: at a scale of the first stack, whose voxel size the others are brought to."""
    if of_first is None:
        return Aim(scale=scale)
    z, y, x = (edge / factor for edge, factor in zip(of_first.edges, scale, strict=True))
    return Aim(VoxelSize(z, y, x), scale)


def _scale(options: TrainingOptions, of_first: VoxelSize | None) -> Factors | None:
    """The scale at which the nets see the stacks; None if trials are to tell."""
    scale = _asked_scale(options, of_first)
    if scale is None or options.scale == "off":
        return scale
    if not all(1 / MOST_SCALED <= factor <= MOST_SCALED for factor in scale):
        raise OptionError(
            f"the nets would see {', '.join(f'{factor:.3g}' for factor in scale)} voxels along z, y, x for each of the "
            f"stacks; expected at most {MOST_SCALED} times as many or as few"
        )
    return zoom_to(_aim(of_first, scale), of_first)[0]  # nearly 1 is 1


def _asked_scale(options: TrainingOptions, of_first: VoxelSize | None) -> Factors | None:
    """The scale that is asked for, or goes with what is asked for; None if none is."""
    if options.voxel_size_trained is not None:
        if of_first is None:
            raise OptionError("--voxel-size-trained needs stacks with a voxel size; give --scale, or calibrate them")
        z, y, x = (a / b for a, b in zip(of_first.edges, options.voxel_size_trained.edges, strict=True))
        return z, y, x
    if options.scale == "off" or isinstance(options.scale, tuple):
        return ONE if options.scale == "off" else options.scale
    known = _known(options)
    if known is not None:
        return zoom_to(known, of_first)[0]
    return ONE if options.preset == "published" else None


def _has(volume: LabelledVolume, index: int) -> bool:
    """Whether a voxel that counts is of a class."""
    there = volume.labels == index
    return bool((there if volume.counted is None else there & volume.counted).any())


def _check_classes(
    volumes: list[LabelledVolume], evaluation: LabelledVolume, run: TrainingRun, *, taught: bool
) -> None:
    """Refuse classes that nothing can be learned of; warn of those whose score will say nothing."""
    for index, info in enumerate(run.classes):
        if not taught and not any(_has(volume, index) for volume in volumes):
            raise OptionError(
                f"--labels have no voxel of class {index}, {info.name!r}; expected some of each class: label some, or "
                "name only the classes that are labelled"
            )
        if not _has(evaluation, index):
            _log.warning("--eval-labels have no voxel of class %d, %r: its IoU will not count", index, info.name)
