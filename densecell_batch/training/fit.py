"""Train one member: steps, schedule, running average of the weights, evaluation, checkpoints.

The state is a value: (step, weights, averaged weights, the averages of Adam, history, best weights, losses since the
last evaluation). A checkpoint holds all of it, and the windows follow from the step, so that a run that was killed goes
on as if nothing had happened. A signal may raise Stopped between any two lines: a step changes all of it or nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.errors import OptionError, Stopped
from densecell_batch.inference.volume import predict_labels
from densecell_batch.measure.metrics import Scores, added, score
from densecell_batch.nets.architecture import Architecture, UNet2D
from densecell_batch.nets.predictor import Predictor
from densecell_batch.printable import printable
from densecell_batch.storage.atomic import make_folder, write_file
from densecell_batch.training.batchnorm import folded, statistics_function
from densecell_batch.training.recipes import Recipe
from densecell_batch.training.volumes import LabelledVolume
from densecell_batch.training.windows import Batch, flattened

__all__ = ["Arrays", "TrainedMember", "fit_member", "judged", "seconds_per_step"]

_log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

_MEASURED = 16  # windows that the statistics of the normalizations are taken of
_WARM = 5  # steps before the time of steps is measured
_PACED, _PACED_SECONDS = 40, 15.0  # steps that it is measured on, or as many as so many seconds hold
_TENSORS = ("weights", "averaged", "means", "squares")


@dataclass(frozen=True)
class TrainedMember:
    """A trained net."""

    seed: int
    weights: Arrays  # those with the best mean IoU of all evaluations, averaged, under canonical names
    scores: Scores  # on the evaluation volumes together
    history: list[dict[str, float]]  # of a net that did not begin with random weights, from step 0 on
    abandoned: bool = False  # its training was given up


@dataclass
class _State:
    step: int
    weights: list[Any]
    averaged: list[Any]
    means: list[Any]  # of the gradients, for Adam
    squares: list[Any]
    history: list[dict[str, float]]
    best: Arrays = field(default_factory=dict)  # plain weights of the evaluation with the highest mean IoU
    losses: list[float] = field(default_factory=list)  # of the steps since the last evaluation
    seconds: float = 0.0  # that these steps took


def fit_member(
    architecture: Architecture,
    train: list[LabelledVolume],
    evaluation: Sequence[LabelledVolume],
    recipe: Recipe,
    checkpoint: Path,
    seed: int,
    *,
    start: Arrays | None = None,
    progress: Callable[[dict[str, float]], None] = lambda row: None,
) -> TrainedMember:
    """Train a net, from its checkpoint where there is one.

    Parameters
    ----------
    architecture
        Of the net.
    train, evaluation
        Labelled volumes.
    recipe
        How.
    checkpoint
        File of the state; written at each evaluation and when the run is stopped.
    seed
        Of the initial weights and of the windows.
    start
        Weights to begin with, under canonical names, instead of random ones. They are evaluated first, and are kept
        if no later evaluation beats them; such a training is never abandoned.
    progress
        Called with each row of the history; that of step 0 has no loss and no time.

    Raises
    ------
    Stopped
        After the state was saved, if the run is stopped.
    """
    from densecell_batch.nets.build import assign_weights, build_net

    net = build_net(architecture, recipe.window, recipe.precision, normalized=recipe.normalized)
    if start is None:
        _initialize(net, recipe, seed)
    else:
        assign_weights(net, start)
    state = _load(checkpoint, net) or _fresh(net)
    step_function = _compiled_step(net, recipe)
    source = recipe.sampler(train, architecture, seed)
    sampler, trial = _flat_for(architecture, source), recipe.trial(source.epoch)
    plain = _folding(net, architecture, recipe, train, seed)
    judge = Predictor(architecture, [plain(state.averaged)], recipe.inference_precision)

    def evaluate(weights: Arrays) -> Scores:
        judge.reload([weights])
        return judged(judge, recipe.window, evaluation)

    try:
        if start is not None and not state.history:
            progress(_note_start(state, recipe, start, evaluate(start).mean_iou))
            _save(checkpoint, net, state)
        with ThreadPoolExecutor(1, "densecell-windows") as reader:
            upcoming = reader.submit(sampler, state.step)
            while True:
                if _is_due(state, recipe):  # perhaps since before a stop
                    weights = plain(state.averaged)
                    progress(_note(state, recipe, weights, evaluate(weights).mean_iou))
                    _save(checkpoint, net, state)
                if state.step >= recipe.steps or (start is None and _hopeless(state, recipe, trial)):
                    break
                since = time.monotonic()
                batch = upcoming.result()
                upcoming = reader.submit(sampler, state.step + 1)
                _advance(state, step_function, recipe, batch)
                state.seconds += time.monotonic() - since
    except Stopped:
        _save(checkpoint, net, state)
        raise
    abandoned = state.step < recipe.steps
    return TrainedMember(seed, state.best, evaluate(state.best), state.history, abandoned)


def _folding(
    net: Any, architecture: Architecture, recipe: Recipe, train: list[LabelledVolume], seed: int
) -> Callable[[list[Any]], Arrays]:
    """The plain net of the trainable values of a net; with statistics of windows that are always the same, if any."""
    if not recipe.normalized:
        return lambda weights: folded(net, architecture, weights, [])
    measure = statistics_function(net)
    windows = _flat_for(architecture, recipe.plain_sampler(train, architecture, seed))

    def plain(weights: list[Any]) -> Arrays:
        images = (windows(recipe.steps + i)[0] for i in range(_MEASURED))
        return folded(net, architecture, weights, [measure(weights, each) for each in images])

    return plain


def judged(predictor: Predictor, window: tuple[int, int, int], volumes: Sequence[LabelledVolume]) -> Scores:
    """What an ensemble is worth on labelled volumes: their confusions added up, and the classes scored that they have.

    Parameters
    ----------
    predictor
        The ensemble.
    window
        Input window (z, y, x) of its training.
    volumes
        As it sees them.
    """
    found = []
    for volume in volumes:
        truth, counted = volume.truth
        labels = predict_labels(volume.image, predictor, window, truth.shape)
        found.append(score(truth, labels, predictor.architecture.n_classes, counted))
    return replace(added(found), of_true=True)


def _note_start(state: _State, recipe: Recipe, start: Arrays, mean_iou: float) -> dict[str, float]:
    """The first row of a history, of the weights that are begun with: what has to be beaten."""
    row = {"step": 0, "steps": recipe.steps, "mean_iou": round(mean_iou, 5)}
    state.best = start
    state.history.append(row)
    return row


def _is_due(state: _State, recipe: Recipe) -> bool:
    """Whether an evaluation comes next: it stands before the next step, and there were steps since the last one."""
    return bool(state.losses) and (state.step % recipe.evaluate_every == 0 or state.step >= recipe.steps)


def _note(state: _State, recipe: Recipe, weights: Arrays, mean_iou: float) -> dict[str, float]:
    """A row of the history, for the steps since the last one; the weights are kept if they are the best so far."""
    row = {
        "step": state.step,
        "steps": recipe.steps,
        "loss": round(float(np.mean(state.losses)), 5),
        "mean_iou": round(mean_iou, 5),
        "seconds_per_step": round(state.seconds / len(state.losses), 4),
    }
    if not state.best or row["mean_iou"] > max(earlier["mean_iou"] for earlier in state.history):
        state.best = weights
    vars(state).update(history=[*state.history, row], losses=[], seconds=0.0)  # in one go, as in a step
    return row


def seconds_per_step(architecture: Architecture, train: list[LabelledVolume], recipe: Recipe) -> float:
    """Mean time of some steps and the drawing of their windows, after the first ones, which trace and warm up; nothing
    is kept of them.
    """
    from densecell_batch.nets.build import build_net

    net = build_net(architecture, recipe.window, recipe.precision, normalized=recipe.normalized)
    step, state = _compiled_step(net, recipe), _fresh(net)
    sampler = _flat_for(architecture, recipe.sampler(train, architecture, 0))
    ends: list[float] = []
    with ThreadPoolExecutor(1, "densecell-windows") as reader:
        upcoming = reader.submit(sampler, 0)
        while len(ends) < _WARM + _PACED and (len(ends) < _WARM + 2 or ends[-1] - ends[_WARM] < _PACED_SECONDS):
            batch = upcoming.result()
            upcoming = reader.submit(sampler, len(ends) + 1)
            _advance(state, step, recipe, batch)
            ends.append(time.perf_counter())
    return (ends[-1] - ends[_WARM]) / (len(ends) - 1 - _WARM)


def _flat_for(architecture: Architecture, source: Callable[[int], Batch]) -> Callable[[int], Batch]:
    """A source whose windows have the shape that a net takes."""
    return (lambda step: flattened(source(step))) if isinstance(architecture, UNet2D) else source


def _compiled_step(net: Any, recipe: Recipe) -> Callable[..., Any]:
    """(weights, averaged, means, squares, [rate, count, keep], *batch) -> the first four after the step, and the loss
    before it.
    """
    from densecell_batch.nets.backend import compiled, value_and_gradients
    from densecell_batch.training.losses import cropped

    adam, loss = recipe.adam(), recipe.loss()
    fixed = [variable.value for variable in net.non_trainable_variables]
    names = [name.replace(".", "/") for name in _names(net)]

    def step(
        weights: list[Any],
        averaged: list[Any],
        means: list[Any],
        squares: list[Any],
        numbers: Any,
        images: Any,
        labels: Any,
        errors: Any,
    ) -> Any:
        rate, count, keep = numbers[0], numbers[1], numbers[2]

        def of(variables: list[Any]) -> Any:
            found, _ = net.stateless_call(variables, fixed, images, training=True)
            outputs = found if isinstance(found, list) else [found]
            sides = outputs[0].shape[1:-1]
            tensors = dict(zip(names, variables, strict=True))
            return loss(cropped(labels, sides), cropped(errors, sides), outputs, tensors)

        value, gradients = value_and_gradients(of, weights)
        weights, means, squares = adam.step(weights, gradients, means, squares, rate, count)
        averaged = [keep * a + (1 - keep) * w for a, w in zip(averaged, weights, strict=True)]
        return weights, averaged, means, squares, value

    return compiled(step)


def _advance(state: _State, step: Callable[..., Any], recipe: Recipe, batch: Batch) -> None:
    """Take one step; the loss before it is added to those of the state."""
    # The first weights are noise: the average forgets them as fast as it has better ones.
    keep = min(recipe.average, (1 + state.step) / (10 + state.step))
    numbers = np.array([recipe.rate(state.step), state.step + 1, keep], np.float32)
    *tensors, loss = step(state.weights, state.averaged, state.means, state.squares, numbers, *batch)
    value = float(loss)
    if not np.isfinite(value):
        raise OptionError(
            f"the loss of step {state.step + 1} is {value}: the training diverged; try a lower --learning-rate, or "
            "float32"
        )
    after = dict(zip(_TENSORS, map(list, tensors), strict=True))
    vars(state).update(after, step=state.step + 1, losses=[*state.losses, value])


def _names(net: Any) -> list[str]:
    """LAYER/VARIABLE for each trainable variable of a net, in their order."""
    owner = {id(variable): layer.name for layer in net.layers for variable in layer.trainable_variables}
    return [f"{owner[id(variable)]}/{variable.name}" for variable in net.trainable_variables]


def _hopeless(state: _State, recipe: Recipe, trial: int) -> bool:
    """Whether the last evaluation came late and was poor: some random weights lead nowhere (Guay et al. 2021)."""
    last = state.history[-1] if state.history else None
    return last is not None and last["step"] >= trial and last["mean_iou"] < recipe.floor


def _initialize(net: Any, recipe: Recipe, seed: int) -> None:
    """Draw the kernels; all other variables are as Keras has them."""
    rng = np.random.default_rng((seed, len(net.layers)))
    for layer in net.layers:
        if hasattr(layer, "kernel"):
            kind = next((kind for kind in ("upsample", "predictor") if kind in layer.name), "conv")
            layer.kernel.assign(recipe.draw_kernel(rng, tuple(layer.kernel.shape), kind))


def _fresh(net: Any) -> _State:
    from densecell_batch.nets.build import ops

    weights = [ops.copy(v.value) for v in net.trainable_variables]
    zeros = [ops.zeros_like(w) for w in weights]
    return _State(0, weights, list(weights), zeros, list(zeros), [])


def _save(path: Path, net: Any, state: _State) -> None:
    """Write the whole state, so that it is there whole or not at all."""
    from safetensors.numpy import save

    arrays = {
        f"{kind}/{name}": np.ascontiguousarray(value, np.float32)
        for kind in _TENSORS
        for name, value in zip(_names(net), getattr(state, kind), strict=True)
    } | {f"best/{name}": np.ascontiguousarray(value) for name, value in state.best.items()}
    make_folder(path.parent)
    told = {"history": state.history, "losses": state.losses, "seconds": state.seconds}
    write_file(path, save(arrays, {"step": str(state.step), **{key: json.dumps(told[key]) for key in told}}))


def _load(path: Path, net: Any) -> _State | None:
    """The state in a checkpoint; None where there is none. Raises OptionError if it is none of this net."""
    from safetensors import SafetensorError, safe_open

    from densecell_batch.nets.build import ops

    if not path.exists():
        return None
    shapes = [tuple(variable.shape) for variable in net.trainable_variables]
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            step, history = int(metadata["step"]), json.loads(metadata["history"])
            losses, seconds = json.loads(metadata.get("losses", "[]")), float(metadata.get("seconds", 0))
            found = [[file.get_tensor(f"{kind}/{name}") for name in _names(net)] for kind in _TENSORS]
            best = {key.removeprefix("best/"): file.get_tensor(key) for key in file.keys() if key.startswith("best/")}  # noqa: SIM118
        if any([tensor.shape for tensor in tensors] != shapes for tensors in found):
            raise ValueError("its tensors are of another net")
        if not isinstance(history, list) or not all(
            isinstance(row, dict) and {"step", "mean_iou"} <= row.keys() for row in history
        ):
            raise ValueError("its history is none")
        if not isinstance(losses, list) or not np.isfinite(np.array(losses, float)).all():
            raise ValueError("its losses are none")
        if history and not best:
            raise ValueError("it lacks the weights of its best evaluation")
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
        raise OptionError(
            f"{path}: the state of the training cannot be read ({printable(error)}); delete it to train this member "
            "anew, or give another run folder"
        ) from error
    weights, averaged, means, squares = ([ops.convert_to_tensor(t) for t in tensors] for tensors in found)
    state = _State(step, weights, averaged, means, squares, history, best, losses, seconds)
    _log.info("%s: going on after step %d", path, state.step)
    return state
