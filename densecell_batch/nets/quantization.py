"""Nets in eight bits: which layers, and between which values their inputs lie.

A layer multiplies whole numbers from 0 to 255, or -128 to 127, instead of floats: inputs are spread over the range that
was observed on windows of real tissue, each channel of a kernel over its own largest weight (ref. 1). The first layer
and the logits stay in float32: they cost little and decide much.

References
----------
.. [1] Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
   inference", CVPR, arXiv:1712.05877.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densecell_batch.nets.architecture import Architecture

__all__ = ["Ranges", "quantized_layers", "range_of", "with_ranges"]

Ranges = Mapping[str, tuple[float, float]]  # name of a layer -> what its input lies between, over windows of tissue


def quantized_layers(architecture: Architecture) -> list[str]:
    """Names of the layers that are computed in eight bits."""
    return [layer.name for layer in architecture.layers()[1:] if not layer.name.endswith("/logits")]


def with_ranges(weights: Mapping[str, np.ndarray], ranges: Ranges) -> dict[str, np.ndarray]:
    """The tensors of a member, and beside them what an engine needs to compute them in eight bits."""
    return {**weights, **{f"{name}/range": np.array(limits, np.float32) for name, limits in ranges.items()}}


def range_of(weights: Mapping[str, np.ndarray], name: str) -> tuple[float, float] | None:
    """What the input of a layer lies between; None if it is not to be computed in eight bits."""
    limits = weights.get(f"{name}/range")
    return None if limits is None else (float(limits[0]), float(limits[1]))
