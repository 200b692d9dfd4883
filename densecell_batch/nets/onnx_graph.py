"""An ensemble as one ONNX file, for other programs to compute: a graph is made of an architecture and its tensors.

It is no engine of ours: nothing here computes but `answers`, which reads a file back by OpenVINO. The package onnx is
imported when it is needed: only those who export have it.

References
----------
.. [1] ONNX documentation, "Operators", those of opset 17: Conv, ConvTranspose, MaxPool, Slice, Softmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from densecell_batch._version import __version__
from densecell_batch.errors import DeviceError, OptionError
from densecell_batch.nets.architecture import Architecture, n_parameters
from densecell_batch.nets.families import logits
from densecell_batch.nets.graph import Sides

__all__ = ["INPUT", "OPSET", "OUTPUT", "answers", "onnx_bytes", "rim"]

OPSET = 17  # other programs read up to 18
_IR_VERSION = 8  # the one that came with this opset
INPUT = "image"  # names in the file
OUTPUT = "probabilities"
_CHANNEL = 1  # axis
_LARGEST = 2**31 - 2**24  # bytes of weights: a file of ONNX is one protocol buffer, which ends at 2 GiB

Triple = tuple[int, int, int]


def onnx_bytes(
    architecture: Architecture,
    members: Sequence[Mapping[str, np.ndarray]],
    shape: Triple,
    offsets: Sequence[float] | None = None,
    records: Mapping[str, str] | None = None,
    *,
    padded: bool = False,
) -> bytes:
    """The members of an ensemble and their mean as the content of an ONNX file. Equal input, equal bytes.

    Parameters
    ----------
    architecture
        What all members are.
    members
        Tensors of each under canonical names.
    shape
        Of the volume (z, y, x) that goes in, normalized: (1, 1, z, y, x) float32. Out comes (1, class, z', y', x')
        float32: the mean of the members' probabilities.
    offsets
        Added to the logit of each class; None for nothing.
    records
        Texts that stand in the file by name.
    padded
        Whether what comes out gets the sides of what goes in, where a net gives less (`rim`): its outermost values are
        repeated.

    Raises
    ------
    DeviceError
        If the package onnx is not installed.
    OptionError
        If the weights are more than a file of ONNX can hold.
    """
    size = 4 * n_parameters(architecture) * len(members)
    if size > _LARGEST:
        raise OptionError(f"the weights have {size:,} bytes; a file of ONNX holds at most {_LARGEST:,}")
    try:
        import onnx
        from onnx import checker, helper
    except ImportError as error:
        raise DeviceError(
            f"exporting needs the package onnx, which is not installed here or cannot be imported ({error}): "
            "pip install 'densecell-batch[export]'"
        ) from error
    made = _Nodes(helper, onnx.numpy_helper)
    volume = _Features(INPUT, (1, 1, *shape))
    every = [_probabilities(made, volume, i, tensors, architecture, offsets) for i, tensors in enumerate(members)]
    total = reduce(lambda a, b: made.node("Add", [a, b], a.shape), every)
    mean = made.node("Div", [total, made.constant(np.float32(len(every)))], total.shape)
    depth, classes, *sides = mean.shape
    mean = made.node("Transpose", [mean], (classes, depth, *sides), perm=[1, 0, 2, 3])
    beyond = rim(architecture) if padded else (0, 0, 0)
    if any(beyond):
        mean = made.reshaped(mean, (1, classes, depth, *sides))
        pads = made.constant(np.array([0, 0, *beyond] * 2, np.int64))
        whole = [side + 2 * more for side, more in zip((depth, *sides), beyond, strict=True)]
        answer = made.node("Pad", [mean, pads], (1, classes, *whole), OUTPUT, mode="edge")
    else:
        answer = made.reshaped(mean, (1, classes, depth, *sides), OUTPUT)
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        made.nodes,
        architecture.family,
        [helper.make_tensor_value_info(INPUT, floats, volume.shape)],
        [helper.make_tensor_value_info(OUTPUT, floats, answer.shape)],
        made.tensors,
    )
    model = helper.make_model(
        graph,
        producer_name="densecell-batch",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, dict(records or {}))
    checker.check_model(model, full_check=True)  # what it infers of the shapes is what is declared, too
    return bytes(model.SerializeToString(deterministic=True))


def rim(architecture: Architecture) -> Triple:
    """Voxels at each end of what goes in, along z, y and x, of which nothing comes out."""
    return (architecture.context, architecture.margin, architecture.margin)


def answers(content: bytes, volume: np.ndarray) -> np.ndarray:
    """What an ONNX file says of a volume (z, y, x) float32, as OpenVINO reads it: probabilities (z', y', x', class)."""
    import openvino

    core = openvino.Core()
    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    run = core.compile_model(core.read_model(content), "CPU", properties)
    (found,) = run([np.ascontiguousarray(volume[None, None], np.float32)]).values()
    return np.moveaxis(found[0], 0, -1)


@dataclass(frozen=True)
class _Features:
    """The name of a tensor in the graph, and its shape (n, channel, ...)."""

    name: str
    shape: tuple[int, ...]


class _Nodes:
    """The nodes of a graph and the tensors that they hold, in the order in which they were made."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self._helper, self._numpy = helper, numpy_helper
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._known: dict[bytes, _Features] = {}  # constants that are no weights

    def node(
        self, kind: str, inputs: Sequence[_Features], shape: Sides, name: str = "", **attributes: Any
    ) -> _Features:
        """Add a node; `shape` is that of its output."""
        name = name or f"{kind.lower()}-{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, [x.name for x in inputs], [name], name=name, **attributes))
        return _Features(name, tuple(shape))

    def tensor(self, name: str, values: np.ndarray) -> _Features:
        """Add weights."""
        self.tensors.append(self._numpy.from_array(np.ascontiguousarray(values, np.float32), name))
        return _Features(name, values.shape)

    def constant(self, values: Any) -> _Features:
        """A small tensor, once for each content."""
        array = np.asarray(values)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self._known:
            name = f"constant-{len(self._known)}"
            self.tensors.append(self._numpy.from_array(array, name))
            self._known[key] = _Features(name, array.shape)
        return self._known[key]

    def reshaped(self, x: _Features, shape: Sides, name: str = "") -> _Features:
        """The same values in another shape."""
        return self.node("Reshape", [x, self.constant(np.array(shape, np.int64))], shape, name)


def _probabilities(
    made: _Nodes,
    volume: _Features,
    i: int,
    tensors: Mapping[str, np.ndarray],
    architecture: Architecture,
    offsets: Sequence[float] | None,
) -> _Features:
    """Of a member, (z, class, y', x')."""
    _, _, z, y, x = volume.shape
    g = _OnnxGraph(made, volume, tensors, f"member-{i}")
    _, (deciding, *_) = logits(g, architecture, (z, y, x))
    found = deciding if len(g.sides(deciding)) == 2 else g.slices(deciding)
    if offsets is not None:
        added = np.asarray(offsets, np.float32).reshape(1, -1, 1, 1)
        found = made.node("Add", [found, made.constant(added)], found.shape)
    return made.node("Softmax", [found], found.shape, axis=_CHANNEL)


class _OnnxGraph:
    """Operations on nodes of ONNX, with the channels before the spatial axes; `nets.graph.Graph` says what they do.

    Parameters
    ----------
    made
        Where nodes go.
    volume
        The input (1, 1, z, y, x).
    weights
        Tensors under canonical names.
    prefix
        Of the names of the tensors.
    """

    normalized = False

    def __init__(self, made: _Nodes, volume: _Features, weights: Mapping[str, np.ndarray], prefix: str) -> None:
        self._made, self._volume, self._weights, self._prefix = made, volume, weights, prefix

    def image(self, shape: Sides) -> _Features:
        if len(shape) == 3:
            return self._volume
        return self._made.reshaped(self._volume, (self._volume.shape[2], 1, *shape))

    def sides(self, x: _Features) -> Sides:
        return x.shape[2:]

    def channels(self, x: _Features) -> int:
        return x.shape[_CHANNEL]

    def conv(
        self,
        x: _Features,
        filters: int,
        kernel: Sides,
        name: str,
        *,
        padded: bool = True,
        stride: int = 1,
        relu: bool = True,
    ) -> _Features:
        before = after = [side // 2 if padded else 0 for side in kernel]
        if stride == 2:
            before, after = [0] * len(kernel), [1 + side % 2 for side in self.sides(x)]
        lengths = zip(self.sides(x), before, after, kernel, strict=True)
        sides = [(side + low + high - taps) // stride + 1 for side, low, high, taps in lengths]
        attributes: dict[str, Any] = {
            "kernel_shape": list(kernel),
            "pads": [*before, *after],
            "strides": [stride] * len(kernel),
        }
        x = self._made.node("Conv", [x, *self._tensors(name)], (x.shape[0], filters, *sides), **attributes)
        return self.relu(x) if relu else x

    def upsample(self, x: _Features, filters: int, factors: Sides, name: str) -> _Features:
        sides = [side * factor for side, factor in zip(self.sides(x), factors, strict=True)]
        attributes: dict[str, Any] = {"kernel_shape": list(factors), "strides": list(factors)}
        return self._made.node("ConvTranspose", [x, *self._tensors(name)], (x.shape[0], filters, *sides), **attributes)

    def predictor(self, x: _Features, n_classes: int, name: str, *, relu: bool) -> _Features:
        return self.conv(x, n_classes, (1,) * len(self.sides(x)), name, relu=relu)

    def pool(self, x: _Features, factors: Sides, name: str) -> _Features:
        sides = [side // factor for side, factor in zip(self.sides(x), factors, strict=True)]
        attributes: dict[str, Any] = {"kernel_shape": list(factors), "strides": list(factors)}
        return self._made.node("MaxPool", [x], (*x.shape[:2], *sides), **attributes)

    def enlarge(self, x: _Features, factor: int, name: str) -> _Features:
        raise NotImplementedError("only to train")

    def relu(self, x: _Features) -> _Features:
        return self._made.node("Relu", [x], x.shape)

    def add(self, a: _Features, b: _Features) -> _Features:
        return self._made.node("Add", [a, b], a.shape)

    def concat(self, parts: Sequence[_Features]) -> _Features:
        channels = sum(map(self.channels, parts))
        first, _, *sides = parts[0].shape
        return self._made.node("Concat", parts, (first, channels, *sides), axis=_CHANNEL)

    def crop(self, x: _Features, starts: Sides, sides: Sides) -> _Features:
        if self.sides(x) == tuple(sides):
            return x
        stops = [start + side for start, side in zip(starts, sides, strict=True)]
        limits = [self._made.constant(np.array(v, np.int64)) for v in (starts, stops, range(2, 2 + len(sides)))]
        return self._made.node("Slice", [x, *limits], (*x.shape[:2], *sides))

    def as_dtype_of(self, x: _Features, other: _Features) -> _Features:
        return x

    def wide(self, x: _Features) -> _Features:
        return x

    def slices(self, x: _Features) -> _Features:
        n, c, z, y, width = x.shape
        x = self._made.node("Transpose", [x], (n, z, c, y, width), perm=[0, 2, 1, 3, 4])
        return self._made.reshaped(x, (n * z, c, y, width))

    def volume(self, x: _Features, depth: int) -> _Features:
        n, c, y, width = x.shape
        x = self._made.reshaped(x, (n // depth, depth, c, y, width))
        return self._made.node("Transpose", [x], (n // depth, c, depth, y, width), perm=[0, 2, 1, 3, 4])

    def _tensors(self, name: str) -> tuple[_Features, _Features]:
        """Kernel and bias of a layer."""
        kernel = self._weights[f"{name}/kernel"]  # (..., in, out), transposed ones (..., out, in)
        n = kernel.ndim - 2
        turned = kernel.transpose(n + 1, n, *range(n))
        tensors = self._made.tensor(f"{self._prefix}/{name}/kernel", turned)
        return tensors, self._made.tensor(f"{self._prefix}/{name}/bias", self._weights[f"{name}/bias"])
