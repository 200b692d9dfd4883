"""What a net is built of, whatever computes it: the families are written once, as functions of a `Graph`.

`nets.layers.KerasGraph` makes Keras layers of it, to train and for GPUs, and `nets.engines.openvino` a graph of
OpenVINO. Features are volumes (n, z, y, x, channel) or slices (n, y, x, channel), in whatever order of axes the engine
keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Features", "Graph", "Sides", "crop_concat", "crop_to"]

Features = Any  # a tensor of the engine
Sides = tuple[int, ...]  # along the spatial axes


class Graph(Protocol):
    """Operations on features. Each layer with weights has the canonical name of its tensors."""

    normalized: bool
    """Whether batch normalizations follow the convolutions: only while a net is trained."""

    def image(self, shape: Sides) -> Features:
        """The input: a volume (z, y, x) of one channel, or, of a shape (y, x), the slices of a volume."""

    def sides(self, x: Features) -> Sides:
        """Spatial sides."""

    def channels(self, x: Features) -> int:
        """Channels."""

    def conv(
        self,
        x: Features,
        filters: int,
        kernel: Sides,
        name: str,
        *,
        padded: bool = True,
        stride: int = 1,
        relu: bool = True,
    ) -> Features:
        """Convolution with bias and, by default, ReLU. Of stride 2, a kernel of 3 sees a voxel and the two that follow;
        odd sides are rounded up.
        """

    def upsample(self, x: Features, filters: int, factors: Sides, name: str) -> Features:
        """Transposed convolution whose kernel is its stride, with bias and no activation."""

    def predictor(self, x: Features, n_classes: int, name: str, *, relu: bool) -> Features:
        """Logits, a convolution of one voxel; in float32 where the engine can."""

    def pool(self, x: Features, factors: Sides, name: str) -> Features:
        """Largest of each block of voxels; sides are rounded down."""

    def enlarge(self, x: Features, factor: int, name: str) -> Features:
        """Slices with each voxel repeated, in float32: for a predictor on coarse features, to train."""

    def relu(self, x: Features) -> Features:
        """What is above 0."""

    def add(self, a: Features, b: Features) -> Features:
        """Sum."""

    def concat(self, parts: Sequence[Features]) -> Features:
        """Put together along the channels."""

    def crop(self, x: Features, starts: Sides, sides: Sides) -> Features:
        """A part along the spatial axes."""

    def as_dtype_of(self, x: Features, other: Features) -> Features:
        """In the precision of other features."""

    def wide(self, x: Features) -> Features:
        """In float32, where the engine tells precisions apart."""

    def slices(self, x: Features) -> Features:
        """A volume (n, z, y, x, c) as slices (n z, y, x, c)."""

    def volume(self, x: Features, depth: int) -> Features:
        """Slices as volumes of so many."""


def crop_to(g: Graph, x: Features, sides: Sides) -> Features:
    """Centre-crop to `sides`; the low side loses (a - b) // 2, as the published code does."""
    now = g.sides(x)
    if now == sides:
        return x
    return g.crop(x, tuple((a - b) // 2 for a, b in zip(now, sides, strict=True)), sides)


def crop_concat(g: Graph, skip: Features, up: Features) -> Features:
    """Crop both to the smaller of each side, then concatenate [skip, up] along the channels."""
    sides = tuple(min(a, b) for a, b in zip(g.sides(skip), g.sides(up), strict=True))
    return g.concat([crop_to(g, skip, sides), crop_to(g, up, sides)])
