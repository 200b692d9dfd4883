"""The 2D U-Net with unpadded convolutions; slices of a stack are its batch.

References
----------
.. [1] Ronneberger, Fischer, Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", MICCAI.
"""

from __future__ import annotations

from densecell_batch.nets.architecture import UNet2D
from densecell_batch.nets.graph import Features, Graph, crop_concat

__all__ = ["unet_2d"]


def unet_2d(g: Graph, config: UNet2D, image: Features) -> list[Features]:
    """Slices (n, y, x, 1) -> [logits (n, y', x', class)]."""

    def convs(x: Features, block: str, n: int) -> Features:
        for i in range(config.n_convs):
            x = g.conv(x, n, (3, 3), f"{block}/comp_{i}/conv", padded=False)
        return x

    x, skips = image, []
    for b in range(config.n_blocks):
        x = convs(x, f"net/encoder/encode_block_{b}", config.n_kernels * 2**b)
        skips.append(x)
        x = g.pool(x, (2, 2), f"encoder.pool_{b}")
    b = config.n_blocks
    x = convs(x, f"net/decoder/decode_block_{b}", config.n_kernels * 2**b)
    for b in reversed(range(config.n_blocks)):
        n, block = config.n_kernels * 2**b, f"net/decoder/decode_block_{b}"
        x = g.upsample(x, n, (2, 2), f"{block}/comp_0/forward/upsample_conv")
        x = convs(crop_concat(g, skips[b], x), block, n)
    return [g.predictor(x, config.n_classes, "predictor/logits", relu=config.relu_on_logits)]
