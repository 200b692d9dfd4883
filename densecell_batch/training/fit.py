"""Train one member: steps, schedule, running average of the weights, evaluation, checkpoints.

The state is a value: (step, weights, averaged weights, the averages of Adam, history). A checkpoint holds all of it,
and the windows follow from the step, so that a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.architecture import Architecture, tensor_shapes
from densecell_batch.atomic import write_file
from densecell_batch.errors import OptionError, Stopped
from densecell_batch.metrics import Scores, score
from densecell_batch.predict import Predictor
from densecell_batch.training.volumes import LabelledVolume
from densecell_batch.training.windows import Augmentation, Sampler

__all__ = ["Arrays", "Member", "Recipe", "fit_member", "predict_labels", "seconds_per_step"]

_log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

_TENSORS = ("weights", "averaged", "means", "squares")


@dataclass(frozen=True)
class Recipe:
    """How a member is trained. All of it decides the result; none of it may change when a run is resumed."""

    window: tuple[int, int, int] = (5, 160, 160)  # input (z, y, x)
    batch: int = 1
    steps: int = 3000
    learning_rate: float = 3e-3  # at its highest
    warm_up: int = 100  # steps of rising learning rate; then it falls along half a cosine to 0
    weight_decay: float = 1e-4
    average: float = 0.998  # share of the running average of the weights that a step keeps
    dice: float = 0.5  # weight of the Dice loss beside the cross-entropy
    rare: float = 0.33  # share of windows about a voxel of a class drawn first
    precision: str = "float32"  # or "mixed_bfloat16"
    evaluate_every: int = 250  # steps
    floor: float = 0.3  # mean IoU below which a member is abandoned once half of its steps are done
    augmentation: Augmentation = field(default_factory=Augmentation)

    def over(self, steps: int) -> Recipe:
        """The same over another number of steps, evaluated about twenty times."""
        return replace(self, steps=steps, evaluate_every=-(-steps // 20), warm_up=min(self.warm_up, steps // 10))

    @property
    def inference_precision(self) -> str:
        """What the evaluation computes in."""
        return self.precision.removeprefix("mixed_")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warm_up)
        return self.learning_rate * rise * 0.5 * (1 + float(np.cos(np.pi * step / self.steps)))


@dataclass(frozen=True)
class Member:
    """A trained net."""

    seed: int
    weights: Arrays  # averaged, under canonical names
    scores: Scores  # on the evaluation volume
    history: list[dict[str, float]]
    abandoned: bool = False  # its training was given up


@dataclass
class _State:
    step: int
    weights: list[Any]
    averaged: list[Any]
    means: list[Any]  # of the gradients, for Adam
    squares: list[Any]
    history: list[dict[str, float]]


def fit_member(
    architecture: Architecture,
    train: list[LabelledVolume],
    evaluation: LabelledVolume,
    recipe: Recipe,
    checkpoint: Path,
    seed: int,
    *,
    start: Arrays | None = None,
    progress: Callable[[dict[str, float]], None] = lambda row: None,
) -> Member:
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
        Weights to begin with, under canonical names, instead of random ones.
    progress
        Called with each row of the history.

    Raises
    ------
    Stopped
        After the state was saved, if the run is stopped.
    """
    from densecell_batch.nets import assign_weights, build_net

    net = build_net(architecture, recipe.window, recipe.precision)
    if start is None:
        _initialize(net, seed)
    else:
        assign_weights(net, start)
    state = _load(checkpoint, architecture, net) or _fresh(net)
    step_function = _compiled_step(net, recipe, _class_weights(train, architecture.n_classes))
    sampler = _sampler(train, architecture, recipe, seed)
    judge = Predictor(architecture, [_named(architecture, net, state.averaged)], recipe.inference_precision)

    def evaluate() -> Scores:
        judge.reload([_named(architecture, net, state.averaged)])
        labels = predict_labels(evaluation.image, judge, recipe.window)
        return score(evaluation.labels, labels, architecture.n_classes)

    losses: list[float] = []
    since = time.monotonic()
    try:
        with ThreadPoolExecutor(1, "densecell-windows") as reader:
            upcoming = reader.submit(sampler, state.step)
            while state.step < recipe.steps and not _hopeless(state, recipe):
                images, labels = upcoming.result()
                upcoming = reader.submit(sampler, state.step + 1)
                losses.append(_advance(state, step_function, recipe, images, labels))
                if state.step % recipe.evaluate_every == 0 or state.step == recipe.steps:
                    found = evaluate()
                    seconds = (time.monotonic() - since) / len(losses)
                    row = {
                        "step": state.step,
                        "steps": recipe.steps,
                        "loss": round(float(np.mean(losses)), 5),
                        "mean_iou": round(found.mean_iou, 5),
                        "seconds_per_step": round(seconds, 4),
                    }
                    state.history.append(row)
                    progress(row)
                    _save(checkpoint, architecture, net, state)
                    losses, since = [], time.monotonic()
    except Stopped:
        _save(checkpoint, architecture, net, state)
        raise
    abandoned = state.step < recipe.steps
    return Member(seed, _named(architecture, net, state.averaged), evaluate(), state.history, abandoned)


def seconds_per_step(architecture: Architecture, train: list[LabelledVolume], recipe: Recipe) -> float:
    """Median time of a step, of some after the first ones, which trace and warm up; nothing is kept of them."""
    from densecell_batch.nets import build_net

    net = build_net(architecture, recipe.window, recipe.precision)
    step, state = _compiled_step(net, recipe, _class_weights(train, architecture.n_classes)), _fresh(net)
    batch = _sampler(train, architecture, recipe, 0)(0)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        _advance(state, step, recipe, *batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]))


def predict_labels(image: np.ndarray, predictor: Predictor, window: tuple[int, int, int]) -> np.ndarray:
    """Class map (z, y, x) uint8 of a normalized volume (z, y, x), with the tiles and the stitch of `segment`."""
    from densecell_batch.ensemble import combine
    from densecell_batch.planning import plan_tiles
    from densecell_batch.stitch import Canvas

    shape, net = (image.shape[0], image.shape[1], image.shape[2]), predictor.architecture
    plan = plan_tiles(shape, net, window, precision=predictor.precision, members=len(predictor))
    canvas, labels = Canvas(plan.grid, plan.rule, net.n_classes), np.empty(shape, np.uint8)
    for row in range(len(plan.grid.z.corners)):
        for tile in plan.grid.row(row):
            indices = (axis.input_indices(i) for axis, i in zip(plan.grid.axes, tile.index, strict=True))
            canvas.paint(tile, *combine(predictor(image[np.ix_(*indices)])))
        for finished in canvas.finished(row):
            labels[finished.z] = finished.labels
    return labels


def _sampler(train: list[LabelledVolume], architecture: Architecture, recipe: Recipe, seed: int) -> Sampler:
    return Sampler(
        train,
        recipe.window,
        recipe.batch,
        architecture.n_classes,
        augmentation=recipe.augmentation,
        rare=recipe.rare,
        seed=seed,
    )


def _class_weights(train: list[LabelledVolume], n_classes: int) -> np.ndarray:
    from densecell_batch.training.losses import class_weights

    sizes = np.array([volume.labels.size for volume in train], float)
    shares = np.array([volume.frequencies(n_classes) for volume in train])
    return class_weights((shares * sizes[:, None]).sum(0) / sizes.sum())


def _compiled_step(net: Any, recipe: Recipe, class_weights: Any) -> Callable[..., Any]:
    """(weights, averaged, means, squares, [rate, count, keep], images, labels) -> the first four after it; the loss."""
    from densecell_batch.nets import compiled
    from densecell_batch.training.adam import Adam
    from densecell_batch.training.losses import improved_loss, value_and_gradients

    adam = Adam(decay=recipe.weight_decay)

    def step(
        weights: list[Any],
        averaged: list[Any],
        means: list[Any],
        squares: list[Any],
        numbers: Any,
        images: Any,
        labels: Any,
    ) -> Any:
        rate, count, keep = numbers[0], numbers[1], numbers[2]

        def loss(variables: list[Any]) -> Any:
            outputs, _ = net.stateless_call(variables, [], images, training=True)
            return improved_loss(labels, outputs, class_weights, recipe.dice)

        value, gradients = value_and_gradients(loss, weights)
        weights, means, squares = adam.step(weights, gradients, means, squares, rate, count)
        averaged = [keep * a + (1 - keep) * w for a, w in zip(averaged, weights, strict=True)]
        return weights, averaged, means, squares, value

    return compiled(step)


def _advance(state: _State, step: Callable[..., Any], recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> float:
    """Take one step; the loss before it."""
    # The first weights are noise: the average forgets them as fast as it has better ones.
    keep = min(recipe.average, (1 + state.step) / (10 + state.step))
    numbers = np.array([recipe.rate(state.step), state.step + 1, keep], np.float32)
    *tensors, loss = step(state.weights, state.averaged, state.means, state.squares, numbers, images, labels)
    state.weights, state.averaged, state.means, state.squares = map(list, tensors)
    state.step += 1
    value = float(loss)
    if not np.isfinite(value):
        raise OptionError(
            f"the loss of step {state.step} is {value}: the training diverged; try a lower --learning-rate, or float32"
        )
    return value


def _named(architecture: Architecture, net: Any, values: list[Any]) -> Arrays:
    """Values of the trainable variables, in their order, under canonical names."""
    from densecell_batch.nets.layers import layer_name

    by_layer = {
        (layer.name, variable.name): np.asarray(value, np.float32)
        for (layer, variable), value in zip(_layer_variables(net), values, strict=True)
    }
    named = {}
    for name in tensor_shapes(architecture):
        layer, part = name.rsplit("/", 1)
        named[name] = by_layer[layer_name(layer), part]
    return named


def _layer_variables(net: Any) -> list[tuple[Any, Any]]:
    """Each trainable variable of a net with its layer, in the order of `net.trainable_variables`."""
    owner = {id(variable): layer for layer in net.layers for variable in layer.trainable_variables}
    return [(owner[id(variable)], variable) for variable in net.trainable_variables]


def _hopeless(state: _State, recipe: Recipe) -> bool:
    """Whether the last evaluation came late and was poor: some random weights lead nowhere (Guay et al. 2021)."""
    last = state.history[-1] if state.history else None
    return last is not None and 2 * last["step"] >= recipe.steps and last["mean_iou"] < recipe.floor


def _initialize(net: Any, seed: int) -> None:
    """Draw the kernels so that the variance of the features stays as it is from layer to layer (He et al. 2015,
    arXiv:1502.01852): 2 / fan-in before a ReLU, 1 / fan-in elsewhere. Without any normalization between the layers, the
    published Glorot-uniform kernels halve it in each of them.
    """
    rng = np.random.default_rng((seed, len(net.layers)))
    for layer in net.layers:
        if layer.weights:
            shape = tuple(layer.kernel.shape)
            transposed = "upsample" in layer.name  # its kernel is its stride: an output voxel has one tap a channel
            fan_in = shape[-1] if transposed else np.prod(shape[:-1])
            gain = 2.0 if getattr(layer.activation, "__name__", "") == "relu" else 1.0
            layer.kernel.assign(rng.standard_normal(shape) * np.sqrt(gain / fan_in))


def _fresh(net: Any) -> _State:
    from densecell_batch.nets import ops

    weights = [ops.copy(v.value) for v in net.trainable_variables]
    zeros = [ops.zeros_like(w) for w in weights]
    return _State(0, weights, list(weights), zeros, list(zeros), [])


def _save(path: Path, architecture: Architecture, net: Any, state: _State) -> None:
    """Write the whole state, so that it is there whole or not at all."""
    from safetensors.numpy import save

    arrays: Arrays = {}
    for kind in _TENSORS:
        arrays |= {f"{kind}/{name}": value for name, value in _named(architecture, net, getattr(state, kind)).items()}
    metadata = {"step": str(state.step), "history": json.dumps(state.history)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata))


def _load(path: Path, architecture: Architecture, net: Any) -> _State | None:
    """The state in a checkpoint; None where there is none."""
    from safetensors import safe_open

    from densecell_batch.nets import ops
    from densecell_batch.nets.layers import layer_name

    if not path.exists():
        return None
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    canonical = {}
    for name in tensor_shapes(architecture):
        layer, part = name.rsplit("/", 1)
        canonical[layer_name(layer), part] = name
    order = [canonical[layer.name, variable.name] for layer, variable in _layer_variables(net)]
    weights, averaged, means, squares = (
        [ops.convert_to_tensor(arrays[f"{kind}/{name}"]) for name in order] for kind in _TENSORS
    )
    state = _State(int(metadata["step"]), weights, averaged, means, squares, json.loads(metadata["history"]))
    _log.info("%s: going on after step %d", path, state.step)
    return state
