"""The residual U-Net.

References
----------
.. [1] He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", arXiv:1512.03385.
.. [2] Lee et al. 2015, "Deeply-supervised nets", arXiv:1409.5185: a predictor on coarse features, to train.
"""

from __future__ import annotations

from densecell_batch.nets.graph import Features, Graph
from densecell_batch.nets.residual import ResidualUNet

__all__ = ["residual_unet"]

_DEEP = 1  # the decoder block whose features the second predictor sees


def residual_unet(g: Graph, config: ResidualUNet, image: Features) -> list[Features]:
    """(n, z, y, x, 1) -> [logits (n, z', y, x, class)], z' being z less the neighbours; to train, the logits of the
    second predictor follow, which sees coarser features.
    """
    z, y, x = g.sides(image)
    depth = z - 2 * config.neighbours
    shifted = [g.crop(image, (i, 0, 0), (depth, y, x)) for i in range(2 * config.neighbours + 1)]
    features = g.slices(g.concat(shifted))
    skips = []
    for b in range(config.n_blocks + 1):
        n, block = config.kernels(b), f"net/encoder/encode_block_{b}"
        features = g.conv(features, n, (3, 3), f"{block}/comp_0/conv", stride=2)
        features = _residual(g, features, block, 2 if b == 0 else 1)
        skips.append(features)
    skips.pop()
    second = []
    for b in reversed(range(config.n_blocks)):
        block = f"net/decoder/decode_block_{b}"
        up = g.upsample(features, config.kernels(b), (2, 2), f"{block}/comp_0/forward/upsample_conv")
        skip = skips.pop()
        features = _residual(g, g.add(skip, g.crop(up, (0, 0), g.sides(skip))), block, 2)  # odd sides were rounded up
        if g.normalized and b == min(_DEEP, config.n_blocks - 1):
            coarse = g.predictor(features, config.n_classes, "predictor_deep/logits", relu=False)
            second = [g.enlarge(coarse, 2 ** (b + 1), "predictor_deep.upsample")]
    up = g.upsample(features, config.kernels(0), (2, 2), "predictor/forward/upsample_conv")
    logits = g.predictor(g.relu(up), config.n_classes, "predictor/logits", relu=False)
    return [g.volume(g.crop(t, (0, 0), (y, x)), depth) for t in (logits, *second)]


def _residual(g: Graph, x: Features, block: str, n_convs: int) -> Features:
    """Features plus what convolutions make of them, above 0."""
    change, n = x, g.channels(x)
    for i in range(1, n_convs + 1):
        change = g.conv(change, n, (3, 3), f"{block}/comp_{i}/conv", relu=i < n_convs)
    return g.relu(g.add(x, change))
