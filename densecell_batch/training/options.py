"""What is asked of a training, and the run that comes of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.inference.device import choose_precision, select_device
from densecell_batch.inference.options import Factor, Side, check_options
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.fetching import find_bundle
from densecell_batch.nets.architecture import Architecture, Hybrid2D3D, ResidualUNet, UNet2D, too_small
from densecell_batch.training.fit import Arrays
from densecell_batch.training.recipes import Improved, Published, Recipe
from densecell_batch.training.restarts import TrainingRun

__all__ = ["TrainingOptions", "fitting", "training_run"]

Triple = tuple[int, int, int]

_WINDOWS: dict[str, Triple] = {"residual": (3, 256, 256), "2d3d": (5, 160, 160), "unet2d": (5, 252, 252)}  # of a family
_TUNING_RATE = 3e-5  # of weights that are good already: higher ones spoil them before they gain (design note 0004)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """What the user asks of a training; the flags of `densecell-batch train`.

    Attributes
    ----------
    name
        Of the bundle.
    net
        "residual" for a residual U-Net over slices with their neighbours, "2d3d", or "unet" for a 2D U-Net; "auto" for
        the first, of the preset "published" for the second.
    preset
        "improved", or "published" for the recipe of Guay et al. 2021.
    kernels
        Filters of the first block, an even number for "2d3d"; None for 32, of a 2D-3D net and of a U-Net 16.
    pyramid_kernels
        Filters of the 3D pyramid of a 2D-3D net; None for 12.
    window
        Voxels (z, y, x) of a training window; None for 3,256,256, of a 2D-3D net 5,160,160, of a U-Net 5,252,252, or
        what of it fits into the stacks.
    batch
        Windows a step ("improved").
    steps, epochs, minutes
        How long each member is trained, by one of them: steps; how often the volumes are seen; or about how many
        minutes the steps take. Start-up and some twenty evaluations come on top.
    learning_rate
        None for that of the preset; where weights are gone on from, a low one of its own, 3e-5.
    restarts
        Members to train; None for one, or as many as the bundle `init` has.
    keep
        Best members to keep; None for all, at most 4.
    floor
        Mean IoU below which a member is abandoned after a trial.
    seed
        Of the first member; the others count on.
    init
        Name or path of a bundle to start from; it decides the architecture. What it is worth is found first, and it
        is kept if nothing better comes of it.
    distil
        Name or path of a bundle: what its ensemble says is learned beside the labels (`training.distil`).
    scale
        Voxels (z, y, x) that the nets see for each voxel of the stacks, or one factor for y and x; "off" for the stacks
        as they are; "auto" for what trials say (`training.working_scale`).
    voxel_size_trained
        The same, as the voxel size that the nets see.
    ignore_label
        The label of voxels that do not count, in training and evaluation; None if all do. If it is 0, the classes that
        are named are those of the labels from 1 on.
    precision
        "auto", "float32" or "bfloat16".
    licence, citation
        For the bundle.

    Raises
    ------
    OptionError
        If an option is none of what it may be.
    """

    name: str = "mine"
    net: Literal["auto", "residual", "2d3d", "unet"] = "auto"
    preset: Literal["improved", "published"] = "improved"
    kernels: Side | None = None
    pyramid_kernels: Side | None = None
    window: tuple[Side, Side, Side] | None = None
    batch: Side = 1
    steps: Annotated[int, Meta(ge=20, lt=2**31)] | None = None
    epochs: Side | None = None
    minutes: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    restarts: Side | None = None
    keep: Side | None = None
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.3
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 0
    init: str | None = None
    distil: str | None = None
    scale: Literal["auto", "off"] | tuple[Factor, Factor, Factor] = "auto"
    voxel_size_trained: VoxelSize | None = None
    ignore_label: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    licence: str = "not stated"
    citation: str = "not stated"

    def __post_init__(self) -> None:
        if isinstance(self.scale, int | float):  # one factor is that within the slice
            object.__setattr__(self, "scale", (1.0, self.scale, self.scale))
        check_options(self)
        if self.voxel_size_trained is not None and self.scale != "auto":
            raise OptionError("give --scale or --voxel-size-trained, not both: each says what the nets see")
        if self.distil is not None and (self.scale != "auto" or self.voxel_size_trained is not None):
            raise OptionError("--distil takes the voxel size of its bundle; leave --scale and --voxel-size-trained out")
        if self.distil is not None and self.preset == "published":
            raise OptionError("--preset published learns labels alone; give --distil with --preset improved")
        if self.ignore_label is not None and self.preset == "published":
            raise OptionError(
                "--preset published counts every voxel a little, labelled or not; give --ignore-label with --preset "
                "improved"
            )


def training_run(
    classes: Sequence[ClassInfo], options: TrainingOptions, shapes: Sequence[Triple] = ()
) -> tuple[list[Arrays] | None, TrainingRun]:
    """The run that is asked for, and the weights that its members start from.

    Parameters
    ----------
    classes, options
        What the labels mean, and what is asked.
    shapes
        Voxels (z, y, x) of the stacks to train on, as the nets see them: default windows fit into them.

    Raises
    ------
    OptionError
        If the options contradict each other.
    ModelError
        If there is no model `options.init`.
    """
    if sum(given is not None for given in (options.steps, options.epochs, options.minutes)) != 1:
        raise OptionError("give one of --steps, --epochs and --minutes: how long each member is trained")
    licence, citation = options.licence, options.citation
    if options.init:
        bundle = find_bundle(options.init)
        architecture = bundle.architecture
        # What comes of a model is under its terms, unless somebody says otherwise.
        licence = bundle.licence if licence == "not stated" else licence
        citation = bundle.citation if citation == "not stated" else citation
        start: list[Arrays] | None = [bundle.weights(i) for i in range(len(bundle.members))]
        _check_init(architecture, len(classes), options)
    else:
        architecture, start = _architecture(len(classes), options, shapes), None
    if isinstance(architecture, ResidualUNet) and options.preset == "published":
        raise OptionError("--preset published has no residual net; give --net 2d3d or unet, or --preset improved")
    if options.pyramid_kernels is not None and not isinstance(architecture, Hybrid2D3D):
        raise OptionError(f"--pyramid-kernels are of a 2d3d net; this one is {architecture.family}: leave them out")
    window = options.window or _WINDOWS[architecture.family]
    if options.window is None and shapes:
        window = fitting(window, shapes, architecture)
    if too_small(architecture, window):
        raise OptionError(
            f"--window {','.join(map(str, window))} (z, y, x) is too small for a {architecture.family} net; expected "
            f"more, of {1 + 2 * architecture.context} slices at least"
        )
    restarts = options.restarts or len(start or [None])
    return start, TrainingRun(
        name=options.name,
        architecture=architecture,
        classes=tuple(classes),
        recipe=_recipe(architecture, window, options, normalized=start is None),
        restarts=restarts,
        keep=options.keep or min(4, restarts),
        seed=options.seed,
        minutes=options.minutes,
        licence=licence,
        citation=citation,
        any_precision=options.precision == "auto",
        ignore_label=options.ignore_label,
    )


def _recipe(architecture: Architecture, window: Triple, options: TrainingOptions, *, normalized: bool) -> Recipe:
    """The recipe of a preset; a net that is trained already has no normalizations, and needs none."""
    precision = choose_precision(options.precision, select_device("auto"))
    _log.info("precision %s (%s)", precision.name, precision.reason)
    name = "float32" if precision.name == "float32" else f"mixed_{precision.name}"
    recipe: Recipe
    if options.preset == "published":
        recipe = Published.of(architecture, window=window, floor=options.floor, precision=name)
    else:
        recipe = Improved(
            window=window, floor=options.floor, precision=name, batch=options.batch, normalized=normalized
        )
    rate = options.learning_rate or (_TUNING_RATE if options.init else None)
    if rate is not None:
        recipe = replace(recipe, learning_rate=rate)
    return recipe if options.steps is None else recipe.over(options.steps)


def fitting(window: Triple, shapes: Sequence[Triple], architecture: Architecture) -> Triple:
    """What of a window (z, y, x) fits into volumes of some shapes and is taken by a net; the smallest that is, if
    nothing does. Slices that only serve others as context need not be there.
    """
    depth, height, width = (min(sides) for sides in zip(*shapes, strict=True))
    step = architecture.alignment
    sides = [
        side - step * max(0, -(-(side - there) // step))
        for side, there in zip(window[1:], (height, width), strict=True)
    ]
    found = (min(window[0], depth + 2 * architecture.context), sides[0], sides[1])
    if not too_small(architecture, found):
        return found
    # No volume is so small: whoever reads them says so, and what would do.
    least = next(side for side in range(1, window[1] + 1) if not too_small(architecture, (found[0], side, side)))
    return found[0], max(sides[0], least), max(sides[1], least)


def _check_init(architecture: Architecture, n_classes: int, options: TrainingOptions) -> None:
    """Refuse what the net to start from contradicts."""
    if architecture.n_classes != n_classes:
        raise OptionError(f"--init {options.init} has {architecture.n_classes} classes, --classes {n_classes}")
    family = {"unet": "unet2d"}.get(options.net, options.net)
    if family not in ("auto", architecture.family):
        raise OptionError(f"--init {options.init} is a {architecture.family} net, --net {options.net}; leave --net out")
    for name in ("kernels", "pyramid_kernels"):
        asked, found = getattr(options, name), getattr(architecture, "n_kernels" if name == "kernels" else name, None)
        if asked not in (None, found):
            option = name.replace("_", "-")
            raise OptionError(f"--init {options.init} has {found} {option}, --{option} {asked}; leave it out")


def _blocks(options: TrainingOptions, shapes: Sequence[Triple]) -> int:
    """Encoder blocks of a residual net: as many as leave 4 x 4 values or more of a window in the bottleneck. Of fewer,
    a batch normalization learns nothing; of one, there is no variance.
    """
    default = _WINDOWS["residual"]
    side = min(options.window[1:] if options.window else [*default[1:], *(n for shape in shapes for n in shape[1:])])
    return max(1, min(4, side.bit_length() - 4))


def _architecture(n_classes: int, options: TrainingOptions, shapes: Sequence[Triple]) -> Architecture:
    """The net of a preset; without the quirks of the published ones in the improved preset."""
    published = options.preset == "published"
    if options.net == "residual" or (options.net == "auto" and not published):
        return ResidualUNet(n_classes, options.kernels or 32, _blocks(options, shapes))
    if options.net == "unet":
        return UNet2D(n_classes, options.kernels or 16, n_blocks=4 if published else 3, relu_on_logits=published)
    return Hybrid2D3D(
        n_classes,
        options.kernels or 16,
        pyramid_kernels=options.pyramid_kernels or 12,
        relu_on_logits=published,
        pyramid_unpools_z=published,
    )
