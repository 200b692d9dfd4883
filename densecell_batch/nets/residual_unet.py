"""The residual U-Net as a functional Keras model.

References
----------
.. [1] He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", arXiv:1512.03385.
.. [2] Lee et al. 2015, "Deeply-supervised nets", arXiv:1409.5185: a predictor on coarse features, to train.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from densecell_batch.nets.layers import conv, predictor, upsample
from densecell_batch.nets.residual import ResidualUNet

__all__ = ["residual_unet"]

_DEEP = 1  # the decoder block whose features the second predictor sees


def residual_unet(config: ResidualUNet, shape: tuple[int, int, int], *, normalized: bool = False) -> keras.Model:
    """Build the net for inputs of one spatial shape.

    Parameters
    ----------
    config
        The architecture.
    shape
        Input (z, y, x).
    normalized
        Whether batch normalizations follow the convolutions, and a second predictor sees coarser features, to train.

    Returns
    -------
    keras.Model
        (n, z, y, x, 1) -> [logits (n, z', y, x, class)], z' being z less the neighbours; normalized, the logits of the
        second predictor follow.
    """
    _, y, x = shape
    depth, _, _ = config.output_shape(shape)
    image = keras.Input((*shape, 1), name="image")
    together = ops.concatenate([image[:, i : i + depth] for i in range(2 * config.neighbours + 1)], axis=-1)
    features = ops.reshape(together, (-1, *together.shape[2:]))
    skips = []
    for b in range(config.n_blocks + 1):
        n, block = config.kernels(b), f"net/encoder/encode_block_{b}"
        features = conv(features, n, (3, 3), f"{block}/comp_0/conv", stride=2, normalized=normalized)
        features = _residual(features, block, 2 if b == 0 else 1, normalized)
        skips.append(features)
    skips.pop()
    second = None
    for b in reversed(range(config.n_blocks)):
        block = f"net/decoder/decode_block_{b}"
        up = upsample(features, config.kernels(b), (2, 2), f"{block}/comp_0/forward/upsample_conv")
        skip = skips.pop()
        features = _residual(ops.add(skip, _first(up, skip)), block, 2, normalized)
        if normalized and b == min(_DEEP, config.n_blocks - 1):
            coarse = predictor(features, config.n_classes, "predictor_deep/logits", relu=False)
            second = layers.UpSampling2D(2 ** (b + 1), dtype="float32", name="predictor_deep.upsample")(coarse)
    up = upsample(features, config.kernels(0), (2, 2), "predictor/forward/upsample_conv")
    logits = predictor(ops.relu(up), config.n_classes, "predictor/logits", relu=False)
    outputs = [logits] if second is None else [logits, second]
    sides = (depth, y, x, config.n_classes)
    return keras.Model(image, [ops.reshape(t[:, :y, :x], (-1, *sides)) for t in outputs], name="residual_unet")


def _residual(x: keras.KerasTensor, block: str, n_convs: int, normalized: bool) -> keras.KerasTensor:
    """Features (n, y, x, c) plus what convolutions make of them, above 0."""
    change = x
    for i in range(1, n_convs + 1):
        last = i == n_convs
        change = conv(change, x.shape[-1], (3, 3), f"{block}/comp_{i}/conv", normalized=normalized, relu=not last)
    return ops.relu(ops.add(x, change))


def _first(x: keras.KerasTensor, like: keras.KerasTensor) -> keras.KerasTensor:
    """The first rows and columns of features (n, y, x, c): strides round odd sides up."""
    return x[:, : like.shape[1], : like.shape[2]]
