"""The 2D-3D+3x3x3 net as a functional Keras model.

References
----------
.. [1] Guay et al. 2021, Sci Rep 11:2561, Fig. 2 and Methods, "2D-3D+3x3x3 network".
"""

from __future__ import annotations

from functools import partial

import keras
from keras import layers, ops

from densecell_batch.nets import layers as blocks
from densecell_batch.nets.architecture import Hybrid2D3D
from densecell_batch.nets.layers import crop_concat, crop_to, predictor, upsample

__all__ = ["hybrid_2d3d"]


def hybrid_2d3d(config: Hybrid2D3D, shape: tuple[int, int, int], *, normalized: bool = False) -> keras.Model:
    """Build the net for inputs of one spatial shape.

    Parameters
    ----------
    config
        The architecture.
    shape
        Input (z, y, x).
    normalized
        Whether batch normalizations follow the convolutions, to train.

    Returns
    -------
    keras.Model
        (n, z, y, x, 1) -> [logits of the 3D predictor, logits of the 2D predictor], each (n, z, y', x', class).
    """
    image = keras.Input((*shape, 1), name="image")
    features = _encoder_decoder(config, image, normalized)
    logits_2d = predictor(features, config.n_classes, "predictor_2d/logits", relu=config.relu_on_logits)
    pyramid = _spatial_pyramid(config, features, ops.cast(logits_2d, features.dtype), normalized)
    logits_3d = predictor(pyramid, config.n_classes, "predictor_3d/logits", relu=config.relu_on_logits)
    return keras.Model(image, [logits_3d, crop_to(logits_2d, logits_3d.shape[1:-1])], name="hybrid_2d3d")


def _encoder_decoder(config: Hybrid2D3D, x: keras.KerasTensor, normalized: bool) -> keras.KerasTensor:
    """The U-shaped part; features (n, z, y', x', n_kernels)."""
    conv = partial(blocks.conv, normalized=normalized)

    def convs(x: keras.KerasTensor, block: str, n: int) -> keras.KerasTensor:
        for i in range(config.n_convs):
            x = conv(x, n, (1, 3, 3), f"{block}/comp_{i}/conv")
        return x

    skips = []
    for b in range(config.n_blocks):
        n, block = config.n_kernels * 2**b, f"net/encoder/encode_block_{b}"
        if b:
            x = layers.MaxPooling3D((1, 2, 2), name=f"encoder.pool_{b}")(x)
        if b < 2:
            x = conv(x, n // 2, (3, 3, 3), f"{block}/comp_3dinit_{b}/conv")
        x = convs(x, block, n)
        skips.append(x)
    b = config.n_blocks
    x = layers.MaxPooling3D((1, 2, 2), name=f"encoder.pool_{b}")(x)
    x = convs(x, f"net/decoder/decode_block_{b}", config.n_kernels * 2**b)
    for b in reversed(range(config.n_blocks)):
        n, block = config.n_kernels * 2**b, f"net/decoder/decode_block_{b}"
        first = f"{block}/comp_3dinit_{config.n_blocks - b}" if b < 2 else f"{block}/comp_0"
        x = upsample(x, n // 2 if b < 2 else n, (1, 2, 2), f"{first}/forward/upsample_conv")
        x = crop_concat(skips[b], x)
        if b < 2:
            x = conv(x, n // 2, (3, 3, 3), f"{first}/conv")
        x = convs(x, block, n)
    return x


def _spatial_pyramid(
    config: Hybrid2D3D, features: keras.KerasTensor, logits_2d: keras.KerasTensor, normalized: bool
) -> keras.KerasTensor:
    """Paths of 3x3x3 convolutions over [features, 2D logits] at 1, 1/2, ... of the resolution in y and x, summed in
    float32.
    """
    conv = partial(blocks.conv, normalized=normalized)
    depth, total, rests = features.shape[1], None, []
    for i, n_convs in enumerate(config.pyramid_convs):
        path, n, factor = f"spatialpyramid/conv_block_{i}", config.pyramid_kernels * 2**i, 2**i
        pools = (layers.MaxPooling3D((1, factor, factor), name=f"pyramid.pool_{i}_{k}") for k in ("f", "l"))
        x = ops.concatenate(
            [pool(t) if i else t for pool, t in zip(pools, (features, logits_2d), strict=True)], axis=-1
        )
        for j in range(n_convs):
            x = conv(x, n, (3, 3, 3), f"{path}/comp_{j}/conv")
        if not i:
            total = x
            continue
        unpool = factor if config.pyramid_unpools_z else 1
        # Only the slices about the centre survive the crop: the others need not be unpooled.
        first = (unpool * depth - depth) // 2 // unpool
        last = ((unpool * depth - depth) // 2 + depth - 1) // unpool
        skipped = (unpool * depth - depth) // 2 - first * unpool
        x = conv(x[:, first : last + 1], config.pyramid_kernels, (1, 1, 1), f"{path}/path_end_{i}/conv")
        x = upsample(
            x,
            config.pyramid_kernels,
            (unpool, factor, factor),
            f"spatialpyramid/path_combine/residual_{i}/upsample_conv",
        )
        rests.append(x[:, skipped : skipped + depth])
    sides = tuple(min(t.shape[axis] for t in (total, *rests)) for axis in (1, 2, 3))
    total = ops.cast(crop_to(total, sides), "float32")
    for x in rests:
        total = ops.add(total, ops.cast(crop_to(x, sides), "float32"))
    return total
