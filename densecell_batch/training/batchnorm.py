"""Batch normalization for training alone: folded into the convolutions, it leaves a plain net.

The published nets have no normalization, and nets of that kind train slowly. A normalized convolution
``gamma (w x - mean) / sqrt(var + epsilon) + beta`` is a convolution with another kernel and a bias, so a net can be
trained with normalizations and be segmented with, and published, without. The means and variances are taken when they
are needed, from training windows under the very weights that are folded [2]_: a running average would lag behind them.

References
----------
.. [1] Ioffe, Szegedy 2015, "Batch normalization", arXiv:1502.03167.
.. [2] Wu, Johnson 2021, "Rethinking 'batch' in BatchNorm", arXiv:2105.07576, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from densecell_batch.nets.architecture import Architecture, layer_name, tensor_shapes

__all__ = ["folded", "statistics_function"]

Arrays = dict[str, np.ndarray]


def statistics_function(net: Any) -> Callable[[list[Any], Any], list[Any]]:
    """(trainable values, images) -> the mean and the variance of the images in each normalization of a net, in the
    order of `net.non_trainable_variables`. Empty for a net without normalizations.
    """
    from densecell_batch.nets.backend import compiled

    fixed = [variable.value for variable in net.non_trainable_variables]

    def measure(weights: list[Any], images: Any) -> list[Any]:
        _, measured = net.stateless_call(weights, fixed, images, training=True)
        return list(measured)

    return compiled(measure)


def folded(net: Any, architecture: Architecture, weights: list[Any], statistics: Iterable[list[Any]]) -> Arrays:
    """The plain net that does what a net does with fixed statistics.

    Parameters
    ----------
    net
        Gives the order and the kind of the variables; its own values do not matter.
    architecture
        Of the net.
    weights
        Values of its trainable variables.
    statistics
        For each of some batches, what `statistics_function` says: of all batches together the means and variances are
        taken.

    Returns
    -------
    dict
        Float32 tensors under canonical names.
    """
    values = dict(_values(net, net.trainable_variables, weights))
    if net.non_trainable_variables:
        values |= _pooled([dict(_values(net, net.non_trainable_variables, batch)) for batch in statistics])
    tensors = {}
    for name in tensor_shapes(architecture):
        prefix, part = name.rsplit("/", 1)
        layer = layer_name(prefix)
        norm = f"{layer}.norm"
        if (norm, "gamma") not in values:
            tensors[name] = values[layer, part]
            continue
        scale = values[norm, "gamma"] / np.sqrt(values[norm, "moving_variance"] + net.get_layer(norm).epsilon)
        kernel, bias = values[layer, "kernel"] * scale, values[norm, "beta"] - values[norm, "moving_mean"] * scale
        tensors[name] = (kernel if part == "kernel" else bias).astype(np.float32)
    return tensors


def _pooled(batches: list[dict[tuple[str, str], np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    """((layer, variable), value) of all batches as one, float64: their variances, and what their means differ by."""
    found: dict[tuple[str, str], np.ndarray] = {}
    with np.errstate(invalid="ignore", over="ignore"):  # of a training that diverges: its loss tells
        for layer, kind in batches[0]:
            found[layer, kind] = np.stack([each[layer, kind] for each in batches]).mean(axis=0, dtype=np.float64)
            if kind == "moving_variance":
                means = [each[layer, "moving_mean"] for each in batches]
                found[layer, kind] += np.var(means, axis=0, dtype=np.float64)
    return found


def _values(net: Any, variables: list[Any], values: list[Any]) -> Iterable[tuple[tuple[str, str], np.ndarray]]:
    """((layer, variable), value) of some variables of a net."""
    owner = {id(variable): layer.name for layer in net.layers for variable in layer.variables}
    for variable, value in zip(variables, values, strict=True):
        yield (owner[id(variable)], variable.name), np.asarray(value, np.float32)
