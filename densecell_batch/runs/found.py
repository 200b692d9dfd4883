"""What a report says of what was found in the stack, and done to it before the nets saw it."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct, UnsetType

from densecell_batch.prepare.defects import Defect
from densecell_batch.prepare.fit import Fit
from densecell_batch.prepare.preparation import Box, Preparation, Triple, whole

__all__ = ["FitRecord", "Found", "Outside", "Region", "fit_of", "found_in", "region_of"]


class Outside(Struct, frozen=True, kw_only=True):
    """What is no tissue, and counts as no class."""

    voxels: int
    volume_um3: float | None


class Region(Struct, frozen=True, kw_only=True):
    """Where in the stack the results lie, where only a part was asked for."""

    offset: Triple  # of its first voxel (z, y, x)
    shape: Triple

    @property
    def box(self) -> Box:
        """[start, stop) along (z, y, x)."""
        z, y, x = ((start, start + side) for start, side in zip(self.offset, self.shape, strict=True))
        return z, y, x


class Found(Struct, frozen=True, kw_only=True):
    """What was found in the stack, and what was done to it before the nets saw it."""

    seen: Box  # what the nets saw of it: [start, stop) (z, y, x)
    resampled: Triple | UnsetType = UNSET  # voxels (z, y, x) that they saw it as
    blank_slices: tuple[int, ...] = ()  # without tissue, from 0
    interpolated_slices: tuple[int, ...] = ()  # in whose place the nets saw their neighbour: their labels are made up
    damaged_slices: tuple[Defect, ...] = ()
    contrast: str = ""  # how grey values became what the nets know


class FitRecord(Fit, frozen=True, kw_only=True):
    """Whether the stack looks to the model like its own data."""

    remedy: str  # what would make it look so; "" if nothing known does
    taken: bool  # whether that was done


def fit_of(preparation: Preparation) -> FitRecord | UnsetType:
    """Nothing where nobody asked, or the model does not know its own data."""
    if preparation.fit is None:
        return UNSET
    found = msgspec.structs.asdict(preparation.fit)
    return FitRecord(**found, remedy=preparation.remedy, taken=preparation.remedied)


def _contrast(preparation: Preparation) -> str:
    curves = preparation.curves
    what = "a curve" if any(curve.raw for curve in curves) else "minus a mean, by a standard deviation,"
    return f"{what} for {'each slice' if len(curves) > 1 else 'the stack'}"


def found_in(preparation: Preparation) -> Found:
    """What was found and done, but for the numbers of every slice."""
    sides = tuple(stop - start for start, stop in preparation.box)
    area = preparation.shape[1] * preparation.shape[2]
    blank = tuple(z for z, n in enumerate(preparation.outside) if n == area)
    return Found(
        seen=preparation.box,
        resampled=UNSET if preparation.grid == sides else preparation.grid,
        blank_slices=blank,
        interpolated_slices=tuple(z for z, _ in preparation.stand_ins if z not in blank),
        damaged_slices=preparation.defects,
        contrast=_contrast(preparation),
    )


def region_of(preparation: Preparation) -> Region | UnsetType:
    """Nothing where all of the stack was asked for."""
    if preparation.result == whole(preparation.shape):
        return UNSET
    z, y, x = preparation.result
    return Region(offset=(z[0], y[0], x[0]), shape=(z[1] - z[0], y[1] - y[0], x[1] - x[0]))
