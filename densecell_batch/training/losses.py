"""Losses over logits, written with `keras.ops` so that any backend differentiates them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densecell_batch.nets.build import ops

__all__ = ["cropped", "cross_entropy", "improved_loss", "published_loss", "published_penalty", "soft_dice"]

_SECOND = 0.33  # weight of the 2D predictor's loss (ref. Guay et al. 2021, and the published code)
_FEWEST = 0.01  # share of the voxels of a window below which those that count do not count the more


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Cross-entropy of each voxel: labels (...) int or (..., class) shares, logits (..., class) -> (...)."""
    logs = ops.log_softmax(logits, axis=-1)
    return -ops.sum(logs * _shares(labels, logits), axis=-1)


def soft_dice(labels: Any, logits: Any, weights: Any) -> Any:
    """Mean over the classes of 1 - 2 |p t| / (|p| + |t|), over all voxels of the batch; a scalar from 0 to 1.

    Voxels of weight 0 are left out; otherwise the weights do not matter. Each sum is taken for a part of what it would
    be if all voxels counted, so that the 1 that is added to both sides is as little as it is then: else a class without
    a labelled voxel in the window would be driven away by each voxel of the few that count.
    """
    probabilities = ops.softmax(logits, axis=-1)
    share = _counted_share(weights)
    counted = ops.cast(ops.greater(weights, 0), probabilities.dtype)[..., None]
    here = _shares(labels, probabilities) * counted
    axes = tuple(range(len(logits.shape) - 1))
    both = ops.sum(probabilities * here, axis=axes) / share
    each = (ops.sum(probabilities * counted, axis=axes) + ops.sum(here, axis=axes)) / share
    return ops.mean(1 - (2 * both + 1) / (each + 1))


def improved_loss(labels: Any, weights: Any, outputs: list[Any], dice: float = 0.5) -> Any:
    """Mean cross-entropy, weighted, plus Dice of the deciding predictor, and 0.33 of that of the other one.

    Means are over the voxels that count: where few are labelled, they have the say that all have elsewhere. Of a window
    of which next to nothing counts, it is less: some voxels shall not speak as loud as a window full of them.

    Parameters
    ----------
    labels, weights
        (n, z, y, x) int and float: classes and error weights of the output region; or (n, z, y, x, class) float, the
        share of each class.
    outputs
        Logits (n, z, y, x, class), the deciding ones first.
    dice
        Weight of the Dice term.
    """
    total: Any = 0.0
    share_that_counts = _counted_share(weights)
    for logits, share in zip(outputs, (1.0, _SECOND), strict=False):
        logits = ops.cast(logits, "float32")
        mean = ops.mean(cross_entropy(labels, logits) * weights) / share_that_counts
        loss = mean + dice * soft_dice(labels, logits, weights)
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
    sums = [ops.sum(cross_entropy(labels, ops.cast(logits, "float32")) * (weights + floor)) for logits in outputs]
    return sums[0], sums[1] if len(sums) > 1 else ops.zeros_like(sums[0])


def published_penalty(tensors: Mapping[str, Any], weights: Any) -> Any:
    """The published L2 term: gamma / 2 |v|^2 over the tensors.

    In the 2D-3D net gamma is 10**-4.7 for the 2D part's convolutions and 1e-9 for the predictors; transposed
    convolutions and the pyramid have none. In the 2D U-Net it is 1e-5 for all convolutions. The term is scaled by the
    share of voxels whose error weight is not 0.

    Parameters
    ----------
    tensors
        Canonical name -> tensor.
    weights
        Error weights, (n, z, y, x).
    """
    total: Any = 0.0
    flat = "predictor/logits/kernel" in tensors  # the 2D U-Net has one predictor
    for name, tensor in tensors.items():
        if flat and "upsample_conv" not in name:
            gamma = 1e-5
        elif name.startswith("net/") and "upsample_conv" not in name:
            gamma = 10**-4.7
        elif name.startswith("predictor"):
            gamma = 1e-9
        else:
            continue
        total = total + gamma / 2 * ops.sum(ops.square(tensor))
    return total * ops.mean(ops.cast(ops.not_equal(weights, 0), "float32"))


def _counted_share(weights: Any) -> Any:
    """Of the voxels, a scalar; `_FEWEST` where it is less."""
    return ops.maximum(ops.mean(ops.cast(ops.greater(weights, 0), "float32")), _FEWEST)


def _shares(labels: Any, logits: Any) -> Any:
    """Of each class, (..., class), where there are classes (...) or shares already."""
    if len(labels.shape) == len(logits.shape):
        return ops.cast(labels, logits.dtype)
    return ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def cropped(labels: Any, sides: tuple[int, ...]) -> Any:
    """The middle of (n, [z,] y, x, ...), with these sides [z,] y, x."""
    starts = [(a - b) // 2 for a, b in zip(labels.shape[1 : 1 + len(sides)], sides, strict=True)]
    return labels[(slice(None), *(slice(s, s + b) for s, b in zip(starts, sides, strict=True)))]
