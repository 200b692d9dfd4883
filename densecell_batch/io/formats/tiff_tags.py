"""What the tags of a TIFF say of its voxel size: ImageJ, OME, and the makers of microscopes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import ParseError

import tifffile

from densecell_batch.calibration import VoxelSize, micrometres_of
from densecell_batch.errors import OptionError

__all__ = ["ome_voxel_size", "voxel_size_of"]

_Found = tuple[VoxelSize | None, list[str]]


def voxel_size_of(tiff: tifffile.TiffFile, depth: int) -> _Found:
    """Voxel size from the tags, and notes on tags that do not suffice.

    The resolution of a plain TIFF is that of a printer (72 dpi) far more often than that of a microscope; it is not
    used.

    Parameters
    ----------
    tiff
        The open file.
    depth
        Number of its slices.
    """
    try:
        if tiff.is_ome:
            return ome_voxel_size(tifffile.xml2dict(tiff.ome_metadata or ""))
        if tiff.is_imagej:
            return _imagej_voxel_size(tiff, depth)
        return _maker_voxel_size(tiff)
    except (
        OptionError, ParseError, ValueError, TypeError, AttributeError, LookupError, ZeroDivisionError
    ) as error:  # fmt: skip
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        return None, [f"the calibration of the file is not usable ({reason}); give --voxel-size"]


def _imagej_voxel_size(tiff: tifffile.TiffFile, depth: int) -> _Found:
    metadata = tiff.imagej_metadata or {}
    units = {axis: _unescaped(str(metadata.get(name, ""))) for axis, name in zip("zyx", _IMAGEJ_UNITS, strict=True)}
    if units["x"] in ("", "pixel", "pixels"):
        return None, []
    units = {axis: unit or units["x"] for axis, unit in units.items()}  # said only where it is another one
    tags = tiff.pages.first.tags
    y, x = (denominator / numerator for numerator, denominator in (tags[f"{a}Resolution"].value for a in "YX"))
    spacing = metadata.get("spacing")
    if spacing is None and depth == 1:
        return None, [_no_spacing(y * micrometres_of(units["y"]), x * micrometres_of(units["x"]), "")]
    # ImageJ leaves the spacing out where it is 1, and takes it for 1 where there is none.
    notes = [] if spacing is not None else [
        f"the file says no slice spacing, which in ImageJ is 1 {units['z']}; if that is not so, give --voxel-size"
    ]  # fmt: skip
    size = VoxelSize.of(abs(float(1 if spacing is None else spacing)), y, x, (units["z"], units["y"], units["x"]))
    return size, notes


_IMAGEJ_UNITS = ("zunit", "yunit", "unit")


def _unescaped(unit: str) -> str:
    """A unit as ImageJ writes it: what is not ASCII as in Java."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), unit).strip()


def ome_voxel_size(metadata: Mapping[str, Any]) -> _Found:
    """Voxel size from OME-XML as a dictionary; raises as `VoxelSize.of` does, or ValueError where it has no numbers."""
    image = metadata["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    edges = {axis: pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"}
    if edges["X"] is None and edges["Y"] is None:
        return None, []
    missing = [axis.lower() for axis, edge in edges.items() if edge is None]
    if missing:
        return None, [f"the file says no voxel size along {', '.join(missing)}; give --voxel-size"]
    z, y, x = (abs(float(edges[axis])) for axis in "ZYX")
    units = {axis: str(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"}
    return VoxelSize.of(z, y, x, (units["Z"], units["Y"], units["X"])), []


# Makers of microscopes: edges of a pixel in micrometres (y, x). None says the distance of slices.


def _maker_voxel_size(tiff: tifffile.TiffFile) -> _Found:
    for maker, metadata, read in (
        ("FEI", tiff.fei_metadata, _fei_pixel),
        ("Zeiss", tiff.sem_metadata, _zeiss_pixel),
        ("Olympus SIS", tiff.sis_metadata, _sis_pixel),
    ):
        edges = read(metadata) if isinstance(metadata, dict) else None
        if edges is not None and all(0 < edge < float("inf") for edge in edges):
            return None, [_no_spacing(*edges, f" by its {maker} tags")]
    return None, []


def _fei_pixel(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of the scan of the beam that was on; in metres."""
    beam = metadata.get("Beam")
    names = [str(beam.get("Scan"))] if isinstance(beam, dict) else []
    for name in (*names, "Scan", "EScan", "IScan"):
        scan = metadata.get(name)
        if isinstance(scan, dict) and "PixelWidth" in scan:
            width = float(scan["PixelWidth"])
            return float(scan.get("PixelHeight", width)) * 1e6, width * 1e6
    return None


def _zeiss_pixel(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """(title, number, unit) under a name."""
    for name in ("ap_image_pixel_size", "ap_pixel_size"):
        found = metadata.get(name)
        if isinstance(found, tuple) and len(found) == 3:
            edge = float(found[1]) * micrometres_of(str(found[2]))
            return edge, edge
    return None


def _sis_pixel(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """In metres."""
    if "pixelsizex" not in metadata:
        return None
    return abs(float(metadata["pixelsizey"])) * 1e6, abs(float(metadata["pixelsizex"])) * 1e6


def _no_spacing(y: float, x: float, by: str) -> str:
    y, x = y * 1e3, x * 1e3
    return (
        f"the file is calibrated in x and y ({x:.6g} x {y:.6g} nm{by}), but says no slice spacing; give "
        f"--voxel-size Z,{y:.6g},{x:.6g} (in nm)"
    )
