"""`densecell-batch train`: labelled stacks in, a model bundle out."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from densecell_batch.cli.params import TILE, verbosity
from densecell_batch.errors import OptionError
from densecell_batch.signals import stop_on_signals

__all__ = ["train"]

_log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--images", multiple=True, required=True, type=_FILE, help="Image stack to train on. Repeatable.")
@click.option("--labels", multiple=True, required=True, type=_FILE, help="Its labels, 0 to the number of classes - 1.")
@click.option("--weights", multiple=True, type=_FILE, help="How much each voxel counts; 0 where labels are missing.")
@click.option("--eval-images", type=_FILE, help="Image stack that the members are chosen on.")
@click.option("--eval-labels", type=_FILE, help="Its labels.")
@click.option("-o", "--out", required=True, type=_FILE, help="Run folder; an interrupted run in it is resumed.")
@click.option("--classes", required=True, help="NAME[=#rrggbb],... from class 0 on, or a file with one in each line.")
@click.option("--name", default="mine", show_default=True, help="Name of the bundle.")
@click.option("--make-weights", is_flag=True, help="Only write published error weights of --labels to --out.")
@click.option("--net", type=click.Choice(["2d3d", "unet"]), default="2d3d", show_default=True)
@click.option("--preset", type=click.Choice(["improved", "published"]), default="improved", show_default=True)
@click.option("--kernels", default=16, show_default=True, help="Filters of the first block; even.")
@click.option("--pyramid-kernels", default=12, show_default=True, help="Filters of the 3D pyramid.")
@click.option("--window", type=TILE, metavar="Z,Y,X", help="Training window.  [default: 5,160,160; unet 5,252,252]")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Windows a step (improved).")
@click.option("--steps", type=click.IntRange(20), help="Steps of each member.")
@click.option("--epochs", type=click.IntRange(1), help="Or: how often the volumes are seen.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Or: minutes for each member.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="[default: that of the preset]")
@click.option("--restarts", default=1, show_default=True, type=click.IntRange(1), help="Members to train.")
@click.option("--keep", type=click.IntRange(1), help="Best members to keep.  [default: all, at most 4]")
@click.option("--floor", default=0.3, show_default=True, type=click.FloatRange(0, 1),
              help="Mean IoU below which a member is abandoned after its trial.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--init", type=str, help="Bundle to start from (fine-tuning); decides the architecture.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--licence", default="not stated", help="Licence of the weights, for the bundle.")
@click.option("--citation", default="not stated", help="What users of the bundle shall cite.")
@verbosity
def train(
    images: tuple[Path, ...],
    labels: tuple[Path, ...],
    weights: tuple[Path, ...],
    eval_images: Path | None,
    eval_labels: Path | None,
    out: Path,
    classes: str,
    make_weights: bool,
    **flags: Any,
) -> None:
    """Train an ensemble of 2D-3D nets on labelled stacks and make a model bundle of the best.

    Interrupted, the same command goes on where it was.
    """
    from densecell_batch.training.restarts import train_ensemble
    from densecell_batch.training.volumes import load_labelled

    if len(images) != len(labels):
        raise OptionError(f"{len(images)} --images and {len(labels)} --labels; expected one --labels for each --images")
    if weights and len(weights) != len(labels):
        raise OptionError(f"{len(weights)} --weights and {len(labels)} --labels; expected one for each, or none")
    named = _parse_classes(classes)
    if make_weights:
        _make_weights(images, labels, named, out)
        return
    if eval_images is None or eval_labels is None:
        raise OptionError("give --eval-images and --eval-labels: the stack that the members are chosen on")
    start, run = _run(named, flags)
    n, window = run.architecture.n_classes, run.recipe.window
    volumes = [
        load_labelled(image, label, n, window, errors)
        for image, label, errors in zip(images, labels, weights or (None,) * len(labels), strict=True)
    ]
    if flags["epochs"] is not None:
        epoch = run.recipe.sampler(volumes, run.architecture, run.seed).epoch
        run = replace(run, recipe=run.recipe.over(flags["epochs"] * epoch))
    evaluation = load_labelled(eval_images, eval_labels, n)
    _check_classes(volumes, evaluation, named)
    stop_on_signals()
    begun = time.monotonic()

    def say(seed: int, row: dict[str, float]) -> None:
        left = (run.seed + run.restarts - 1 - seed) * row["steps"] + row["steps"] - row["step"]
        _log.info(
            "seed %d, step %d of %d: loss %.4f, mean IoU %.4f; %.0f min spent, about %.0f min left",
            seed, row["step"], row["steps"], row["loss"], row["mean_iou"],
            (time.monotonic() - begun) / 60, left * row["seconds_per_step"] / 60,
        )  # fmt: skip

    bundle = train_ensemble(run, volumes, evaluation, out, start=start, progress=say)
    click.echo(f"DENSECELL\tok\t{bundle.path}\t{bundle.scores['evaluation']['mean_iou']}")


def _run(classes: tuple[Any, ...], flags: dict[str, Any]) -> tuple[list[Any] | None, Any]:
    """What the flags ask for: weights to start from, and the run."""
    from densecell_batch.inference.device import choose_precision, select_device
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.training.recipes import Improved, Published
    from densecell_batch.training.restarts import Run

    if sum(flags[name] is not None for name in ("steps", "epochs", "minutes")) != 1:
        raise OptionError("give one of --steps, --epochs and --minutes: how long each member is trained")
    published = flags["preset"] == "published"
    architecture = _architecture(len(classes), flags)
    start = None
    if flags["init"]:
        bundle = find_bundle(flags["init"])
        architecture = bundle.architecture
        start = [bundle.weights(i) for i in range(len(bundle.members))]
        if architecture.n_classes != len(classes):
            raise OptionError(f"--init {flags['init']} has {architecture.n_classes} classes, --classes {len(classes)}")
    precision = choose_precision(flags["precision"], select_device("auto"))
    _log.info("precision %s (%s)", precision.name, precision.reason)
    fields = {
        "window": flags["window"] or ((5, 252, 252) if flags["net"] == "unet" else (5, 160, 160)),
        "floor": flags["floor"],
        "precision": "float32" if precision.name == "float32" else f"mixed_{precision.name}",
    }
    if flags["learning_rate"] is not None:
        fields["learning_rate"] = flags["learning_rate"]
    # A net that is trained already has no normalizations, and needs none.
    recipe: Any = (
        Published.of(architecture, **fields)
        if published
        else Improved(batch=flags["batch"], normalized=start is None, **fields)
    )
    if flags["steps"] is not None:
        recipe = recipe.over(flags["steps"])
    return start, Run(
        name=flags["name"],
        architecture=architecture,
        classes=classes,
        recipe=recipe,
        restarts=flags["restarts"],
        keep=flags["keep"] or min(4, flags["restarts"]),
        seed=flags["seed"],
        minutes=flags["minutes"],
        licence=flags["licence"],
        citation=flags["citation"],
    )


def _check_classes(volumes: list[Any], evaluation: Any, classes: tuple[Any, ...]) -> None:
    """Refuse classes that nothing can be learned of; warn of those whose score will say nothing."""
    for index, info in enumerate(classes):
        if not any((volume.labels == index).any() for volume in volumes):
            raise OptionError(
                f"--labels have no voxel of class {index}, {info.name!r}; expected some of each class: label some, or "
                "name only the classes that are labelled"
            )
        if not (evaluation.labels == index).any():
            _log.warning("--eval-labels have no voxel of class %d, %r: its IoU will not count", index, info.name)


def _architecture(n_classes: int, flags: dict[str, Any]) -> Any:
    """The net of a preset; without the quirks of the published ones in the improved preset."""
    from densecell_batch.nets.architecture import Hybrid2D3D, UNet2D

    published = flags["preset"] == "published"
    if flags["net"] == "unet":
        return UNet2D(n_classes, flags["kernels"], n_blocks=4 if published else 3, relu_on_logits=published)
    return Hybrid2D3D(
        n_classes,
        flags["kernels"],
        pyramid_kernels=flags["pyramid_kernels"],
        relu_on_logits=published,
        pyramid_unpools_z=published,
    )


def _make_weights(images: tuple[Path, ...], labels: tuple[Path, ...], classes: tuple[Any, ...], out: Path) -> None:
    """Write STEM_weights.tif and STEM_weights.png for each label stack."""
    from densecell_batch.runs.outputs import stack_name
    from densecell_batch.storage.atomic import make_folder
    from densecell_batch.training.error_weights import write_error_weights
    from densecell_batch.training.volumes import load_labelled

    make_folder(out)
    for image, label in zip(images, labels, strict=True):
        path = out / f"{stack_name(label)}_weights.tif"
        write_error_weights(path, load_labelled(image, label, len(classes)), [c.colour for c in classes])
        click.echo(f"DENSECELL\tok\t{path}")


def _parse_classes(text: str) -> tuple[Any, ...]:
    """Names and colours of the classes, from the option or from the file that it names."""
    from densecell_batch.models.bundle import ClassInfo
    from densecell_batch.models.published import jet_colours

    path = Path(text)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    entries = [line.strip() for line in lines if line.strip()]
    if len(entries) < 2:
        raise OptionError(
            f"--classes names {len(entries)} class; expected at least two, such as background,cell=#ff0000"
        )
    found = []
    for entry, colour in zip(entries, jet_colours(len(entries)), strict=True):
        name, _, given = (part.strip() for part in entry.partition("="))
        if given:
            try:
                if len(given) != 7 or given[0] != "#":
                    raise ValueError
                red, green, blue = bytes.fromhex(given[1:])
            except ValueError as error:
                raise OptionError(f"--classes: {given!r} is no colour; expected #rrggbb, such as #ff0000") from error
            colour = (red, green, blue)
        found.append(ClassInfo(name, colour))
    return tuple(found)
