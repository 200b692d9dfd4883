"""Many members from different seeds; the best few become an ensemble (Guay et al. 2021, "ensembles of the best").

The run folder::

    run.json              what is trained, of what, how; a run that is resumed must say the same
    member-SEED.state     the state of a member (see `fit`)
    member-SEED.json      its scores, once it is trained
    log.jsonl             a line for each evaluation
    curves.png            learning curves
    sample.png            slices of the evaluation volume and what the ensemble says of them
    NAME.zip              the bundle
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from msgspec import Struct, to_builtins

from densecell_batch._version import __version__
from densecell_batch.errors import OptionError
from densecell_batch.identity import differences
from densecell_batch.inference.volume import predict_labels
from densecell_batch.measure.metrics import Scores, score
from densecell_batch.models.bundle import ModelBundle, load_bundle, write_bundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.golden import golden_pair, verify_bundle
from densecell_batch.models.manifest import Quantization, check_texts
from densecell_batch.nets.architecture import Architecture, architecture_to_dict
from densecell_batch.nets.engines import is_installed
from densecell_batch.nets.predictor import Predictor
from densecell_batch.plots.curves import render_curves
from densecell_batch.plots.overlay import render_preview
from densecell_batch.plots.png import write_png
from densecell_batch.printable import printable
from densecell_batch.storage.atomic import make_folder, write_file
from densecell_batch.storage.strict_json import JsonObject, parse_json
from densecell_batch.training.fit import Arrays, TrainedMember, fit_member, seconds_per_step
from densecell_batch.training.own_data import own_records
from densecell_batch.training.quantize import Looked, measure_quantization
from densecell_batch.training.recipes import Recipe
from densecell_batch.training.volumes import LabelledVolume

__all__ = ["Progress", "TrainingRun", "steps_in", "train_ensemble"]

_MAX_RUN_BYTES = 2**20
_log = logging.getLogger(__name__)


class RunRecord(Struct, frozen=True, kw_only=True):
    """`run.json`: what a run that is resumed must say, too."""

    architecture: JsonObject
    classes: list[str]
    recipe: JsonObject
    seed: int
    minutes: float | None
    init: list[str]  # SHA-256 of the weights that members start from
    train: list[list[str]]  # SHA-256 of the files of each volume
    evaluation: list[str]
    scale: list[float]  # voxels (z, y, x) that the nets see for each of the first volume
    taught_by: list[str]  # the ensemble whose answers are learned, see `distil.answers_of`


@dataclass(frozen=True)
class TrainingRun:
    """All that decides what comes out of a run, beside the volumes."""

    name: str  # of the bundle
    architecture: Architecture
    classes: tuple[ClassInfo, ...]
    recipe: Recipe
    restarts: int = 1
    keep: int = 1  # members of the ensemble
    seed: int = 0  # of the first member; the others count on
    minutes: float | None = None  # for each member; decides the steps, once
    licence: str = "not stated"
    citation: str = "not stated"
    version: str = "1"
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)  # voxels (z, y, x) that the nets see for each of the volumes'
    minutes_as_steps: int | None = None  # what `minutes` come to, where that was measured
    taught_by: tuple[str, ...] = ()  # the ensemble whose answers the volumes have

    def __post_init__(self) -> None:
        check_texts(self.name, self.version, self.licence, self.citation)
        if not 1 <= self.keep <= self.restarts:
            raise OptionError(f"--keep is {self.keep}; expected 1 to {self.restarts}, the number of --restarts")
        if len(self.classes) != self.architecture.n_classes:
            raise OptionError(f"{len(self.classes)} classes for a net of {self.architecture.n_classes}")
        twice = [name for name, n in Counter(c.name for c in self.classes).items() if n > 1]
        if twice:
            raise OptionError(f"the class {twice[0]!r} is named twice; expected each once")


Progress = Callable[[TrainingRun, int, dict[str, float]], None]  # (run, seed of the member, row of its history)


def train_ensemble(
    run: TrainingRun,
    train: list[LabelledVolume],
    evaluation: LabelledVolume,
    folder: Path,
    *,
    start: list[Arrays] | None = None,
    progress: Progress = lambda run, seed, row: None,
) -> ModelBundle:
    """Train the members of a run, those that are not trained yet, and make a bundle of the best.

    Parameters
    ----------
    run
        What to train, and how.
    train, evaluation
        Labelled volumes; the members are chosen on the latter.
    folder
        The run folder; made, or gone on with.
    start
        Weights of members to begin with (fine-tuning); each restart takes the next one.
    progress
        Called after each evaluation.

    Returns
    -------
    ModelBundle

    Raises
    ------
    OptionError
        If the folder holds another run; the message says what differs.
    Stopped
        If the run is stopped; it can be resumed.
    """
    make_folder(folder)
    run = _same_run(run, train, evaluation, folder, start)
    members = []
    for seed in range(run.seed, run.seed + run.restarts):
        first = start[(seed - run.seed) % len(start)] if start else None
        members.append(_member(run, train, evaluation, folder, seed, first, progress))
        write_png(folder / "curves.png", render_curves({f"seed {m.seed}": m.history for m in members}))
    kept = _best(members, run)
    ensemble = Predictor(run.architecture, [m.weights for m in kept], run.recipe.inference_precision)
    truth, counted = evaluation.truth
    labels = predict_labels(evaluation.image, ensemble, run.recipe.window, truth.shape)
    scores = score(truth, labels, run.architecture.n_classes, counted)
    _log.info("ensemble of %d: mean IoU %.4f; best member %.4f", len(kept), scores.mean_iou, kept[0].scores.mean_iou)
    if evaluation.original is not None:  # a picture of what the nets see
        labels = predict_labels(evaluation.image, ensemble, run.recipe.window)
    _write_sample(run, evaluation, labels, folder)
    identity = _identity(run, train, evaluation, start)
    return _write(run, train, evaluation, members, kept, ensemble, scores, folder, identity)


def _best(members: list[TrainedMember], run: TrainingRun) -> list[TrainedMember]:
    """The members of the ensemble, best first."""
    whole = [m for m in members if not m.abandoned]
    for m in members:
        if m.abandoned:
            _log.warning("seed %d was abandoned at a mean IoU of %.3f", m.seed, m.scores.mean_iou)
    if not whole:
        raise OptionError(
            f"every member was abandoned: none reached a mean IoU of {run.recipe.floor:g} in its trial; check "
            "the labels (is class 0 what it should be?), train longer, or give a lower --floor"
        )
    return sorted(whole, key=lambda m: (-m.scores.mean_iou, m.seed))[: run.keep]


def _member(
    run: TrainingRun,
    train: list[LabelledVolume],
    evaluation: LabelledVolume,
    folder: Path,
    seed: int,
    start: Arrays | None,
    progress: Progress,
) -> TrainedMember:
    """Train a member, or read the state of one that is trained."""

    def log(row: dict[str, float]) -> None:
        with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"seed": seed, **row}) + "\n")
        progress(run, seed, row)

    member = fit_member(
        run.architecture,
        train,
        evaluation,
        run.recipe,
        folder / f"member-{seed}.state",
        seed,
        start=start,
        progress=log,
    )
    write_file(folder / f"member-{seed}.json", json.dumps(_as_dict(member.scores, run), indent=2).encode())
    return member


def _same_run(
    run: TrainingRun, train: list[LabelledVolume], evaluation: LabelledVolume, folder: Path, start: list[Arrays] | None
) -> TrainingRun:
    """Hold the run to what its folder was begun with; the run with its number of steps."""
    wanted = to_builtins(_identity(run, train, evaluation, start))
    path = folder / "run.json"
    if path.exists():
        try:
            if not path.is_file() or path.stat().st_size > _MAX_RUN_BYTES:
                raise ValueError("it is no file of a run")
            found = parse_json(path.read_bytes())
            if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
                raise ValueError("it is no description of a run")
            for name, before in (("scale", [1.0, 1.0, 1.0]), ("taught_by", [])):  # as it was when there was no choice
                found.setdefault(name, before)
        except (OSError, ValueError) as error:
            raise OptionError(f"{path}: cannot be read ({error}); give another run folder") from error
        if run.minutes is not None:
            for field in ("steps", "evaluate_every"):
                if not isinstance(found["recipe"].get(field), int) or not 0 < found["recipe"][field] < 2**31:
                    raise OptionError(f"{path}: {field} is no number above 0; give another run folder")
                wanted["recipe"][field] = found["recipe"][field]
        changed = differences(found, wanted)
        if changed:
            differs = printable("; ".join(changed)[:2000])
            raise OptionError(
                f"{folder} holds a run that was begun otherwise: {differs}; to resume it, give what it was "
                "begun with, else another run folder"
            )
        steps, every = wanted["recipe"]["steps"], wanted["recipe"]["evaluate_every"]
        return replace(run, recipe=replace(run.recipe, steps=steps, evaluate_every=every))
    if run.minutes is not None:
        run = replace(run, recipe=run.recipe.over(run.minutes_as_steps or steps_in(run, train)))
    write_file(path, json.dumps(to_builtins(_identity(run, train, evaluation, start)), indent=2).encode())
    return run


def steps_in(run: TrainingRun, train: list[LabelledVolume]) -> int:
    """About how many steps there are in the minutes of a run."""
    assert run.minutes is not None
    seconds = seconds_per_step(run.architecture, train, run.recipe)
    steps = max(20, round(60 * run.minutes / seconds))
    _log.info("%.3f s a step: %d steps in %g minutes", seconds, steps, run.minutes)
    return steps


def _identity(
    run: TrainingRun, train: list[LabelledVolume], evaluation: LabelledVolume, start: list[Arrays] | None
) -> RunRecord:
    """All that decides a member. How many are trained and kept may change: restarts can be added."""
    import hashlib

    sums = [
        hashlib.sha256(b"".join(name.encode() + weights[name].tobytes() for name in sorted(weights))).hexdigest()
        for weights in start or []
    ]
    recipe = {"preset": run.recipe.preset, **asdict(run.recipe)}
    return RunRecord(
        architecture=architecture_to_dict(run.architecture),
        classes=[c.name for c in run.classes],
        recipe=json.loads(json.dumps(recipe)),  # lists, not tuples, as in a file
        seed=run.seed,
        minutes=run.minutes,
        init=sums,
        train=[list(volume.sha256) for volume in train],
        evaluation=list(evaluation.sha256),
        scale=list(run.scale),
        taught_by=list(run.taught_by),
    )


def _as_dict(scores: Scores, run: TrainingRun) -> JsonObject:
    iou = {c.name: None if np.isnan(v) else round(float(v), 4) for c, v in zip(run.classes, scores.iou, strict=True)}
    return {"mean_iou": round(scores.mean_iou, 4), "accuracy": round(scores.accuracy, 4), "iou": iou}


def _write_sample(run: TrainingRun, evaluation: LabelledVolume, labels: np.ndarray, folder: Path) -> None:
    depth = len(labels)
    shown = sorted({0, depth // 2, depth - 1})
    images, classes = [(z, evaluation.image[z]) for z in shown], [(c.name, c.colour) for c in run.classes]
    picture = render_preview(images, [labels[z] for z in shown], classes, evaluation.voxel_size, "evaluation volume")
    write_png(folder / "sample.png", picture)


def _write(
    run: TrainingRun,
    train: list[LabelledVolume],
    evaluation: LabelledVolume,
    members: list[TrainedMember],
    kept: list[TrainedMember],
    ensemble: Predictor,
    scores: Scores,
    folder: Path,
    identity: RunRecord,
) -> ModelBundle:
    path = folder / f"{run.name}.zip"
    weights = [m.weights for m in kept]
    write_bundle(
        path,
        name=run.name,
        version=run.version,
        licence=run.licence,
        citation=run.citation,
        architecture=run.architecture,
        classes=run.classes,
        voxel_size=train[0].voxel_size,
        window=run.recipe.window,
        members=weights,
        golden=golden_pair(run.architecture, weights, run.recipe.window),
        scores={"evaluation": _as_dict(scores, run), "members": [_as_dict(m.scores, run) for m in kept]},
        provenance={
            "trained by": f"densecell-batch {__version__}",
            **to_builtins(identity),
            "seeds kept": [m.seed for m in kept],
            "mean IoU of all restarts": {str(m.seed): round(m.scores.mean_iou, 4) for m in members},
        },
        own_data=own_records(train, evaluation, ensemble, run.recipe.window, run.scale),
        quantization=_quantization(run, weights, train, evaluation),
        may_exist=True,  # an earlier one of this very run, made when fewer members were kept, say
    )
    bundle = load_bundle(path)
    verify_bundle(bundle)
    return bundle


def _quantization(
    run: TrainingRun, weights: list[Arrays], train: list[LabelledVolume], evaluation: LabelledVolume
) -> Quantization | None:
    """What int8 needs, measured on the evaluation volume; None where that cannot be: a bundle goes without it, too."""
    if not is_installed("openvino"):
        return None
    truth, counted = evaluation.truth
    looked, images = [Looked(evaluation.image, truth, counted)], [volume.image for volume in train]
    try:
        return measure_quantization(run.architecture, weights, run.recipe.window, looked, observed=images)
    except Exception as error:
        _log.warning("int8 could not be measured (%s): `models quantize` can, later", error)
        return None
