"""A bundle and a few labelled slices in, the bundle with offsets of its classes out; or none, if they do not help."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecell_batch.errors import OptionError
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.inference.stitch import FinishedSlice
from densecell_batch.inference.volume import segment_prepared
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.compare import check_classes, read_truth, same_shape
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.derived import check_free, derive, name_of
from densecell_batch.models.golden import golden_pair
from densecell_batch.models.manifest import MAX_OFFSET
from densecell_batch.nets.engines import for_processor
from densecell_batch.nets.predictor import Predictor
from densecell_batch.storage.opening import Reach
from densecell_batch.storage.strict_json import JsonObject
from densecell_batch.system import need_memory
from densecell_batch.training.offsets import FARTHEST, HeldOut, fit_offsets, hold_out, spread

__all__ = ["LEAST_GAIN", "Calibration", "calibrate"]

_FEW = 1000  # voxels of a class: a person paints as many in a minute
LEAST_GAIN = 0.002  # of the mean IoU on what was held out: below it, another stack would hardly be any better
_MOST_VOXELS, _MOST_VALUES = 1_000_000, 2**25  # that are looked at; of their probabilities, 4 bytes each

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What came of it.

    Attributes
    ----------
    bundle
        With the offsets.
    held_out
        What they are worth where they were not fitted.
    """

    bundle: ModelBundle
    held_out: HeldOut


@dataclass(frozen=True)
class _Places:
    """Voxels that are looked at, in the order of the stack."""

    z: np.ndarray
    y: np.ndarray
    x: np.ndarray

    @classmethod
    def of(cls, counted: np.ndarray | None, shape: tuple[int, ...], most: int) -> _Places:
        """At most so many of those that count, spread over all of them."""
        if counted is None:
            flat = spread(int(np.prod(shape)), most)
        else:
            flat = np.flatnonzero(counted)
            flat = flat[spread(len(flat), most)]
        return cls(*np.unravel_index(flat, shape))


def calibrate(
    model: ModelBundle | str | Path,
    images: Path,
    labels: Path,
    out: Path,
    *,
    name: str | None = None,
    ignore: int | None = None,
    mask: Path | None = None,
) -> Calibration:
    """Fit an offset for each class to labels, and write a bundle that has them if they help.

    The offsets are added to those that the bundle has already. They are fitted to what `segment` finds with its
    defaults, and judged on bands of rows that they were not fitted to.

    Parameters
    ----------
    model
        A model, its name, or the path of its bundle.
    images, labels
        A stack, and the class of each of its voxels.
    out
        The bundle: a zip if it ends in .zip, else a folder. Must not exist.
    name
        Of the bundle; None for that of `out`.
    ignore
        The label of voxels that do not count.
    mask
        A stack of the same shape; only voxels above 0 count.

    Raises
    ------
    OptionError
        If the offsets do not help, or the labels do not suffice to say so.
    StackError
        If a stack cannot be read or does not go with the others or the model.
    OutputError
        If `out` exists or cannot be written.
    ModelError
        If there is no such model, or the bundle would not be valid.
    """
    segmenter = Segmenter(model, fit="off", probabilities=True)  # the labels tell
    bundle = segmenter.bundle
    name = name_of(out, name, bundle)
    check_free(out)
    truth, counted = read_truth(labels, ignore, mask)
    need_memory(labels, 8 * truth.size)
    _check_labels(labels, truth, counted, bundle)
    most = min(_MOST_VOXELS, _MOST_VALUES // (len(bundle.members) * len(bundle.classes)))
    places = _Places.of(counted, truth.shape, most)
    answers, inside = _answers(segmenter, images, truth, places)
    answers, true, rows = answers[..., inside], truth[places.z, places.y, places.x][inside], places.y[inside]
    if len(np.unique(true)) < 2:
        raise OptionError(
            f"{labels}: within the tissue of {images} fewer than two classes are labelled; label some of each"
        )
    held_out = hold_out(answers, true, rows)
    if held_out.gain < LEAST_GAIN:
        raise OptionError(
            f"offsets do not help {bundle.name} on {images}: held out, they take the mean IoU from "
            f"{held_out.before:.4f} to {held_out.after:.4f}, expected {LEAST_GAIN:g} more; nothing was written: use "
            "the model as it is, label more slices, or train on them (train --init)"
        )
    fitted_offsets = fit_offsets(answers, true)
    _warn_of_few(labels, true, fitted_offsets, bundle)
    offsets = np.asarray(bundle.class_offsets or np.zeros(len(bundle.classes))) + fitted_offsets
    fitted = {
        "images": _sha256(images),
        "labels": _sha256(labels, labels=True),
        "slices": len(np.unique(places.z[inside])),
        "voxels": int(np.count_nonzero(inside)),
    }
    return Calibration(_write(bundle, out, name, offsets, held_out, fitted), held_out)


def _check_labels(path: Path, truth: np.ndarray, counted: np.ndarray | None, bundle: ModelBundle) -> None:
    """See that the labels are of the model's classes, and of two at least."""
    check_classes(path, truth, counted, bundle)
    there = np.bincount((truth if counted is None else truth[counted]).ravel())
    if np.count_nonzero(there) < 2:
        raise OptionError(
            f"{path}: all labels that count are {len(there) - 1}, {bundle.classes[len(there) - 1].name!r}; expected "
            "two classes or more, between which an offset decides"
        )


def _warn_of_few(path: Path, true: np.ndarray, offsets: np.ndarray, bundle: ModelBundle) -> None:
    """Tell of classes whose offset a few voxels decided, or the end of the search."""
    for info, n, offset in zip(bundle.classes, np.bincount(true, minlength=len(offsets)), offsets, strict=True):
        if offset and (n < _FEW or abs(offset) >= FARTHEST):
            _log.warning(
                "%s: the offset of %s, %+.2f, rests on %d voxels; compare with evaluate on other labels, or label more",
                path, info.name, offset, n,
            )  # fmt: skip


def _answers(segmenter: Segmenter, images: Path, truth: np.ndarray, places: _Places) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of each member (member, class, voxel) float32, and which of the voxels are tissue (voxel,) bool."""
    bundle = segmenter.bundle
    n_members, n_classes, depth = len(bundle.members), len(bundle.classes), len(truth)
    answers = np.empty((n_members, n_classes, len(places.z)), np.float32)
    inside = np.ones(len(places.z), bool)
    starts = np.searchsorted(places.z, np.arange(depth + 1))
    with open_stack(images, reach=Reach.of(images, links=True)) as stack:
        same_shape(np.broadcast_to(np.uint8(0), stack.info.shape), truth, images)
        segmenter.check_memory(stack)
        preparation = segmenter.examine(stack)
        for warning in preparation.warnings:
            _log.warning("%s: %s", images, warning)
        prepared = segmenter.prepared(stack, preparation)
        plan = segmenter.plan_of(prepared)
        slices = int(places.z[0]), int(places.z[-1]) + 1
        predictor: Predictor | None = None
        for member in range(n_members):
            _log.info("member %d of %d", member + 1, n_members)
            if predictor is None:
                predictor = segmenter.predictor_of([member])
            else:
                predictor.reload([segmenter.weights(member)])
            for band in plan.bands:
                rows = prepared.axes[1].owned(*band)

                def keep(finished: FinishedSlice, member: int = member, rows: tuple[int, int] = rows) -> None:
                    first, stop = starts[finished.z : finished.z + 2]
                    there = first + np.flatnonzero((places.y[first:stop] >= rows[0]) & (places.y[first:stop] < rows[1]))
                    y, x = places.y[there] - rows[0], places.x[there]
                    inside[there] = finished.labels[y, x] != OUTSIDE
                    assert finished.probabilities is not None
                    answers[member][:, there] = finished.probabilities[y, x].T

                if rows[0] < rows[1]:
                    segment_prepared(
                        prepared, plan, predictor.together, n_classes, keep, slices, rows, keep_probabilities=True
                    )
    return answers, inside


def _sha256(path: Path, *, labels: bool = False) -> str:
    reach = Reach.of(path, links=True)
    with open_labels(path, reach) if labels else open_stack(path, reach=reach) as stack:
        return stack.sha256()


def _write(
    bundle: ModelBundle, out: Path, name: str, offsets: np.ndarray, held_out: HeldOut, fitted: JsonObject
) -> ModelBundle:
    """The bundle with the offsets, and with what became of its scores and of where it comes from."""
    found = [round(float(offset), 4) for offset in offsets]
    if max(map(abs, found)) > MAX_OFFSET:
        raise OptionError(
            f"with those that {bundle.name} has already, an offset would be {max(found, key=abs):g}; expected at most "
            f"{MAX_OFFSET:g}: calibrate the model that it was made of"
        )
    weights = [bundle.weights(i) for i in range(len(bundle.members))]
    scores = {
        "calibration": {
            "mean_iou_held_out": round(held_out.after, 4),
            "mean_iou_before": round(held_out.before, 4),
            "bands": len(held_out.bands),
            "bands_that_are_worse": sum(after < before for before, after in held_out.bands),
        },
        "before_calibration": dict(bundle.scores),
    }
    golden = golden_pair(bundle.architecture, weights, bundle.window, offsets=found, engine=for_processor())
    # How near int8 is was measured without these offsets.
    changes = {"scores": scores, "golden": golden, "class_offsets": found, "quantization": None}
    return derive(bundle, out, name, "calibrated", fitted, **changes)
