"""What the tags of a TIFF say of its voxel size."""

from __future__ import annotations

from typing import Any

import tifffile

from densecell_batch.errors import OptionError
from densecell_batch.volume import VoxelSize

__all__ = ["ome_voxel_size", "voxel_size_of"]


def voxel_size_of(tiff: tifffile.TiffFile) -> tuple[VoxelSize | None, list[str]]:
    """Voxel size from the tags of ImageJ or OME, and notes on tags that do not suffice.

    The resolution of a plain TIFF is that of a printer (72 dpi) far more often than that of a microscope; it is not
    used.
    """
    try:
        if tiff.is_ome:
            return ome_voxel_size(tifffile.xml2dict(tiff.ome_metadata or ""))
        if tiff.is_imagej:
            return _imagej_voxel_size(tiff)
    except (OptionError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        return None, [f"the calibration of the file is not usable ({error}); give --voxel-size"]
    return None, []


def _imagej_voxel_size(tiff: tifffile.TiffFile) -> tuple[VoxelSize | None, list[str]]:
    metadata = tiff.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    if unit.strip().lower() in ("", "pixel", "pixels"):
        return None, []
    tags = tiff.pages[0].tags  # type: ignore[union-attr]
    edges = []
    for name in ("YResolution", "XResolution"):
        pixels, units = tags[name].value
        edges.append(units / pixels)
    if "spacing" not in metadata:
        return None, ["the file is calibrated in x and y, but says no slice spacing; give --voxel-size"]
    return VoxelSize.of(abs(float(metadata["spacing"])), edges[0], edges[1], unit), []


def ome_voxel_size(metadata: dict[str, Any]) -> tuple[VoxelSize | None, list[str]]:
    """Voxel size from OME-XML as a dictionary; raises as `VoxelSize.of` does, or ValueError where it has no numbers."""
    image = metadata["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    edges = {axis: pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"}
    if edges["X"] is None and edges["Y"] is None:
        return None, []
    missing = [axis.lower() for axis, edge in edges.items() if edge is None]
    if missing:
        return None, [f"the file says no voxel size along {', '.join(missing)}; give --voxel-size"]
    in_um = [VoxelSize.of(*(float(edges[a]),) * 3, pixels.get(f"PhysicalSize{a}Unit", "µm")).x for a in "ZYX"]
    return VoxelSize(*in_um), []
