"""A tiny bundle, as `write_bundle` is given it."""

from __future__ import annotations

from typing import Any

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.models.classes import ClassInfo
from densecell_batch.nets.architecture import Hybrid2D3D, tensor_shapes

NET = Hybrid2D3D(n_classes=2, n_kernels=2, n_blocks=1, n_convs=1, pyramid_convs=(1, 1), pyramid_kernels=2)


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in tensor_shapes(NET).items()}


def fields(**changes: Any) -> dict[str, Any]:
    """What `write_bundle` is given."""
    return {
        "name": "tiny",
        "version": "1",
        "licence": "CC0-1.0",
        "citation": "nobody, “nowhere”",
        "architecture": NET,
        "classes": (ClassInfo("background", (0, 0, 127)), ClassInfo("cell", (127, 0, 0))),
        "voxel_size": VoxelSize.of(47, 9.2, 9.2, unit="nm"),
        "window": (5, 16, 16),
        "members": [tensors(0), tensors(1)],
        "golden": (np.zeros((5, 8, 8), np.float32), np.full((5, 8, 8, 2), 0.5, np.float32)),
        "scores": {"mean_iou": 0.5},
        "provenance": {"made by": "a test"},
    } | changes
