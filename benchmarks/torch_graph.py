"""PyTorch computes our nets, under MONAI's sliding window: what others would do with the same net.

pip install torch monai
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import monai.inferers
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it

from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.families import logits

CONV = {2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


class TorchGraph:
    """Operations of `nets.graph.Graph`, carried out at once, with the channels before the spatial axes."""

    normalized = False

    def __init__(self, volume: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> None:
        self._volume, self._weights = volume, weights

    def image(self, shape: Sequence[int]) -> torch.Tensor:
        return self._volume if len(shape) == 3 else self.slices(self._volume)

    def sides(self, x: torch.Tensor) -> tuple[int, ...]:
        return tuple(x.shape[2:])

    def channels(self, x: torch.Tensor) -> int:
        return x.shape[1]

    def conv(self, x, filters, kernel, name, *, padded=True, stride=1, relu=True):
        if stride == 2:
            x = F.pad(x, [n for side in reversed(self.sides(x)) for n in (0, 1 + side % 2)])
        padding = [side // 2 if padded and stride == 1 else 0 for side in kernel]
        x = CONV[len(kernel)](x, self._weights[f"{name}/kernel"], self._weights[f"{name}/bias"], stride, padding)
        return F.relu(x) if relu else x

    def upsample(self, x, filters, factors, name):
        kernel, bias = self._weights[f"{name}/kernel"], self._weights[f"{name}/bias"]
        return TRANSPOSED[len(factors)](x, kernel, bias, tuple(factors))

    def predictor(self, x, n_classes, name, *, relu):
        return self.conv(x, n_classes, (1,) * len(self.sides(x)), name, relu=relu)

    def pool(self, x, factors, name):
        return POOL[len(factors)](x, tuple(factors))

    def enlarge(self, x, factor, name):
        raise NotImplementedError("only to train")

    def relu(self, x):
        return F.relu(x)

    def add(self, a, b):
        return a + b

    def concat(self, parts):
        return torch.cat(list(parts), 1)

    def crop(self, x, starts, sides):
        parts = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        return x[(slice(None), slice(None), *parts)]

    def as_dtype_of(self, x, other):
        return x

    def wide(self, x):
        return x

    def slices(self, x):
        return x.transpose(1, 2).flatten(0, 1)

    def volume(self, x, depth):
        return x.unflatten(0, (-1, depth)).transpose(1, 2)


def torch_weights(weights: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors of a member in the order of PyTorch: out, in, ...; of transposed convolutions in, out, ..."""
    found: dict[str, torch.Tensor] = {}
    for name, array in weights.items():
        n = array.ndim - 2
        value = torch.from_numpy(np.ascontiguousarray(array.transpose(n + 1, n, *range(n)) if n > 0 else array))
        found[name] = value.to(dtype)
    return found


class SlidingWindow:
    """A member under MONAI's sliding window, with its defaults: overlap 0.25, tiles averaged without weights."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, np.ndarray],
        window: tuple[int, int, int],
        precision: str,
    ) -> None:
        self._architecture, self._window, self._dtype = architecture, window, getattr(torch, precision)
        self._weights = torch_weights(weights, self._dtype)

    def _net(self, tiles: torch.Tensor) -> torch.Tensor:
        """Probabilities (n, class, z, y, x) of tiles (n, 1, z, y, x)."""
        g = TorchGraph(tiles.to(self._dtype), self._weights)
        _, (deciding, *_) = logits(g, self._architecture, tuple(tiles.shape[2:]))  # type: ignore[arg-type]
        return torch.softmax(deciding.float(), 1)

    def __call__(self, volume: np.ndarray) -> np.ndarray:
        """Class map of a normalized volume (z, y, x)."""
        with torch.inference_mode():
            tiles: Any = torch.from_numpy(volume)[None, None]
            found = monai.inferers.sliding_window_inference(tiles, self._window, 1, self._net, overlap=0.25)
            return found.argmax(1)[0].to(torch.uint8).numpy()
