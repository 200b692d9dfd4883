"""One net that learns what an ensemble says, on labelled stacks and on others: distillation [1]_.

An ensemble knows more than its labels say: how sure it is, which classes it takes for each other, and what it sees
where nobody labelled. A net that learns that comes near to it, at the price of one member.

References
----------
.. [1] Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network", arXiv:1503.02531.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from densecell_batch.errors import OptionError
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.inference.volume import predict_shares
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.system import need_memory
from densecell_batch.training.volumes import LabelledVolume

__all__ = ["answers_of", "check_teacher", "taught"]

_log = logging.getLogger(__name__)


def check_teacher(teacher: ModelBundle, classes: Sequence[ClassInfo]) -> None:
    """Raise OptionError if an ensemble does not know the classes that are to be learned."""
    theirs, wanted = ([c.name for c in some] for some in (teacher.classes, classes))
    if theirs != wanted:
        raise OptionError(
            f"--distil {teacher.name} knows {', '.join(theirs)}; --classes are {', '.join(wanted)}; expected the same "
            "in the same order: leave --classes out to take them from the bundle"
        )


def answers_of(teacher: ModelBundle) -> tuple[str, ...]:
    """All that decides what an ensemble says of a volume: SHA-256 of its members, window, offsets."""
    window = ",".join(map(str, teacher.window))
    offsets = teacher.class_offsets
    said = () if offsets is None else (f"offsets {','.join(f'{offset:g}' for offset in offsets)}",)
    return (*(member.sha256 for member in teacher.members), f"window {window}", *said)


def taught(
    labelled: Sequence[LabelledVolume], unlabelled: Sequence[LabelledVolume], teacher: ModelBundle
) -> list[LabelledVolume]:
    """Volumes whose voxels have shares of classes to be learned: what an ensemble says, and, of those with labels,
    the labels, half and half.

    Parameters
    ----------
    labelled, unlabelled
        Volumes with labels, and some whose labels mean nothing; they get the classes that the ensemble gives them.
    teacher
        The ensemble. The volumes are as it sees them; those without a voxel size are taken to have its.
    """
    # In float32, so that a training that goes on elsewhere learns the same.
    predictor = Segmenter(teacher, precision="float32").predictor
    n = len(teacher.classes)
    hot = (255 * np.eye(n)).astype(np.uint16)
    done: list[LabelledVolume] = []
    for volume in (*labelled, *unlabelled):
        need_memory(teacher.path, n * volume.image.size)
        _log.info("%s looks at volume %d of %d", teacher.name, len(done) + 1, len(labelled) + len(unlabelled))
        shares = predict_shares(volume.image, predictor, teacher.window)
        volume = replace(volume, voxel_size=volume.voxel_size or teacher.voxel_size)
        if len(done) < len(labelled):
            for told, classes in zip(shares, volume.labels, strict=True):
                told[:] = (told + hot[classes]) // 2
            done.append(replace(volume, shares=shares))
        else:
            done.append(replace(volume, shares=shares, labels=shares.argmax(-1).astype(np.uint8)))
    return done
