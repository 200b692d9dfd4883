"""The one place where a net meets a tile: normalized voxels in, probabilities out.

One graph is traced for an input shape and all members run through it, each with its own weights as arguments. The
backend of Keras decides what compiles it: TensorFlow (default) or JAX.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from densecell_batch.errors import OptionError, StackError
from densecell_batch.nets.architecture import Architecture, UNet2D

__all__ = ["Predictor"]

_COMPILED = 4  # shapes that are kept: a process of months sees many, and each takes memory

_log = logging.getLogger(__name__)

Triple = tuple[int, int, int]


class Predictor:
    """The members of an ensemble, ready to look at tiles.

    Parameters
    ----------
    architecture
        What all members are.
    members
        Tensors of each member under canonical names.
    precision
        "float32", "bfloat16" or "float16": what the net computes in. Probabilities are always float32.
    may_split
        Whether a tile that does not fit in memory may be cut into smaller ones.
    offsets
        Added to the logit of each class, of every member (`ModelBundle.class_offsets`); None for nothing.

    Raises
    ------
    OptionError
        If there are not as many offsets as classes.
    """

    def __init__(
        self,
        architecture: Architecture,
        members: Sequence[Mapping[str, np.ndarray]],
        precision: str = "float32",
        *,
        may_split: bool = True,
        offsets: Sequence[float] | None = None,
    ) -> None:
        if offsets is not None and len(offsets) != architecture.n_classes:
            raise OptionError(f"{len(offsets)} offsets for a net of {architecture.n_classes} classes; expected as many")
        self.architecture, self.precision, self._may_split = architecture, precision, may_split
        self._members, self._offsets = members, None if offsets is None else np.asarray(offsets, np.float32)
        self._variables: list[list[Any]] = []
        self._net: Any = None  # of the last shape; its variables say the order of the tensors
        self._forward: dict[Triple, Callable[[list[Any], np.ndarray], np.ndarray]] = {}
        self._too_large: set[Triple] = set()

    def reload(self, members: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take other members of the same architecture; what was compiled stays."""
        self._members = members
        if self._net is not None:
            self._load()

    def __len__(self) -> int:
        return len(self._members)

    def __call__(self, tile: np.ndarray) -> Iterator[np.ndarray]:
        """Probabilities of one member after the other.

        Parameters
        ----------
        tile
            (z, y, x) float32, normalized.

        Yields
        ------
        numpy.ndarray
            (z, y', x', class) float32.

        Raises
        ------
        StackError
            If the memory does not suffice, however small the tile.
        """
        for member in range(len(self)):
            yield self._predict(tile, member)

    def _predict(self, tile: np.ndarray, member: int) -> np.ndarray:
        z, y, x = tile.shape
        shape = (z, y, x)
        if shape not in self._too_large:
            try:
                return self._run(tile, member)
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                self._forward.pop(shape, None)
        halves = self._halves(shape) if self._may_split else None
        if halves is None:
            remedy = "run on a machine or device with more memory" + (
                "" if self._may_split else ", or use --stitch crop"
            )
            raise StackError(f"not enough memory for a tile of {z} x {y} x {x} voxels (z, y, x); {remedy}")
        if shape not in self._too_large:
            self._too_large.add(shape)
            smaller = self._predict_shape(shape, halves)
            _log.warning("not enough memory for a tile of %s voxels (z, y, x): going on with %s", shape, smaller)
        return self._predict_halves(tile, member, *halves)

    @staticmethod
    def _predict_shape(shape: Triple, halves: tuple[int, int]) -> Triple:
        sides = list(shape)
        sides[halves[0]] = halves[1]
        return sides[0], sides[1], sides[2]

    def _halves(self, shape: Triple) -> tuple[int, int] | None:
        """Axis to cut and the input side of each of two overlapping parts; None when parts would not be smaller."""
        net = self.architecture
        axis = 1 if shape[1] >= shape[2] else 2
        lossless = net.residue + 2 * net.margin
        side = shape[axis] // 2 + net.margin + net.halo + 1
        side += (lossless - side) % net.alignment
        whole = (shape[axis] - lossless) % net.alignment == 0
        return (axis, side) if whole and side < shape[axis] else None

    def _predict_halves(self, tile: np.ndarray, member: int, axis: int, side: int) -> np.ndarray:
        length = tile.shape[axis]
        low = np.moveaxis(self._predict(tile.take(range(side), axis), member), axis, 0)
        high = np.moveaxis(self._predict(tile.take(range(length - side, length), axis), member), axis, 0)
        n = length - 2 * self.architecture.margin
        return np.moveaxis(np.concatenate([low[: n // 2], high[n // 2 - n :]]), 0, axis)

    def _run(self, tile: np.ndarray, member: int) -> np.ndarray:
        z, y, x = tile.shape
        forward = self._forward.get((z, y, x))
        if forward is None:
            if len(self._forward) >= _COMPILED:
                self._forward.pop(next(iter(self._forward)))
                gc.collect()  # a graph is a knot of references: with its memory it would stay for long
            forward = self._build((z, y, x))
        else:
            del self._forward[z, y, x]  # to become the last one used
        self._forward[z, y, x] = forward
        batch = tile[..., None] if isinstance(self.architecture, UNet2D) else tile[None, ..., None]
        probabilities = forward(self._variables[member], batch)
        return probabilities if isinstance(self.architecture, UNet2D) else probabilities[0]

    def _build(self, shape: Triple) -> Callable[[list[Any], np.ndarray], np.ndarray]:
        """Trace the net for one input shape: (weights, (n, ..., 1) float32) -> probabilities as numpy float32."""
        from densecell_batch.nets.backend import compiled
        from densecell_batch.nets.build import build_net, ops

        net = self._net = build_net(self.architecture, shape, self.precision)
        if not self._variables:
            self._load()

        def forward(variables: list[Any], batch: Any) -> Any:
            outputs, _ = net.stateless_call(variables, [], ops.cast(batch, self.precision), training=False)
            logits = ops.cast(
                outputs[0] if isinstance(outputs, list) else outputs, "float32"
            )  # the deciding ones first
            return ops.softmax(logits if self._offsets is None else logits + self._offsets, axis=-1)

        run = compiled(forward)
        return lambda variables, batch: np.asarray(run(variables, batch))

    def _load(self) -> None:
        """Tensors of each member, in the order of the net's variables and in its dtype."""
        from densecell_batch.nets.build import assign_weights, ops

        self._variables = []
        for weights in self._members:
            assign_weights(self._net, weights)
            self._variables.append([ops.copy(v.value) for v in self._net.variables])


def _out_of_memory(error: Exception) -> bool:
    """Whether an error of a backend says that memory ran out."""
    # Each backend has its own class, and importing both to compare would cost more than reading the name.
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in str(error)
        or "ResourceExhausted" in type(error).__name__
    )
