"""What a model remembers of the data that it was made on, so that it can tell other data from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from densecell_batch.inference.trial import looked_at, resized_windows, try_windows
from densecell_batch.models.manifest import OwnRecords
from densecell_batch.nets.predictor import Predictor
from densecell_batch.prepare.contrast import trained_quantiles
from densecell_batch.prepare.fit import record
from densecell_batch.prepare.pixel_size import FACTORS, learn_size
from densecell_batch.training.volumes import LabelledVolume

__all__ = ["own_records"]

_LEARNED, _OTHER = 48, 16  # windows of the volumes that it learned from, and of those that it did not


def own_records(
    train: Sequence[LabelledVolume],
    evaluation: Sequence[LabelledVolume],
    predictor: Predictor,
    window: tuple[int, int, int],
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> OwnRecords:
    """Measure what the volumes of a training are like, and how far the nets differ about them.

    Parameters
    ----------
    train, evaluation
        The volumes.
    predictor
        The trained ensemble.
    window
        Input window (z, y, x) of the training.
    scale
        Voxels (z, y, x) of the volumes for each of the stacks.
    """
    window = looked_at(window, predictor.architecture)
    slices = [greys for volume in train for greys in volume.greys]
    share, others = -(-_LEARNED // len(train)), -(-_OTHER // len(evaluation))
    windows_of = [*((_Seen(volume), share) for volume in train), *((_Seen(volume), others) for volume in evaluation)]
    found = [row for volume, n in windows_of for row in try_windows(volume, predictor, window, n)]
    most = max(found, key=len).keys()  # a volume of one slice says nothing of neighbours
    alike = [row for row in found if row.keys() == most]
    sizes = {f: [row for volume, n in windows_of for row in resized_windows(volume, window, f, n)] for f in FACTORS}
    fit = record(alike, learn_size(sizes)) if len(alike) > 1 else None
    return OwnRecords(grey_values=trained_quantiles(slices), fit=fit, scale=scale)


class _Seen:
    """A volume as nets see it."""

    def __init__(self, volume: LabelledVolume) -> None:
        self._image, self._tissue = volume.image, volume.tissue

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self._image.shape
        return z, y, x

    def read(self, z: int, rows: tuple[int, int]) -> np.ndarray:
        return self._image[z, rows[0] : rows[1]]

    def has_outside(self, region: tuple[slice, slice, slice]) -> bool:
        return self._tissue is not None and not bool(self._tissue[region].all())
