"""Keras 3 models of the configurations in `nets.architecture`: nets only, no normalization, no files."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from densecell_batch.nets.backend import quiet_stderr

with quiet_stderr():
    import keras
    from keras import ops

from densecell_batch.errors import OptionError
from densecell_batch.nets.architecture import Architecture, layer_name, tensor_shapes, too_small
from densecell_batch.nets.families import logits
from densecell_batch.nets.layers import KerasGraph

__all__ = ["assign_weights", "build_net", "extract_weights", "ops"]

# Each member and each tile shape is a function of its own; TensorFlow suspects a mistake and warns of it at length.
logging.getLogger("tensorflow").setLevel(logging.ERROR)


def build_net(
    architecture: Architecture, shape: tuple[int, int, int], dtype: str = "float32", *, normalized: bool = False
) -> keras.Model:
    """Build the net of an architecture for inputs of one spatial shape, freshly initialized.

    Parameters
    ----------
    architecture
        The configuration.
    shape
        Input (z, y, x). A 2D net takes its slices as the batch: (z, y, x, 1) instead of (n, z, y, x, 1).
    dtype
        Keras dtype policy: "float32", "bfloat16", "float16", or "mixed_bfloat16" to train.
    normalized
        Whether batch normalizations follow the convolutions, to train. No bundle holds such a net: it is folded first.

    Returns
    -------
    keras.Model
        Its outputs are a list of logits, the deciding ones first.

    Raises
    ------
    OptionError
        If the input is too small for the net.
    """
    if too_small(architecture, shape):
        raise OptionError(f"an input of {shape} (z, y, x) is too small for a {architecture.family} net")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        image, outputs = logits(KerasGraph(normalized), architecture, shape)
        return keras.Model(image, outputs, name=architecture.family)
    finally:
        keras.config.set_dtype_policy(before)


def assign_weights(net: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Set every tensor of a net from canonical names; casts to the dtype of the net.

    Raises
    ------
    KeyError
        If a tensor is missing. Bundles are checked before, so this is a defect.
    """
    for layer in net.layers:
        if layer.weights:
            prefix = next(name[: -len("/kernel")] for name in weights if layer_name(name) == f"{layer.name}.kernel")
            layer.kernel.assign(weights[f"{prefix}/kernel"])
            layer.bias.assign(weights[f"{prefix}/bias"])


def extract_weights(net: keras.Model, architecture: Architecture) -> dict[str, np.ndarray]:
    """Every tensor of a net as float32 under its canonical name."""
    tensors = {}
    for name in tensor_shapes(architecture):
        layer, part = name.rsplit("/", 1)
        tensors[name] = np.asarray(getattr(net.get_layer(layer_name(layer)), part), dtype=np.float32)
    return tensors
