"""Published TensorFlow 1 models (ref. 1) as model bundles.

A published model is a folder, or a zip of it::

    2d3d-3x3x3_0/
      gene_graph.pkl                 a pickle: executes code when loaded, so it is never opened; nothing in it is needed
      file_history.json              scores of each evaluation
      model/checkpoints/best/        the checkpoint that counts: model.ckpt-N.index, model.ckpt-N.data-*, graph.pbtxt
      model/checkpoints/last/        a later, worse one
      model/                         a live one, where the training ran

The architecture follows from the names and shapes of the tensors, the training window from the text of the graph.

References
----------
.. [1] Guay et al. 2021, "Dense cellular segmentation for EM using 2D-3D neural network ensembles", Sci Rep 11:2561.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.architecture import Architecture, Hybrid2D3D, Shape, UNet2D, tensor_shapes
from densecell_batch.archive import Archive, open_archive
from densecell_batch.bundle import ClassInfo, ModelBundle, differences, write_bundle
from densecell_batch.errors import OptionError, PublishedModelError
from densecell_batch.quiet import quiet_stderr
from densecell_batch.volume import VoxelSize

__all__ = ["PLATELET_CLASSES", "PublishedModel", "default_classes", "import_published", "jet_colours", "read_published"]

# The classes of the published nets, in the order of their outputs.
PLATELET_CLASSES = (
    "background",
    "cell",
    "mitochondrion",
    "alpha granule",
    "canalicular vessel",
    "dense granule body",
    "dense granule core",
)

Window = tuple[int, int, int]

# Where a checkpoint may stand below the model's folder: the one kept for its score first, then second choices.
_PLACES = ("model/checkpoints/best", "model/checkpoints/last", "model")
_OPTIMIZER_SLOT = re.compile(r"/(adam|momentum)(_\d+)?$", re.IGNORECASE)
_NOT_STATED = "not stated"


@dataclass(frozen=True)
class PublishedModel:
    """What was read from one published model."""

    path: Path  # the folder or the zip
    architecture: Architecture
    weights: dict[str, np.ndarray]  # float32, canonical names
    window: Window  # input window (z, y, x) in training
    checkpoint: str  # below the model's folder, such as "model/checkpoints/best/model.ckpt-600"
    scores: dict[str, float]  # of the evaluation that the checkpoint was saved at; empty where nothing is recorded
    notes: tuple[str, ...]  # what the user should know of how it was read


def read_published(path: Path, window: Window | None = None) -> PublishedModel:
    """Read a published model. Its pickle is never opened.

    Parameters
    ----------
    path
        The model's folder, or a zip that holds it.
    window
        Input window of the training (z, y, x); None to read it from graph.pbtxt.

    Raises
    ------
    PublishedModelError
        If there is no model, or several; if a file is missing, truncated or damaged; if the tensors make no net known
        here; if the zip holds something that a zip should not.
    """
    path = Path(path)
    if path.is_dir():
        names = [
            file.relative_to(path).as_posix()
            for depth in ("", "*/")
            for place in _PLACES
            for file in path.glob(f"{depth}{place}/*")
        ]
        return _read_folder(path, path, names, window)
    if not path.is_file():
        raise PublishedModelError(f"{path}: no such file or folder; expected a published model")
    with open_archive(path, PublishedModelError) as archive, tempfile.TemporaryDirectory() as folder:
        return _read_folder(path, Path(folder), archive.names, window, archive)


def import_published(
    paths: Sequence[Path],
    destination: Path,
    name: str,
    *,
    version: str = "1",
    licence: str = _NOT_STATED,
    citation: str = _NOT_STATED,
    classes: Sequence[str] | None = None,
    voxel_size: VoxelSize | None = None,
    window: Window | None = None,
) -> ModelBundle:
    """Make one bundle of published models: each becomes a member.

    Parameters
    ----------
    paths
        Folders or zips, in the order of the members.
    destination
        The bundle: a zip if it ends in .zip, else a folder. Must not exist.
    name, version, licence, citation
        For the manifest; the published files do not say them.
    classes
        Names in the order of the outputs; `default_classes` if None.
    voxel_size
        Of the training data; the published files do not say it.
    window
        Input window of the training (z, y, x); None to read it from each graph.pbtxt.

    Returns
    -------
    ModelBundle
        Its `provenance` names the sources, and holds in `notes` what the user should know.

    Raises
    ------
    PublishedModelError
        As `read_published`; or if the models differ in architecture, classes or window.
    BundleError
        If a name or a class name is not allowed.
    OutputError
        If `destination` exists or cannot be written.
    """
    from densecell_batch.predict import golden_pair

    if not paths:
        raise PublishedModelError("no model given; expected at least one folder or zip")
    models = [read_published(path, window) for path in paths]
    first = models[0]
    for model in models[1:]:
        _check_alike(first, model)
    n_classes = first.architecture.n_classes
    if classes is not None and len(classes) != n_classes:
        raise PublishedModelError(f"{len(classes)} class names were given; {first.path} has {n_classes} classes")
    infos = default_classes(n_classes)
    if classes is not None:
        infos = tuple(ClassInfo(text, info.colour) for text, info in zip(classes, infos, strict=True))
    # Not the whole path: a bundle says nothing of the machine that it was made on.
    sources = [path.resolve().name for path in paths]
    notes = [f"{source}: {note}" for source, model in zip(sources, models, strict=True) for note in model.notes]
    if classes is None:
        notes.append(f"classes were named {', '.join(info.name for info in infos)}; other names: --classes")
    members = [model.weights for model in models]
    return write_bundle(
        destination,
        name=name,
        version=version,
        licence=licence,
        citation=citation,
        architecture=first.architecture,
        classes=infos,
        voxel_size=voxel_size,
        window=first.window,
        members=members,
        golden=golden_pair(first.architecture, members, first.window),
        scores={"members": [model.scores for model in models]},
        provenance={
            "imported from": [
                {"source": source, "checkpoint": model.checkpoint}
                for source, model in zip(sources, models, strict=True)
            ],
            "notes": notes,
        },
    )


def default_classes(n_classes: int) -> tuple[ClassInfo, ...]:
    """The platelet classes of the published nets where there are 7, else class-0, class-1, ...; jet colours."""
    names = PLATELET_CLASSES if n_classes == len(PLATELET_CLASSES) else [f"class-{i}" for i in range(n_classes)]
    return tuple(ClassInfo(name, colour) for name, colour in zip(names, jet_colours(n_classes), strict=True))


def jet_colours(n: int) -> list[tuple[int, int, int]]:
    """`n` colours at equal steps through the colour map jet, dark blue to dark red; for 7 those of the lab."""
    # Steps of a table of 256 entries, as plots of the lab have them.
    place = np.minimum(np.linspace(0, 1, n) * 256, 255).astype(int) / 255
    red = np.interp(place, [0.35, 0.66, 0.89, 1], [0, 1, 1, 0.5])
    green = np.interp(place, [0.125, 0.375, 0.64, 0.91], [0, 1, 1, 0])
    blue = np.interp(place, [0, 0.11, 0.34, 0.65], [0.5, 1, 1, 0])
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in zip(red, green, blue, strict=True)]


def _check_alike(first: PublishedModel, other: PublishedModel) -> None:
    """Members of one ensemble see the same window and answer the same question."""
    a, b = first.architecture, other.architecture
    if a.n_classes != b.n_classes:
        raise PublishedModelError(
            f"{other.path} has {b.n_classes} classes, {first.path} has {a.n_classes}; members of a bundle have the "
            "same classes: import them apart"
        )
    if a != b:
        raise PublishedModelError(f"{other.path} is {b}, {first.path} is {a}; members are alike: import them apart")
    if first.window != other.window:
        raise PublishedModelError(
            f"{other.path} was trained on windows of {other.window}, {first.path} of {first.window} (z, y, x); import "
            "them apart, or say which window to keep with --window Z,Y,X"
        )


def _read_folder(
    path: Path, folder: Path, names: Iterable[str], window: Window | None, archive: Archive | None = None
) -> PublishedModel:
    """Read the model among the files `names` below `folder`; from a zip, unpack before what is needed of it."""
    root, place, notes = _find(path, names)
    files = [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == root + place]
    prefix, more = _newest(path, files)
    shards = _shards(path, prefix, files)
    if archive is not None:
        for file in (f"{prefix}.index", *shards, *({"graph.pbtxt"} & set(files))):
            archive.extract(f"{root}{place}/{file}", folder / root / place / file)
        if f"{root}file_history.json" in archive.names:
            archive.extract(f"{root}file_history.json", folder / root / "file_history.json")
    checkpoint = folder / root / place / prefix
    architecture, weights = _read_checkpoint(path, checkpoint, [checkpoint.with_name(shard) for shard in shards])
    if window is None:
        window = _window(path, checkpoint.with_name("graph.pbtxt"))
    if min(architecture.output_shape(window)) < 1:
        raise PublishedModelError(f"{path}: window {window} (z, y, x) is too small for its net; use --window Z,Y,X")
    scores = _scores(folder / root / "file_history.json", prefix)
    return PublishedModel(path, architecture, weights, window, f"{place}/{prefix}", scores, (*notes, *more))


def _find(path: Path, names: Iterable[str]) -> tuple[str, str, list[str]]:
    """Where the checkpoint stands: the model's folder ("" or "name/"), the place below it; and what to say of that."""
    found: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        for place in _PLACES:
            match = re.fullmatch(rf"((?:[^/]+/)?){place}", folder)
            if match and file.endswith(".index"):
                found.setdefault(match[1], set()).add(place)
                break
    if not found:
        raise PublishedModelError(
            f"{path}: no published model: {_PLACES[0]}/model.ckpt-N.index is neither in it nor in a folder in it; "
            "expected the folder that holds model/, or a zip of that folder"
        )
    if len(found) > 1:
        models = ", ".join(sorted(root.rstrip("/") or "." for root in found))
        raise PublishedModelError(f"{path}: several models ({models}) where one was expected; give each one by itself")
    [(root, places)] = found.items()
    place = next(place for place in _PLACES if place in places)
    return root, place, [] if place == _PLACES[0] else [f"no {_PLACES[0]} in it, so {place} was read"]


def _newest(path: Path, files: Sequence[str]) -> tuple[str, list[str]]:
    """The checkpoint of the highest step in one folder, and what to say where there are several."""
    prefixes = [file.removesuffix(".index") for file in files if file.endswith(".index")]
    newest = max(prefixes, key=lambda prefix: (_step(prefix), prefix))
    return newest, [f"{len(prefixes)} checkpoints in one folder, {newest} was read"] if len(prefixes) > 1 else []


def _step(prefix: str) -> int:
    """Training step in the name of a checkpoint, -1 where it has none."""
    match = re.search(r"-(\d+)$", prefix)
    return int(match[1]) if match else -1


def _shards(path: Path, prefix: str, files: Sequence[str]) -> list[str]:
    """Names of all data files of a checkpoint."""
    pattern = re.compile(re.escape(prefix) + r"\.data-\d{5}-of-(\d{5})")
    counts = {int(match[1]) for file in files if (match := pattern.fullmatch(file))}
    total = max(counts, default=1)
    shards = [f"{prefix}.data-{i:05}-of-{total:05}" for i in range(min(total, 100))]
    missing = [shard for shard in shards if shard not in files]
    if missing:
        raise PublishedModelError(f"{path}: {', '.join(missing)} is missing beside {prefix}.index; get the model again")
    return shards


def _read_checkpoint(
    path: Path, checkpoint: Path, shards: Sequence[Path]
) -> tuple[Architecture, dict[str, np.ndarray]]:
    """The architecture and the tensors of a TensorFlow V2 checkpoint, without what the optimizer kept."""
    with quiet_stderr():
        import tensorflow as tf  # takes seconds, and only an import of published models needs it

    # tf.train raises OpError or, translated, builtin exceptions: damage of any kind is one case for the user.
    damage = (tf.errors.OpError, LookupError, ValueError, RuntimeError)
    try:
        reader = tf.train.load_checkpoint(str(checkpoint))
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
        dtypes = reader.get_variable_to_dtype_map()
    except damage as error:
        raise PublishedModelError(f"{path}: {checkpoint.name}.index is damaged ({error}); get it again") from error
    needed = sum(int(np.prod(shape, dtype=object)) * dtypes[name].size for name, shape in shapes.items())
    held = sum(shard.stat().st_size for shard in shards)
    if held < needed:
        raise PublishedModelError(
            f"{path}: {checkpoint.name}.data-* has {held:,} bytes, its tensors need {needed:,}; a file is truncated: "
            "get the model again"
        )
    names = {name: name for name in shapes if not _OPTIMIZER_SLOT.search(name) and not name.startswith("train/")}
    names.pop("global_step", None)
    architecture = _infer(path, {name: shapes[name] for name in names})
    weights = {}
    for name in tensor_shapes(architecture):
        try:
            weights[name] = np.asarray(reader.get_tensor(f"{architecture.scope}/{name}"))
        except damage as error:
            raise PublishedModelError(f"{path}: tensor {name} is damaged ({error}); get the model again") from error
        dtype = weights[name].dtype
        if dtype != np.float32 or not np.isfinite(weights[name]).all():
            raise PublishedModelError(f"{path}: tensor {name} is {dtype} or not finite; expected finite float32")
    return architecture, weights


def _infer(path: Path, shapes: Mapping[str, Shape]) -> Architecture:
    """The architecture whose tensors these are; full names with the scope."""
    scopes = sorted({name.partition("/")[0] for name in shapes})
    if scopes not in ([Hybrid2D3D.scope], [UNet2D.scope]):
        raise PublishedModelError(
            f"{path}: the tensors stand in the scopes {', '.join(scopes) or 'none'}; expected one of "
            f"{Hybrid2D3D.scope} and {UNet2D.scope}: this net is not of a family known here"
        )
    below = {name.partition("/")[2]: shape for name, shape in shapes.items()}
    try:
        architecture: Architecture = _hybrid(below) if scopes == [Hybrid2D3D.scope] else _unet(below)
    except KeyError as error:
        raise PublishedModelError(f"{path}: tensor {error.args[0]} is missing; the checkpoint is not whole") from error
    except (IndexError, OptionError) as error:
        raise PublishedModelError(f"{path}: the shapes of its tensors make no {scopes[0]} net ({error})") from error
    problem = differences(architecture, below)
    if problem:
        raise PublishedModelError(f"{path}: {problem}; the checkpoint is not whole, or not of the published net")
    return architecture


def _hybrid(shapes: Mapping[str, Shape]) -> Hybrid2D3D:
    paths = _count(shapes, r"spatialpyramid/conv_block_(\d+)/")
    last = f"spatialpyramid/path_combine/residual_{paths - 1}/upsample_conv/kernel"
    return Hybrid2D3D(
        n_classes=shapes["predictor_3d/logits/kernel"][-1],
        n_kernels=shapes["net/encoder/encode_block_0/comp_0/conv/kernel"][-1],
        n_blocks=_count(shapes, r"net/encoder/encode_block_(\d+)/"),
        n_convs=_count(shapes, r"net/encoder/encode_block_0/comp_(\d+)/"),
        pyramid_convs=tuple(_count(shapes, rf"spatialpyramid/conv_block_{i}/comp_(\d+)/") for i in range(paths)),
        pyramid_kernels=shapes["spatialpyramid/conv_block_0/comp_0/conv/kernel"][-1],
        pyramid_unpools_z=paths == 1 or shapes[last][0] > 1,
    )


def _unet(shapes: Mapping[str, Shape]) -> UNet2D:
    return UNet2D(
        n_classes=shapes["predictor/logits/kernel"][-1],
        n_kernels=shapes["net/encoder/encode_block_0/comp_0/conv/kernel"][-1],
        n_blocks=_count(shapes, r"net/encoder/encode_block_(\d+)/"),
        n_convs=_count(shapes, r"net/encoder/encode_block_0/comp_(\d+)/"),
    )


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    """How many blocks or convolutions the names number, bounded so that a made-up number cannot stall the reader."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return min(max(numbers, default=-1) + 1, 32)


def _window(path: Path, graph: Path) -> Window:
    """Input window (z, y, x): the second of the shapes that the graph's shuffling queue of training windows was given.

    The file is protobuf text as TensorFlow prints it: nodes end with a brace in column 0, their attributes in column 2.
    """
    remedy = "give the input window of the training by --window Z,Y,X (the published nets: 5,300,300)"
    if not graph.is_file():
        raise PublishedModelError(f"{path}: graph.pbtxt is missing beside the checkpoint; {remedy}")
    text = graph.read_text(encoding="utf-8", errors="replace")
    nodes = [node for node in text.split("\n}\n") if 'op: "RandomShuffleQueueV2"' in node]
    windows = set()
    for node in nodes:
        attribute = node.partition('key: "shapes"')[2].partition("\n  }")[0]
        texts = re.split(r"\bshape \{", attribute)[1:]
        shapes = [tuple(map(int, re.findall(r"size: (-?\d{1,9})\b", text))) for text in texts]
        if len(shapes) > 1 and len(shapes[1]) in (3, 4) and shapes[1][0] == 1 and min(shapes[1]) > 0:
            windows.add(shapes[1])  # (channel, z, y, x), or (channel, y, x) for a 2D net
    if len(windows) != 1:
        raise PublishedModelError(
            f"{path}: graph.pbtxt has {len(nodes)} nodes RandomShuffleQueueV2 with {len(windows)} different windows; "
            f"expected 1: {remedy}"
        )
    _, *sides = windows.pop()
    z, y, x = sides if len(sides) == 3 else (1, *sides)
    return z, y, x


def _scores(history: Path, prefix: str) -> dict[str, float]:
    """Scores of the evaluation at the step of the checkpoint; they inform, so a file that says nothing is no error."""
    if not history.is_file():
        return {}
    try:
        evaluations: Any = json.loads(history.read_bytes())
    except (ValueError, RecursionError):
        return {}
    for evaluation in evaluations if isinstance(evaluations, list) else []:
        if isinstance(evaluation, dict) and evaluation.get("global_step") == _step(prefix):
            scores = {key: evaluation.get(key) for key in ("mean_iou", "accuracy", "adj_rand_idx")}
            return {key: value for key, value in scores.items() if isinstance(value, float) and np.isfinite(value)}
    return {}
