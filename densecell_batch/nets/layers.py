"""Layers that both families share. Every layer has the canonical name of its tensors, "/" written as "."."""

from __future__ import annotations

import keras
from keras import ops

from densecell_batch.nets.architecture import layer_name

__all__ = ["conv", "crop_concat", "crop_to", "predictor", "upsample"]


def conv(
    x: keras.KerasTensor,
    filters: int,
    kernel: tuple[int, ...],
    name: str,
    *,
    padding: str = "same",
    normalized: bool = False,
) -> keras.KerasTensor:
    """Convolution of stride 1 with bias and ReLU; Glorot-uniform kernel, zero bias.

    To train, a batch normalization may stand between the two, in the place of the bias. Its moving averages have no
    memory: after a batch they are the mean and the variance of that batch (`training.normalized` folds them in).
    """
    layer = keras.layers.Conv3D if len(kernel) == 3 else keras.layers.Conv2D
    if not normalized:
        return layer(filters, kernel, padding=padding, activation="relu", name=layer_name(name))(x)
    x = layer(filters, kernel, padding=padding, use_bias=False, name=layer_name(name))(x)
    return ops.relu(keras.layers.BatchNormalization(momentum=0.0, name=f"{layer_name(name)}.norm")(x))


def predictor(x: keras.KerasTensor, n_classes: int, name: str, *, relu: bool) -> keras.KerasTensor:
    """Logits, a 1x1 convolution; always in float32.

    Logits rounded to bfloat16 are the largest part of its disagreement with float32 (docs/design/0002-precision.md).
    """
    spatial = len(x.shape) - 2
    layer = keras.layers.Conv3D if spatial == 3 else keras.layers.Conv2D
    activation = "relu" if relu else None
    return layer(n_classes, (1,) * spatial, activation=activation, dtype="float32", name=layer_name(name))(x)


def upsample(x: keras.KerasTensor, filters: int, factors: tuple[int, ...], name: str) -> keras.KerasTensor:
    """Transposed convolution whose kernel is its stride, with bias and no activation."""
    layer = keras.layers.Conv3DTranspose if len(factors) == 3 else keras.layers.Conv2DTranspose
    return layer(filters, factors, strides=factors, padding="valid", name=layer_name(name))(x)


def crop_to(x: keras.KerasTensor, sides: tuple[int, ...]) -> keras.KerasTensor:
    """Centre-crop the spatial axes of (n, ..., c) to `sides`; the low side loses (a - b) // 2 (spec of ref. 1)."""
    starts = [(a - b) // 2 for a, b in zip(x.shape[1:-1], sides, strict=True)]
    if all(a == b for a, b in zip(x.shape[1:-1], sides, strict=True)):
        return x
    return x[(slice(None), *(slice(s, s + b) for s, b in zip(starts, sides, strict=True)))]


def crop_concat(skip: keras.KerasTensor, up: keras.KerasTensor) -> keras.KerasTensor:
    """Crop both to the smaller of each side, then concatenate [skip, up] along the channels."""
    sides = tuple(min(a, b) for a, b in zip(skip.shape[1:-1], up.shape[1:-1], strict=True))
    return ops.concatenate([crop_to(skip, sides), crop_to(up, sides)], axis=-1)
