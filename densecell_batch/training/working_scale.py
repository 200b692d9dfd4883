"""At which voxel size nets see the tissue: the same net sees more of it in coarser voxels, and less detail.

What is right depends on the tissue. So nets are trained for a while at each scale that the labels bear and the window
fits, and scored on the evaluation volume, on its own grid. The trials and what came of them stand in `plan.json` of the
run folder. Where steps are too few to see all of the tissue often, trials tell nothing: coarser voxels are taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from densecell_batch.errors import OptionError, StackError
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.metrics import Scores, added, score
from densecell_batch.plots.overlay import render_preview
from densecell_batch.plots.png import write_png
from densecell_batch.prepare.scale import grid_at
from densecell_batch.printable import printable
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import read_small
from densecell_batch.storage.strict_json import parse_json
from densecell_batch.training.fit import fit_member
from densecell_batch.training.rescaled import classes_at
from densecell_batch.training.restarts import TrainingRun, steps_in
from densecell_batch.training.volumes import LabelledVolume

__all__ = ["CANDIDATES", "ONE", "Factors", "Plan", "Trial", "Volumes", "choose", "label_ceiling", "with_plan"]

Factors = tuple[float, float, float]

ONE: Factors = (1.0, 1.0, 1.0)
CANDIDATES: tuple[Factors, ...] = (ONE, (1.0, 0.5, 0.5), (1.0, 0.25, 0.25))  # finest first
TRIAL = 0.08  # of the steps of a member
FEWEST = 40  # steps that tell something
_CEILING = 0.97  # mean IoU of labels that were brought to a scale and back, from which a scale is tried
_CLEARLY = 0.05  # mean IoU by which a coarser scale has to be better
_SELDOM, _SHORT = 12.0, 3000  # times that each place is seen, and steps: below both, the nets take what is coarser...
_BEARABLE = 0.9  # ... if the labels keep this mean IoU
_LARGEST = 2**20  # bytes of a plan
_log = logging.getLogger(__name__)


class Trial(Struct, frozen=True, kw_only=True):
    """What is known of a scale."""

    scale: Factors  # voxels (z, y, x) that the nets see for each of the stacks
    ceiling: float  # mean IoU of the labels brought there and back: no net gets much above
    steps: int = 0  # that a net was trained
    mean_iou: float | None = None  # of that net; None if it was not tried


class Plan(Struct, frozen=True, kw_only=True):
    """`plan.json`: the scale of a run, and why."""

    of: str  # what is trained on what, as a digest
    steps: int  # of a member, had there been no trials
    scale: Factors | None = None  # None until it is known
    why: str = ""
    trials: list[Trial] = []


Volumes = tuple[list[LabelledVolume], list[LabelledVolume]]  # to train on, to evaluate on
Load = Callable[[Factors], Volumes]
Fits = Callable[[Factors], Volumes | None]  # None where nothing can be learned


def with_plan(run: TrainingRun, load: Load, finest: Volumes, folder: Path) -> tuple[TrainingRun, Volumes]:
    """Choose a scale by trials, or read what was chosen when the run was begun.

    Parameters
    ----------
    run
        What to train. If it has minutes, its members have so many steps less as trials took.
    load
        Reads the volumes at a scale; raises StackError where they are too small for the window.
    finest
        The volumes as they are.
    folder
        Of the run; there.

    Returns
    -------
    run : TrainingRun
        With its scale.
    volumes : tuple
        At that scale.

    Raises
    ------
    Stopped
        If it is stopped; the same call goes on at the step where it was.
    """
    scale = _begun_at(folder / "run.json")
    if scale is not None:  # what differs is told of by who goes on with it
        return replace(run, scale=scale), finest if scale == ONE else load(scale)
    path, digest = folder / "plan.json", _digest(run, *finest)
    at = cache(partial(_volumes_at, run, load, finest))  # a trial has read what is chosen
    plan = _read(path)
    if plan is None or plan.of != digest:
        plan = Plan(of=digest, steps=run.recipe.steps if run.minutes is None else steps_in(run, finest[0]))
        _write(path, plan)
    if plan.scale is None:
        n_classes = run.architecture.n_classes
        ceilings = [round(label_ceiling(finest[1], n_classes, scale), 4) for scale in CANDIDATES]
        trials = [Trial(scale=scale, ceiling=found) for scale, found in zip(CANDIDATES, ceilings, strict=True)]
        hurried = _hurried(run, plan.steps, trials, at, finest[0])
        if hurried is None:
            trials = _tried(run, plan.steps, trials, at, finest, folder, digest)
        scale, why = hurried or choose(trials)
        _log.info("the nets will see %s: %s", _named(scale), why)
        plan = msgspec.structs.replace(plan, scale=scale, why=why, trials=trials)
        _write(path, plan)
    for state in folder.glob("trial-*.state"):
        state.unlink(missing_ok=True)
    assert plan.scale is not None
    volumes = finest if plan.scale == ONE else at(plan.scale) or load(plan.scale)
    _draw(folder / "plan.png", volumes[0][0], run)
    spent = sum(trial.steps for trial in plan.trials) // run.restarts
    left = None if run.minutes is None else max(20, plan.steps - spent)
    return replace(run, scale=plan.scale, minutes_as_steps=left), volumes


def _begun_at(path: Path) -> Factors | None:
    """The scale of a run that is begun, of those that can be planned; None if there is no run yet."""
    try:
        found = parse_json(read_small(path, _LARGEST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # told of later, too
        return ONE
    scale = found.get("scale") if isinstance(found, dict) else None
    return next((each for each in CANDIDATES if list(each) == scale), ONE)


def _volumes_at(run: TrainingRun, load: Load, finest: Volumes, scale: Factors) -> Volumes | None:
    """The volumes at a scale; None, and why in the log, if they are too small for the window, or lack a class there."""
    try:
        volumes = load(scale)
    except StackError as error:
        _log.info("%s: left out: %s", _named(scale), error)
        return None
    for index, info in enumerate(run.classes):
        here, there = (any(volume.has(index) for volume in some[0]) for some in (finest, volumes))
        if here and not there:
            _log.info("%s: left out: no voxel of class %d, %r, is left to learn from", _named(scale), index, info.name)
            return None
    return volumes


def choose(trials: Sequence[Trial]) -> tuple[Factors, str]:
    """The scale, and why: the finest that no coarser one clearly beats.

    Parameters
    ----------
    trials
        The finest first, which was tried.
    """
    tried = [trial for trial in trials if trial.mean_iou is not None]
    if len(tried) < 2:
        return trials[0].scale, "no other was tried: the steps are few, or the labels or the window need this one"
    best = max(trial.mean_iou or 0 for trial in tried)
    for trial in tried:
        score = trial.mean_iou or 0
        if score >= best - _CLEARLY:
            others = ", ".join(f"{other.mean_iou:.3f} at {_named(other.scale)}" for other in tried if other != trial)
            return trial.scale, f"mean IoU {score:.3f} after a short trial, {others}"
    raise AssertionError


def label_ceiling(volumes: Sequence[LabelledVolume], n_classes: int, scale: Factors) -> float:
    """Mean IoU of the labels of volumes with what is left of them after they were brought to a scale and back."""

    def left(volume: LabelledVolume) -> Scores:
        truth, counted = volume.truth
        coarse = classes_at(truth, grid_at(truth.shape, scale), n_classes, counted)
        z, y, x = truth.shape
        return score(truth, classes_at(coarse, (z, y, x), n_classes), n_classes, counted)

    return added(map(left, volumes)).mean_iou


def _hurried(
    run: TrainingRun, steps: int, trials: Sequence[Trial], at: Fits, train: list[LabelledVolume]
) -> tuple[Factors, str] | None:
    """The next coarser scale, and why, if a member has too few steps to see much of the tissue as it is."""
    coarser = trials[1]
    if not FEWEST / TRIAL <= steps < _SHORT or coarser.ceiling < _BEARABLE:
        return None
    seen = steps / run.recipe.sampler(train, run.architecture, run.seed).epoch / _share_of_slices(train)
    if seen >= _SELDOM or at(coarser.scale) is None:
        return None
    return (
        coarser.scale,
        f"{steps} steps would see each place of the stacks as they are {seen:.1f} times, which is seldom",
    )


def _share_of_slices(volumes: Sequence[LabelledVolume]) -> float:
    """Of all voxels, those in slices of which something counts: windows are drawn there alone."""
    counted = [volume.counted for volume in volumes]
    there = sum(
        v.labels.size if c is None else v.labels[0].size * np.count_nonzero(c.any((1, 2)))
        for v, c in zip(volumes, counted, strict=True)
    )
    return float(there / sum(volume.labels.size for volume in volumes))


def _tried(
    run: TrainingRun,
    steps: int,
    trials: list[Trial],
    at: Fits,
    finest: Volumes,
    folder: Path,
    digest: str,
) -> list[Trial]:
    """What is known of each scale; a net is trained at each if there are several."""
    few = round(TRIAL * steps)
    trials = list(trials)
    ready: dict[Factors, Volumes] = {ONE: finest}
    for trial in trials[1:]:
        if few >= FEWEST and trial.ceiling >= _CEILING:
            volumes = at(trial.scale)
            if volumes is not None:
                ready[trial.scale] = volumes
    if len(ready) < 2:
        return trials
    recipe = replace(run.recipe.over(few), floor=0.0, evaluate_every=few)
    for i, trial in enumerate(trials):
        if trial.scale in ready:
            state = folder / f"trial-{i}-{digest}.state"
            found = fit_member(run.architecture, *ready[trial.scale], recipe, state, run.seed).scores.mean_iou
            _log.info("%s: mean IoU %.3f after %d steps", _named(trial.scale), found, few)
            trials[i] = msgspec.structs.replace(trial, steps=few, mean_iou=round(found, 4))
    return trials


def _draw(path: Path, volume: LabelledVolume, run: TrainingRun) -> None:
    """A window as the nets see it."""
    z, (_, height, width) = len(volume.image) // 2, run.recipe.window
    y, x = ((side - wanted) // 2 for side, wanted in zip(volume.image.shape[1:], (height, width), strict=True))
    window = (z, slice(y, y + height), slice(x, x + width))
    classes = [(c.name, c.colour) for c in run.classes]
    labels, counted = volume.labels[window], volume.counted
    if counted is not None:
        labels = np.where(counted[window], labels, OUTSIDE).astype(np.uint8)
    picture = render_preview([(z, volume.image[window])], [labels], classes, volume.voxel_size, "window")
    write_png(path, picture)


def _write(path: Path, plan: Plan) -> None:
    write_file(path, json.dumps(msgspec.to_builtins(plan), indent=2).encode())


def _named(scale: Factors) -> str:
    return "the stacks as they are" if scale == ONE else f"{scale[1]:g} times as many voxels along y and x"


def _digest(run: TrainingRun, train: Sequence[LabelledVolume], evaluation: Sequence[LabelledVolume]) -> str:
    """Of all that decides trials."""
    recipe = replace(run.recipe, steps=0, evaluate_every=0) if run.minutes is not None else run.recipe
    data = [[volume.sha256 for volume in some] for some in (train, evaluation)]
    parts: list[object] = [run.architecture, recipe, run.minutes, run.seed, data]
    if run.ignore_label is not None or run.held_back:
        parts += [run.ignore_label, run.held_back]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _read(path: Path) -> Plan | None:
    try:
        plan = msgspec.convert(parse_json(read_small(path, _LARGEST)), Plan)
        if plan.scale not in (None, *CANDIDATES) or not 0 < plan.steps < 2**31:
            raise ValueError("it is no plan of a run")
        return plan
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: cannot be read ({printable(error)}); delete it to plan anew") from error
