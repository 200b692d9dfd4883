"""A model as a file of ONNX, for other programs: the whole ensemble, checked against what we compute of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecell_batch._version import __version__
from densecell_batch.errors import BundleError, OptionError, StackError
from densecell_batch.io.reading import open_stack
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.derived import check_free
from densecell_batch.models.golden import smooth_noise
from densecell_batch.nets.architecture import Architecture, window_problem
from densecell_batch.nets.engines import for_processor, is_installed
from densecell_batch.nets.onnx_graph import answers, onnx_bytes, rim
from densecell_batch.nets.predictor import Predictor, Triple
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import Reach

__all__ = ["ONNX_TOLERANCE", "ExportedOnnx", "export_onnx", "grey_window", "made_onnx", "normalized", "window_for"]

ONNX_TOLERANCE = 1e-4  # probabilities; as of golden pairs


@dataclass(frozen=True)
class ExportedOnnx:
    """An ensemble as ONNX, and what it says of one window."""

    content: bytes
    window: Triple  # (z, y, x) that goes in
    probabilities: np.ndarray  # (z', y', x', class) float32, by our own engine; padded as the file's
    difference: float | None  # of the file's, read back by OpenVINO, at most; None where it is not installed


def export_onnx(bundle: ModelBundle, out: Path, window: Triple | None = None) -> ExportedOnnx:
    """Write the ensemble of a bundle as one file of ONNX.

    Parameters
    ----------
    bundle
        The model.
    out
        Must not exist.
    window
        What goes in, (z, y, x) in voxels; None for what `window_for` takes.

    Raises
    ------
    OptionError
        If the nets take no such window without loss.
    DeviceError
        If the package onnx is not installed.
    BundleError
        If a member does not have the recorded hash, or the file does not say what the nets say.
    OutputError
        If `out` exists or cannot be written.
    """
    check_free(out)
    window = window_for(bundle, window)
    made = made_onnx(bundle, smooth_noise(window))
    write_file(out, made.content, replace=False)
    return made


def made_onnx(bundle: ModelBundle, image: np.ndarray, *, padded: bool = False) -> ExportedOnnx:
    """The ensemble of a bundle as ONNX for windows of the shape of `image`, (z, y, x) float32, normalized, on which it
    is tried; `padded` as for `onnx_bytes`. Raises as `export_onnx` does.
    """
    z, y, x = image.shape
    members = [bundle.weights(i) for i in range(len(bundle.members))]
    content = onnx_bytes(bundle.architecture, members, (z, y, x), bundle.class_offsets, _records(bundle), padded=padded)
    engine = for_processor()
    predictor = Predictor(bundle.architecture, members, offsets=bundle.class_offsets, engine=engine)
    expected = predictor.together(image, with_probabilities=True).probabilities
    assert expected is not None
    if padded:
        beyond = [(side, side) for side in (*rim(bundle.architecture), 0)]
        expected = np.pad(expected, beyond, "edge")
    difference = None
    if is_installed("openvino"):
        difference = float(np.abs(answers(content, image) - expected).max())
        if not difference <= ONNX_TOLERANCE:
            raise BundleError(
                f"{bundle.path}: as ONNX the nets would not give the same probabilities (largest difference "
                f"{difference:.2g}, expected at most {ONNX_TOLERANCE:g}); nothing was written: please report it"
            )
    return ExportedOnnx(content, (z, y, x), expected, difference)


def window_for(bundle: ModelBundle, asked: Triple | None = None) -> Triple:
    """The window (z, y, x) for which a model is exported: that which is asked for, or that of the training with sides
    of which no voxel is lost to pooling.

    Raises
    ------
    OptionError
        If the nets cannot take it, or would lose voxels of it.
    """
    net = bundle.architecture
    z, y, x = asked or bundle.window
    if net.fixed_depth and z != bundle.window[0]:
        raise OptionError(f"window {[z, y, x]}: these nets are defined for a depth of {bundle.window[0]} slices only")
    lossless = (z, _lossless(net, y), _lossless(net, x))
    problem = window_problem(net, (z, y, x)) or window_problem(net, lossless)
    if problem:
        raise OptionError(problem)
    if asked is not None and lossless != (z, y, x):
        raise OptionError(
            f"window {[z, y, x]}: the nets would lose voxels at one side of it; expected sides in y and x such as "
            f"{lossless[1]} and {lossless[2]}, or more in steps of {net.alignment}"
        )
    return lossless


def grey_window(path: Path, window: Triple) -> np.ndarray:
    """The middle of a stack, (z, y, x) float32, its grey values as they are.

    Raises
    ------
    StackError
        If it cannot be read, is smaller than the window, or has one value there.
    """
    with open_stack(path, reach=Reach.of(path, links=True)) as stack:
        starts = [(there - wanted) // 2 for there, wanted in zip(stack.shape, window, strict=True)]
        if min(starts) < 0:
            raise StackError(
                f"{path} has {list(stack.shape)} voxels (z, y, x); expected at least {list(window)}: take a larger "
                "stack, or a smaller --window"
            )
        z, y, x = starts
        rows = (y, y + window[1])
        slices = [stack.read(i, rows)[:, x : x + window[2]] for i in range(z, z + window[0])]
    values = np.stack(slices).astype(np.float32)
    if not np.isfinite(values).all() or not values.std() > 0:
        raise StackError(f"{path}: the middle of it has one value, or NaN; expected an image of tissue")
    return values


def normalized(values: np.ndarray) -> np.ndarray:
    """Grey values less their mean, divided by their standard deviation."""
    wide = values.astype(np.float64)
    return ((wide - wide.mean()) / wide.std()).astype(np.float32)


def _lossless(net: Architecture, side: int) -> int:
    """The largest side up to this of which no voxel is lost to pooling."""
    return side if net.any_side else side - (side - net.residue - 2 * net.margin) % net.alignment


def _records(bundle: ModelBundle) -> dict[str, str]:
    """What the file says of itself."""
    as_text: Callable[[object], str] = lambda value: json.dumps(value, ensure_ascii=False)
    size = bundle.voxel_size
    return {
        "made by": f"densecell-batch {__version__}",
        "name": bundle.name,
        "version": bundle.version,
        "licence": bundle.licence,
        "citation": bundle.citation,
        "classes": as_text([c.name for c in bundle.classes]),
        "normalization": "minus the mean of the whole stack, divided by its standard deviation",
        "voxel size (z, y, x), nm": "not recorded" if size is None else as_text([round(e, 6) for e in size.nanometres]),
    }
