"""Model bundles: everything that is needed to use an ensemble, in files that cannot execute code.

A bundle is a folder or a zip::

    bundle.json            the manifest: what the nets are, what their classes mean, how they were made
    member-0.safetensors   the tensors of one net under canonical names (`architecture.tensor_shapes`)
    member-1.safetensors   ...
    golden.npz             a small input and the probabilities that the ensemble gives for it

The manifest is checked when a bundle is loaded, and the sizes of the files against it; the SHA-256 and the tensors of a
member when its weights are read. A bundle comes from a stranger: nothing is decoded before what it declares has been
held against what is there and against what its nets need.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET, to_builtins

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import BundleError, OptionError
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_MEMBERS,
    SCHEMA_VERSION,
    ClassEntry,
    Manifest,
    Member,
    MemberEntry,
    OwnRecords,
    Quantization,
    check_fields,
    check_offsets,
    check_texts,
    entries,
    is_whole,
    own_records,
    quantization_from,
    short,
    voxel_size_entry,
    voxel_size_from,
)
from densecell_batch.models.names import MANIFEST, file_word
from densecell_batch.models.npz import MAX_NPZ_BYTES, golden_bytes, read_golden
from densecell_batch.nets.architecture import (
    Architecture,
    architecture_from_dict,
    architecture_to_dict,
    n_parameters,
    tensor_shapes,
    window_problem,
)
from densecell_batch.nets.description import Shape
from densecell_batch.printable import printable
from densecell_batch.storage.opening import exists
from densecell_batch.storage.strict_json import JsonObject, parse_json
from densecell_batch.storage.zips import MAX_BYTES, Files, Folder, open_archive, write_folder, write_zip

__all__ = [
    "ModelBundle",
    "load_bundle",
    "pack_bundle",
    "read_manifest",
    "shape_differences",
    "write_bundle",
]

_GOLDEN = "golden.npz"
_MAX_PARAMETERS = 2**28  # of one net; the published ones have 1e7 and 3e7
_MAX_HEADER_BYTES = 2**20  # of a safetensors file, before the values of its tensors


@dataclass(frozen=True)
class ModelBundle:
    """An ensemble on disk whose manifest has been checked. Made by `load_bundle` and `write_bundle`.

    Raises
    ------
    BundleError
        If the fields contradict each other.
    """

    path: Path  # the folder or the zip
    name: str
    version: str
    licence: str
    citation: str
    architecture: Architecture
    classes: tuple[ClassInfo, ...]  # in the order of the nets' outputs
    voxel_size: VoxelSize | None  # of the training data; None where nobody recorded it
    window: tuple[int, int, int]  # input window (z, y, x) in training, in voxels
    normalization: str  # "stack": minus the mean of the whole stack, divided by its population standard deviation
    members: tuple[Member, ...]
    scores: JsonObject  # what was measured, as its maker wrote it
    provenance: JsonObject  # where the weights come from
    own_data: OwnRecords | None = None  # what the data of its training is like; None where nobody recorded it
    class_offsets: tuple[float, ...] | None = None  # added to the logits of each class; None for nothing
    quantization: Quantization | None = None  # what int8 needs; None where nobody measured it

    def __post_init__(self) -> None:
        check_texts(self.name, self.version, self.licence, self.citation)
        if len(self.classes) != self.architecture.n_classes:
            raise BundleError(f"{len(self.classes)} classes are named, but the nets have {self.architecture.n_classes}")
        if self.class_offsets is not None:
            check_offsets(self.class_offsets, len(self.classes))
        for what, names in (("class", [c.name for c in self.classes]), ("member file", [m.file for m in self.members])):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise BundleError(f"{what} {twice[0]!r} stands there twice; expected each once")
        words: dict[str, str] = {}
        for c in self.classes:
            other = words.setdefault(file_word(c.name).casefold(), c.name)
            if other != c.name:
                raise BundleError(
                    f"the classes {other!r} and {c.name!r} would both be written to files named "
                    f"{file_word(c.name)}; expected names that differ in letters and digits, not in case alone"
                )
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            count = f"has {len(self.members)}" if self.members else "is empty"
            raise BundleError(f"members {count}; expected at least one, and at most {MAX_MEMBERS}")
        if self.normalization != "stack":
            raise BundleError(f"normalization is {short(self.normalization)}; expected 'stack', the only one known")
        problem = window_problem(self.architecture, self.window)
        if problem:
            raise BundleError(problem)
        if n_parameters(self.architecture) > _MAX_PARAMETERS or self.weight_bytes > MAX_BYTES:
            raise BundleError(
                f"{len(self.members)} nets of {n_parameters(self.architecture):,} parameters; expected at most "
                f"{_MAX_PARAMETERS:,} each, and {MAX_BYTES:,} bytes of all"
            )

    @property
    def known(self) -> OwnRecords:
        """What it knows of its own data; nothing where nobody recorded it."""
        return self.own_data or OwnRecords()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of all members, in memory."""
        return 4 * n_parameters(self.architecture) * len(self.members)

    def weights(self, i: int) -> dict[str, np.ndarray]:
        """The tensors of member `i`.

        Returns
        -------
        dict
            float32 arrays under the names and with the shapes of `architecture.tensor_shapes`.

        Raises
        ------
        BundleError
            If the file is not the one that the manifest names by SHA-256, or its tensors do not make the net.
        """
        import safetensors
        from safetensors.numpy import load

        member = self.members[i]
        place = f"{self.path}: {member.file}"
        content = _read(self.path, member.file, _member_limit(self.architecture))
        found = hashlib.sha256(content).hexdigest()
        if found != member.sha256:
            raise BundleError(
                f"{place} has SHA-256 {found}, the manifest says {member.sha256}; the file was changed or damaged: "
                "get the bundle again"
            )
        try:
            tensors = load(content)
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise BundleError(
                f"{place} is no readable safetensors file ({printable(error)}); get the bundle again"
            ) from error
        _check_tensors(self.architecture, tensors, place)
        return tensors

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """A small input and what the ensemble (mean of the members, float32) makes of it.

        Returns
        -------
        input : numpy.ndarray
            (z, y, x) float32, normalized.
        expected : numpy.ndarray
            Probabilities, (z, y, x, class) float32, of the net's output region.

        Raises
        ------
        BundleError
            If the file is damaged, or the arrays do not fit the net.
        """
        content = _read(self.path, _GOLDEN, MAX_NPZ_BYTES)
        return read_golden(content, self.architecture, f"{self.path}: {_GOLDEN}")


def load_bundle(path: Path) -> ModelBundle:
    """Load the manifest of a bundle and check it. The weights stay on disk until they are asked for.

    Parameters
    ----------
    path
        The folder, or the zip (the files in it may stand in one folder).

    Raises
    ------
    BundleError
        If it is no bundle, its schema is unknown, its manifest is malformed, or a file is missing.
    """
    path = Path(path)
    bundle = _from_manifest(path, read_manifest(path))
    needed = 4 * n_parameters(bundle.architecture)
    with _files(path) as (files, prefix):
        wanted = [*(m.file for m in bundle.members), _GOLDEN]
        missing = [name for name in wanted if prefix + name not in files.names]
        if missing:
            raise BundleError(f"{path}: {', '.join(missing)} is missing; the bundle is incomplete: get it again")
        for member in bundle.members:
            size = files.size(prefix + member.file)
            if size > _member_limit(bundle.architecture):  # what is smaller costs little, and its hash tells
                raise BundleError(
                    f"{path}: {member.file} has {size:,} bytes; the tensors of its architecture have {needed:,}: the "
                    "weights are not those of the architecture in the manifest, or not whole"
                )
    return bundle


def read_manifest(path: Path) -> Any:
    """The manifest of a bundle as JSON values, unchecked.

    Raises
    ------
    BundleError
        If there is none, or it is not JSON.
    """
    try:
        return parse_json(_read(path, MANIFEST, MAX_MANIFEST_BYTES))
    except ValueError as error:
        raise BundleError(f"{path}: {MANIFEST} is not JSON ({printable(error)}); get the bundle again") from error


def write_bundle(
    path: Path,
    *,
    name: str,
    version: str,
    licence: str,
    citation: str,
    architecture: Architecture,
    classes: Sequence[ClassInfo],
    voxel_size: VoxelSize | None,
    window: tuple[int, int, int],
    members: Sequence[Mapping[str, np.ndarray]],
    golden: tuple[np.ndarray, np.ndarray],
    scores: Mapping[str, Any],
    provenance: Mapping[str, Any],
    own_data: OwnRecords | None = None,
    class_offsets: Sequence[float] | None = None,
    quantization: Quantization | None = None,
    may_exist: bool = False,
) -> ModelBundle:
    """Write a bundle of what `ModelBundle` has: a zip if `path` ends in .zip, else a folder. Equal input, equal bytes.

    Parameters
    ----------
    path
        Must not exist, but for `may_exist`; appears only when whole.
    members
        Tensors of each net under canonical names, float32.
    golden
        Input (z, y, x) and expected probabilities (z, y, x, class), float32 (`golden.golden_pair`).
    scores, provenance
        Anything that JSON can say.
    may_exist
        Whether it may take the place of an earlier zip.

    Raises
    ------
    BundleError
        If what is given makes no valid bundle.
    OutputError
        If `path` exists and must not, or cannot be written.
    """
    from safetensors.numpy import save

    files: dict[str, bytes] = {}
    for i, tensors in enumerate(members):
        file = f"member-{i}.safetensors"
        _check_tensors(architecture, tensors, f"{path}: {file}")
        files[file] = save({key: np.ascontiguousarray(tensors[key]) for key in tensor_shapes(architecture)})
    newer = (own_data, class_offsets, quantization) != (None, None, None)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION if newer else 1,
        name=name,
        version=version,
        licence=licence,
        citation=citation,
        architecture=architecture_to_dict(architecture),
        classes=[ClassEntry(name=c.name, colour=c.colour) for c in classes],
        voxel_size=None if voxel_size is None else voxel_size_entry(voxel_size),
        window=window,
        normalization="stack",
        members=[MemberEntry(file=file, sha256=hashlib.sha256(found).hexdigest()) for file, found in files.items()],
        scores=dict(scores),
        provenance=dict(provenance),
        own_data=own_data or (OwnRecords() if newer else UNSET),
        class_offsets=UNSET if class_offsets is None else tuple(class_offsets),
        quantization=UNSET if quantization is None else quantization,
    )
    try:
        text = json.dumps(to_builtins(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: scores or provenance hold what JSON cannot say ({error})") from error
    _from_manifest(path, json.loads(text))
    everything = [(MANIFEST, f"{text}\n".encode()), *files.items(), (_GOLDEN, golden_bytes(*golden))]
    if path.suffix.lower() == ".zip":
        write_zip(path, everything, may_exist=may_exist)
    else:
        write_folder(path, everything)
    return load_bundle(path)


def pack_bundle(folder: Path, destination: Path) -> ModelBundle:
    """Write the files of a bundle, checked, into a zip: the same bytes wherever and whenever it is done.

    Raises
    ------
    BundleError
        If the bundle is not whole.
    OutputError
        If `destination` exists or cannot be written.
    """
    bundle = load_bundle(folder)
    for i in range(len(bundle.members)):
        bundle.weights(i)
    bundle.golden()
    names = (MANIFEST, *(m.file for m in bundle.members), _GOLDEN)
    write_zip(destination, ((name, _read(bundle.path, name, MAX_BYTES)) for name in names))
    return load_bundle(destination)


def shape_differences(architecture: Architecture, shapes: Mapping[str, Shape]) -> str:
    """What keeps tensors of these names and shapes from making the net; empty when nothing does."""
    expected = tensor_shapes(architecture)
    found = []
    for what, names in (("missing", expected.keys() - shapes.keys()), ("unknown", shapes.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            found.append(f"tensor {printable(min(names)[:80])}{more} is {what}")
    for name, shape in expected.items():
        if name in shapes and tuple(shapes[name]) != shape:
            found.append(f"tensor {name} has shape {list(shapes[name])}, expected {list(shape)}")
            break
    return "; ".join(found)


def _check_tensors(architecture: Architecture, tensors: Mapping[str, np.ndarray], place: str) -> None:
    """Names, shapes, dtype and finite values of the weights of a member."""
    problem = shape_differences(architecture, {name: tensor.shape for name, tensor in tensors.items()})
    if problem:
        raise BundleError(f"{place}: {problem}; the weights are not those of the architecture in the manifest")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise BundleError(f"{place}: tensor {name} is {tensor.dtype}; expected float32")
        if not np.isfinite(tensor).all():
            raise BundleError(f"{place}: tensor {name} holds NaN or infinite values; the training of this net failed")


def _from_manifest(path: Path, manifest: Any) -> ModelBundle:
    """Check the values of a manifest and make the bundle of them."""
    place = f"{path}: {MANIFEST}"
    if not isinstance(manifest, dict):
        raise BundleError(f"{place} holds no JSON object; this is no model bundle")
    schema = manifest.get("schema_version")
    if not is_whole(schema) or schema not in range(1, SCHEMA_VERSION + 1):
        raise BundleError(
            f"{place} has schema version {short(schema)}; this version of densecell-batch knows 1 to {SCHEMA_VERSION}: "
            "use a version that knows the bundle"
        )
    try:
        check_fields(manifest)
    except BundleError as error:
        raise BundleError(f"{place} {error}") from error
    fields = {field: value for field, value in manifest.items() if field != "schema_version"}
    try:
        architecture = architecture_from_dict(fields["architecture"])
        members = tuple(Member(*pair) for pair in entries(fields["members"], "members", ("file", "sha256")))
        return ModelBundle(
            path,
            **fields
            | {
                "architecture": architecture,
                "classes": tuple(
                    ClassInfo(name, tuple(colour) if isinstance(colour, list) else (colour,))
                    for name, colour in entries(fields["classes"], "classes", ("name", "colour"))
                ),
                "voxel_size": voxel_size_from(fields["voxel_size"]),
                "window": tuple(fields["window"]),
                "own_data": own_records(fields.get("own_data")),
                "class_offsets": tuple(fields["class_offsets"]) if "class_offsets" in fields else None,
                "quantization": quantization_from(fields.get("quantization"), architecture, len(members)),
                "members": members,
            },
        )
    except (OptionError, BundleError) as error:
        raise BundleError(f"{place}: {error}") from error


def _member_limit(architecture: Architecture) -> int:
    """Bytes that the file of a member has at most."""
    return 4 * n_parameters(architecture) + _MAX_HEADER_BYTES


@contextmanager
def _files(path: Path) -> Iterator[tuple[Files, str]]:
    """The files of a bundle, and the folder in a zip, "" or "name/", where the manifest stands."""
    if not exists(path):
        raise BundleError(f"{path}: no such file or folder; expected a model bundle")
    if path.is_dir():
        yield Folder(path, BundleError), ""
        return
    with open_archive(path, BundleError) as archive:
        found = [name for name in archive.names if name.rpartition("/")[2] == MANIFEST and name.count("/") <= 1]
        if len(found) != 1:
            raise BundleError(
                f"{path}: the zip has {len(found)} files {MANIFEST} where 1 was expected; this is no model bundle. A "
                "zip of a published model becomes one by: densecell-batch models import"
            )
        yield archive, found[0].removesuffix(MANIFEST)


def _read(path: Path, name: str, limit: int) -> bytes:
    """The bytes of one file of a bundle; BundleError if it is missing, damaged or larger than `limit`."""
    with _files(path) as (files, prefix):
        if prefix + name not in files.names:
            raise BundleError(
                f"{path}: {name} is missing; this is no model bundle, or not a whole one. A published model becomes "
                "one by: densecell-batch models import"
            )
        return files.read(prefix + name, limit)
