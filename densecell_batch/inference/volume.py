"""A volume in memory through the loop over tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.inference.planning import Plan, plan_tiles
from densecell_batch.inference.restore import Restorer
from densecell_batch.inference.stitch import FinishedSlice
from densecell_batch.inference.streaming import Look, segment_slices
from densecell_batch.models.classes import ClassInfo
from densecell_batch.nets.predictor import Predictor
from densecell_batch.prepare.prepared import Prepared, SeenArray

__all__ = ["Segmentation", "predict_labels", "predict_shares", "segment_prepared", "segment_volume"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented volume.

    Attributes
    ----------
    labels
        (z, y, x) uint8: index of the class of each voxel in `classes`; 255 outside: where there is no tissue.
    confidence
        (z, y, x) float32: the probability of that class; 0 outside.
    probabilities
        (z, y, x, class) float32, summing to 1, outside to 0; None where not asked for.
    uncertainty
        (z, y, x) float32: disagreement of the members, in bits, or the entropy of a single net; None where not asked
        for.
    classes
        Names and colours.
    voxel_size
        As it was given.
    warnings
        What whoever uses it should know, such as that the volume does not look like the model's own data.
    """

    labels: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None
    uncertainty: np.ndarray | None
    classes: tuple[ClassInfo, ...]
    voxel_size: VoxelSize | None
    warnings: tuple[str, ...] = ()


def segment_volume(
    prepared: Prepared,
    plan: Plan,
    look: Look,
    classes: tuple[ClassInfo, ...],
    *,
    keep_probabilities: bool = False,
    keep_disagreement: bool = False,
    voxel_size: VoxelSize | None = None,
) -> Segmentation:
    """Segment a volume into arrays.

    Parameters
    ----------
    prepared
        What the nets see.
    plan, look
        As for `streaming.segment_slices`.
    classes
        Of the nets.
    keep_probabilities, keep_disagreement
        Whether these are wanted, too.
    voxel_size
        Handed on.
    """
    shape = prepared.result_shape
    found = Segmentation(
        np.empty(shape, np.uint8),
        np.empty(shape, np.float32),
        np.empty((*shape, len(classes)), np.float32) if keep_probabilities else None,
        np.empty(shape, np.float32) if keep_disagreement else None,
        classes,
        voxel_size,
    )
    for band in plan.bands:
        rows = prepared.axes[1].owned(*band)
        if rows[0] == rows[1]:
            continue

        def keep(finished: FinishedSlice, rows: slice = slice(*rows)) -> None:
            found.labels[finished.z, rows] = finished.labels
            found.confidence[finished.z, rows] = finished.confidence
            if found.probabilities is not None:
                found.probabilities[finished.z, rows] = finished.probabilities
            if found.uncertainty is not None:
                found.uncertainty[finished.z, rows] = finished.disagreement

        segment_prepared(
            prepared, plan, look, len(classes), keep, (0, shape[0]), rows,
            keep_probabilities=keep_probabilities, keep_disagreement=keep_disagreement,
        )  # fmt: skip
    return found


def segment_prepared(
    prepared: Prepared | SeenArray,
    plan: Plan,
    look: Look,
    n_classes: int,
    finish: Callable[[FinishedSlice], None],
    slices: tuple[int, int],
    rows: tuple[int, int],
    *,
    keep_probabilities: bool = False,
    keep_disagreement: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Segment what the nets see of a stack, and hand on some slices and rows of the result, in ascending z.

    The parameters are those of `streaming.segment_slices`, but for `slices` and `rows`, which are of the result.
    """
    restore = Restorer(
        prepared, finish, slices, rows, n_classes,
        keep_probabilities=keep_probabilities, keep_disagreement=keep_disagreement,
    )  # fmt: skip
    segment_slices(
        prepared.read, plan, look, n_classes, restore, slices=restore.slices, band=restore.band,
        keep_probabilities=restore.needs_probabilities, keep_disagreement=keep_disagreement,
        is_empty=prepared.is_empty, progress=progress,
    )  # fmt: skip


def predict_labels(
    image: np.ndarray, predictor: Predictor, window: tuple[int, int, int], result: tuple[int, ...] | None = None
) -> np.ndarray:
    """Class map of a normalized volume (z, y, x), with the tiles and the stitch of `segment`: (z, y, x) uint8, on the
    grid of the volume or of a `result` of another shape that covers the same.
    """
    seen = SeenArray(image, image.shape if result is None else result)
    labels = np.empty(seen.result_shape, np.uint8)

    def keep(finished: FinishedSlice) -> None:
        labels[finished.z] = finished.labels

    _predict(seen, predictor, window, keep, keep_probabilities=False)
    return labels


def predict_shares(image: np.ndarray, predictor: Predictor, window: tuple[int, int, int]) -> np.ndarray:
    """Probabilities of a normalized volume (z, y, x), likewise, in 1/255: (z, y, x, class) uint8."""
    shares = np.empty((*image.shape, predictor.architecture.n_classes), np.uint8)

    def keep(finished: FinishedSlice) -> None:
        assert finished.probabilities is not None
        shares[finished.z] = np.rint(255 * finished.probabilities)

    _predict(SeenArray(image, image.shape), predictor, window, keep, keep_probabilities=True)
    return shares


def _predict(
    seen: SeenArray,
    predictor: Predictor,
    window: tuple[int, int, int],
    keep: Callable[[FinishedSlice], None],
    *,
    keep_probabilities: bool,
) -> None:
    net, (depth, height, _) = predictor.architecture, seen.result_shape
    plan = plan_tiles(
        seen.shape, net, window, precision=predictor.precision, engine=predictor.engine, members=len(predictor),
        keep_probabilities=keep_probabilities,
    )  # fmt: skip
    segment_prepared(
        seen, plan, predictor.together, net.n_classes, keep, (0, depth), (0, height),
        keep_probabilities=keep_probabilities,
    )  # fmt: skip
