"""`densecell-batch train`: labelled stacks in, a model bundle out."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densecell_batch.cli.params import SCALE, TILE, VOXEL_SIZE, verbosity
from densecell_batch.errors import OptionError
from densecell_batch.signals import stop_on_signals

if TYPE_CHECKING:
    from densecell_batch.models.classes import ClassInfo

__all__ = ["train"]

_log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--images", multiple=True, required=True, type=_FILE, help="Image stack to train on. Repeatable.")
@click.option("--labels", multiple=True, required=True, type=_FILE, help="Its labels, 0 to the number of classes - 1.")
@click.option("--ignore-label", type=int, help="Voxels with this label do not count; if it is 0, --classes are those "
              "of the labels from 1 on.")  # fmt: skip
@click.option("--weights", multiple=True, type=_FILE, help="How much each voxel counts; 0 where labels are missing.")
@click.option("--eval-images", multiple=True, type=_FILE, help="Image stack that the members are chosen on. "
              "Repeatable.  [default: the last fifth of the labelled slices of --images]")  # fmt: skip
@click.option("--eval-labels", multiple=True, type=_FILE, help="Its labels.")
@click.option("-o", "--out", required=True, type=_FILE, help="Run folder; an interrupted run in it is resumed.")
@click.option("--classes", help="NAME[=#rrggbb],... from class 0 on, or a file with one in each line; as those of "
              "--distil or --init, or as the labels name them, if left out.")  # fmt: skip
@click.option("--name", default="mine", show_default=True, help="Name of the bundle.")
@click.option("--make-weights", is_flag=True, help="Only write published error weights of --labels to --out.")
@click.option("--net", type=click.Choice(["auto", "residual", "2d3d", "unet"]), default="auto", show_default=True,
              help="auto: residual; 2d3d for the preset published.")  # fmt: skip
@click.option("--preset", type=click.Choice(["improved", "published"]), default="improved", show_default=True)
@click.option("--kernels", type=int, help="Filters of the first block; of 2d3d even.  [default: residual 32, else 16]")
@click.option("--pyramid-kernels", type=int, help="Filters of the 3D pyramid of 2d3d.  [default: 12]")
@click.option("--window", type=TILE, metavar="Z,Y,X",
              help="Training window.  [default: residual 3,256,256; 2d3d 5,160,160; unet 5,252,252]")  # fmt: skip
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Windows a step (improved).")
@click.option("--steps", type=click.IntRange(20), help="Steps of each member.")
@click.option("--epochs", type=click.IntRange(1), help="Or: how often the volumes are seen.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Or: minutes for each member.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True),
              help="[default: that of the preset; with --init 3e-5]")  # fmt: skip
@click.option("--restarts", type=click.IntRange(1), help="Members to train.  [default: 1; as many as --init has]")
@click.option("--keep", type=click.IntRange(1), help="Best members to keep.  [default: all, at most 4]")
@click.option("--floor", default=0.3, show_default=True, type=click.FloatRange(0, 1),
              help="Mean IoU below which a member is abandoned after its trial.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--init", type=str, help="Bundle to start from (fine-tuning); decides the architecture.")
@click.option("--distil", type=str, help="Bundle whose ensemble a net learns from, beside the labels.")
@click.option("--unlabelled", multiple=True, type=_FILE, help="More stacks to learn its answers on. Repeatable.")
@click.option("--scale", type=SCALE, default="auto", show_default=True,
              help="Voxels that the nets see for each of the stacks; auto: trials tell.")  # fmt: skip
@click.option("--voxel-size-trained", type=VOXEL_SIZE, help="Or: the voxel size that they see.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--licence", default="not stated", help="Licence of the weights, for the bundle.")
@click.option("--citation", default="not stated", help="What users of the bundle shall cite.")
@verbosity
def train(
    images: tuple[Path, ...],
    labels: tuple[Path, ...],
    weights: tuple[Path, ...],
    eval_images: tuple[Path, ...],
    eval_labels: tuple[Path, ...],
    out: Path,
    classes: str | None,
    unlabelled: tuple[Path, ...],
    make_weights: bool,
    **flags: Any,
) -> None:
    """Train an ensemble of nets on labelled stacks and make a model bundle of the best.

    Interrupted, the same command goes on where it was.
    """
    from densecell_batch.models.classes import class_entries
    from densecell_batch.training.naming import classes_of
    from densecell_batch.training.options import TrainingOptions
    from densecell_batch.training.restarts import TrainingRun
    from densecell_batch.training.train import train as train_on

    options = TrainingOptions(**flags)
    named = classes_of(None if classes is None else class_entries(classes), labels, options)
    if make_weights:
        _make_weights(images, labels, named, out, options.ignore_label)
        return
    if len(eval_images) != len(eval_labels):
        raise OptionError(
            f"{len(eval_images)} --eval-images and {len(eval_labels)} --eval-labels: the stacks that the members are "
            "chosen on; expected one --eval-labels for each, or none of both"
        )
    stop_on_signals()
    begun = time.monotonic()

    def say(run: TrainingRun, seed: int, row: dict[str, float]) -> None:
        if not row["step"]:
            _log.info("seed %d begins with a mean IoU of %.4f", seed, row["mean_iou"])
            return
        left = (run.seed + run.restarts - 1 - seed) * row["steps"] + row["steps"] - row["step"]
        _log.info(
            "seed %d, step %d of %d: loss %.4f, mean IoU %.4f; %.0f min spent, about %.0f min left",
            seed, row["step"], row["steps"], row["loss"], row["mean_iou"],
            (time.monotonic() - begun) / 60, left * row["seconds_per_step"] / 60,
        )  # fmt: skip

    evaluation = [*zip(eval_images, eval_labels, strict=True)]
    bundle = train_on(
        images, labels, evaluation, out, named, options, weights=weights, unlabelled=unlabelled, progress=say
    )
    click.echo(f"DENSECELL\tok\t{bundle.path}\t{bundle.scores['evaluation']['mean_iou']}")


def _make_weights(
    images: tuple[Path, ...], labels: tuple[Path, ...], classes: tuple[ClassInfo, ...], out: Path, ignore: int | None
) -> None:
    """Write STEM_weights.tif and STEM_weights.png for each label stack."""
    from densecell_batch.runs.paths import stack_name
    from densecell_batch.storage.atomic import make_folder
    from densecell_batch.training.error_weights import write_error_weights
    from densecell_batch.training.stacks import paired
    from densecell_batch.training.volumes import load_labelled

    pairs = paired(images, labels)
    make_folder(out)
    for image, label in pairs:
        path = out / f"{stack_name(label)}_weights.tif"
        volume = load_labelled(image, label, len(classes), ignore=ignore)
        write_error_weights(path, volume, [c.colour for c in classes])
        click.echo(f"DENSECELL\tok\t{path}")
