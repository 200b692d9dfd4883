"""How large the pixels of a stack look to a model, for stacks that do not say.

A net that was made robust is at ease with pixels that are half as large again, and segments them worse. Windows of the
model's own data are looked at as they are, coarser and finer, and a line is fitted: features of their texture to the
logarithm of the factor. Only features that a little more noise or blur hardly changes are used: whether lines are dark,
how skew their curvature is, and how wide the strongest are (`prepare.texture`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
from msgspec import Struct

__all__ = ["FACTORS", "SizeLine", "learn_size"]

FACTORS = (0.7, 1.0, 1.43, 2.0)  # by which own windows are looked at with larger pixels
_USED = ("ridges", "skewness", "lines")  # features
_FEWEST = 8  # windows at each factor
_LEAST = 0.005  # spread of a feature: what hardly varies says nothing
_PENALTY = 0.05  # of ridge regression, on standardized features


class SizeLine(Struct, frozen=True, kw_only=True):
    """From features of a window to how many times as large its pixels look as those of the model's own data.

    Raises
    ------
    ValueError
        If the numbers do not belong together.
    """

    names: tuple[str, ...]  # of features of the texture
    weights: tuple[float, ...]
    offset: float

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names) or len(self.names) != len(self.weights):
            raise ValueError("expected features with different names, and a weight for each")
        if not all(map(isfinite, (*self.weights, self.offset))):
            raise ValueError("expected finite weights")

    def __call__(self, window: Mapping[str, float]) -> float | None:
        """log2 of the factor; None if the window lacks a feature."""
        if not all(name in window for name in self.names):
            return None
        return self.offset + sum(weight * window[name] for name, weight in zip(self.names, self.weights, strict=True))


def learn_size(windows: Mapping[float, Sequence[Mapping[str, float]]]) -> SizeLine | None:
    """Fit the line; least squares with a little penalty.

    Parameters
    ----------
    windows
        Features of own windows by the factor by which their pixels are larger.

    Returns
    -------
    SizeLine or None
        None if there are too few windows of larger or of smaller pixels; a factor of which there are few is left out.
    """
    enough = {factor: found for factor, found in windows.items() if len(found) >= _FEWEST}
    if not enough or not min(enough) < 1 < max(enough):
        return None
    rows = [(row, np.log2(factor)) for factor, found in enough.items() for row in found]
    names = tuple(name for name in rows[0][0] if name.partition("_")[0] in _USED)
    table, wanted = np.array([[row[name] for name in names] for row, _ in rows]), np.array([size for _, size in rows])
    centre, spread = table.mean(axis=0), np.maximum(table.std(axis=0), _LEAST)
    unit = (table - centre) / spread
    normal = unit.T @ unit / len(unit) + _PENALTY * np.eye(len(names))
    weights = np.linalg.solve(normal, unit.T @ (wanted - wanted.mean()) / len(unit)) / spread
    return SizeLine(names=names, weights=tuple(weights.tolist()), offset=float(wanted.mean() - centre @ weights))
