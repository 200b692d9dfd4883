"""What the manifest of a bundle says, schemas 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import BundleError
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.quantization import quantized_layers
from densecell_batch.prepare.contrast import LEVELS
from densecell_batch.prepare.fit import OwnData
from densecell_batch.printable import printable
from densecell_batch.storage.strict_json import JsonObject

__all__ = [
    "LONGEST",
    "MAX_MANIFEST_BYTES",
    "MAX_MEMBERS",
    "MAX_OFFSET",
    "MOST_SCALED",
    "SCHEMA_VERSION",
    "ClassEntry",
    "Manifest",
    "Member",
    "MemberEntry",
    "OwnRecords",
    "Quantization",
    "check_fields",
    "check_offsets",
    "check_texts",
    "entries",
    "is_whole",
    "own_records",
    "quantization_from",
    "short",
    "voxel_size_entry",
    "voxel_size_from",
]

SCHEMA_VERSION = 2  # 1 has no `own_data`, `class_offsets` and `quantization`, and is read for ever
MAX_MANIFEST_BYTES = 2**22  # those of ours have some thousand
MAX_MEMBERS = 100
LEAST_AGREEMENT = 0.995  # of the class map of int8 with that of float32, for `--precision auto`
MOST_LOST = 0.003  # of the mean IoU
MAX_OFFSET = 10.0  # of a class, added to its logit: e**10 is 22,026 times as likely
_MOST_FEATURES = 100
_FEATURE = re.compile(r"[a-z]{1,20}_[0-9]{1,4}(\.[0-9]{1,2})?px")
MOST_SCALED = 6  # times as many voxels, or as few
_WIDEST = 1e6  # of a range
_FAR = 1000  # standard deviations, bits
LONGEST = {"version": 64, "licence": 500, "citation": 4000}  # texts, in characters


class ClassEntry(Struct, frozen=True, kw_only=True):
    """A class; see `ClassInfo`."""

    name: str
    colour: tuple[int, int, int]


class MemberEntry(Struct, frozen=True, kw_only=True):
    """A net of the ensemble; see `Member`."""

    file: str
    sha256: str


class VoxelSizeEntry(Struct, frozen=True, kw_only=True):
    """Edge lengths of a voxel; any unit of length is understood."""

    z: float
    y: float
    x: float
    unit: str


class OwnRecords(Struct, frozen=True, kw_only=True):
    """What a model knows of the data that it was made on: what a stack is held against."""

    grey_values: tuple[float, ...] | None = None  # quantiles, see `prepare.contrast.trained_quantiles`
    fit: OwnData | None = None  # see `prepare.fit`
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)  # voxels (z, y, x) that the nets saw for each of the stacks'

    def __post_init__(self) -> None:
        greys, fit = self.grey_values, self.fit
        if not all(1 / MOST_SCALED <= factor <= MOST_SCALED for factor in self.scale):
            raise ValueError(f"expected a scale between 1/{MOST_SCALED} and {MOST_SCALED}")
        if greys is not None and not (
            len(greys) == len(LEVELS)
            and all(a <= b for a, b in pairwise(greys))
            and -_FAR < greys[0] <= greys[-1] < _FAR
        ):
            raise ValueError(
                f"expected {len(LEVELS)} grey values in standard deviations, none lower than the one before"
            )
        if fit is None:
            return
        size = () if fit.size is None else (*fit.size.weights, fit.size.offset)
        names = (*fit.names, *(() if fit.size is None else fit.size.names))
        if len(names) > _MOST_FEATURES or not all(_FEATURE.fullmatch(name) for name in names):
            raise ValueError(f"expected at most {_MOST_FEATURES} features, of names such as power_10px")
        numbers = (*fit.centre, *(value for row in fit.covariance for value in row), fit.disagreement, *size)
        if not all(abs(number) < _FAR for number in numbers) or fit.windows < 1:
            raise ValueError(f"expected numbers below {_FAR}, and some windows")


class Quantization(Struct, frozen=True, kw_only=True):
    """What eight bits need, and how near to float32 they are (`nets.quantization`)."""

    ranges: tuple[dict[str, tuple[float, float]], ...]  # of each member: layer -> what its input lies between
    agreement: float  # share of the voxels that have the class which they have in float32
    mean_iou: tuple[float, float] | None = None  # of float32 and of int8 on labels; None where there were none

    @property
    def is_near(self) -> bool:
        """Whether int8 may take the place of float32 without being asked for."""
        before, after = self.mean_iou or (0.0, 0.0)
        return self.agreement >= LEAST_AGREEMENT and after >= before - MOST_LOST


class Manifest(Struct, frozen=True, kw_only=True):
    """`bundle.json`, field by field (contract). What a stranger wrote is checked in words of its own by `bundle`."""

    schema_version: int = SCHEMA_VERSION
    name: str
    version: str
    licence: str
    citation: str
    architecture: JsonObject  # family, and the fields of one in `nets.architecture`
    classes: list[ClassEntry]  # in the order of the nets' outputs
    voxel_size: VoxelSizeEntry | None  # of the training data; null where nobody recorded it
    window: tuple[int, int, int]  # input window (z, y, x) in training, in voxels
    normalization: str  # "stack"
    members: list[MemberEntry]
    scores: JsonObject  # what was measured, as its maker wrote it
    provenance: JsonObject  # where the weights come from
    own_data: OwnRecords | UnsetType = UNSET  # what the data of the training is like; schema 2
    class_offsets: tuple[float, ...] | UnsetType = UNSET  # added to the logits, one for each class; schema 2, optional
    quantization: Quantization | UnsetType = UNSET  # of int8; schema 2, optional


# Type of the JSON value of a field, and what a message calls it.
_KINDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number"}
_LISTS = {"classes", "window", "members", "class_offsets"}
_OBJECTS = {"architecture", "scores", "provenance", "own_data", "quantization"}
_OPTIONAL = ("class_offsets", "quantization")  # of schema 2


def check_texts(name: str, version: str, licence: str, citation: str) -> None:
    """See that the texts of a bundle are such that files can be called, and lines be written, after them.

    Raises
    ------
    BundleError
        If one is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise BundleError(f"name is {short(name)}; expected 1 to 64 letters, digits, dots, dashes or underscores")
    for field, text in (("version", version), ("licence", licence), ("citation", citation)):
        if len(text) > LONGEST[field] or printable(text) != text:
            raise BundleError(
                f"{field} is {short(text)}; expected a text of at most {LONGEST[field]} characters without line breaks "
                "and other control characters"
            )


def check_fields(manifest: JsonObject) -> None:
    """See that the fields of a manifest are there, but for those that are optional, no others, and each of its kind.

    Raises
    ------
    BundleError
        If they are not; the message says which, and what was expected.
    """
    first = manifest["schema_version"] == 1
    names = [n for n in Manifest.__struct_fields__ if n not in _OPTIONAL and not (first and n == "own_data")]
    optional = () if first else _OPTIONAL
    missing, unknown = sorted({*names} - manifest.keys()), sorted(manifest.keys() - {*names, *optional})
    if missing or unknown:
        problem = (
            f"lacks {', '.join(missing)}" if missing else f"has unknown fields: {printable(', '.join(unknown)[:80])}"
        )
        more = f", and {', '.join(optional)} if need be" if optional else ""
        raise BundleError(f"{problem}; expected exactly {', '.join(names)}{more}")
    for name in [*names[1:], *(name for name in optional if name in manifest)]:
        value, kind = manifest[name], list if name in _LISTS else dict if name in _OBJECTS else str
        if name == "voxel_size" and not isinstance(value, dict | None):
            raise BundleError(f"voxel_size is {short(value)}; expected an object or null")
        if name != "voxel_size" and not isinstance(value, kind):
            raise BundleError(f"{name} is {short(value)}; expected {_KINDS[kind]}")


@dataclass(frozen=True)
class Member:
    """A net of the ensemble: the file of its weights.

    Raises
    ------
    BundleError
        If the file is not a plain name ending in .safetensors, or the hash is none.
    """

    file: str
    sha256: str  # of the file, 64 lower-case hexadecimal digits

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not re.fullmatch(r"\w[\w.-]{0,99}\.safetensors", self.file):
            raise BundleError(f"member file is {short(self.file)}; expected a plain name like member-0.safetensors")
        if not isinstance(self.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise BundleError(f"member {self.file}: sha256 is {short(self.sha256)}; expected 64 hexadecimal digits")


def check_offsets(offsets: Sequence[Any], n_classes: int) -> None:
    """See that the offsets of a bundle are numbers, one for each class, of which none drowns what the nets say.

    Raises
    ------
    BundleError
        If they are not.
    """
    numbers = [x for x in offsets if isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= MAX_OFFSET]
    if len(offsets) != n_classes or len(numbers) != n_classes:
        raise BundleError(
            f"class_offsets is {short([*offsets])}; expected {n_classes} numbers from -{MAX_OFFSET:g} to "
            f"{MAX_OFFSET:g}, one for each class"
        )


def quantization_from(value: JsonObject | None, architecture: Architecture, n_members: int) -> Quantization | None:
    """What a manifest says of int8, held to the layers of the nets.

    Raises
    ------
    BundleError
        If it cannot be, or does not go with the nets.
    """
    if value is None:
        return None
    try:
        found = msgspec.convert(value, Quantization)
    except ValueError as error:
        raise BundleError(f"quantization cannot be understood ({printable(str(error)[:200])})") from error
    shares = (found.agreement, *(found.mean_iou or ()))
    if not all(0 <= share <= 1 for share in shares):
        raise BundleError(f"quantization has the shares {short(shares)}; expected numbers from 0 to 1")
    if [{*ranges} for ranges in found.ranges] != [{*quantized_layers(architecture)}] * n_members:
        raise BundleError(f"quantization does not have a range for each layer of {n_members} members, and no others")
    if not all(-_WIDEST <= low <= 0 <= high <= _WIDEST for ranges in found.ranges for low, high in ranges.values()):
        raise BundleError(f"quantization has a range that is none; expected two numbers about 0, up to {_WIDEST:g}")
    return found


def entries(values: list[Any], field: str, keys: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    """The two values of each object in a list of the manifest."""
    for value in values:
        if not isinstance(value, dict) or value.keys() != set(keys):
            raise BundleError(f"{field} holds {short(value)}; expected objects of {keys[0]} and {keys[1]}")
        yield value[keys[0]], value[keys[1]]


def voxel_size_entry(voxel_size: VoxelSize) -> VoxelSizeEntry:
    """Edges in nanometres, as a manifest says them."""
    # 47 nm, not 47.00000000000001: people read the manifest.
    z, y, x = (float(f"{edge:.12g}") for edge in voxel_size.nanometres)
    return VoxelSizeEntry(z=z, y=y, x=x, unit="nm")


def voxel_size_from(value: JsonObject | None) -> VoxelSize | None:
    """The inverse of `voxel_size_entry`, from JSON values; any unit of length is understood."""
    if value is None:
        return None
    if value.keys() != {"z", "y", "x", "unit"} or not isinstance(value["unit"], str):
        raise BundleError(f"voxel_size is {short(value)}; expected z, y, x and unit")
    edges = [value[axis] for axis in "zyx"]
    if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in edges):
        raise BundleError(f"voxel_size is {short(value)}; expected numbers for z, y and x")
    return VoxelSize.of(edges[0], edges[1], edges[2], unit=value["unit"])


def own_records(value: JsonObject | None) -> OwnRecords | None:
    """What a manifest of schema 2 says of the model's own data; None of schema 1."""
    if value is None:
        return None
    try:
        return msgspec.convert(value, OwnRecords)
    except ValueError as error:
        raise BundleError(f"own_data cannot be understood ({printable(str(error)[:200])})") from error


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A value of a manifest, as a message quotes it."""
    return printable(repr(value)[:80])
