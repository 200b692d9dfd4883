"""Losses over logits, written with `keras.ops` so that any backend differentiates them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = [
    "class_weights",
    "cross_entropy",
    "improved_loss",
    "published_loss",
    "published_penalty",
    "soft_dice",
    "value_and_gradients",
]

_SECOND = 0.33  # weight of the 2D predictor's loss (ref. Guay et al. 2021, and the published code)


def class_weights(frequencies: np.ndarray) -> np.ndarray:
    """Weights that rise with the rarity of a class as 1 / sqrt(frequency), 1 on average over the voxels.

    The square root is between leaving rare classes to chance and drowning frequent ones. Absent classes get 0.
    """
    weights = np.where(frequencies > 0, 1 / np.sqrt(np.maximum(frequencies, 1e-12)), 0)
    return (weights / (weights * frequencies).sum()).astype(np.float32)


def cross_entropy(labels: Any, logits: Any, weights: Any) -> Any:
    """Cross-entropy of each voxel times the weight of its class: labels (...) int, logits (..., class) -> (...)."""
    logs = ops.log_softmax(logits, axis=-1)
    here = ops.one_hot(labels, logits.shape[-1], dtype=logs.dtype)
    return -ops.sum(logs * here * weights, axis=-1)


def soft_dice(labels: Any, logits: Any) -> Any:
    """Mean over the classes of 1 - 2 |p t| / (|p| + |t|), over all voxels of the batch; a scalar from 0 to 1."""
    probabilities = ops.softmax(logits, axis=-1)
    here = ops.one_hot(labels, logits.shape[-1], dtype=probabilities.dtype)
    axes = tuple(range(len(logits.shape) - 1))
    both = ops.sum(probabilities * here, axis=axes)
    each = ops.sum(probabilities, axis=axes) + ops.sum(here, axis=axes)
    return ops.mean(1 - (2 * both + 1) / (each + 1))


def improved_loss(labels: Any, outputs: list[Any], weights: Any, dice: float = 0.5) -> Any:
    """Mean weighted cross-entropy plus Dice of the deciding predictor, and 0.33 of that of the other one.

    Parameters
    ----------
    labels
        (n, z, y, x) int, of the input window; cropped about the centre where the net loses a margin.
    outputs
        Logits (n, z, y', x', class), the deciding ones first.
    weights
        (class,) float.
    dice
        Weight of the Dice term.
    """
    total: Any = 0.0
    for logits, share in zip(outputs, (1.0, _SECOND), strict=False):
        logits = ops.cast(logits, "float32")
        truth = _cropped(labels, logits.shape[1:-1])
        loss = ops.mean(cross_entropy(truth, logits, weights)) + dice * soft_dice(truth, logits)
        total = total + share * loss
    return total


def published_loss(labels: Any, weights: Any, outputs: list[Any], floor: float = 0.01) -> tuple[Any, Any]:
    """The published data term: sums over the voxels, not means.

    Parameters
    ----------
    labels, weights
        (n, z, y, x) int and float: classes and error weights of the output region.
    outputs
        Logits of the 3D and of the 2D predictor; of the only one for a 2D net.
    floor
        Added to the error weights, so that every voxel counts a little.

    Returns
    -------
    tuple
        The weighted cross-entropy of the 3D predictor, and of the 2D predictor; the loss takes 0.33 of the latter.
    """
    sums = [ops.sum(cross_entropy(labels, ops.cast(logits, "float32"), 1.0) * (weights + floor)) for logits in outputs]
    return sums[0], sums[1] if len(sums) > 1 else ops.zeros_like(sums[0])


def published_penalty(tensors: Mapping[str, Any], weights: Any) -> Any:
    """The published L2 term: gamma / 2 |v|^2, gamma 10**-4.7 for the 2D part's convolutions, 1e-9 for the predictors.

    Transposed convolutions and the pyramid have none. It is scaled by the share of voxels whose error weight is not 0.

    Parameters
    ----------
    tensors
        Canonical name -> tensor.
    weights
        Error weights, (n, z, y, x).
    """
    total: Any = 0.0
    for name, tensor in tensors.items():
        if name.startswith("net/") and "upsample_conv" not in name:
            gamma = 10**-4.7
        elif name.startswith("predictor"):
            gamma = 1e-9
        else:
            continue
        total = total + gamma / 2 * ops.sum(ops.square(tensor))
    return total * ops.mean(ops.cast(ops.not_equal(weights, 0), "float32"))


def _cropped(labels: Any, sides: tuple[int, ...]) -> Any:
    """The middle of (n, z, y, x)."""
    starts = [(a - b) // 2 for a, b in zip(labels.shape[1:], sides, strict=True)]
    return labels[(slice(None), *(slice(s, s + b) for s, b in zip(starts, sides, strict=True)))]


def value_and_gradients(loss: Any, variables: list[Any]) -> tuple[Any, list[Any]]:
    """A scalar function of a list of tensors, and its gradient for each of them, with the backend of Keras."""
    if keras.backend.backend() == "jax":
        import jax

        value, gradients = jax.value_and_grad(loss)(variables)
        return value, gradients
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(variables)
        value = loss(variables)
    return value, tape.gradient(value, variables)
