"""The one place where a net meets a tile: normalized voxels in, probabilities out.

An engine compiles the nets for each shape of a tile (`nets.engines`); when memory runs out, tiles are cut.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from densecell_batch.errors import OptionError, StackError
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.engines import CompiledNets, make_engine
from densecell_batch.nets.ensemble import Answer, answer_of, combine

__all__ = ["Predictor"]

_COMPILED = 4  # shapes that are kept: a process of months sees many, and each takes memory

_NO_MEMORY = (
    *("RESOURCE_EXHAUSTED", "ResourceExhausted"),  # TensorFlow, JAX
    *("Failed to allocate", "not allocate memory", "annot allocate memory", "bad_alloc", "could not create a memory"),
)

_log = logging.getLogger(__name__)

Triple = tuple[int, int, int]
Parts = tuple[np.ndarray | None, ...]  # (z, y, x, ...) each, where asked for
Ask = Callable[[CompiledNets, np.ndarray], Parts]


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
    engine
        What computes: "openvino", "tensorflow", "jax", or "keras" for the backend of Keras that is configured.

    Raises
    ------
    OptionError
        If there are not as many offsets as classes.
    DeviceError
        If the engine is not installed.
    """

    def __init__(
        self,
        architecture: Architecture,
        members: Sequence[Mapping[str, np.ndarray]],
        precision: str = "float32",
        *,
        may_split: bool = True,
        offsets: Sequence[float] | None = None,
        engine: str = "keras",
    ) -> None:
        if offsets is not None and len(offsets) != architecture.n_classes:
            raise OptionError(f"{len(offsets)} offsets for a net of {architecture.n_classes} classes; expected as many")
        self.architecture, self.precision, self._may_split = architecture, precision, may_split
        self.engine = engine
        added = None if offsets is None else np.asarray(offsets, np.float32)
        self._engine = make_engine(engine, architecture, precision, added)
        self._compiled: dict[Triple, CompiledNets] = {}
        self._too_large: set[Triple] = set()
        self.reload(members)

    def reload(self, members: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take other members of the same architecture."""
        self._n_members = len(members)
        self._engine.load(members)

    def __len__(self) -> int:
        return self._n_members

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
            yield self._compute(tile, lambda nets, part, i=member: (nets.member(part, i),))[0]  # type: ignore[misc]

    def together(
        self,
        tile: np.ndarray,
        with_probabilities: bool = False,
        *,
        rule: str = "mean",
        with_disagreement: bool = False,
    ) -> Answer:
        """What the members say of a tile (z, y, x) together (`nets.ensemble.combine`); raises as a call does."""
        if rule != "mean":
            found = combine(self(tile), rule, with_disagreement=with_disagreement)
            return answer_of(*found, with_probabilities=with_probabilities)
        asked = (with_probabilities, with_disagreement)
        return Answer(*self._compute(tile, lambda nets, part: nets.together(part, *asked)))  # type: ignore[arg-type]

    def _compute(self, tile: np.ndarray, ask: Ask) -> Parts:
        z, y, x = tile.shape
        shape = (z, y, x)
        if shape not in self._too_large:
            try:
                return ask(self._nets(shape), tile)
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                self._compiled.clear()  # whatever shapes are kept, they take memory
        halves = self._halves(shape) if self._may_split else None
        if halves is None:
            remedy = "run on a machine or device with more memory" + (
                "" if self._may_split else ", or use --stitch crop"
            )
            raise StackError(f"not enough memory for a tile of {z} x {y} x {x} voxels (z, y, x); {remedy}")
        if shape not in self._too_large:
            self._too_large.add(shape)
            smaller = self._smaller(shape, halves)
            _log.warning("not enough memory for a tile of %s voxels (z, y, x): going on with %s", shape, smaller)
        return self._in_halves(tile, ask, *halves)

    @staticmethod
    def _smaller(shape: Triple, halves: tuple[int, int]) -> Triple:
        sides = list(shape)
        sides[halves[0]] = halves[1]
        return sides[0], sides[1], sides[2]

    def _halves(self, shape: Triple) -> tuple[int, int] | None:
        """Axis to cut and the input side of each of two overlapping parts; None when parts would not be smaller."""
        net = self.architecture
        axis = 1 if shape[1] >= shape[2] else 2
        lossless = net.residue + 2 * net.margin
        side = shape[axis] // 2 + net.margin + net.halo + 1
        side += (shape[axis] - side) % net.alignment  # the second half, too, begins where strides of the whole do
        whole = net.any_side or (shape[axis] - lossless) % net.alignment == 0
        return (axis, side) if whole and side < shape[axis] else None

    def _in_halves(self, tile: np.ndarray, ask: Ask, axis: int, side: int) -> Parts:
        length = tile.shape[axis]
        low = self._compute(tile.take(range(side), axis), ask)
        high = self._compute(tile.take(range(length - side, length), axis), ask)
        n = length - 2 * self.architecture.margin
        first, rest = range(n // 2), range(n // 2 - n, 0)  # of what would come out, from the low and the high half

        def joined(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
            return None if a is None or b is None else np.concatenate([a.take(first, axis), b.take(rest, axis)], axis)

        return tuple(map(joined, low, high))

    def _nets(self, shape: Triple) -> CompiledNets:
        nets = self._compiled.pop(shape, None)  # to become the last one used
        if nets is None:
            if len(self._compiled) >= _COMPILED:
                self._compiled.pop(next(iter(self._compiled)))
                gc.collect()  # a graph is a knot of references: with its memory it would stay for long
            nets = self._engine.compiled(shape)
        self._compiled[shape] = nets
        return nets


def _out_of_memory(error: Exception) -> bool:
    """Whether an error of a backend says that memory ran out."""
    # Each engine has its own class, or none, and importing all to compare would cost more than reading the words.
    text = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)
