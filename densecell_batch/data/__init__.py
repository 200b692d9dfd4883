"""What lies in the package beside its code: bundles of models, and stacks to try them on. Nothing here but paths."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

__all__ = ["BUNDLED", "FLY_LABELLED", "PLATELET_SLICES", "SAMPLE", "LabelledSample"]

BUNDLED = Path(__file__).parent  # a folder for each model
SAMPLE = BUNDLED / "fly-vnc-sample" / "fly-vnc-sample.tif"


class LabelledSample(NamedTuple):
    """Stacks to train and to evaluate on, and their true labels, which name their classes."""

    images: Path
    labels: Path
    eval_images: Path
    eval_labels: Path

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The four stacks of a folder."""
        return cls(*(folder / f"{name}.tif" for name in ("train", "train-labels", "eval", "eval-labels")))


FLY_LABELLED = LabelledSample.of(BUNDLED / "fly-vnc-labelled")
PLATELET_SLICES = LabelledSample.of(BUNDLED / "platelet-slices")
