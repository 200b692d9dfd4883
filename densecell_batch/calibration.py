"""Value types that travel beside the arrays: the voxel size and what is known of a stack before it is read."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Self

from densecell_batch.errors import OptionError

__all__ = ["VoxelSize", "check_voxel_size", "micrometres_of"]

_PREFIXES = {"": 1e6, "c": 1e4, "m": 1e3, "u": 1.0, "μ": 1.0, "n": 1e-3, "p": 1e-6}  # metres in micrometres
_LONG_PREFIXES = {"": 1e6, "centi": 1e4, "milli": 1e3, "micro": 1.0, "nano": 1e-3, "pico": 1e-6}

# Length of a unit in micrometres, under the lower-case names that ImageJ, OME, makers of microscopes and people use.
_MICROMETRES = (
    {f"{prefix}m": length for prefix, length in _PREFIXES.items()}
    | {f"{prefix}{metre}": length for prefix, length in _LONG_PREFIXES.items() for metre in ("meter", "metre")}
    | {
        "μ": 1.0,
        "micron": 1.0,
        "å": 1e-4,
        "angstrom": 1e-4,
        "ångström": 1e-4,
        "ångstrom": 1e-4,
        "inch": 25400.0,
        "in": 25400.0,
    }
)


def micrometres_of(unit: str) -> float:
    """Length of a unit ("nm", "um", "microns", ...) in micrometres.

    Raises
    ------
    OptionError
        If it is no known unit of length.
    """
    # One sign for the two of micro and the two of Ångström that Unicode has, whole or composed.
    name = unicodedata.normalize("NFKC", unit).strip().lower()
    singular = name.removesuffix("es") if name.endswith("ches") else name.removesuffix("s") if len(name) > 3 else name
    scale = _MICROMETRES.get(name, _MICROMETRES.get(singular))
    if scale is None:
        raise OptionError(f"unit {unit!r} is not a unit of length known here; expected one of nm, um, mm, cm, m")
    return scale


@dataclass(frozen=True)
class VoxelSize:
    """Edge lengths of a voxel in micrometres, (z, y, x). Each is finite and above zero.

    `VoxelSize.of` takes other units: `VoxelSize.of(47, 9.2, 9.2, unit="nm")`.

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
            object.__setattr__(self, axis, float(edge))  # 1 and 1.0 are one length, in files, too

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
    def of(cls, z: float, y: float, x: float, unit: str | tuple[str, str, str]) -> Self:
        """Convert edge lengths in `unit` ("nm", "um", "micron", ...), or in one unit an axis (z, y, x).

        Raises
        ------
        OptionError
            If the unit is no known unit of length, or an edge is not a finite positive number.
        """
        scales = [micrometres_of(one) for one in ((unit,) * 3 if isinstance(unit, str) else unit)]
        # 47 nm is 0.047 um, not 0.047000000000000004: the value goes into files that people read.
        return cls(*(float(f"{edge * scale:.12g}") for edge, scale in zip((z, y, x), scales, strict=True)))

    def __str__(self) -> str:
        return " x ".join(f"{edge:g}" for edge in self.nanometres) + " nm (z, y, x)"


def check_voxel_size(value: object) -> None:
    """Refuse what is no voxel size, such as a tuple, whose unit nobody knows; None is one that is not known.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if value is not None and not isinstance(value, VoxelSize):
        raise OptionError(f"voxel_size is {value!r}; expected a VoxelSize, such as VoxelSize.of(47, 9, 9, 'nm')")
