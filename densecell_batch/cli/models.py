"""`densecell-batch models`: what models there are, and how published ones become bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densecell_batch.cli.params import TILE, VOXEL_SIZE, verbosity
from densecell_batch.printable import printable
from densecell_batch.signals import stop_on_signals

if TYPE_CHECKING:
    from densecell_batch.calibration import VoxelSize
    from densecell_batch.models.bundle import ModelBundle
    from densecell_batch.storage.strict_json import JsonObject

__all__ = ["models"]

_PATH = click.Path(path_type=Path)


@click.group()
def models() -> None:
    """List, show, import, export, pack, verify, fetch, calibrate and quantize model bundles."""


@models.command("list")
@click.argument("more", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "tsv"]),
    default="table",
    show_default=True,
    help="For people; or, for programs, tab-separated lines of what each model is, with a heading.",
)
def list_models(more: tuple[str, ...], kind: str) -> None:
    """List the models that can be named: in the package, in the cache, and those that can be fetched.

    With --format tsv, also each MODEL, a name or a path, that is given.
    """
    from densecell_batch.models.fetching import distrusted_cache
    from densecell_batch.models.registry import REGISTRY

    if kind == "tsv":
        for line in _lines_for_programs(more):
            click.echo(line)
        return
    if more:
        raise click.BadParameter("only --format tsv tells of further models; see `models show`", param_hint="MODEL")
    rows = [("NAME", "WHERE", "WHAT")]
    for name, where, place in _known():
        if where == "bundled":
            what = _summary(place)
        else:
            what = printable(distrusted_cache(name)) or f"{REGISTRY[name].kind}: {REGISTRY[name].about}"
        rows.append((name, where, what))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, where, what in rows:
        click.echo(f"{name:<{widths[0]}}  {where:<{widths[1]}}  {what}")


@models.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="The manifest as it is.")
def show(model: str, as_json: bool) -> None:
    """Show the manifest of MODEL, a name or a path."""
    from densecell_batch.models.bundle import read_manifest
    from densecell_batch.models.fetching import find_bundle

    bundle = find_bundle(model)
    manifest = read_manifest(bundle.path)
    if as_json:
        click.echo(_as_json(manifest, indent=2))
        return
    for label, value in _description(bundle, manifest):
        first, *more = (printable(line) for line in value.split("\n"))
        click.echo(f"{label:<14}{first}")
        for line in more:
            click.echo(f"{'':<14}{line}")


@models.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=_PATH)
@click.option("-o", "--out", required=True, type=_PATH, help="The bundle: a folder, or a zip if it ends in .zip.")
@click.option("--name", help="Of the bundle.  [default: that of the output]")
@click.option("--version", default="1", show_default=True)
@click.option("--classes", metavar="NAME,NAME,...", help="In order of the outputs.  [default: platelet classes for 7]")
@click.option("--voxel-size", type=VOXEL_SIZE, help="Of the training data, in nm (or with a unit).")
@click.option("--window", type=TILE, help="Input window of the training, where graph.pbtxt does not say it.")
@click.option("--licence", default="not stated", show_default=True)
@click.option("--citation", default="not stated", show_default=True)
@click.pass_context
def import_models(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    out: Path,
    name: str | None,
    classes: str | None,
    voxel_size: VoxelSize | None,
    **fields: Any,
) -> None:
    """Make one bundle of published TensorFlow models: folders or zips, each becomes a member.

    A package that `models export --format bioimageio` wrote gives the bundle back that it was made of.
    """
    from densecell_batch.models.bioimageio import import_package, is_package
    from densecell_batch.models.published import import_published

    if any(map(is_package, paths)):
        _check_alone(ctx, paths)
        bundle = import_package(paths[0], out)
        click.echo(f"{printable(bundle.path)}: {_line(bundle)}")
        return
    names = None if classes is None else [text.strip() for text in classes.split(",")]
    if name is None:
        name = out.name.removesuffix(".zip")
    bundle = import_published(paths, out, name, classes=names, voxel_size=voxel_size, **fields)
    for note in bundle.provenance["notes"]:
        click.echo(f"note: {printable(note)}", err=True)
    click.echo(f"{printable(bundle.path)}: {_line(bundle)}")


def _check_alone(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """See that nothing is asked of a package but the bundle in it."""
    if len(paths) > 1:
        raise click.BadParameter("a package of bioimage.io is a whole model; expected it alone", param_hint="PATH")
    for name in ctx.params.keys() - {"paths", "out"}:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.BadParameter(
                "the bundle in a package of bioimage.io says it already", param_hint=f"--{name.replace('_', '-')}"
            )


@models.command()
@click.argument("model")
@click.option(
    "-o", "--out", required=True, type=_PATH, help="The file to write: a .zip of bioimageio, an .onnx of onnx."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["bioimageio", "onnx"]),
    default="bioimageio",
    show_default=True,
    help="A package of bioimage.io, or its ONNX file alone.",
)
@click.option("--window", type=TILE, help="What goes in, in voxels.  [default: the window of the training]")
@click.option(
    "--image",
    type=_PATH,
    help="Of a package: a stack whose middle becomes its test and its cover.  [default: "
    "the sample, for the models that came with the program; noise for others]",
)
@click.option(
    "--author", "authors", multiple=True, metavar="NAME", help="Of a package: who made the model. Repeatable."
)
def export(
    model: str, out: Path, kind: str, window: tuple[int, int, int] | None, image: Path | None, authors: tuple[str, ...]
) -> None:
    """Write MODEL, a name or a path, for other programs: all nets and their mean, in ONNX.

    What is written is read again and held to what this program computes. It needs the package onnx:
    pip install 'densecell-batch[export]'.
    """
    from densecell_batch.models.bioimageio import export_package
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.models.onnx_export import ONNX_TOLERANCE, export_onnx

    suffix = {"bioimageio": ".zip", "onnx": ".onnx"}[kind]
    if out.suffix.lower() != suffix:
        raise click.BadParameter(f"{out} does not end in {suffix}", param_hint="--out")
    if kind == "onnx" and (image or authors):
        raise click.BadParameter(
            "only a package has one; expected --format bioimageio with it",
            param_hint="--image" if image else "--author",
        )
    bundle = find_bundle(model)
    if kind == "onnx":
        made = export_onnx(bundle, out, window)
    else:
        made = export_package(bundle, out, window, image=image, authors=authors)
    if made.difference is not None:
        click.echo(f"as ONNX: largest difference {made.difference:.2g} of a probability, {ONNX_TOLERANCE:g} allowed")
    sides = " x ".join(map(str, made.window))
    click.echo(f"{printable(out)}: {bundle.name} {bundle.version}, for windows of {sides} voxels (z, y, x)")


@models.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--out", required=True, type=_PATH, help="The zip to write.")
def pack(folder: Path, out: Path) -> None:
    """Pack the bundle in FOLDER into a zip, the same bytes wherever it is done."""
    from densecell_batch.models.bundle import pack_bundle

    if out.suffix.lower() != ".zip":
        raise click.BadParameter(f"{out} does not end in .zip", param_hint="--out")
    bundle = pack_bundle(folder, out)
    click.echo(f"{printable(bundle.path)}: {_line(bundle)}")


@models.command()
@click.argument("model")
def verify(model: str) -> None:
    """Check MODEL, a name or a path: hashes, tensors, and that the nets give the recorded probabilities."""
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.models.golden import GOLDEN_TOLERANCE, verify_bundle

    bundle = find_bundle(model)
    for i, member in enumerate(bundle.members):
        tensors = bundle.weights(i)
        parameters = sum(tensor.size for tensor in tensors.values())
        click.echo(f"{member.file}: SHA-256 {member.sha256} ok, {len(tensors)} tensors, {parameters:,} parameters")
    difference = verify_bundle(bundle)
    click.echo(f"golden pair: largest difference {difference:.2g} of a probability, {GOLDEN_TOLERANCE:g} allowed")
    click.echo(f"{bundle.name} {bundle.version}: ok")


@models.command()
@click.argument("model")
@click.option("--images", required=True, type=_PATH, help="A stack that is like those to be segmented.")
@click.option("--labels", required=True, type=_PATH, help="The class of each of its voxels.")
@click.option("-o", "--out", required=True, type=_PATH, help="The bundle: a folder, or a zip if it ends in .zip.")
@click.option("--name", help="Of the bundle.  [default: that of the output]")
@click.option("--mask", type=_PATH, help="Stack of the same shape; only voxels above 0 count.")
@click.option("--ignore-label", "ignore", type=int, help="Voxels with this label do not count.")
@verbosity
def calibrate(model: str, images: Path, labels: Path, out: Path, **options: Any) -> None:
    """Fit an offset for each class of MODEL, a name or a path, to a few labelled slices, and make a bundle with them.

    It is judged on parts of the slices that the offsets were not fitted to. If they do not help there, nothing is
    written, and the exit code is 2.
    """
    from densecell_batch.training.calibrate import calibrate as calibrated

    stop_on_signals()
    made = calibrated(model, images, labels, out, **options)
    held_out, bundle = made.held_out, made.bundle
    click.echo(f"mean IoU, held out: {held_out.before:.4f} without, {held_out.after:.4f} with these offsets:")
    for line in _offsets(bundle):
        click.echo(f"  {line}")
    click.echo(f"{printable(bundle.path)}: {_line(bundle)}")


@models.command()
@click.argument("model")
@click.option(
    "--images",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="STACK",
    help="Tissue for which the model is. Repeatable.",
)
@click.option(
    "--labels",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="STACK",
    help="The class of each voxel of the images, to measure the mean IoU, too. One for each of them.",
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="The new bundle: a folder, or a .zip."
)
@click.option("--name", help="Of the new bundle.  [default: that of the file]")
@click.option("--ignore-label", "ignore", type=int, help="Label of voxels that do not count.")
def quantize(model: str, images: tuple[Path, ...], labels: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Measure how MODEL, a name or a path, is computed in eight bits, and make a bundle that knows it.

    Processors are up to twice as fast then. `--precision auto` takes eight bits where the classes are as good as in
    float32; what was measured is printed, and stands in the bundle.
    """
    from densecell_batch.training.quantize import describe
    from densecell_batch.training.quantize import quantize as quantized

    stop_on_signals()
    bundle = quantized(model, images, labels, out, **options)
    assert bundle.quantization is not None
    click.echo(describe(bundle.quantization))
    click.echo(f"{printable(bundle.path)}: {_line(bundle)}")


@models.command()
@click.argument("name")
@click.option("--sha256", "pins", multiple=True, metavar="FILE=HASH",
              help="Take only a FILE with this SHA-256. Repeatable; of a single file the HASH will do.")  # fmt: skip
def fetch(name: str, pins: tuple[str, ...]) -> None:
    """Fetch the model or data set NAME into the cache, unless it is there.

    Nobody published hashes of the four published nets: each is trusted when it is fetched for the first time, and held
    to what it was from then on. --sha256 holds it to what you know of it.
    """
    from densecell_batch.models import fetching

    click.echo(fetching.fetch(name, _pins(name, pins)))


def _pins(name: str, pins: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 by file, of what was given as FILE=HASH or, for a single file, as HASH."""
    from densecell_batch.models.registry import REGISTRY

    files = [file.name for file in REGISTRY[name].files] if name in REGISTRY else []
    found: dict[str, str] = {}
    for pin in pins:
        file, equals, value = pin.rpartition("=")
        if not equals and len(files) == 1:
            file = files[0]
        if not file or file in found or not re.fullmatch(r"[0-9a-f]{64}", value.lower()):
            raise click.BadParameter(
                f"{pin!r} is not FILE=HASH with the 64 hexadecimal digits of a SHA-256, once for each file of "
                f"{', '.join(files) or name}",
                param_hint="--sha256",
            )
        found[file] = value.lower()
    return found


# Of a model, in a tab-separated line: sizes are z,y,x; what is not known is empty.
_COLUMNS = ("name", "where", "version", "members", "window", "voxel_size_nm", "classes")


def _known() -> Iterator[tuple[str, str, Path]]:
    """The name of each model, or of other data, that can be named; where it is: bundled, cached, refused or fetchable;
    and its path there.
    """
    from densecell_batch.models.fetching import distrusted_cache
    from densecell_batch.models.registry import REGISTRY, bundled, fetched

    for path in bundled():
        yield path.name, "bundled", path
    for name in REGISTRY:
        place = fetched(name)
        if place is None:
            yield name, "fetchable", Path()
        else:
            yield name, "refused" if distrusted_cache(name) else "cached", place


def _lines_for_programs(more: tuple[str, ...]) -> Iterator[str]:
    """A line for each model that is here, or that can be fetched, and one for each of `more`; a heading above."""
    from densecell_batch.errors import BundleError
    from densecell_batch.models.bundle import load_bundle
    from densecell_batch.models.fetching import find_bundle
    from densecell_batch.models.registry import REGISTRY

    yield "\t".join(_COLUMNS)
    for name, where, place in _known():
        if where == "refused" or (where != "bundled" and REGISTRY[name].kind != "model"):
            continue
        if where == "fetchable":
            yield "\t".join((name, where, *[""] * (len(_COLUMNS) - 2)))
            continue
        with suppress(BundleError):  # the table says what is wrong with it
            yield _line_for_programs(name, where, load_bundle(place))
    for name in more:
        yield _line_for_programs(name, "given", find_bundle(name))


def _line_for_programs(name: str, where: str, bundle: ModelBundle) -> str:
    size = "" if bundle.voxel_size is None else ",".join(f"{side:g}" for side in bundle.voxel_size.nanometres)
    window, classes = ",".join(map(str, bundle.window)), ",".join(c.name for c in bundle.classes)
    values = (name, where, bundle.version, str(len(bundle.members)), window, size, classes)
    return "\t".join(printable(value) for value in values)


def _summary(path: Path) -> str:
    """One line of a bundle in the package, or what is wrong with it: a list shows the others all the same."""
    from densecell_batch.errors import BundleError
    from densecell_batch.models.bundle import load_bundle

    try:
        return f"model: {_line(load_bundle(path))}"
    except BundleError as error:
        return f"broken: {printable(error)}"


def _line(bundle: ModelBundle) -> str:
    members = f"{len(bundle.members)} member{'s' if len(bundle.members) > 1 else ''}"
    return f"version {bundle.version}, {bundle.architecture.family}, {members}, {len(bundle.classes)} classes"


def _offsets(bundle: ModelBundle) -> list[str]:
    """A line for each class."""
    return [f"{offset:+.2f} {c.name}" for c, offset in zip(bundle.classes, bundle.class_offsets or (), strict=True)]


def _description(bundle: ModelBundle, manifest: JsonObject) -> list[tuple[str, str]]:
    """Label and value of what `show` prints; a value may have several lines."""
    architecture = [f"{key}: {value}" for key, value in manifest["architecture"].items() if key != "family"]
    return [
        ("name", bundle.name),
        ("version", bundle.version),
        ("path", str(bundle.path)),
        ("licence", bundle.licence),
        ("citation", bundle.citation),
        ("architecture", "\n".join([bundle.architecture.family, *architecture])),
        ("classes", "\n".join(f"{i} {c.name} (#{bytes(c.colour).hex()})" for i, c in enumerate(bundle.classes))),
        ("voxel size", str(bundle.voxel_size or "not recorded")),
        ("window", " x ".join(map(str, bundle.window)) + " (z, y, x)"),
        ("normalization", bundle.normalization),
        *([] if bundle.class_offsets is None else [("offsets", "\n".join(_offsets(bundle)))]),
        *([] if bundle.quantization is None else [("int8", f"{bundle.quantization.agreement:.2%} as in float32")]),
        ("members", "\n".join(f"{member.file} {member.sha256}" for member in bundle.members)),
        ("scores", _as_json(bundle.scores, indent=1)),
        ("provenance", _as_json(bundle.provenance, indent=1)),
    ]


def _as_json(value: Any, indent: int) -> str:
    """JSON values as a text that any terminal shows as it is, and that still is JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "\n".join(
        "".join(c if printable(c) == c else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in line)
        for line in text.split("\n")
    )
