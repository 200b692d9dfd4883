"""The 2D U-Net with unpadded convolutions as a functional Keras model; slices of a stack are its batch.

References
----------
.. [1] Ronneberger, Fischer, Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", MICCAI.
"""

from __future__ import annotations

import keras
from keras import layers

from densecell_batch.nets.architecture import UNet2D
from densecell_batch.nets.layers import conv, crop_concat, predictor, upsample

__all__ = ["unet_2d"]


def unet_2d(config: UNet2D, shape: tuple[int, int], *, normalized: bool = False) -> keras.Model:
    """Build the net for slices of one shape.

    Parameters
    ----------
    config
        The architecture.
    shape
        Input (y, x).
    normalized
        Whether batch normalizations follow the convolutions, to train.

    Returns
    -------
    keras.Model
        (n, y, x, 1) -> [logits (n, y', x', class)].
    """

    def convs(x: keras.KerasTensor, block: str, n: int) -> keras.KerasTensor:
        for i in range(config.n_convs):
            x = conv(x, n, (3, 3), f"{block}/comp_{i}/conv", padding="valid", normalized=normalized)
        return x

    x = image = keras.Input((*shape, 1), name="image")
    skips = []
    for b in range(config.n_blocks):
        x = convs(x, f"net/encoder/encode_block_{b}", config.n_kernels * 2**b)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"encoder.pool_{b}")(x)
    b = config.n_blocks
    x = convs(x, f"net/decoder/decode_block_{b}", config.n_kernels * 2**b)
    for b in reversed(range(config.n_blocks)):
        n, block = config.n_kernels * 2**b, f"net/decoder/decode_block_{b}"
        x = upsample(x, n, (2, 2), f"{block}/comp_0/forward/upsample_conv")
        x = convs(crop_concat(skips[b], x), block, n)
    logits = predictor(x, config.n_classes, "predictor/logits", relu=config.relu_on_logits)
    return keras.Model(image, [logits], name="unet_2d")
