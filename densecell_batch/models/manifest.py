"""What the manifest of a bundle says, schema 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import BundleError
from densecell_batch.printable import printable

__all__ = [
    "FIELDS",
    "LONGEST",
    "MANIFEST",
    "MAX_MANIFEST_BYTES",
    "MAX_MEMBERS",
    "SCHEMA_VERSION",
    "Member",
    "entries",
    "is_whole",
    "short",
    "voxel_size_from_dict",
    "voxel_size_to_dict",
]

MANIFEST = "bundle.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 2**22  # those of ours have some thousand
MAX_MEMBERS = 100
LONGEST = {"version": 64, "licence": 500, "citation": 4000}  # texts, in characters

# Field of the manifest: the type of its JSON value, and what a message calls that type.
FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "schema_version": (int, "a whole number"),
    "name": (str, "a text"),
    "version": (str, "a text"),
    "licence": (str, "a text"),
    "citation": (str, "a text"),
    "architecture": (dict, "an object"),
    "classes": (list, "a list"),
    "voxel_size": ((dict, type(None)), "an object or null"),
    "window": (list, "a list"),
    "normalization": (str, "a text"),
    "members": (list, "a list"),
    "scores": (dict, "an object"),
    "provenance": (dict, "an object"),
}


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


def entries(values: list[Any], field: str, keys: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    """The two values of each object in a list of the manifest."""
    for value in values:
        if not isinstance(value, dict) or value.keys() != set(keys):
            raise BundleError(f"{field} holds {short(value)}; expected objects of {keys[0]} and {keys[1]}")
        yield value[keys[0]], value[keys[1]]


def voxel_size_to_dict(voxel_size: VoxelSize) -> dict[str, Any]:
    """Edges in nanometres, as a manifest says them."""
    # 47 nm, not 47.00000000000001: people read the manifest.
    edges = (float(f"{edge:.12g}") for edge in voxel_size.nanometres)
    return dict(zip("zyx", edges, strict=True)) | {"unit": "nm"}


def voxel_size_from_dict(value: dict[str, Any] | None) -> VoxelSize | None:
    """The inverse of `voxel_size_to_dict`; any unit of length is understood."""
    if value is None:
        return None
    if value.keys() != {"z", "y", "x", "unit"} or not isinstance(value["unit"], str):
        raise BundleError(f"voxel_size is {short(value)}; expected z, y, x and unit")
    edges = [value[axis] for axis in "zyx"]
    if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in edges):
        raise BundleError(f"voxel_size is {short(value)}; expected numbers for z, y and x")
    return VoxelSize.of(edges[0], edges[1], edges[2], unit=value["unit"])


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A value of a manifest, as a message quotes it."""
    return printable(repr(value)[:80])
