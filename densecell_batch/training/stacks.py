"""The files of a training: what is trained on, what judges, and how both are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from densecell_batch.errors import OptionError
from densecell_batch.io.stack import StackInfo
from densecell_batch.prepare.preparation import Aim
from densecell_batch.training.held_back import Division, hold_back, labelled_span
from densecell_batch.training.options import TrainingOptions
from densecell_batch.training.volumes import LabelledVolume, load_labelled
from densecell_batch.training.voxel_sizes import stack_info
from densecell_batch.training.working_scale import Volumes

__all__ = ["Pair", "Stacks", "paired"]

Triple = tuple[int, int, int]
Pair = tuple[Path, Path]  # a stack, and its labels


def paired(images: Sequence[Path], labels: Sequence[Path]) -> list[Pair]:
    """Each stack with its labels; raises OptionError if there are not as many."""
    if len(images) != len(labels):
        raise OptionError(f"{len(images)} --images and {len(labels)} --labels; expected one --labels for each --images")
    return list(zip(images, labels, strict=True))


@dataclass(frozen=True)
class Stacks:
    """Stacks with their labels, and what is known of them."""

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    weights: tuple[Path | None, ...]
    judges: tuple[Pair, ...]  # what members are chosen on, of other files
    infos: tuple[StackInfo, ...]  # of the images as far as they are trained on
    divisions: tuple[Division, ...]  # of the images
    judge_infos: tuple[StackInfo, ...]
    options: TrainingOptions

    @classmethod
    def of(
        cls,
        images: Sequence[Path],
        labels: Sequence[Path],
        weights: Sequence[Path],
        judges: Sequence[Pair],
        options: TrainingOptions,
    ) -> Self:
        """Look at the headers; without stacks that judge, at the labels, too, of which some slices are held back.

        Raises
        ------
        OptionError
            If the numbers of files do not go with each other, or no slice can be held back.
        StackError
            If a file cannot be read.
        """
        paired(images, labels)
        if weights and len(weights) != len(labels):
            raise OptionError(f"{len(weights)} --weights and {len(labels)} --labels; expected one for each, or none")
        infos = [stack_info(path) for path in images]
        judge_infos = [stack_info(path) for path, _ in judges]
        divisions = [Division()] * len(images) if judges else hold_back(labels, options.ignore_label, weights)
        parts = [_part(info, division) for info, division in zip(infos, divisions, strict=True)]
        return cls(
            images=tuple(images),
            labels=tuple(labels),
            weights=tuple(weights) or (None,) * len(labels),
            judges=tuple(judges),
            infos=tuple(parts),
            divisions=tuple(divisions),
            judge_infos=tuple(judge_infos),
            options=options,
        )

    @property
    def held_back(self) -> tuple[str, ...]:
        """What of each stack is held back, in words; empty where other stacks judge."""
        if self.judges:
            return ()
        found = []
        for i, division in enumerate(self.divisions, 1):
            if division.train is None or division.judge is None:
                found.append(f"stack {i}: none")
            else:
                (_, stop), (first, last) = division.train, division.judge
                found.append(f"stack {i}: slices {first + 1} to {last}; trained on 1 to {stop}")
        return tuple(found)

    def load(self, n_classes: int, smallest: Triple, aim: Aim | None) -> Volumes:
        """Read the volumes to train on, and those to judge by.

        Parameters
        ----------
        n_classes
            Labels run from 0 to `n_classes` - 1.
        smallest
            Voxels (z, y, x) that a volume to train on has at least.
        aim
            What the nets want to see; None for the stacks as they are.
        """
        ignore = self.options.ignore_label
        outside = "off" if self.options.preset == "published" else "auto"
        train: list[LabelledVolume] = []
        judges: list[LabelledVolume] = []
        for image, label, errors, division in zip(self.images, self.labels, self.weights, self.divisions, strict=True):
            for part, found in ((division.train, train), (division.judge, judges)):
                if found is judges and part is None:
                    continue
                least = smallest if found is train else None
                found.append(
                    load_labelled(
                        image, label, n_classes, least, errors, outside=outside, aim=aim, ignore=ignore, slices=part
                    )
                )
        for (image, label), info in zip(self.judges, self.judge_infos, strict=True):
            span = labelled_span(label, info.shape[0], ignore)
            judges.append(load_labelled(image, label, n_classes, outside=outside, aim=aim, ignore=ignore, slices=span))
        return train, judges


def _part(info: StackInfo, division: Division) -> StackInfo:
    """A stack as far as it is trained on."""
    if division.train is None:
        return info
    start, stop = division.train
    return replace(info, shape=(stop - start, *info.shape[1:]))
