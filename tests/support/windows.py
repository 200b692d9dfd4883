"""Windows of synthetic tissue, as the nets see them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def tissue(seed: int, shape: tuple[int, int, int] = (3, 64, 64)) -> np.ndarray:
    """Dark lines between cells, with some noise; slices resemble their neighbours. Normalized."""
    rng = np.random.default_rng(seed)
    cells = ndimage.gaussian_filter(rng.standard_normal(shape), (1, 4, 4), mode="wrap")
    membranes = -np.exp(-np.square(cells / cells.std() / 0.25))
    image = ndimage.gaussian_filter(membranes, (0, 0.7, 0.7)) + 0.1 * rng.standard_normal(shape)
    return normalized(image)


def normalized(image: np.ndarray) -> np.ndarray:
    return ((image - image.mean()) / image.std()).astype(np.float32)
