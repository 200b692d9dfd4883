"""Keras computes a net, with TensorFlow or JAX: on GPUs, in training, and as the reference.

One graph is traced for an input shape and all members run through it, each with its own weights as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from densecell_batch.errors import DeviceError
from densecell_batch.nets.architecture import Architecture, UNet2D
from densecell_batch.nets.backend import compiled
from densecell_batch.nets.build import assign_weights, build_net, ops
from densecell_batch.nets.ensemble import Answer, answer_of, combine

__all__ = ["KerasEngine"]

Triple = tuple[int, int, int]


class KerasEngine:
    """Nets as functions that the backend of Keras compiles (`nets.engines.make_engine` says what it takes)."""

    def __init__(self, architecture: Architecture, precision: str, offsets: np.ndarray | None) -> None:
        if precision == "int8":
            raise DeviceError("Keras does not compute in int8: that is for OpenVINO")
        self.architecture = architecture
        self._precision, self._offsets = precision, offsets
        self._members: Sequence[Mapping[str, np.ndarray]] = ()
        self._net: Any = None  # of the last shape; its variables say the order of the tensors
        self.variables: list[list[Any]] = []

    def load(self, members: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take other members; what was compiled goes on with them."""
        self._members = members
        if self._net is not None:
            self._set()

    def compiled(self, shape: Triple) -> _KerasNets:
        """Trace the net for one input shape."""
        net = self._net = build_net(self.architecture, shape, self._precision)
        if not self.variables:
            self._set()

        def forward(variables: list[Any], batch: Any) -> Any:
            outputs, _ = net.stateless_call(variables, [], ops.cast(batch, self._precision), training=False)
            logits = ops.cast(outputs[0] if isinstance(outputs, list) else outputs, "float32")  # the deciding ones
            return ops.softmax(logits if self._offsets is None else logits + self._offsets, axis=-1)

        return _KerasNets(self, compiled(forward))

    def _set(self) -> None:
        """Tensors of each member, in the order of the net's variables and in its dtype."""
        self.variables = []
        for weights in self._members:
            assign_weights(self._net, weights)
            self.variables.append([ops.copy(v.value) for v in self._net.variables])


class _KerasNets:
    """(weights, (n, ..., 1) float32) -> probabilities, for one input shape."""

    def __init__(self, engine: KerasEngine, forward: Callable[[list[Any], np.ndarray], Any]) -> None:
        self._engine, self._forward = engine, forward

    def member(self, tile: np.ndarray, i: int) -> np.ndarray:
        """Probabilities of one member."""
        if isinstance(self._engine.architecture, UNet2D):
            return np.asarray(self._forward(self._engine.variables[i], tile[..., None]))
        return np.asarray(self._forward(self._engine.variables[i], tile[None, ..., None]))[0]

    def together(self, tile: np.ndarray, with_probabilities: bool, with_disagreement: bool) -> Answer:
        """What all members say, one after the other."""
        members = (self.member(tile, i) for i in range(len(self._engine.variables)))
        found = combine(members, with_disagreement=with_disagreement)
        return answer_of(*found, with_probabilities=with_probabilities)
