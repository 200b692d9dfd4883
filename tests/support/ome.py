"""Sets of OME-TIFFs, as Bio-Formats and microscopes write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
CALIBRATED = {"PhysicalSizeX": "0.01", "PhysicalSizeY": "0.02", "PhysicalSizeZ": "0.04"}


def identifier(name: str) -> str:
    return f"urn:uuid:{uuid5(NAMESPACE_URL, name)}"


def image(files: Mapping[str, Sequence[int]], sizes: Mapping[str, int], *, number: int = 0, **attributes: str) -> str:
    """An element Image: the slices that each file has, in the order of its pages."""
    data = [
        f'<TiffData FirstC="0" FirstT="0" FirstZ="{z}" IFD="{page}" PlaneCount="1">'
        f'<UUID FileName="{name}">{identifier(name)}</UUID></TiffData>'
        for name, slices in files.items()
        for page, z in enumerate(slices)
    ]
    values = {f"Size{axis}": str(size) for axis, size in sizes.items()} | CALIBRATED | attributes
    words = " ".join(f'{key}="{value}"' for key, value in values.items())
    pixels = f'<Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint8" {words}>'
    channel = f'<Channel ID="Channel:{number}:0" SamplesPerPixel="1"/>'
    return f'<Image ID="Image:{number}">{pixels}{channel}{"".join(data)}</Pixels></Image>'


def xml(content: str, name: str = "") -> str:
    uuid = f' UUID="{identifier(name)}"' if name else ""
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SCHEMA}"{uuid}>{content}</OME>'


def write(path: Path, planes: np.ndarray, description: str) -> Path:
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=None, description=description.encode())
    return path


def write_set(
    folder: Path,
    volume: np.ndarray,
    files: Mapping[str, Sequence[int]],
    *,
    binary_only: str = "",
    uuids: bool = True,
    sizes: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write a set.

    Parameters
    ----------
    folder
        Made if it is not there.
    volume
        (z, y, x) uint8.
    files
        File name -> the slices that are its pages.
    binary_only
        Name of the only file that has the OME-XML: one of `files`, or another one.
    uuids
        Whether the files say their own identifiers.
    sizes
        Instead of those of the volume.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = sizes or dict(zip("ZYX", volume.shape, strict=True)) | {"C": 1, "T": 1}
    content = image(files, sizes)
    pointer = f'<BinaryOnly MetadataFile="{binary_only}" UUID="{identifier(binary_only)}"/>'
    if binary_only and binary_only not in files:
        (folder / binary_only).write_text(xml(content, binary_only), encoding="utf-8")
    return [
        write(
            folder / name,
            volume[list(slices)],
            xml(pointer if binary_only and name != binary_only else content, name if uuids else ""),
        )
        for name, slices in files.items()
    ]
