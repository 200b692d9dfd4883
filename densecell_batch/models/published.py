"""Published TensorFlow 1 models (ref. 1) as model bundles.

A published model is a folder, or a zip of it::

    2d3d-3x3x3_0/
      gene_graph.pkl                 a pickle: executes code when loaded, so it is never opened; nothing in it is needed
      file_history.json              scores of each evaluation
      model/checkpoints/best/        the checkpoint that counts: model.ckpt-N.index, model.ckpt-N.data-*, graph.pbtxt
      model/checkpoints/last/        a later, worse one
      model/                         a live one, where the training ran

The architecture follows from the names and shapes of the tensors, the training window from the text of the graph. Only
what is needed of the weights is read, where it lies: neither TensorFlow nor a temporary folder takes part.

References
----------
.. [1] Guay et al. 2021, "Dense cellular segmentation for EM using 2D-3D neural network ensembles", Sci Rep 11:2561.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, PublishedModelError
from densecell_batch.models.bundle import ModelBundle, shape_differences, write_bundle
from densecell_batch.models.checkpoint import MAX_INDEX_BYTES, Tensor, parse_index, tensor_values
from densecell_batch.models.classes import ClassInfo, default_classes
from densecell_batch.models.names import MANIFEST
from densecell_batch.nets.architecture import Hybrid2D3D, UNet2D, tensor_shapes, window_problem
from densecell_batch.nets.description import Shape
from densecell_batch.printable import printable
from densecell_batch.storage.zips import Files, Folder, open_archive

__all__ = ["PublishedModel", "import_published", "read_published"]

_Published = Hybrid2D3D | UNet2D  # the families of the published nets

Window = tuple[int, int, int]

# Where a checkpoint may stand below the model's folder: the one kept for its score first, then second choices.
_PLACES = ("model/checkpoints/best", "model/checkpoints/last", "model")
_OPTIMIZER_SLOT = re.compile(r"/(adam|momentum)(_\d+)?$", re.IGNORECASE)
_NOT_STATED = "not stated"
_MAX_HISTORY_BYTES = 2**24
_MAX_GRAPH_BYTES = 2**28
_MAX_NODE_BYTES = 2**20  # of the text of a node that can tell the window


@dataclass(frozen=True)
class PublishedModel:
    """What was read from one published model."""

    path: Path  # the folder or the zip
    architecture: _Published
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
            for pattern in (*(f"{place}/*" for place in _PLACES), "file_history.json")
            for file in path.glob(f"{depth}{pattern}")
        ]
        return _read(path, Folder(path, PublishedModelError, names), window)
    if not path.is_file():
        raise PublishedModelError(f"{path}: no such file or folder; expected a published model")
    with open_archive(path, PublishedModelError) as archive:
        return _read(path, archive, window)


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
    from densecell_batch.models.golden import golden_pair
    from densecell_batch.nets.engines import for_processor

    if not paths:
        raise PublishedModelError("no model given; expected at least one folder or zip")
    models = [read_published(path, window) for path in paths]
    first = models[0]
    for model in models[1:]:
        _check_alike(first, model)
    infos = _classes(first, classes)
    # Not the whole path: a bundle says nothing of the machine that it was made on.
    sources = [printable(path.resolve().name) for path in paths]
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
        golden=golden_pair(first.architecture, members, first.window, engine=for_processor()),
        scores={"members": [model.scores for model in models]},
        provenance={
            "imported from": [
                {"source": source, "checkpoint": model.checkpoint}
                for source, model in zip(sources, models, strict=True)
            ],
            "notes": notes,
        },
    )


def _classes(model: PublishedModel, names: Sequence[str] | None) -> tuple[ClassInfo, ...]:
    """The classes of a model under the names that were given."""
    infos = default_classes(model.architecture.n_classes)
    if names is None:
        return infos
    if len(names) != len(infos):
        raise PublishedModelError(f"{len(names)} class names were given; {model.path} has {len(infos)} classes")
    return tuple(ClassInfo(text, info.colour) for text, info in zip(names, infos, strict=True))


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


def _read(path: Path, files: Files, window: Window | None) -> PublishedModel:
    """Read the model among the files."""
    root, place, notes = _find(path, files.names)
    folder = f"{root}{place}/"
    beside = [name.removeprefix(folder) for name in files.names if name.rpartition("/")[0] == folder[:-1]]
    prefix, more = _newest(path, beside)
    architecture, weights = _read_checkpoint(path, files, folder, prefix, _shards(path, prefix, beside))
    window = window or _window(path, files, f"{folder}graph.pbtxt")
    problem = window_problem(architecture, window)
    if problem:
        raise PublishedModelError(f"{path}: {problem}; give the one of the training by --window Z,Y,X")
    scores = _scores(files, f"{root}file_history.json", prefix)
    return PublishedModel(path, architecture, weights, window, f"{place}/{prefix}", scores, (*notes, *more))


def _find(path: Path, names: Collection[str]) -> tuple[str, str, list[str]]:
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
            + (f"; it has a {MANIFEST}: a bundle is used as it is, by --model" if MANIFEST in names else "")
        )
    if len(found) > 1:
        models = printable(", ".join(sorted(root.rstrip("/") or "." for root in found))[:200])
        raise PublishedModelError(f"{path}: several models ({models}) where one was expected; give each one by itself")
    [(root, places)] = found.items()
    place = next(place for place in _PLACES if place in places)
    return root, place, [] if place == _PLACES[0] else [f"no {_PLACES[0]} in it, so {place} was read"]


def _newest(path: Path, files: Sequence[str]) -> tuple[str, list[str]]:
    """The checkpoint of the highest step in one folder, and what to say where there are several."""
    prefixes = [file.removesuffix(".index") for file in files if file.endswith(".index")]
    newest = max(prefixes, key=lambda prefix: (_step(prefix), prefix))
    if not re.fullmatch(r"[\w.+-]{1,100}", newest):
        raise PublishedModelError(
            f"{path}: the checkpoint is called {printable(newest[:80])}; expected a name like model.ckpt-600"
        )
    return newest, [f"{len(prefixes)} checkpoints in one folder, {newest} was read"] if len(prefixes) > 1 else []


def _step(prefix: str) -> int:
    """Training step in the name of a checkpoint, -1 where it has none."""
    match = re.search(r"-(\d{1,18})$", prefix)
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
    path: Path, files: Files, folder: str, prefix: str, shards: Sequence[str]
) -> tuple[_Published, dict[str, np.ndarray]]:
    """The architecture and the tensors of a checkpoint, without what the optimizer kept."""
    try:
        tensors, n_shards = parse_index(files.read(f"{folder}{prefix}.index", MAX_INDEX_BYTES))
    except ValueError as error:
        raise PublishedModelError(f"{path}: {prefix}.index is damaged ({printable(error)}); get it again") from error
    if n_shards != len(shards):
        raise PublishedModelError(f"{path}: {prefix}.index is of {n_shards} data files, there are {len(shards)}")
    needed = sum(tensor.size for tensor in tensors.values())
    held = sum(files.size(folder + shard) for shard in shards)
    if held < needed:
        raise PublishedModelError(
            f"{path}: {prefix}.data-* has {held:,} bytes, its tensors need {needed:,}; a file is truncated: get the "
            "model again"
        )
    kept = {name for name in tensors if not _OPTIMIZER_SLOT.search(name) and not name.startswith("train/")}
    architecture = _infer(path, {name: tensors[name].shape for name in kept - {"global_step"}})
    wanted = {name: tensors[f"{architecture.scope}/{name}"] for name in tensor_shapes(architecture)}
    weights = {}
    for name, tensor, content in _contents(path, files, [folder + shard for shard in shards], wanted):
        try:
            weights[name] = tensor_values(tensor, content)
        except ValueError as error:
            raise PublishedModelError(f"{path}: tensor {name} is damaged ({error}); get the model again") from error
        if not np.isfinite(weights[name]).all():
            raise PublishedModelError(f"{path}: tensor {name} is not finite; expected finite float32")
    return architecture, {name: weights[name] for name in wanted}


def _contents(
    path: Path, files: Files, shards: Sequence[str], wanted: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor, bytes]]:
    """Name and bytes of each tensor, in the order of the files: a zip can only be searched forward."""
    for number, shard in enumerate(shards):
        inside = sorted((item for item in wanted.items() if item[1].shard == number), key=lambda item: item[1].offset)
        with files.open(shard) as file:
            end = 0
            for name, tensor in inside:
                if tensor.dtype != "float32":
                    raise PublishedModelError(f"{path}: tensor {name} is {tensor.dtype}; expected finite float32")
                if tensor.offset < end or tensor.offset + tensor.size > files.size(shard):
                    raise PublishedModelError(
                        f"{path}: tensor {name} lies outside of its file, or over another one; get the model again"
                    )
                end = tensor.offset + tensor.size
                file.seek(tensor.offset)
                yield name, tensor, file.read(tensor.size)


def _infer(path: Path, shapes: Mapping[str, Shape]) -> _Published:
    """The architecture whose tensors these are; full names with the scope."""
    scopes = sorted({name.partition("/")[0] for name in shapes})
    if scopes not in ([Hybrid2D3D.scope], [UNet2D.scope]):
        raise PublishedModelError(
            f"{path}: the tensors stand in the scopes {printable(', '.join(scopes)[:80]) or 'none'}; expected one of "
            f"{Hybrid2D3D.scope} and {UNet2D.scope}: this net is not of a family known here"
        )
    below = {name.partition("/")[2]: shape for name, shape in shapes.items()}
    try:
        architecture: _Published = _hybrid(below) if scopes == [Hybrid2D3D.scope] else _unet(below)
    except KeyError as error:
        raise PublishedModelError(f"{path}: tensor {error.args[0]} is missing; the checkpoint is not whole") from error
    except (IndexError, OptionError) as error:
        raise PublishedModelError(f"{path}: the shapes of its tensors make no {scopes[0]} net ({error})") from error
    problem = shape_differences(architecture, below)
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


def _window(path: Path, files: Files, graph: str) -> Window:
    """Input window (z, y, x): the second of the shapes that the graph's shuffling queue of training windows was given.

    The file is protobuf text as TensorFlow prints it: nodes end with a brace in column 0, their attributes in column 2.
    """
    remedy = "give the input window of the training by --window Z,Y,X (the published nets: 5,300,300)"
    if graph not in files.names:
        raise PublishedModelError(f"{path}: graph.pbtxt is missing beside the checkpoint; {remedy}")
    if files.size(graph) > _MAX_GRAPH_BYTES:
        raise PublishedModelError(f"{path}: graph.pbtxt has {files.size(graph):,} bytes; {remedy}")
    with files.open(graph) as file:
        nodes = [node for node in _nodes(file) if 'op: "RandomShuffleQueueV2"' in node]
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


def _nodes(file: IO[bytes]) -> Iterator[str]:
    """The text of each node of a graph, of its first million bytes: constants can be longer than memory."""
    lines: list[bytes] = []
    held = 0
    while line := file.readline(_MAX_NODE_BYTES):
        if held < _MAX_NODE_BYTES:
            lines.append(line)
            held += len(line)
        if line in (b"}\n", b"}\r\n", b"}"):
            yield b"".join(lines).decode("utf-8", "replace").replace("\r\n", "\n")
            lines, held = [], 0
    yield b"".join(lines).decode("utf-8", "replace")


def _scores(files: Files, history: str, prefix: str) -> dict[str, float]:
    """Scores of the evaluation at the step of the checkpoint; they inform, so a file that says nothing is no error."""
    if history not in files.names or files.size(history) > _MAX_HISTORY_BYTES:
        return {}
    try:
        evaluations: Any = json.loads(files.read(history))  # not `parse_json`: a training may have scored NaN
    except (ValueError, RecursionError):
        return {}
    for evaluation in evaluations if isinstance(evaluations, list) else []:
        if isinstance(evaluation, dict) and evaluation.get("global_step") == _step(prefix):
            scores = {key: evaluation.get(key) for key in ("mean_iou", "accuracy", "adj_rand_idx")}
            return {key: value for key, value in scores.items() if isinstance(value, float) and np.isfinite(value)}
    return {}
