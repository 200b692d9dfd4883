"""The 2D-3D+3x3x3 net.

References
----------
.. [1] Guay et al. 2021, Sci Rep 11:2561, Fig. 2 and Methods, "2D-3D+3x3x3 network".
"""

from __future__ import annotations

from densecell_batch.nets.architecture import Hybrid2D3D
from densecell_batch.nets.graph import Features, Graph, crop_concat, crop_to

__all__ = ["hybrid_2d3d"]


def hybrid_2d3d(g: Graph, config: Hybrid2D3D, image: Features) -> list[Features]:
    """(n, z, y, x, 1) -> [logits of the 3D predictor, logits of the 2D predictor], each (n, z, y', x', class)."""
    features = _encoder_decoder(g, config, image)
    logits_2d = g.predictor(features, config.n_classes, "predictor_2d/logits", relu=config.relu_on_logits)
    pyramid = _spatial_pyramid(g, config, features, g.as_dtype_of(logits_2d, features))
    logits_3d = g.predictor(pyramid, config.n_classes, "predictor_3d/logits", relu=config.relu_on_logits)
    return [logits_3d, crop_to(g, logits_2d, g.sides(logits_3d))]


def _encoder_decoder(g: Graph, config: Hybrid2D3D, x: Features) -> Features:
    """The U-shaped part; features (n, z, y', x', n_kernels)."""

    def convs(x: Features, block: str, n: int) -> Features:
        for i in range(config.n_convs):
            x = g.conv(x, n, (1, 3, 3), f"{block}/comp_{i}/conv")
        return x

    skips = []
    for b in range(config.n_blocks):
        n, block = config.n_kernels * 2**b, f"net/encoder/encode_block_{b}"
        if b:
            x = g.pool(x, (1, 2, 2), f"encoder.pool_{b}")
        if b < 2:
            x = g.conv(x, n // 2, (3, 3, 3), f"{block}/comp_3dinit_{b}/conv")
        x = convs(x, block, n)
        skips.append(x)
    b = config.n_blocks
    x = g.pool(x, (1, 2, 2), f"encoder.pool_{b}")
    x = convs(x, f"net/decoder/decode_block_{b}", config.n_kernels * 2**b)
    for b in reversed(range(config.n_blocks)):
        n, block = config.n_kernels * 2**b, f"net/decoder/decode_block_{b}"
        first = f"{block}/comp_3dinit_{config.n_blocks - b}" if b < 2 else f"{block}/comp_0"
        x = g.upsample(x, n // 2 if b < 2 else n, (1, 2, 2), f"{first}/forward/upsample_conv")
        x = crop_concat(g, skips[b], x)
        if b < 2:
            x = g.conv(x, n // 2, (3, 3, 3), f"{first}/conv")
        x = convs(x, block, n)
    return x


def _spatial_pyramid(g: Graph, config: Hybrid2D3D, features: Features, logits_2d: Features) -> Features:
    """Paths of 3x3x3 convolutions over [features, 2D logits] at 1, 1/2, ... of the resolution in y and x, summed in
    float32.
    """
    depth, total, rests = g.sides(features)[0], None, []
    for i, n_convs in enumerate(config.pyramid_convs):
        path, n, factor = f"spatialpyramid/conv_block_{i}", config.pyramid_kernels * 2**i, 2**i
        parts = [(features, f"pyramid.pool_{i}_f"), (logits_2d, f"pyramid.pool_{i}_l")]
        x = g.concat([g.pool(t, (1, factor, factor), name) if i else t for t, name in parts])
        for j in range(n_convs):
            x = g.conv(x, n, (3, 3, 3), f"{path}/comp_{j}/conv")
        if not i:
            total = x
            continue
        unpool = factor if config.pyramid_unpools_z else 1
        # Only the slices about the centre survive the crop: the others need not be unpooled.
        first = (unpool * depth - depth) // 2 // unpool
        last = ((unpool * depth - depth) // 2 + depth - 1) // unpool
        skipped = (unpool * depth - depth) // 2 - first * unpool
        _, height, width = g.sides(x)
        central = g.crop(x, (first, 0, 0), (last + 1 - first, height, width))
        x = g.conv(central, config.pyramid_kernels, (1, 1, 1), f"{path}/path_end_{i}/conv")
        name = f"spatialpyramid/path_combine/residual_{i}/upsample_conv"
        x = g.upsample(x, config.pyramid_kernels, (unpool, factor, factor), name)
        rests.append(g.crop(x, (skipped, 0, 0), (depth, *g.sides(x)[1:])))
    sides = tuple(min(g.sides(t)[axis] for t in (total, *rests)) for axis in range(3))
    total = g.wide(crop_to(g, total, sides))
    for x in rests:
        total = g.add(total, g.wide(crop_to(g, x, sides)))
    return total
