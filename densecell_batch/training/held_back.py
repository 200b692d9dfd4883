"""A part of the training slices, held back to judge the members by, where no other stack is there for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import OptionError
from densecell_batch.training.label_files import labelled_slices

__all__ = ["Division", "divide", "hold_back", "labelled_span"]

Slices = tuple[int, int]  # the first, and one past the last

_ONE_OF = 5  # labelled slices: as many are held back as one of so many
_BETWEEN = 1  # slices between the two parts, which belong to none: neighbours look alike, and nets see them together
_BESIDE = 2  # slices that are looked at beside labelled ones: nets see neighbours


@dataclass(frozen=True)
class Division:
    """What of a stack is trained on, and what judges.

    Attributes
    ----------
    train, judge
        Slices; None for all, and for none.
    """

    train: Slices | None = None
    judge: Slices | None = None


def hold_back(labels: Sequence[Path], ignore: int | None = None, weights: Sequence[Path] = ()) -> list[Division]:
    """Divide each training stack: the last fifth of its labelled slices judges.

    Parameters
    ----------
    labels
        The label files.
    ignore
        The label of voxels that do not count.
    weights
        For each label file how much each voxel counts, or none.

    Returns
    -------
    list of Division
        One for each file. A stack with one labelled slice is trained on as a whole.

    Raises
    ------
    OptionError
        If no stack has two labelled slices.
    StackError
        If a file cannot be read.
    """
    found = [
        divide(labelled_slices(path, ignore, errors))
        for path, errors in zip(labels, weights or (None,) * len(labels), strict=True)
    ]
    if not any(division.judge for division in found):
        raise OptionError(
            f"{', '.join(map(str, labels))}: of no stack two slices are labelled, so none can be held back to judge "
            "the nets by; label another slice, or give --eval-images and --eval-labels"
        )
    return found


def divide(labelled: Sequence[int]) -> Division:
    """Divide a stack by the numbers of its labelled slices, ascending."""
    if len(labelled) < 2:
        return Division()
    start = labelled[-max(1, round(len(labelled) / _ONE_OF))]
    stop = start - _BETWEEN if labelled[0] < start - _BETWEEN else start  # of two neighbours, each is needed
    return Division((0, stop), (start, labelled[-1] + 1))


def labelled_span(labels: Path, depth: int, ignore: int | None) -> Slices | None:
    """The slices of an evaluation stack of some depth that are worth looking at; None for all."""
    there = [] if ignore is None else labelled_slices(labels, ignore)
    if not there:  # whoever reads them says what is wrong
        return None
    start, stop = max(0, there[0] - _BESIDE), min(depth, there[-1] + 1 + _BESIDE)
    return None if (start, stop) == (0, depth) else (start, stop)
