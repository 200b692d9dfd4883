"""TIFFs of every kind that is read: in place, packed, in tiles; what ImageJ, OME-XML and nobody says of them."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from densecell_batch.io.discovery import find_stacks, stamp_of
from densecell_batch.io.formats.own import own_result
from densecell_batch.io.reading import open_stack

from .driver import Target, mutated

_MOST = 2**24  # bytes of a slice that is read


def _tiff(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **{"photometric": "minisblack"} | options)
    return stream.getvalue()


def _seeds() -> Sequence[bytes]:
    rng = np.random.default_rng(0)
    byte = rng.integers(0, 256, (3, 20, 24), np.uint8)
    spoken = (
        b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        b'<Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint8" SizeX="24" SizeY="20" SizeZ="3" SizeC="1" SizeT="1">'
        b'<TiffData FirstZ="0" IFD="0" PlaneCount="3"><UUID FileName="other.ome.tif">urn:uuid:1</UUID></TiffData>'
        b"</Pixels></Image></OME>"
    )
    return [
        _tiff(byte),
        _tiff(byte, imagej=True, resolution=(100, 100), metadata={"axes": "ZYX", "spacing": 0.04, "unit": "um"}),
        _tiff(byte, imagej=True, byteorder=">", metadata={"axes": "ZYX"}),
        _tiff(byte, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.01}),
        _tiff(byte, metadata=None, description=spoken),
        _tiff(byte.astype(np.uint16), bigtiff=True),
        _tiff(byte.astype(np.float32), rowsperstrip=5),
        _tiff(byte, compression="zlib", predictor=True),
        _tiff(byte, compression="lzw", rowsperstrip=7),
        _tiff(byte, compression="packbits"),
        _tiff(byte, tile=(16, 16), compression="zlib"),
        _tiff(byte, photometric="miniswhite"),
        _tiff(byte[:1], photometric="palette", colormap=rng.integers(0, 65536, (3, 256), np.uint16)),
        _tiff(byte, metadata=None),
    ]


def _mutate(rng: random.Random, content: bytes) -> bytes:
    """Most of what can be wrong stands in the lists of tags: before the pixels, or after them."""
    head = rng.choice((0, 300, 700, len(content)))
    if rng.random() < 0.5:
        return mutated(rng, content[:head]) + content[head:]
    return content[: len(content) - head] + mutated(rng, content[len(content) - head :])


def _read(path: Path) -> None:
    find_stacks([str(path)])
    stamp_of(path)
    own_result(path)
    for stored in (False, True):
        with open_stack(path, stored=stored) as stack:
            z, y, x = stack.info.shape
            stack.sha256()
            if max(stack.block, y * x * np.dtype(stack.info.dtype).itemsize) > _MOST:
                continue
            for i in {0, z // 2, z - 1}:
                stack.read(i)
                stack.read(i, (y - 1, y))


TARGET = Target(_seeds, _read, ".tif", _mutate)
