"""Many members from different seeds; the best few become an ensemble (Guay et al. 2021, "ensembles of the best").

The run folder::

    run.json              what is trained, of what, how; a run that is resumed must say the same
    member-SEED.state     the state of a member (see `fit`)
    member-SEED.json      its scores, once it is trained
    log.jsonl             a line for each evaluation
    curves.png            learning curves
    sample.png            slices of the first evaluation volume and what the ensemble says of them
    NAME.zip              the bundle
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from msgspec import Struct, to_builtins

from densecell_batch._version import __version__
from densecell_batch.errors import OccupiedError, OptionError
from densecell_batch.identity import differences
from densecell_batch.inference.volume import predict_labels
from densecell_batch.measure.metrics import Scores
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
from densecell_batch.storage.atomic import explained, make_folder, remove_remains, write_file
from densecell_batch.storage.strict_json import JsonObject, parse_json
from densecell_batch.training.fit import Arrays, TrainedMember, fit_member, judged, seconds_per_step
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
    evaluation: list[str]  # those of the files of all volumes
    scale: list[float]  # voxels (z, y, x) that the nets see for each of the first volume
    taught_by: list[str]  # the ensemble whose answers are learned, see `distil.answers_of`
    ignore_label: int | None  # the label that does not count
    held_back: list[str]  # what of the stacks is not trained on, where it is what members are chosen by


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
    any_precision: bool = False  # whether a run that goes on keeps the precision that it was begun in
    minutes_as_steps: int | None = None  # what `minutes` come to, where that was measured
    taught_by: tuple[str, ...] = ()  # the ensemble whose answers the volumes have
    ignore_label: int | None = None  # of the label files
    held_back: tuple[str, ...] = ()  # what of each stack was held back for the evaluation, in words

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
    evaluation: Sequence[LabelledVolume],
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
        Labelled volumes; the members are chosen on the latter, all of them together.
    folder
        The run folder; made, or gone on with.
    start
        Weights of members to begin with (fine-tuning); each restart takes the next one. They stay what they are
        where the members that come of them are no better.
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
    remove_remains(folder)
    run = _same_run(run, train, evaluation, folder, start)
    members = []
    for seed in range(run.seed, run.seed + run.restarts):
        first = start[(seed - run.seed) % len(start)] if start else None
        members.append(_member(run, train, evaluation, folder, seed, first, progress))
        write_png(folder / "curves.png", render_curves({f"seed {m.seed}": m.history for m in members}))
    kept = _best(members, run)
    ensemble, scores = _ensemble(run, [m.weights for m in kept], evaluation)
    _log.info("ensemble of %d: mean IoU %.4f; best member %.4f", len(kept), scores.mean_iou, kept[0].scores.mean_iou)
    told: JsonObject = {
        "seeds kept": [m.seed for m in kept],
        "mean IoU of all restarts": {str(m.seed): round(m.scores.mean_iou, 4) for m in members},
    }
    if start is not None:
        before, its_scores = _ensemble(run, start[: run.keep], evaluation)
        told["mean IoU before fine-tuning"] = round(its_scores.mean_iou, 4)
        if not _is_better(scores, its_scores):
            kept, ensemble, scores = _starts(run, start, evaluation), before, its_scores
            told["seeds kept"] = []
    shown = evaluation[0]
    _write_sample(run, shown, predict_labels(shown.image, ensemble, run.recipe.window), folder)
    identity = to_builtins(_identity(run, train, evaluation, start))
    provenance = {"trained by": f"densecell-batch {__version__}", **identity, **told}
    return _write(run, train, evaluation, kept, ensemble, scores, folder, provenance)


def _ensemble(
    run: TrainingRun, members: list[Arrays], evaluation: Sequence[LabelledVolume]
) -> tuple[Predictor, Scores]:
    """Nets as an ensemble, and what it is worth."""
    ensemble = Predictor(run.architecture, members, run.recipe.inference_precision)
    return ensemble, judged(ensemble, run.recipe.window, evaluation)


def _is_better(after: Scores, before: Scores) -> bool:
    """Whether fine-tuning gained anything, and a word about it. Members each as good as before may still agree more,
    and so be worth less together.
    """
    better = after.mean_iou > before.mean_iou
    if better:
        _log.info("fine-tuning: mean IoU %.4f before, %.4f after", before.mean_iou, after.mean_iou)
    else:
        _log.warning(
            "fine-tuning found nothing better on the evaluation stacks than what it began with, of a mean IoU of %.4f: "
            "the bundle has those weights; give more labels, more steps, or another --learning-rate",
            before.mean_iou,
        )
    return better


def _starts(run: TrainingRun, start: list[Arrays], evaluation: Sequence[LabelledVolume]) -> list[TrainedMember]:
    """The nets that a run began with, as its members."""
    return [
        TrainedMember(run.seed + i, weights, _ensemble(run, [weights], evaluation)[1], [])
        for i, weights in enumerate(start[: run.keep])
    ]


def _best(members: list[TrainedMember], run: TrainingRun) -> list[TrainedMember]:
    """The members of the ensemble, best first."""
    whole = [m for m in members if not m.abandoned]
    for m in members:
        if m.abandoned:
            _log.warning("seed %d was abandoned at a mean IoU of %.3f", m.seed, m.scores.mean_iou)
    if not whole:
        raise OptionError(
            f"every member was abandoned: none reached a mean IoU of {run.recipe.floor:g} in its trial; check "
            "the labels (is class 0 what it should be?), or, with another run folder, train longer or give a lower "
            "--floor"
        )
    return sorted(whole, key=lambda m: (-m.scores.mean_iou, m.seed))[: run.keep]


def _member(
    run: TrainingRun,
    train: list[LabelledVolume],
    evaluation: Sequence[LabelledVolume],
    folder: Path,
    seed: int,
    start: Arrays | None,
    progress: Progress,
) -> TrainedMember:
    """Train a member, or read the state of one that is trained."""

    def log(row: dict[str, float]) -> None:
        with explained(path := folder / "log.jsonl"), path.open("a", encoding="utf-8") as stream:
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
    run: TrainingRun,
    train: list[LabelledVolume],
    evaluation: Sequence[LabelledVolume],
    folder: Path,
    start: list[Arrays] | None,
) -> TrainingRun:
    """Hold the run to what its folder was begun with; the run with its number of steps."""
    path = folder / "run.json"
    if path.exists():
        try:
            if not path.is_file() or path.stat().st_size > _MAX_RUN_BYTES:
                raise ValueError("it is no file of a run")
            found = parse_json(path.read_bytes())
            if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
                raise ValueError("it is no description of a run")
            # As it was when there was no choice.
            as_it_was: JsonObject = {"scale": [1.0, 1.0, 1.0], "taught_by": [], "ignore_label": None, "held_back": []}
            for name, before in as_it_was.items():
                found.setdefault(name, before)
        except (OSError, ValueError) as error:
            raise OptionError(f"{path}: cannot be read ({error}); give another run folder") from error
        if run.minutes is not None:
            for field in ("steps", "evaluate_every"):
                if not isinstance(found["recipe"].get(field), int) or not 0 < found["recipe"][field] < 2**31:
                    raise OptionError(f"{path}: {field} is no number above 0; give another run folder")
            recipe = run.recipe.over(found["recipe"]["steps"])
            run = replace(run, recipe=replace(recipe, evaluate_every=found["recipe"]["evaluate_every"]))
        if run.any_precision and found["recipe"].get("precision") in ("float32", "mixed_bfloat16"):
            run = replace(run, recipe=replace(run.recipe, precision=found["recipe"]["precision"]))
        wanted = to_builtins(_identity(run, train, evaluation, start))
        changed = differences(found, wanted)
        if changed:
            differs = printable("; ".join(changed)[:2000])
            raise OptionError(
                f"{folder} holds a run that was begun otherwise: {differs}; to resume it, give what it was "
                "begun with, else another run folder"
            )
        return run
    for state in sorted(folder.glob("member-*.state")):
        raise OptionError(
            f"{state}: nothing says of what training it is, for {path} is not there; put that back, or give another "
            "run folder"
        )
    if run.minutes is not None:
        run = replace(run, recipe=run.recipe.over(run.minutes_as_steps or steps_in(run, train)))
    identity = json.dumps(to_builtins(_identity(run, train, evaluation, start)), indent=2)
    try:
        write_file(path, identity.encode(), replace=False)
    except OccupiedError as error:
        raise OptionError(
            f"{folder}: another process began a run there meanwhile; run the same command again once that has ended, "
            "or give another run folder"
        ) from error
    return run


def steps_in(run: TrainingRun, train: list[LabelledVolume]) -> int:
    """About how many steps there are in the minutes of a run."""
    assert run.minutes is not None
    seconds = seconds_per_step(run.architecture, train, run.recipe)
    steps = min(max(20, round(60 * run.minutes / seconds)), 2**31 - 1)
    _log.info("%.3f s a step: %d steps in %g minutes", seconds, steps, run.minutes)
    return steps


def _identity(
    run: TrainingRun, train: list[LabelledVolume], evaluation: Sequence[LabelledVolume], start: list[Arrays] | None
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
        evaluation=[checksum for volume in evaluation for checksum in volume.sha256],
        scale=list(run.scale),
        taught_by=list(run.taught_by),
        ignore_label=run.ignore_label,
        held_back=list(run.held_back),
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
    evaluation: Sequence[LabelledVolume],
    kept: list[TrainedMember],
    ensemble: Predictor,
    scores: Scores,
    folder: Path,
    provenance: JsonObject,
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
        voxel_size=next((volume.voxel_size for volume in train if volume.voxel_size is not None), None),
        window=run.recipe.window,
        members=weights,
        golden=golden_pair(run.architecture, weights, run.recipe.window),
        scores={"evaluation": _as_dict(scores, run), "members": [_as_dict(m.scores, run) for m in kept]},
        provenance=provenance,
        own_data=own_records(train, evaluation, ensemble, run.recipe.window, run.scale),
        quantization=_quantization(run, weights, train, evaluation),
        may_exist=True,  # an earlier one of this very run, made when fewer members were kept, say
    )
    bundle = load_bundle(path)
    verify_bundle(bundle)
    return bundle


def _quantization(
    run: TrainingRun, weights: list[Arrays], train: list[LabelledVolume], evaluation: Sequence[LabelledVolume]
) -> Quantization | None:
    """What int8 needs, measured on the evaluation volumes; None where that cannot be: a bundle goes without it, too."""
    if not is_installed("openvino"):
        return None
    looked = [Looked(volume.image, *volume.truth) for volume in evaluation]
    images = [volume.image for volume in train]
    try:
        return measure_quantization(run.architecture, weights, run.recipe.window, looked, observed=images)
    except Exception as error:
        _log.warning("int8 could not be measured (%s): `models quantize` can, later", error)
        return None
