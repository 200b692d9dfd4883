"""The families as Keras layers. Every layer has the canonical name of its tensors, "/" written as "."."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from densecell_batch.nets.architecture import layer_name
from densecell_batch.nets.graph import Sides

__all__ = ["BatchNorm", "KerasGraph"]


class KerasGraph:
    """Operations on Keras tensors, with the channels last (`nets.graph.Graph` says what they do).

    Kernels start as Glorot-uniform, biases as 0.

    Parameters
    ----------
    normalized
        Whether batch normalizations stand in the place of biases, to train (`training.batchnorm` folds them in).
    """

    def __init__(self, normalized: bool = False) -> None:
        self.normalized = normalized

    def image(self, shape: Sides) -> Any:
        return keras.Input((*shape, 1), name="image")

    def sides(self, x: Any) -> Sides:
        return tuple(x.shape[1:-1])

    def channels(self, x: Any) -> int:
        return int(x.shape[-1])

    def conv(
        self, x: Any, filters: int, kernel: Sides, name: str, *, padded: bool = True, stride: int = 1, relu: bool = True
    ) -> Any:
        layer = layers.Conv3D if len(kernel) == 3 else layers.Conv2D
        padding, activation = "same" if padded else "valid", "relu" if relu and not self.normalized else None
        if stride == 2 and any(side % 2 for side in self.sides(x)):
            # "same" would add a voxel before odd sides, too: what is halved again would lie elsewhere than in larger
            # tiles.
            x = ops.pad(x, ((0, 0), *((0, 1 + side % 2) for side in self.sides(x)), (0, 0)))
            padding = "valid"
        keyed = layer_name(name)
        made = layer(filters, kernel, stride, padding, activation=activation, use_bias=not self.normalized, name=keyed)
        x = made(x)
        if not self.normalized:
            return x
        x = BatchNorm(name=f"{keyed}.norm")(x)
        return ops.relu(x) if relu else x

    def upsample(self, x: Any, filters: int, factors: Sides, name: str) -> Any:
        layer = layers.Conv3DTranspose if len(factors) == 3 else layers.Conv2DTranspose
        return layer(filters, factors, strides=factors, padding="valid", name=layer_name(name))(x)

    def predictor(self, x: Any, n_classes: int, name: str, *, relu: bool) -> Any:
        # Logits rounded to bfloat16 are the largest part of its disagreement with float32 (docs/design/0002-precision).
        n_axes = len(self.sides(x))
        layer = layers.Conv3D if n_axes == 3 else layers.Conv2D
        activation = "relu" if relu else None
        return layer(n_classes, (1,) * n_axes, activation=activation, dtype="float32", name=layer_name(name))(x)

    def pool(self, x: Any, factors: Sides, name: str) -> Any:
        layer = layers.MaxPooling3D if len(factors) == 3 else layers.MaxPooling2D
        return layer(factors, name=name)(x)

    def enlarge(self, x: Any, factor: int, name: str) -> Any:
        return layers.UpSampling2D(factor, dtype="float32", name=name)(x)

    def relu(self, x: Any) -> Any:
        return ops.relu(x)

    def add(self, a: Any, b: Any) -> Any:
        return ops.add(a, b)

    def concat(self, parts: Sequence[Any]) -> Any:
        return ops.concatenate(list(parts), axis=-1)

    def crop(self, x: Any, starts: Sides, sides: Sides) -> Any:
        return x[(slice(None), *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))]

    def as_dtype_of(self, x: Any, other: Any) -> Any:
        return ops.cast(x, other.dtype)

    def wide(self, x: Any) -> Any:
        return ops.cast(x, "float32")

    def slices(self, x: Any) -> Any:
        return ops.reshape(x, (-1, *x.shape[2:]))

    def volume(self, x: Any, depth: int) -> Any:
        return ops.reshape(x, (-1, depth, *x.shape[1:]))


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
