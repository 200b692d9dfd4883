"""The options of `segment`; `watch` and `slurm` take those of them that make sense for a folder, or for a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click import Choice, Option

from densecell_batch.cli.params import MEMORY, ROI, SCALE, SECONDS, SHARD, TILE, VOXEL_SIZE
from densecell_batch.errors import OptionError
from densecell_batch.models.registry import DEFAULT_MODEL

__all__ = ["OF_A_RUN", "OF_OBJECTS", "OF_THE_RESULT", "as_words", "take_published", "with_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)

# How objects are told apart, and what is written of them.
OF_OBJECTS = (
    Option(["--cells-from"], multiple=True, metavar="CLASS",
           help="Also the objects between walls of this class, called cells. Repeatable: more walls."),
    Option(["--split"], is_flag=True, help="Part objects that touch, at their necks."),
    Option(["--split-tolerance"], type=click.FloatRange(min=0, min_open=True), metavar="UM",
           help="How much narrower than both its parts a neck is, in radius.  [default: 1.5 pixels or half a slice]"),
    Option(["--min-volume"], type=click.FloatRange(min=0), default=0.0, metavar="UM3",
           help="Leave out objects below this volume in cubic micrometres."),
    Option(["--rois"], is_flag=True, help="Also write the outlines of the objects for ImageJ's ROI Manager."),
)  # fmt: skip

# What the result is, and how it is come by: for every stack of a run, a folder, or an array of tasks.
OF_THE_RESULT = (
    Option(["--model"], default=DEFAULT_MODEL, show_default=True, help="Name or path of a model bundle."),
    Option(["--stitch"], type=Choice(["crop", "deepest", "blend"]), default="crop", show_default=True,
           help="How tiles become a volume: each voxel from its best tile, the published rule, or a weighted mean."),
    Option(["--ensemble"], type=Choice(["mean", "vote"]), default="mean", show_default=True,
           help="Mean of the members' probabilities, or majority of their classes."),
    Option(["--probabilities"], is_flag=True, help="Also write the class probabilities."),
    Option(["--uncertainty"], is_flag=True,
           help="Also write the disagreement of the members, in bits; of one net its entropy."),
    Option(["--instances"], multiple=True, metavar="CLASS",
           help="Also number and measure the connected objects of a class. Repeatable."),
    *OF_OBJECTS,
    Option(["--voxel-size"], type=VOXEL_SIZE,
           help="Voxel size in nm (or with a unit), instead of that of the file."),
    Option(["--outside"], type=Choice(["auto", "off"]), default="auto", show_default=True,
           help="Whether constant fill that touches the border, and blank slices, are no tissue: label 255."),
    Option(["--mask"], type=_FILE, metavar="FILE",
           help="Stack, or one slice for all, that is 0 where there is no tissue."),
    Option(["--contrast"], type=Choice(["auto", "stack", "slice", "match", "none"]), default="auto", show_default=True,
           help="Grey values as the model knows them, where it says them; or by mean and deviation of stack or slice."),
    Option(["--fit"], type=Choice(["warn", "auto", "off"]), default="warn", show_default=True,
           help="Try whether the stack looks like the model's own data: warn if not; auto: also do what helps."),
    Option(["--defects"], type=Choice(["report", "replace", "off"]), default="report", show_default=True,
           help="Name damaged slices; or also show the nets the next good one where one is blank or destroyed."),
    Option(["--scale"], type=SCALE, default="auto", show_default=True,
           help="auto: resample to the pixel size that the model knows. Or a factor along y and x; or Z,Y,X; or off."),
    Option(["--roi"], type=ROI, help="Segment only this region, counted from 0, ends not included."),
    Option(["--as-published"], is_flag=True,
           help="Prepare nothing, and compute as the published code does: deepest, float32."),
    Option(["--precision"], type=Choice(["auto", "float32", "bfloat16", "float16", "int8"]), default="auto",
           show_default=True, help="What the nets compute in; auto takes the fastest that is as good as float32."),
    Option(["--tile"], type=TILE, help="Output region of a tile, instead of the largest that fits the memory."),
    Option(["--memory"], type=MEMORY, help="Memory to use, such as 4G.  [default: half of what is free]"),
    Option(["--device"], type=Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True),
    Option(["--engine"], type=Choice(["auto", "openvino", "tensorflow", "jax"]), default="auto", show_default=True,
           help="What computes the nets; auto: TensorFlow on a GPU, OpenVINO on a processor."),
    Option(["--format", "file_format"], type=Choice(["imagej", "ome-tiff"]), default="imagej", show_default=True,
           help="Of all images written."),
    Option(["--no-preview"], is_flag=True, help="Write no preview picture."),
    Option(["--pre-macro"], type=_FILE, metavar="FILE.ijm",
           help="ImageJ macro to run on each stack before; what it leaves active is segmented."),
    Option(["--post-macro"], type=_FILE, metavar="FILE.ijm",
           help="ImageJ macro to run on the labels after; its tables are saved as CSV."),
    Option(["--macro-timeout"], type=SECONDS, default=1800.0, show_default=True,
           help="Seconds that a macro may take on a stack."),
    Option(["--imagej"], metavar="WHERE",
           help="Fiji or ImageJ folder, or ij.jar, for the macros.  [default: usual places]"),
    Option(["--follow-links"], is_flag=True,
           help="Follow links in the folders that you name, too: you know where they lead."),
)  # fmt: skip

# What one run does of the work. Watchers and scripts decide that themselves.
OF_A_RUN = (
    Option(["--overwrite"], is_flag=True, help="Segment again what was already done."),
    Option(["--workers"], default="1", metavar="N|auto", help="Processes to share the work; auto: one for each GPU."),
    Option(["--shard"], type=SHARD, help="Compute only part I of N; whoever is last writes the results."),
    Option(["--array-task"], is_flag=True, hidden=True),  # with --shard: another job tells of stacks that fail for all
    Option(["--assemble"], is_flag=True, help="Compute nothing: write the results of the parts that are there."),
    Option(["--no-summary"], is_flag=True, help="Write no page of all stacks (summary.html) after several."),
    Option(["--dry-run"], is_flag=True, help="Only say what would be done: tiles, memory, time."),
)


def take_published(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of the command that runs, with what --as-published means in its place.

    Raises
    ------
    OptionError
        If another flag says something else.
    """
    from densecell_batch.inference.options import AS_PUBLISHED

    if not flags.pop("as_published"):
        return flags
    given = click.get_current_context().get_parameter_source
    for name, value in AS_PUBLISHED.items():
        if given(name) is click.core.ParameterSource.COMMANDLINE and flags[name] != value:
            raise OptionError(f"--as-published means --{name} {value}, not {flags[name]}; give one of them")
    return flags | AS_PUBLISHED


def with_options(*options: Option) -> Callable[[Command], Command]:
    """Decorate a command with options that other commands have, too."""

    def decorate(command: Command) -> Command:
        memo = getattr(command, "__click_params__", [])  # of decorators, the last one first
        command.__click_params__ = memo + [copy.copy(option) for option in reversed(options)]  # type: ignore[attr-defined]
        return command

    return decorate


def as_words(options: Sequence[Option]) -> list[Option]:
    """The same options with their values as they were written, and no defaults: to be handed on to another command."""
    found = []
    for option in options:
        copied = copy.copy(option)
        if not option.is_flag:
            copied.type, copied.default, copied.show_default = click.STRING, None, False
        found.append(copied)
    return found
