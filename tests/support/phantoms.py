"""A volume that can be learned in seconds, and a small net to do it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from densecell_batch.models.classes import ClassInfo
from densecell_batch.nets.architecture import Hybrid2D3D
from densecell_batch.training.recipes import Improved
from densecell_batch.training.restarts import TrainingRun
from densecell_batch.training.volumes import LabelledVolume
from densecell_batch.training.windows import Augmentation

NET = Hybrid2D3D(3, 4, pyramid_kernels=4, relu_on_logits=False, pyramid_unpools_z=False)
RECIPE = Improved(window=(5, 32, 32), batch=1, floor=0, augmentation=Augmentation(elastic_sigma=4)).over(20)
LEARNS = replace(RECIPE, learning_rate=5e-3, batch=2).over(120)  # `phantom()`
CLASSES = tuple(ClassInfo(name, (10, 20, 30)) for name in ("outside", "cell", "dot"))


def phantom(shape=(6, 72, 80), seed=0):
    """A volume that can be learned: bright cells with dark dots in noise."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(shape)
    labels = ((y // 18 + x // 20) % 2).astype(np.uint8)
    labels[((y % 18 - 9) ** 2 + (x % 20 - 10) ** 2 < 12) & (labels == 1)] = 2
    image = np.choose(labels, [-1.0, 1.0, -0.2]) + 0.3 * rng.standard_normal(shape)
    return LabelledVolume(
        ((image - image.mean()) / image.std()).astype(np.float32), labels, None, (f"i{seed}", f"l{seed}")
    )


def a_run(**changes):
    return TrainingRun(
        **{
            "name": "phantom",
            "architecture": NET,
            "classes": CLASSES,
            "recipe": RECIPE,
            "restarts": 2,
            "keep": 1,
            **changes,
        }
    )


def save_phantoms(folder: Path, shape=(6, 72, 80)) -> dict[str, Path]:
    """Images and labels of two of them, as files: train-images, train-labels, eval-images, eval-labels."""
    paths = {}
    for name, seed in (("train", 0), ("eval", 1)):
        volume = phantom(shape, seed)
        for kind, array in (("images", (volume.image * 20 + 128).astype(np.uint8)), ("labels", volume.labels)):
            paths[f"{name}-{kind}"] = folder / f"{name}-{kind}.tif"
            tifffile.imwrite(paths[f"{name}-{kind}"], array, imagej=True, metadata={"axes": "ZYX"})
    return paths
