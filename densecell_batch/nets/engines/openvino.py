"""OpenVINO computes a net: for processors, without TensorFlow. A graph is made of an architecture and its tensors.

References
----------
.. [1] OpenVINO documentation, "Available operation sets", opset13; "CPU device", properties of compiled models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as op
from openvino.opset1 import max_pool  # later ones say where the largest was, too

from densecell_batch.errors import DeviceError
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.ensemble import Answer
from densecell_batch.nets.families import logits
from densecell_batch.nets.graph import Sides
from densecell_batch.nets.quantization import quantized_layers, range_of
from densecell_batch.system import threads

__all__ = ["OpenVinoEngine", "observed_ranges"]

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # of what is not int8
_CHANNEL = 1  # axis
_SHARED = 2_500_000  # voxels of a tile, at most, for which a graph of its own takes longer to make than it saves

_log = logging.getLogger(__name__)

_AT_ONCE = 600_000  # voxels that a shared graph computes at a time; more slice by slice, as fast with less memory
_KEPT = 100  # kernels of each kind that a shared graph keeps; 5000 of OpenVINO's own are a gigabyte after 300 shapes

Triple = tuple[int, int, int]
Shape = Triple | None  # of a tile; None for any
Run = Callable[[np.ndarray], list[np.ndarray]]  # a tile (z, y, x) -> what was asked for


class OpenVinoEngine:
    """Nets as graphs of OpenVINO (`nets.engines.make_engine` says what it takes), in float32, bfloat16 or int8."""

    def __init__(self, architecture: Architecture, precision: str, offsets: np.ndarray | None) -> None:
        if precision not in _PRECISIONS:
            raise DeviceError(f"OpenVINO computes in {' or '.join(_PRECISIONS)} on a processor, not in {precision}")
        self._architecture, self._offsets = architecture, offsets
        self._graph = _Int8Graph if precision == "int8" else _OpenVinoGraph
        self._core, self.members = openvino.Core(), []  # type: openvino.Core, list[Mapping[str, np.ndarray]]
        self._lock, self._last = Lock(), None  # type: Lock, Any
        self._hint = _PRECISIONS[precision]
        self._properties = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": threads(),  # of the control group: OpenVINO counts those of the machine
            "ENABLE_HYPER_THREADING": True,
            "ENABLE_CPU_PINNING": False,  # several processes may share a machine
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT,
        }
        self._shared = _OpenVinoNets(self, None)

    def load(self, members: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take other members; graphs of those before are made anew when they are asked."""
        self.members = list(members)

    def compiled(self, shape: Triple) -> _OpenVinoNets:
        """The nets for one shape; what is asked of them is compiled when it is first asked.

        Small tiles of nets that take any side share a graph without sides: each stack of another shape would else wait
        for a graph of its own. Which graph it is follows from the tile alone, so that labels do not depend on what was
        computed before.
        """
        shared = self._architecture.any_side and prod(shape) <= _SHARED
        return self._shared if shared else _OpenVinoNets(self, shape)

    def member(self, shape: Shape, i: int) -> Run:
        """The probabilities of one member."""
        tile = _parameter(shape)
        return self._compiled(tile, [_channels_last(self._probabilities(tile, shape, i))])

    def together(self, shape: Shape, with_probabilities: bool, with_disagreement: bool) -> Run:
        """What all members say together, in one graph: what of an `Answer` is asked for."""
        tile = _parameter(shape)
        members = [self._probabilities(tile, shape, i) for i in range(len(self.members))]
        n = op.constant(np.float32(len(members)))
        mean = op.divide(reduce(op.add, members), n)
        # Sorted, it is stable: the lowest class on a tie.
        confidence, labels = op.topk(mean, op.constant(1), _CHANNEL, "max", "value", stable=True).outputs()
        one = op.constant([_CHANNEL])
        wanted = [op.convert(op.squeeze(labels, one), "u8"), op.squeeze(confidence, one)]
        if with_probabilities:
            wanted.append(_channels_last(mean))
        if with_disagreement:
            of_members = op.divide(reduce(op.add, [_entropy(p) for p in members]), n)
            alone = len(members) == 1
            wanted.append(of_members if alone else op.relu(op.subtract(_entropy(mean), of_members)))
        return self._compiled(tile, wanted)

    def _probabilities(self, tile: Any, shape: Shape, i: int) -> Any:
        """Of a member (z, class, y', x')."""
        g = self._graph(tile, self.members[i])
        _, (deciding, *_) = logits(g, self._architecture, shape or (-1, -1, -1))
        x = deciding if len(g.sides(deciding)) == 2 else g.slices(deciding)
        if self._offsets is not None:
            x = op.add(x, op.constant(self._offsets.reshape(1, -1, 1, 1)))
        return op.softmax(x, _CHANNEL)

    def _compiled(self, tile: Any, outputs: list[Any]) -> Run:
        model = openvino.Model([op.result(x) for x in outputs], [tile])
        compiled = self._core.compile_model(model, "CPU", self._properties)
        _tell_if_other(compiled, self._hint)
        request, shared = compiled.create_infer_request(), tile.output(0).partial_shape.is_dynamic
        wanted = [(self._architecture.n_classes,) if _n_axes(x) == 4 else () for x in outputs]
        dtypes = [x.get_element_type().to_dtype() for x in outputs]

        def run(voxels: np.ndarray) -> list[np.ndarray]:
            z, y, x = self._architecture.output_shape((voxels.shape[0], voxels.shape[1], voxels.shape[2]))
            # Computed in place: what was given out stays.
            made = [np.empty((z, y, x, *classes), dtype) for classes, dtype in zip(wanted, dtypes, strict=True)]
            whole = np.ascontiguousarray(voxels, np.float32)  # has to live until all is computed
            n = 1 if shared and z * y * x > _AT_ONCE else z
            more = len(whole) - z  # slices that serve as context
            with self._lock:
                self._only(compiled)
                for start in range(0, z, n):
                    for i, array in enumerate(made):
                        request.set_output_tensor(i, openvino.Tensor(array[start : start + n], shared_memory=True))
                    part = whole[start : min(start + n, z) + more]
                    request.set_input_tensor(openvino.Tensor(part, shared_memory=True))
                    request.infer()
            return made

        return run

    def _only(self, compiled: Any) -> None:
        """Free what another graph keeps of its features: one at a time has its memory."""
        if self._last is not None and self._last is not compiled:
            self._last.release_memory()
        self._last = compiled


def _tell_if_other(compiled: Any, wanted: str) -> None:
    """Say so if a processor has no instructions for a precision: OpenVINO computes in float32 then."""
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != wanted:
        _log.warning("this processor cannot compute in %s: the nets are computed in %s", wanted, found)


def observed_ranges(
    architecture: Architecture, weights: Mapping[str, np.ndarray], windows: Iterable[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """What the inputs of the layers of a member lie between while it looks at windows (z, y, x) of real tissue, for
    those that are computed in eight bits; 0 lies between them, too.
    """
    names = quantized_layers(architecture)
    lows, highs = np.zeros(len(names)), np.zeros(len(names))
    runs: dict[Triple, Any] = {}
    for window in windows:
        z, y, x = window.shape
        if (z, y, x) not in runs:
            tile = op.parameter((z, y, x), np.float32)
            g = _WatchedGraph(tile, weights)
            logits(g, architecture, (z, y, x))
            watched = [g.inputs[name] for name in names]
            ends = [op.result(end(x, _all_axes(x), False)) for end in (op.reduce_min, op.reduce_max) for x in watched]
            properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}
            runs[z, y, x] = openvino.Core().compile_model(openvino.Model(ends, [tile]), "CPU", properties)
        low, high = np.array([float(end) for end in runs[z, y, x]([window]).values()]).reshape(2, -1)
        lows, highs = np.minimum(lows, low), np.maximum(highs, high)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}


class _OpenVinoNets:
    """The graphs for one shape of tiles, or for any."""

    def __init__(self, engine: OpenVinoEngine, shape: Shape) -> None:
        self._engine, self._shape, self._members = engine, shape, engine.members
        self._runs: dict[tuple[Any, ...], Run] = {}

    def member(self, tile: np.ndarray, i: int) -> np.ndarray:
        """Probabilities of one member."""
        return self._run("member", i)(tile)[0]

    def together(self, tile: np.ndarray, with_probabilities: bool, with_disagreement: bool) -> Answer:
        """What all members say."""
        labels, confidence, *more = self._run("together", with_probabilities, with_disagreement)(tile)
        disagreement = more.pop() if with_disagreement else None
        return Answer(labels, confidence, more.pop() if with_probabilities else None, disagreement)

    def _run(self, what: str, *details: int) -> Run:
        if self._members is not self._engine.members:  # graphs hold weights, and others were loaded
            self._members = self._engine.members
            self._runs.clear()
        if (what, *details) not in self._runs:
            self._runs[what, *details] = getattr(self._engine, what)(self._shape, *details)
        return self._runs[what, *details]


def _channels_last(x: Any) -> Any:
    return op.transpose(x, op.constant([0, 2, 3, 1]))


def _entropy(p: Any) -> Any:
    """(z, class, y, x) -> (z, y, x), in bits; 0 log 0 is 0."""
    bits = op.multiply(
        op.log(op.add(p, op.constant(np.finfo(np.float32).tiny))), op.constant(np.float32(-1 / np.log(2)))
    )
    return op.reduce_sum(op.multiply(p, bits), op.constant([_CHANNEL]), False)


class _OpenVinoGraph:
    """Operations on nodes of OpenVINO, with the channels before the spatial axes; `nets.graph.Graph` says what they do.

    Parameters
    ----------
    tile
        The node of the voxels (z, y, x).
    weights
        Tensors under canonical names.
    """

    normalized = False

    def __init__(self, tile: Any, weights: Mapping[str, np.ndarray]) -> None:
        self._tile, self._weights = tile, weights

    def image(self, shape: Sides) -> Any:
        return op.unsqueeze(self._tile, _numbers([0, 1] if len(shape) == 3 else [1]))

    def sides(self, x: Any) -> Sides:
        shape = x.output(0).partial_shape
        if shape.is_static:
            return tuple(shape.to_shape())[2:]
        found = op.shape_of(x)
        sides: Any = tuple(_Side(op.gather(found, _numbers([i]), _numbers(0))) for i in range(2, _n_axes(x)))
        return sides

    def channels(self, x: Any) -> int:
        return int(x.output(0).partial_shape[_CHANNEL].get_length())

    def conv(
        self, x: Any, filters: int, kernel: Sides, name: str, *, padded: bool = True, stride: int = 1, relu: bool = True
    ) -> Any:
        n = len(kernel)
        before = after = [side // 2 if padded else 0 for side in kernel]
        if stride == 2:
            before, after = [0] * n, [2] * n  # of an even side no kernel reaches the second one
        x = op.convolution(self._input(x, name), self._kernel(name), [stride] * n, before, after, [1] * n)
        x = op.add(x, self._bias(name, n))
        return op.relu(x) if relu else x

    def upsample(self, x: Any, filters: int, factors: Sides, name: str) -> Any:
        x = op.convolution_backprop_data(self._input(x, name), self._kernel(name), list(factors))
        return op.add(x, self._bias(name, len(factors)))

    def predictor(self, x: Any, n_classes: int, name: str, *, relu: bool) -> Any:
        n = len(self.sides(x))
        x = op.add(self._of_parts(x, self._kernel(name), [1] * n), self._bias(name, n))
        return op.relu(x) if relu else x

    def _of_parts(self, x: Any, kernel: Any, ones: list[int]) -> Any:
        """The convolution of one voxel of features; of a sum, or a part, the sum or the part of convolutions: of the
        features that would be added, the largest of a net, then only the logits are kept.
        """
        kind, inputs = x.get_type_name(), _inputs(x)
        if kind == "Add" and not any(node.get_type_name() == "Constant" for node in inputs):  # not that of a bias
            return op.add(*(self._of_parts(node, kernel, ones) for node in inputs))
        if kind == "Slice":
            return op.slice(self._of_parts(inputs[0], kernel, ones), *inputs[1:])
        zeros = [0] * len(ones)
        return op.convolution(x, kernel, ones, zeros, zeros, ones)

    def pool(self, x: Any, factors: Sides, name: str) -> Any:
        n, sides = len(factors), list(factors)
        return max_pool(x, sides, [0] * n, [0] * n, sides, "floor")

    def enlarge(self, x: Any, factor: int, name: str) -> Any:
        raise NotImplementedError("only to train")

    def relu(self, x: Any) -> Any:
        return op.relu(x)

    def add(self, a: Any, b: Any) -> Any:
        return op.add(a, b)

    def concat(self, parts: Sequence[Any]) -> Any:
        return op.concat(list(parts), _CHANNEL)

    def crop(self, x: Any, starts: Sides, sides: Sides) -> Any:
        n = len(sides)
        if isinstance(sides[0], _Side):
            ends = op.concat([side.voxels for side in sides], 0)
            stops = op.add(ends, _numbers(starts))
        elif self.sides(x) == sides:
            return x
        else:
            stops = _numbers([start + side for start, side in zip(starts, sides, strict=True)])
        return op.slice(x, _numbers(starts), stops, _numbers([1] * n), _numbers(range(2, 2 + n)))

    def as_dtype_of(self, x: Any, other: Any) -> Any:
        return x

    def wide(self, x: Any) -> Any:
        return x

    def slices(self, x: Any) -> Any:
        return op.squeeze(op.transpose(x, _numbers([0, 2, 1, 3, 4])), _numbers([0]))

    def volume(self, x: Any, depth: int) -> Any:
        return op.transpose(op.unsqueeze(x, _numbers([0])), _numbers([0, 2, 1, 3, 4]))

    def _input(self, x: Any, name: str) -> Any:
        """What a layer gets."""
        return x

    def _kernel(self, name: str) -> Any:
        kernel = self._weights[f"{name}/kernel"]  # (..., in, out), transposed ones (..., out, in)
        n = kernel.ndim - 2
        return op.constant(np.ascontiguousarray(kernel.transpose(n + 1, n, *range(n)), np.float32))

    def _bias(self, name: str, n_axes: int) -> Any:
        return op.constant(self._weights[f"{name}/bias"].astype(np.float32).reshape(1, -1, *[1] * n_axes))


class _Side:
    """A side of features that is known when a graph runs."""

    def __init__(self, voxels: Any) -> None:
        self.voxels = voxels  # a node of one number

    def __sub__(self, n: int) -> _Side:
        return _Side(op.subtract(self.voxels, _numbers([n])))


class _WatchedGraph(_OpenVinoGraph):
    """Remembers what each layer gets."""

    def __init__(self, tile: Any, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__(tile, weights)
        self.inputs: dict[str, Any] = {}

    def _input(self, x: Any, name: str) -> Any:
        self.inputs[name] = x
        return x


class _Int8Graph(_OpenVinoGraph):
    """Rounds what layers get, and their kernels, to eight bits where it knows the range; OpenVINO makes a net of whole
    numbers of that.
    """

    def __init__(self, tile: Any, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__(tile, weights)
        self._rounded: dict[tuple[Any, ...], Any] = {}

    def _input(self, x: Any, name: str) -> Any:
        limits = range_of(self._weights, name)
        return x if limits is None or limits[0] == limits[1] else self._round(x, limits)

    def _round(self, x: Any, limits: tuple[float, float]) -> Any:
        """In eight bits. What is put together, cut or pooled is rounded before, which gives the same voxels, and leaves
        no floats to be kept until then.
        """
        key = x.get_name(), limits
        if key not in self._rounded:
            kind, inputs = x.get_type_name(), _inputs(x)
            if kind == "Concat":
                made = self.concat([self._round(part, limits) for part in inputs])
            elif kind == "Slice":
                made = op.slice(self._round(inputs[0], limits), *inputs[1:])
            elif kind == "MaxPool":
                made = self.pool(self._round(inputs[0], limits), x.get_attributes()["kernel"], "")
            else:
                low, high = (op.constant(np.float32(limit)) for limit in limits)
                made = op.fake_quantize(x, low, high, low, high, 256)
            self._rounded[key] = made
        return self._rounded[key]

    def _kernel(self, name: str) -> Any:
        kernel = super()._kernel(name)
        if range_of(self._weights, name) is None:
            return kernel
        tensor, axis = self._weights[f"{name}/kernel"], -2 if "upsample_conv" in name else -1
        n, out = tensor.ndim - 2, tensor.shape[axis]
        largest = np.abs(np.moveaxis(tensor, axis, 0)).reshape(out, -1).max(1) + np.finfo(np.float32).tiny
        shape = (1, out, *[1] * n) if axis == -2 else (out, 1, *[1] * n)
        high, low = (op.constant((sign * largest).astype(np.float32).reshape(shape)) for sign in (1, -1))
        return op.fake_quantize(kernel, low, high, low, high, 255)


def _inputs(x: Any) -> list[Any]:
    """The nodes that a node takes."""
    return [value.get_node() for value in x.input_values()]


def _parameter(shape: Shape) -> Any:
    """The node of a tile."""
    return op.parameter(openvino.PartialShape([-1, -1, -1] if shape is None else list(shape)), np.float32)


def _n_axes(x: Any) -> int:
    return int(x.output(0).partial_shape.rank.get_length())


def _all_axes(x: Any) -> Any:
    return _numbers(range(_n_axes(x)))


def _numbers(values: Any) -> Any:
    """A node of whole numbers."""
    return op.constant(np.array(values, np.int64))
