"""What a model needs to be computed in eight bits, and how near to float32 it is then."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from densecell_batch.errors import OptionError, StackError
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.inference.tiling import mirror
from densecell_batch.inference.volume import predict_labels
from densecell_batch.io.reading import open_stack
from densecell_batch.measure.compare import check_classes, read_truth, same_shape
from densecell_batch.measure.metrics import score
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.derived import check_free, derive, name_of
from densecell_batch.models.manifest import LEAST_AGREEMENT, MOST_LOST, Quantization
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.predictor import Predictor
from densecell_batch.nets.quantization import with_ranges
from densecell_batch.prepare.fit import spread_windows
from densecell_batch.storage.opening import Reach
from densecell_batch.system import need_memory

__all__ = ["Looked", "describe", "measure_quantization", "quantize"]

_WINDOWS = 16  # of tissue, over which ranges are observed
_WIDEST = 256  # of their sides, if the net takes as little

_log = logging.getLogger(__name__)

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Looked:
    """A volume on which it is measured.

    Attributes
    ----------
    image
        (z, y, x) float32, as nets see it.
    truth, counted
        Labels (z, y, x), on a grid of their own, and which of them count; None for none, and for all.
    """

    image: np.ndarray
    truth: np.ndarray | None = None
    counted: np.ndarray | None = None


def measure_quantization(
    architecture: Architecture,
    members: Sequence[Weights],
    window: tuple[int, int, int],
    volumes: Sequence[Looked],
    *,
    observed: Sequence[np.ndarray] = (),
    offsets: Sequence[float] | None = None,
) -> Quantization:
    """Observe the ranges of the layers on windows of tissue, and hold the class maps of int8 against those of float32.

    Parameters
    ----------
    architecture, members, offsets
        The nets, as for `Predictor`.
    window
        Input window (z, y, x) of their training.
    volumes
        Tissue on which class maps are compared; the mean IoU is measured if all have labels.
    observed
        Images (z, y, x) float32 over which ranges are observed; those of the volumes if there are none.
    """
    from densecell_batch.nets.engines.openvino import observed_ranges

    least = 2 * architecture.margin + architecture.residue + 2 * architecture.alignment
    widest = max(_WIDEST, least)
    seen = (window[0], min(window[1], widest), min(window[2], widest))
    images = observed or [volume.image for volume in volumes]
    windows = [part for image in images for part in _windows(image, seen, -(-_WINDOWS // len(images)))]
    ranges = tuple(observed_ranges(architecture, weights, windows) for weights in members)
    rounded = [with_ranges(weights, found) for weights, found in zip(members, ranges, strict=True)]
    plain = Predictor(architecture, members, "float32", offsets=offsets, engine="openvino")
    eight = Predictor(architecture, rounded, "int8", offsets=offsets, engine="openvino")
    same, total, scores = 0, 0, []
    for volume in volumes:
        grid = None if volume.truth is None else volume.truth.shape
        maps = [predict_labels(volume.image, predictor, window, grid) for predictor in (plain, eight)]
        counted = np.ones(maps[0].shape, bool) if volume.counted is None else volume.counted
        same += int(np.count_nonzero((maps[0] == maps[1]) & counted))
        total += int(np.count_nonzero(counted))
        if volume.truth is not None:
            of_maps = [score(volume.truth, m, architecture.n_classes, volume.counted) for m in maps]
            scores.append([replace(each, of_true=True).mean_iou for each in of_maps])
    before, after = np.mean(scores, axis=0) if scores else (0.0, 0.0)
    found = Quantization(
        ranges=tuple({name: (_short(low), _short(high)) for name, (low, high) in r.items()} for r in ranges),
        agreement=round(same / total, 5),
        mean_iou=(round(float(before), 4), round(float(after), 4)) if len(scores) == len(volumes) else None,
    )
    _log.info("%s", describe(found))
    return found


def describe(found: Quantization) -> str:
    """What came of it, in words."""
    text = f"in int8 {found.agreement:.3%} of the voxels have the class that they have in float32"
    if found.mean_iou is not None:
        text += f", and a mean IoU of {found.mean_iou[1]:.4f} instead of {found.mean_iou[0]:.4f}"
    wanted = f"{LEAST_AGREEMENT:.1%} and at most {MOST_LOST:g} of the mean IoU"
    return f"{text}; --precision auto {'takes' if found.is_near else 'does not take'} int8 (it wants {wanted})"


def quantize(
    model: ModelBundle | str | Path,
    images: Sequence[Path],
    labels: Sequence[Path],
    out: Path,
    *,
    name: str | None = None,
    ignore: int | None = None,
) -> ModelBundle:
    """Measure what eight bits need on stacks, and write a bundle that knows it.

    Parameters
    ----------
    model
        A model, its name, or the path of its bundle.
    images
        Stacks of the tissue for which it is.
    labels
        The class of each of their voxels, a stack for each; or none.
    out
        The bundle: a zip if it ends in .zip, else a folder. Must not exist.
    name
        Of the bundle; None for that of `out`.
    ignore
        The label of voxels that do not count.

    Returns
    -------
    ModelBundle
        It holds what was measured, however far int8 is from float32.

    Raises
    ------
    OptionError
        If there are not as many labels as images.
    StackError
        If a stack cannot be read, or does not go with its labels.
    OutputError
        If `out` exists or cannot be written.
    ModelError
        If there is no such model, or the bundle would not be valid.
    """
    if labels and len(labels) != len(images):
        raise OptionError(f"{len(labels)} stacks of labels for {len(images)} of images; expected one for each, or none")
    segmenter = Segmenter(model, fit="off", engine="openvino", precision="float32")
    bundle, _ = segmenter.bundle, segmenter.engine  # which complains before the work
    name = name_of(out, name, bundle)
    check_free(out)
    volumes, sums = [], []
    for i, path in enumerate(images):
        looked, checksum = _looked(segmenter, path, labels[i] if labels else None, ignore)
        volumes.append(looked)
        sums.append(checksum)
    weights = [bundle.weights(i) for i in range(len(bundle.members))]
    found = measure_quantization(bundle.architecture, weights, bundle.window, volumes, offsets=bundle.class_offsets)
    return derive(bundle, out, name, "quantized", {"images": sums}, quantization=found)


def _looked(segmenter: Segmenter, path: Path, labels: Path | None, ignore: int | None) -> tuple[Looked, str]:
    """A stack as the nets see it, and its SHA-256."""
    truth, counted = (None, None) if labels is None else read_truth(labels, ignore)
    with open_stack(path, reach=Reach.of(path, links=True)) as stack:
        if truth is not None:
            same_shape(np.broadcast_to(np.uint8(0), stack.info.shape), truth, path)
            check_classes(Path(str(labels)), truth, counted, segmenter.bundle)
        segmenter.check_memory(stack)
        preparation = segmenter.examine(stack)
        for warning in preparation.warnings:
            _log.warning("%s: %s", path, warning)
        seen = zip(preparation.grid, preparation.box, strict=True)
        z, y, x = (length / (stop - start) for length, (start, stop) in seen)
        prepared = segmenter.prepared(stack, preparation.of_all((z, y, x)))
        depth, height, _ = prepared.shape
        need_memory(path, 8 * (int(np.prod(prepared.shape)) + stack.info.n_voxels))
        image = np.stack([prepared.read(z, (0, height)) for z in range(depth)])
        if truth is not None:
            counted = np.ones(truth.shape, bool) if counted is None else counted
            for z in range(len(truth)):
                where = prepared.outside(z, (0, truth.shape[1]))
                if where is not None:
                    counted[z] &= ~where
            if not counted.any():
                raise StackError(f"{labels}: no voxel that counts lies in the tissue of {path}; label some there")
        return Looked(image, truth, counted), stack.sha256()


def _windows(image: np.ndarray, window: tuple[int, int, int], n: int) -> Iterable[np.ndarray]:
    """Parts of a volume of the size of a window, spread over it; beyond its edges it is mirrored."""
    depth, height, width = image.shape
    for corner in spread_windows((depth, height, width), window, n):
        places = [mirror(np.arange(c, c + s), length) for c, s, length in zip(corner, window, image.shape, strict=True)]
        yield image[np.ix_(*places)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
