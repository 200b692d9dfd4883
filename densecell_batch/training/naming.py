"""What labels mean: from what is asked, from the bundle that is gone on from, or from what the label files say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densecell_batch.errors import BundleError, OptionError, StackError
from densecell_batch.io.label_look import LabelLook, label_look
from densecell_batch.models.classes import ClassInfo, jet_colours, named_classes
from densecell_batch.models.fetching import find_bundle
from densecell_batch.printable import printable
from densecell_batch.training.options import TrainingOptions

__all__ = ["UNLABELLED", "classes_of"]

UNLABELLED = ClassInfo("not labelled", (0, 0, 0))
"""Class 0 where label 0 is what nobody labelled: no voxel is of it, and the others keep the values of the files."""

_APART = 40  # by which two colours of a table differ, over red, green and blue, if they are to tell classes apart

_log = logging.getLogger(__name__)


def classes_of(
    asked: Sequence[ClassInfo | str] | None, labels: Sequence[Path], options: TrainingOptions
) -> tuple[ClassInfo, ...]:
    """The classes of a training.

    Parameters
    ----------
    asked
        Classes, or their names and perhaps colours, as for `models.classes.named_classes`; those without a colour have
        that of the label files. None for the classes of the bundle that `options` learn or go on from, else for
        those that the Info of the label files names.
    labels
        The label files.
    options
        What is asked of the training. Where label 0 is what does not count, names are those of the labels from 1 on.

    Raises
    ------
    OptionError
        If nothing says what the labels mean, or two things say otherwise.
    StackError
        If a label file cannot be read, or names a class as no class can be named.
    """
    bundle = options.distil or options.init
    if asked is None and bundle is not None:
        classes = find_bundle(bundle).classes
        for path in labels:
            _check_like(path, label_look(path), classes, bundle)
        return classes
    if asked is not None:
        named_classes(asked)  # what is wrong with them is told of before a file is opened
    looks = {path: label_look(path) for path in labels}
    start = 1 if options.ignore_label == 0 else 0
    if asked is not None:
        classes = named_classes(asked, _colours(looks, len(asked), start))
    else:
        start, classes = _named(looks, start)
    if start and classes[0] != UNLABELLED:
        _log.info("label 0 is not labelled; labels 1 to %d are %s", len(classes), ", ".join(c.name for c in classes))
        return (UNLABELLED, *classes)
    return classes


def _check_like(path: Path, look: LabelLook, classes: Sequence[ClassInfo], bundle: str) -> None:
    """Refuse labels that call a class otherwise than the bundle whose classes are taken."""
    for i, name in look.names.items():
        if i >= len(classes) or classes[i].name != name:
            theirs = repr(classes[i].name) if i < len(classes) else "none of its classes"
            raise OptionError(
                f"{path}: it calls class {i} {printable(name)!r}, which to {bundle} is {theirs}; expected the same in "
                "the same order: correct the labels, or name the classes with --classes"
            )


def _named(looks: dict[Path, LabelLook], first: int) -> tuple[int, tuple[ClassInfo, ...]]:
    """Classes as the Info of label files names them, and the label that the first of them has: 0, or `first`."""
    path, look = next(((path, look) for path, look in looks.items() if look.names), (None, LabelLook()))
    if path is None:
        raise OptionError(
            "give --classes: what the labels 0, 1, 2, ... mean; the labels do not name them, as those do that this "
            "program wrote, or an Info of ImageJ with lines such as: class 1 = cell #00ff00"
        )
    for other, its in looks.items():
        if its.names and its.names != look.names:
            raise OptionError(f"{other}: it names its classes otherwise than {path}; give --classes")
    start, n = min(look.names), len(look.names)
    if start not in (0, first) or n < 2 or sorted(look.names) != [*range(start, start + n)]:
        numbers = ", ".join(map(str, sorted(look.names)))
        raise OptionError(
            f"{path}: its Info names class {numbers}; expected two or more, one after the other from {first} on: give "
            "--classes"
        )
    colours = zip(_colours(looks, n, start), jet_colours(n), strict=True)
    try:
        classes = tuple(ClassInfo(look.names[start + i], own or jet) for i, (own, jet) in enumerate(colours))
    except BundleError as error:
        raise StackError(f"{path}: {error}; correct its Info, or give --classes") from error
    _log.info("classes as %s names them: %s", path, ", ".join(c.name for c in classes))
    return start, classes


def _colours(looks: dict[Path, LabelLook], n: int, first: int) -> list[tuple[int, int, int] | None]:
    """Of `n` labels from the first one on, as the label files say; None where none does."""
    found: list[tuple[int, int, int] | None] = [None] * n
    for look in reversed(looks.values()):
        if look.table is not None and _tells_apart(look.table[first : first + n]):
            found = [(int(r), int(g), int(b)) for r, g, b in look.table[first : first + n]]
    for look in reversed(looks.values()):
        found = [look.colours.get(first + i, colour) for i, colour in enumerate(found)]
    return found


def _tells_apart(colours: np.ndarray) -> bool:
    """Whether any two of some colours (n, 3) differ visibly."""
    apart = np.abs(colours[:, None].astype(int) - colours[None]).sum(-1)
    return bool((apart + 1000 * np.eye(len(colours), dtype=int) >= _APART).all())
