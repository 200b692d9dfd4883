"""The voxel sizes of the stacks of a training, and what of them the nets see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import StackInfo
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.fetching import find_bundle
from densecell_batch.models.manifest import MOST_SCALED
from densecell_batch.prepare.examine import zoom_to
from densecell_batch.prepare.preparation import Aim
from densecell_batch.storage.opening import Reach
from densecell_batch.training.options import TrainingOptions
from densecell_batch.training.working_scale import ONE, Factors

__all__ = ["aim_at", "aim_of", "check_alike", "known_aim", "known_size", "scale_of", "stack_info"]

_ALIKE_Z = 1.5  # factor by which slices may be thicker or thinner than those of the first stack

_log = logging.getLogger(__name__)


def stack_info(path: Path) -> StackInfo:
    """What the header of a stack says. Raises StackError if it cannot be read."""
    with open_stack(path, reach=Reach.of(path, links=True)) as stack:
        return stack.info


def known_size(infos: Sequence[StackInfo]) -> VoxelSize | None:
    """That of the first stack which has one: the others are brought to it."""
    return next((info.voxel_size for info in infos if info.voxel_size is not None), None)


def aim_of(bundle: ModelBundle) -> Aim:
    """What the nets of a bundle see."""
    return Aim(bundle.voxel_size, bundle.known.scale)


def known_aim(options: TrainingOptions) -> Aim | None:
    """What the nets of a bundle that is gone on from, or learned from, see; None if nothing says so."""
    name = options.distil or options.init
    if name is None or options.scale != "auto" or options.voxel_size_trained is not None:
        return None
    return aim_of(find_bundle(name))


def aim_at(of_first: VoxelSize | None, scale: Factors) -> Aim:
    """What the nets see: at a scale of the first stack, whose voxel size the others are brought to."""
    if of_first is None:
        return Aim(scale=scale)
    z, y, x = (edge / factor for edge, factor in zip(of_first.edges, scale, strict=True))
    return Aim(VoxelSize(z, y, x), scale)


def check_alike(
    infos: Sequence[StackInfo], options: TrainingOptions, known: Aim | None = None, *, as_they_are: bool
) -> None:
    """Say what becomes of stacks that have not the voxel size of the first, and of those that have none.

    Parameters
    ----------
    infos
        Of all stacks, those to judge by, too.
    options
        What is asked.
    known
        What the nets of a bundle see that is gone on from, or learned from.
    as_they_are
        Whether nothing is resampled.

    Raises
    ------
    OptionError
        If stacks of different voxel sizes would be mixed.
    """
    first = next((info for info in infos if info.voxel_size is not None), None)
    if first is None and known is None:
        _log.warning(
            "%s: it has no voxel size, nor has any other stack: all are taken to have the same, and so will be what is "
            "segmented later; calibrate them (in Fiji: Image > Properties) so that stacks of other voxel sizes fit",
            infos[0].path,
        )
        return
    for info in infos:
        if info.voxel_size is None:
            like = f"{first.path}, {first.voxel_size}" if known is None and first else "the data of the bundle"
            _log.warning(
                "%s: it has no voxel size; it is taken to have that of %s: if that is wrong, calibrate it (in Fiji: "
                "Image > Properties)", info.path, like,
            )  # fmt: skip
        elif first is not None and info.voxel_size != first.voxel_size:
            _tell(info, first, options, as_they_are=as_they_are)


def _tell(info: StackInfo, first: StackInfo, options: TrainingOptions, *, as_they_are: bool) -> None:
    assert info.voxel_size is not None
    assert first.voxel_size is not None
    mine, theirs = info.voxel_size, first.voxel_size
    zoom = zoom_to(Aim(theirs), mine)[0]
    thicker = mine.z / theirs.z
    of_two = f"{info.path}: its voxels are {mine}, those of {first.path} {theirs}"
    if as_they_are and (zoom != ONE or not 1 / _ALIKE_Z <= thicker <= _ALIKE_Z):
        why = "--scale off" if options.scale == "off" else f"--preset {options.preset}"
        raise OptionError(
            f"{of_two}; expected the same, for {why} takes stacks as they are: resample one of them, train on one kind "
            "of stack, or let the stacks be brought to one voxel size (--preset improved without --scale off)"
        )
    if zoom != ONE:
        _log.info("%s: it is brought to the same", of_two)
    if not 1 / _ALIKE_Z <= thicker <= _ALIKE_Z and not _resamples_z(options):
        _log.warning(
            "%s: slices are not resampled along z, so that nets learn from both kinds; --scale Z,Y,X with a factor for "
            "z other than 1 brings them to one thickness", of_two,
        )  # fmt: skip


def _resamples_z(options: TrainingOptions) -> bool:
    return isinstance(options.scale, tuple) and options.scale[0] != 1


def scale_of(options: TrainingOptions, of_first: VoxelSize | None) -> Factors | None:
    """The scale at which the nets see the stacks; None if trials are to tell.

    Raises
    ------
    OptionError
        If it is too large or too small, or cannot be told.
    """
    scale = _asked_scale(options, of_first)
    if scale is None or options.scale == "off":
        return scale
    if not all(1 / MOST_SCALED <= factor <= MOST_SCALED for factor in scale):
        raise OptionError(
            f"the nets would see {', '.join(f'{factor:.3g}' for factor in scale)} voxels along z, y, x for each of the "
            f"stacks; expected at most {MOST_SCALED} times as many or as few"
        )
    return zoom_to(aim_at(of_first, scale), of_first)[0]  # nearly 1 is 1


def _asked_scale(options: TrainingOptions, of_first: VoxelSize | None) -> Factors | None:
    """The scale that is asked for, or goes with what is asked for; None if none is."""
    if options.voxel_size_trained is not None:
        if of_first is None:
            raise OptionError("--voxel-size-trained needs stacks with a voxel size; give --scale, or calibrate them")
        z, y, x = (a / b for a, b in zip(of_first.edges, options.voxel_size_trained.edges, strict=True))
        return z, y, x
    if options.scale == "off" or isinstance(options.scale, tuple):
        return ONE if options.scale == "off" else options.scale
    known = known_aim(options)
    if known is not None:
        return zoom_to(known, of_first)[0]
    return ONE if options.preset == "published" else None
