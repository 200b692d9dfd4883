"""Value types that travel beside the arrays: the voxel size and what is known of a stack before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from densecell_batch.errors import OptionError

__all__ = ["StackInfo", "VoxelSize"]

# Length of one unit in micrometres, under the names that ImageJ, OME and people use.
_MICROMETRES = {
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3,
    "cm": 1e4, "m": 1e6, "pm": 1e-6, "Å": 1e-4, "angstrom": 1e-4, "inch": 25400.0,
}  # fmt: skip


@dataclass(frozen=True)
class VoxelSize:
    """Edge lengths of a voxel in micrometres, (z, y, x). Each is finite and above zero.

    Raises
    ------
    OptionError
        If an edge is not a finite positive number.
    """

    z: float
    y: float
    x: float

    def __post_init__(self) -> None:
        for axis, edge in zip("zyx", self.edges, strict=True):
            if not 0 < edge < float("inf"):
                raise OptionError(f"voxel size along {axis} is {edge}; expected a finite length above 0")

    @property
    def edges(self) -> tuple[float, float, float]:
        """Edge lengths (z, y, x) in micrometres."""
        return (self.z, self.y, self.x)

    @property
    def volume(self) -> float:
        """Volume of one voxel in cubic micrometres."""
        return self.z * self.y * self.x

    @property
    def nanometres(self) -> tuple[float, float, float]:
        """Edge lengths (z, y, x) in nanometres."""
        return (self.z * 1e3, self.y * 1e3, self.x * 1e3)

    @classmethod
    def of(cls, z: float, y: float, x: float, unit: str) -> Self:
        """Convert edge lengths in `unit` ("nm", "um", "micron", ...).

        Raises
        ------
        OptionError
            If the unit is no known unit of length, or an edge is not a finite positive number.
        """
        scale = _MICROMETRES.get(unit.strip()) or _MICROMETRES.get(unit.strip().lower())
        if scale is None:
            raise OptionError(f"unit {unit!r} is not a unit of length known here; expected one of nm, um, mm, cm, m")
        # 47 nm is 0.047 um, not 0.047000000000000004: the value goes into files that people read.
        return cls(*(float(f"{edge * scale:.12g}") for edge in (z, y, x)))

    def worst_ratio(self, other: VoxelSize) -> float:
        """Largest factor, at least 1, by which an edge differs between the two."""
        return max(max(a / b, b / a) for a, b in zip(self.edges, other.edges, strict=True))

    def __str__(self) -> str:
        return " x ".join(f"{edge:g}" for edge in self.nanometres) + " nm (z, y, x)"


@dataclass(frozen=True)
class StackInfo:
    """What a stack is, read from its header."""

    path: Path  # the TIFF file, or the folder of single-slice TIFFs
    shape: tuple[int, int, int]  # (z, y, x), each at least 1
    dtype: str  # "uint8", "uint16", "int16" or "float32"
    voxel_size: VoxelSize | None  # None where the file says nothing
    container: str  # "imagej", "ome-tiff", "tiff" or "folder"

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x
