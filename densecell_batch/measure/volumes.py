"""Objects in arrays: what `instances`, `split` and `objects` do slice by slice, of volumes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryFile

import numpy as np

from densecell_batch.calibration import VoxelSize, check_voxel_size
from densecell_batch.errors import OptionError
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure import instances
from densecell_batch.measure.objects import ObjectSums
from densecell_batch.measure.split import split_instances

__all__ = ["find_instances", "measure_objects"]


def find_instances(
    labels: np.ndarray,
    class_index: int,
    *,
    min_voxels: int = 1,
    connectivity: int = 6,
    split: bool = False,
    split_tolerance: float | None = None,
    voxel_size: VoxelSize | None = None,
) -> np.ndarray:
    """Number the objects of a class.

    Parameters
    ----------
    labels
        Class map (z, y, x) of any integer dtype.
    class_index
        Index of the class, such as `[c.name for c in found.classes].index("mitochondrion")`.
    min_voxels
        Objects with fewer voxels are left out.
    connectivity
        6 (faces), 18 (faces and edges) or 26 (corners, too).
    split
        Whether to part objects that touch, at their necks; needs the voxel size, and a connectivity of 6.
    split_tolerance
        In micrometres: how much narrower than both its parts a neck is, in radius; None for what suits the voxels.
    voxel_size
        Of the labels.

    Returns
    -------
    numpy.ndarray
        (z, y, x) uint16, or uint32 where there are more than 65,535 objects; 0 outside of them, and its maximum is
        their number.

    Raises
    ------
    OptionError
        If the labels or the index are no whole numbers, or the options do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> from densecell_batch import find_instances
    >>> find_instances(np.array([[[1, 1, 0, 1]]]), 1)
    array([[[1, 1, 0, 2]]], dtype=uint16)
    """
    _check_labels(labels)
    if not isinstance(class_index, int | np.integer):
        raise OptionError(f"class_index is {class_index!r}; expected a whole number: its place among the classes")
    read = instances.of_class(labels.__getitem__, int(class_index))
    if not split:
        if split_tolerance is not None:
            raise OptionError("split_tolerance says where to part objects; give split=True as well")
        found = instances.find_instances(read, len(labels), min_voxels=min_voxels, connectivity=connectivity)
        return _numbers(found, labels.shape)
    check_voxel_size(voxel_size)
    if voxel_size is None or connectivity != 6:
        raise OptionError("split needs a voxel_size, since necks are measured in micrometres, and connectivity 6")
    with TemporaryFile() as scratch:
        found = split_instances(
            read, len(labels), voxel_size, scratch, tolerance=split_tolerance, min_voxels=min_voxels
        )
        return _numbers(found, labels.shape)


def _numbers(found: instances.Instances, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(list(found.slices())) if shape[0] else np.zeros(shape, found.dtype)


def _check_labels(labels: np.ndarray) -> None:
    if not isinstance(labels, np.ndarray):
        raise OptionError(f"labels are a {type(labels).__name__}; expected an array (z, y, x)")
    if 0 in labels.shape[1:]:
        raise OptionError(f"labels are of shape {labels.shape}; expected some voxels in a slice")
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise OptionError(f"labels are {labels.dtype.name} of shape {labels.shape}; expected whole numbers (z, y, x)")


def measure_objects(
    numbers: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    voxel_size: VoxelSize | None = None,
    **values: np.ndarray,
) -> dict[str, np.ndarray]:
    """Measure objects: a table, which `pandas.DataFrame` takes as it is.

    Parameters
    ----------
    numbers
        (z, y, x) whole numbers, those of `find_instances`.
    labels
        (z, y, x) uint8, the class map that they touch other classes in.
    classes
        Names, from label 0 on.
    voxel_size
        Without it, columns in micrometres are NaN.
    values
        Volumes (z, y, x), such as grey=image: their means over each object become columns.

    Returns
    -------
    dict
        Name of a column -> (n,) values of object 1, 2, ...; see `measure.objects.ObjectSums.columns`.

    Raises
    ------
    OptionError
        If the arrays are not of one shape, numbers are negative, or a label is neither a class nor 255.
    """
    check_voxel_size(voxel_size)
    _check_labels(numbers)
    _check_labels(labels)
    for name, volume in {"labels": labels, **values}.items():
        if volume.shape != numbers.shape:
            raise OptionError(f"{name} is {volume.shape}, numbers are {numbers.shape}; expected the same (z, y, x)")
    if numbers.min(initial=0) < 0:
        raise OptionError("numbers are negative; expected 0 for no object, and 1, 2, ...")
    inside = labels != OUTSIDE
    if labels.min(initial=0) < 0 or labels.max(initial=0, where=inside) >= len(classes):
        raise OptionError(f"there are labels that are no class; expected 0 to {len(classes) - 1}, or {OUTSIDE} outside")
    sums = ObjectSums(int(numbers.max(initial=0)), classes, voxel_size)
    for z, plane in enumerate(numbers):
        sums.add(plane, labels[z].astype(np.uint8), **{name: volume[z] for name, volume in values.items()})
    return sums.columns()
