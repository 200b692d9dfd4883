"""The verbs of the command line as functions, for notebooks and scripts. `densecell_batch` itself is the way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.calibration import VoxelSize, check_voxel_size
from densecell_batch.errors import OptionError
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.inference.volume import Segmentation
from densecell_batch.io.stack import Stack
from densecell_batch.io.writing import StackWriter
from densecell_batch.measure import compare
from densecell_batch.measure.compare import Comparison
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.fetching import find_bundle
from densecell_batch.models.registry import DEFAULT_MODEL
from densecell_batch.runs import batch, pipeline
from densecell_batch.runs.batch import Verdict
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import SegmentedStack
from densecell_batch.storage.atomic import make_folder
from densecell_batch.training import train as training
from densecell_batch.training.naming import classes_of
from densecell_batch.training.options import TrainingOptions
from densecell_batch.training.restarts import Progress

__all__ = [
    "evaluate",
    "load_model",
    "segment",
    "segment_batch",
    "segment_stack",
    "train",
    "write_stack",
]


def load_model(name_or_path: str | Path) -> ModelBundle:
    """Load a model by its name, or by the path of its bundle. Its weights are read when they are needed.

    Parameters
    ----------
    name_or_path
        "fly-vnc", which comes with the package; a name of `densecell-batch models list`, which is fetched if it
        is not there; or a folder or zip.

    Returns
    -------
    ModelBundle

    Raises
    ------
    ModelError
        If there is no such model, or it is not whole.

    Examples
    --------
    >>> from densecell_batch import load_model
    >>> [c.name for c in load_model("fly-vnc").classes]
    ['glia and extracellular', 'intracellular', 'mitochondrion', 'synapse', 'membrane']
    """
    return find_bundle(str(name_or_path))


def segment(
    volume: np.ndarray | Stack,
    model: ModelBundle | str | Path = DEFAULT_MODEL,
    *,
    voxel_size: VoxelSize | None = None,
    mask: np.ndarray | None = None,
    **options: Any,
) -> Segmentation:
    """Segment a volume in memory. For several, make a `Segmenter` once.

    Parameters
    ----------
    volume
        Grey values (z, y, x), uint8, uint16, int16 or float32; or an open stack, which is read as a whole. They are
        judged over the whole volume: a part of a stack is not segmented quite as within it.
    model
        A model, its name, or the path of its bundle.
    voxel_size
        Of the volume, such as `VoxelSize.of(47, 9.2, 9.2, unit="nm")`; decides whether it is resampled for the nets,
        and is handed on to the result. By default that of a stack.
    mask
        (z, y, x), or (1, y, x) for all slices: 0 where there is no tissue.
    options
        As for `Segmenter`: stitch, ensemble, probabilities, uncertainty, precision, device, outside, contrast, scale,
        fit, defects, roi, tile, memory.

    Returns
    -------
    Segmentation

    Raises
    ------
    ModelError, OptionError, StackError
        As `Segmenter` does.

    Examples
    --------
    >>> import numpy as np
    >>> from densecell_batch import SAMPLE, open_stack, segment
    >>> with open_stack(SAMPLE) as stack:
    ...     volume = np.asarray(stack)[:5, :96, :96]
    >>> found = segment(volume, uncertainty=True)
    >>> found.labels.shape, found.uncertainty.dtype
    ((5, 96, 96), dtype('float32'))
    """
    if isinstance(volume, Stack):
        voxel_size = voxel_size or volume.info.voxel_size
        volume = np.asarray(volume)
    return Segmenter(model, **options)(volume, voxel_size, mask=mask)


def segment_stack(
    path: str | Path,
    out: str | Path,
    model: ModelBundle | str | Path | RunSegmenter = DEFAULT_MODEL,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    **options: Any,
) -> SegmentedStack:
    """Segment one stack into files, as `densecell-batch segment` does: it goes on where an earlier call was stopped,
    and skips what is done.

    Parameters
    ----------
    path
        TIFF file, or folder of single-slice TIFFs.
    out
        Folder for the results; made if it is not there.
    model
        A model, its name, or the path of its bundle; or a `RunSegmenter`, which stays loaded for further stacks.
    progress
        Called with what is being done, voxels done and voxels in all.
    options
        Fields of `RunOptions` and `InferenceOptions`, such as uncertainty=True, instances=["mitochondrion"].

    Returns
    -------
    SegmentedStack
        The paths of labels and report.

    Raises
    ------
    DensecellError
        Of the kind that says what is wrong: with the stack, the options, the model or the output.

    Examples
    --------
    >>> import tempfile
    >>> from densecell_batch import SAMPLE, segment_stack
    >>> with tempfile.TemporaryDirectory() as out:
    ...     done = segment_stack(SAMPLE, out, uncertainty=True)
    ...     print(done.labels.name, done.report.name)
    fly-vnc-sample_labels.tif fly-vnc-sample_report.json
    """
    return pipeline.segment_stack(Path(path), Path(out), _segmenter(model, options), progress)


def segment_batch(
    paths: Sequence[str | Path],
    out: str | Path,
    model: ModelBundle | str | Path | RunSegmenter = DEFAULT_MODEL,
    **options: Any,
) -> Iterator[Verdict]:
    """Segment stacks one after the other; one that fails fails alone. Parameters are those of `segment_stack`.

    Yields
    ------
    Verdict
        How each stack ended.
    """
    return batch.segment_batch(_paths(paths), Path(out), _segmenter(model, options))


def _segmenter(model: ModelBundle | str | Path | RunSegmenter, options: Mapping[str, Any]) -> RunSegmenter:
    if isinstance(model, Segmenter) and not isinstance(model, RunSegmenter):
        raise OptionError("a Segmenter is for arrays; give its model, or a RunSegmenter(model, RunOptions(...))")
    if not isinstance(model, RunSegmenter):
        return RunSegmenter(model, RunOptions(**options))
    if options:
        raise OptionError(f"{', '.join(options)}: the segmenter has its options already")
    return model


def _paths(paths: Sequence[str | Path] | str | Path) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def write_stack(
    path: str | Path,
    volume: np.ndarray,
    *,
    voxel_size: VoxelSize | None = None,
    classes: Sequence[ClassInfo] | None = None,
    file_format: str = "imagej",
) -> Path:
    """Write a volume as a TIFF that ImageJ opens with its calibration; labels with their colours and names.

    Parameters
    ----------
    path
        Of the file, a TIFF; an earlier one is replaced, by a whole one or not at all. Its folder is made.
    volume
        (z, y, x) uint8, uint16 or float32; in OME-TIFF also uint32.
    voxel_size
        Becomes the calibration.
    classes
        Of labels (uint8), at most 255: label 255 is what lies outside.
    file_format
        "imagej" or "ome-tiff".

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    OptionError
        If the format cannot hold the values, or there are classes of what are no labels, or more than 255.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from densecell_batch import VoxelSize, open_stack, write_stack
    >>> size = VoxelSize.of(47, 9.2, 9.2, unit="nm")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_stack(f"{folder}/a.tif", np.zeros((2, 8, 9), np.uint8), voxel_size=size)
    ...     with open_stack(path) as stack:
    ...         print(stack.shape, stack.info.voxel_size)
    (2, 8, 9) 47 x 9.2 x 9.2 nm (z, y, x)
    """
    path = Path(path)
    if volume.ndim != 3 or volume.size == 0 or path.suffix.lower() not in (".tif", ".tiff"):
        raise OptionError(
            f"{path}: expected the name of a TIFF and an array (z, y, x), not one of shape {volume.shape}"
        )
    if classes is not None and volume.dtype != np.uint8:
        raise OptionError(f"{path}: classes are of labels in uint8, not of {volume.dtype.name}")
    check_voxel_size(voxel_size)
    volume = volume.astype(volume.dtype.newbyteorder("="), copy=False)
    make_folder(path.parent)
    names = None if classes is None else [c.name for c in classes]
    colours = None if classes is None else np.array([c.colour for c in classes], np.uint8)
    with StackWriter(
        path, volume.shape, volume.dtype.name, file_format=file_format, voxel_size=voxel_size,
        class_names=names, colours=colours,
    ) as writer:  # fmt: skip
        for z, plane in enumerate(volume):
            writer.write(z, np.ascontiguousarray(plane))
        writer.commit()
    return path


def evaluate(
    truth: np.ndarray,
    found: np.ndarray,
    *,
    n_classes: int | None = None,
    counted: np.ndarray | None = None,
    ignore: int | None = None,
) -> Comparison:
    """Score a class map against the truth.

    Parameters
    ----------
    truth
        True class map (z, y, x).
    found
        The class map to score, of the same shape; what is 255 in it lies outside and is not scored.
    n_classes
        Number of classes; None for as many as occur.
    counted
        (z, y, x) bool: voxels that count; all when None.
    ignore
        Label of the truth that does not count, such as 255 for what nobody labelled.

    Returns
    -------
    Comparison

    Raises
    ------
    OptionError
        If the shapes differ, a label is none of the classes, or no voxel is left to score.

    Examples
    --------
    >>> import numpy as np
    >>> from densecell_batch import evaluate
    >>> truth = np.zeros((1, 4, 4), np.uint8)
    >>> truth[:, :2] = 1
    >>> evaluate(truth, truth).mean_iou
    1.0
    """
    counted = None if counted is None else np.asarray(counted).astype(bool)
    if truth.shape != found.shape or (counted is not None and counted.shape != truth.shape):
        shapes = [array.shape for array in (truth, found, counted) if array is not None]
        raise OptionError(f"the arrays have the shapes {', '.join(map(str, shapes))}; expected the same")
    if truth.size == 0 or not all(np.issubdtype(array.dtype, np.integer) for array in (truth, found)):
        raise OptionError(f"class maps are {truth.dtype.name} and {found.dtype.name}; expected whole numbers, not none")
    if ignore is not None:
        counted = (truth != ignore) if counted is None else counted & (truth != ignore)
        truth = np.where(truth == ignore, 0, truth)
    if counted is not None and not counted.any():
        raise OptionError("no voxel is left to score; expected some that count")
    low, high = int(min(truth.min(), found.min())), compare.n_classes_of(truth, found) - 1
    if n_classes is None:
        n_classes = high + 1
    if low < 0 or not high < n_classes <= compare.MAX_CLASSES:
        raise OptionError(
            f"labels run from {low} to {high}; expected 0 to {n_classes - 1}, at most {compare.MAX_CLASSES} classes: "
            "leave out a label that is no class with ignore"
        )
    return compare.compare(truth, found, n_classes, counted)[1]


def train(
    images: Sequence[str | Path],
    labels: Sequence[str | Path],
    evaluation: tuple[str | Path, str | Path] | Sequence[tuple[str | Path, str | Path]] | None,
    out: str | Path,
    classes: Sequence[ClassInfo | str] | None,
    *,
    weights: Sequence[str | Path] = (),
    unlabelled: Sequence[str | Path] = (),
    progress: Progress = lambda run, seed, row: None,
    **options: Any,
) -> ModelBundle:
    """Train an ensemble on labelled stacks and make a bundle of its best members, as `densecell-batch train` does.

    Parameters
    ----------
    images
        Files of the stacks to train on; arrays become such with `write_stack`.
    labels
        For each of them the file of its labels: class indices from 0 on.
    evaluation
        Stack and labels that the members are chosen on, or several such pairs; None to hold back the last fifth of the
        labelled slices of each training stack for it.
    out
        Run folder; a run in it that was stopped goes on.
    classes
        What the labels mean, from class 0 on: names, "name=#rrggbb", or `ClassInfo`; None for the classes of the
        bundle that the option `distil` or `init` names, or for those that the label files name. With the option
        ignore_label=0 they are those of the labels from 1 on, and label 0 is what nobody labelled.
    weights
        For each image a stack that says how much each voxel counts, or none.
    unlabelled
        More stacks, of which nets learn what the ensemble of the option `distil` says.
    progress
        Called after each evaluation with the run, the seed of the member and the row of its history.
    options
        Fields of `TrainingOptions`; one of `steps`, `epochs` and `minutes` is needed.

    Returns
    -------
    ModelBundle

    Raises
    ------
    OptionError, StackError
        If the options contradict each other, or a stack does not fit its labels.
    """
    asked, files = TrainingOptions(**options), _paths(labels)
    pairs: Any = () if evaluation is None else evaluation
    if pairs and isinstance(pairs[0], str | Path):
        pairs = [pairs]
    return training.train(
        _paths(images), files, [(Path(a), Path(b)) for a, b in pairs], Path(out),
        classes_of(classes, files, asked), asked,
        weights=_paths(weights), unlabelled=_paths(unlabelled), progress=progress,
    )  # fmt: skip
