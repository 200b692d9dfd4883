"""From an architecture to its net, whatever computes it."""

from __future__ import annotations

from densecell_batch.nets.architecture import Architecture, Hybrid2D3D, UNet2D
from densecell_batch.nets.graph import Features, Graph
from densecell_batch.nets.hybrid_2d3d import hybrid_2d3d
from densecell_batch.nets.residual_unet import residual_unet
from densecell_batch.nets.unet_2d import unet_2d

__all__ = ["logits"]


def logits(g: Graph, architecture: Architecture, shape: tuple[int, int, int]) -> tuple[Features, list[Features]]:
    """The input of a net for volumes of `shape` (z, y, x), and its logits, the deciding ones first.

    A 2D net takes the slices of a volume as its batch.
    """
    if isinstance(architecture, UNet2D):
        image = g.image(shape[1:])
        return image, unet_2d(g, architecture, image)
    image = g.image(shape)
    if isinstance(architecture, Hybrid2D3D):
        return image, hybrid_2d3d(g, architecture, image)
    return image, residual_unet(g, architecture, image)
