"""Layers that the families share. Every layer has the canonical name of its tensors, "/" written as "."."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from densecell_batch.nets.architecture import layer_name

__all__ = ["BatchNorm", "conv", "crop_concat", "crop_to", "predictor", "upsample"]


def conv(
    x: keras.KerasTensor,
    filters: int,
    kernel: tuple[int, ...],
    name: str,
    *,
    padding: str = "same",
    stride: int = 1,
    normalized: bool = False,
    relu: bool = True,
) -> keras.KerasTensor:
    """Convolution with bias and, by default, ReLU; Glorot-uniform kernel, zero bias. Of stride 2, a kernel of 3 sees a
    voxel and the two that follow.

    To train, a batch normalization may stand in the place of the bias (`training.batchnorm` folds it in).
    """
    layer = keras.layers.Conv3D if len(kernel) == 3 else keras.layers.Conv2D
    activation = "relu" if relu and not normalized else None
    if stride == 2 and any(side % 2 for side in x.shape[1:-1]):
        # "same" would add a voxel before odd sides, too: what is halved again would lie elsewhere than in larger tiles.
        x = ops.pad(x, ((0, 0), *((0, 1 + side % 2) for side in x.shape[1:-1]), (0, 0)))
        padding = "valid"
    x = layer(filters, kernel, stride, padding, activation=activation, use_bias=not normalized, name=layer_name(name))(
        x
    )
    if not normalized:
        return x
    x = BatchNorm(name=f"{layer_name(name)}.norm")(x)
    return ops.relu(x) if relu else x


class BatchNorm(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Batch normalization by the statistics of the batch, always: there are no running averages.

    The mean and the variance of the last batch are its variables, for `training.batchnorm`. With TensorFlow its fused
    kernel is used, which reads the features once where Keras' own layer goes over them several times for 3D features.

    References
    ----------
    .. [1] Ioffe, Szegedy 2015, "Batch normalization", arXiv:1502.03167.
    """

    epsilon = 1e-3

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the variables, (channel,) float32."""
        variables = {
            "gamma": ("ones", True),
            "beta": ("zeros", True),
            "moving_mean": ("zeros", False),
            "moving_variance": ("ones", False),
        }
        for name, (start, trained) in variables.items():
            made = self.add_weight((shape[-1],), start, name=name, trainable=trained, autocast=False)
            setattr(self, name, made)

    def call(self, x: Any) -> Any:
        """Features (n, ..., channel), normalized."""
        y, mean, variance = _normalized(x, self.gamma.value, self.beta.value, self.epsilon)
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return y


def _normalized(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalized features, and the mean and variance (channel,) float32 of each channel."""
    if keras.backend.backend() != "tensorflow":
        wide = ops.cast(x, "float32")
        mean, variance = ops.moments(wide, tuple(range(len(x.shape) - 1)))
        return ops.cast((wide - mean) * (gamma * ops.rsqrt(variance + epsilon)) + beta, x.dtype), mean, variance
    import tensorflow as tf

    shape = tf.shape(x)
    flat = x if len(x.shape) == 4 else tf.reshape(x, (-1, *x.shape[-3:]))
    y, mean, unbiased = tf.compat.v1.nn.fused_batch_norm(flat, gamma, beta, epsilon=epsilon, is_training=True)[:3]
    n = tf.cast(tf.size(flat) // x.shape[-1], "float32")  # the kernel divides by n - 1
    return tf.reshape(y, shape), mean, unbiased * ((n - 1) / n)


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
