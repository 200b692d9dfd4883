"""Images of the ImageJ in this process (`jvm`) to and from arrays. Java is imported only by the functions here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.writing import class_lines
from densecell_batch.labels import OUTSIDE

__all__ = ["FijiImage", "from_imageplus", "save_rois", "to_imageplus"]


@dataclass(frozen=True)
class FijiImage:
    """An image of ImageJ as arrays and values."""

    volume: np.ndarray  # (z, y, x) uint8, uint16 or float32
    voxel_size: VoxelSize | None  # None where the image has no unit of length
    colours: np.ndarray | None  # (256, 3) uint8; None for grey values
    title: str


def to_imageplus(
    planes: np.ndarray | Iterable[np.ndarray],
    voxel_size: VoxelSize | None = None,
    colours: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "labels",
) -> Any:
    """Make an image of ImageJ, an `ij.ImagePlus`; ImageJ has been started.

    Parameters
    ----------
    planes
        (z, y, x), or planes (y, x) one after the other; uint8, uint16 or float32.
    voxel_size
        Calibration.
    colours
        (n, 3) uint8, the colour of each value from 0; for uint8 and uint16.
    class_names
        Name of each value from 0, for the Info of the image, where `OUTSIDE` has its name, too.
    title
        Name of the image.

    Raises
    ------
    OptionError
        If ImageJ has no such values, there is no plane, or there are more classes than labels for them.
    """
    from scyjava import jimport

    stack = None
    for plane in planes:
        if stack is None:
            stack = jimport("ij.ImageStack")(plane.shape[1], plane.shape[0])
        stack.addSlice(_processor(plane))
    if stack is None:
        raise OptionError(f"{title}: it has no slice; ImageJ needs at least one")
    image = jimport("ij.ImagePlus")(title, stack)
    image.setDimensions(1, stack.getSize(), 1)
    if voxel_size is not None:
        calibration = image.getCalibration()
        calibration.setUnit("um")
        calibration.pixelDepth, calibration.pixelHeight, calibration.pixelWidth = voxel_size.edges
    if colours is not None:
        table = np.zeros((256, 3), np.uint8)
        given = colours[: OUTSIDE if class_names else 256]  # what lies outside is black
        table[: len(given)] = given
        image.setLut(jimport("ij.process.LUT")(*(_java_array(table[:, k].copy()) for k in range(3))))
        image.setDisplayRange(0, 255)
    if class_names is not None:
        image.setProperty("Info", class_lines(class_names, colours))
    return image


def _processor(plane: np.ndarray) -> Any:
    from scyjava import jimport

    names = {"uint8": "ByteProcessor", "uint16": "ShortProcessor", "float32": "FloatProcessor"}
    if plane.ndim != 2 or plane.dtype.name not in names:
        raise OptionError(
            f"ImageJ has no images of {plane.dtype.name} {plane.shape}; expected planes (y, x) of {', '.join(names)}"
        )
    y, x = plane.shape
    return jimport(f"ij.process.{names[plane.dtype.name]}")(x, y, _java_array(plane.ravel()), None)


def _java_array(values: np.ndarray) -> Any:
    """A Java array of the same bytes: Java has signed integers only."""
    import jpype

    signed = {"uint8": np.int8, "uint16": np.int16}.get(values.dtype.name, values.dtype)
    return jpype.JArray.of(np.ascontiguousarray(values).view(signed))


def from_imageplus(image: Any) -> FijiImage:
    """The values, voxel size and colours of an image of ImageJ.

    Raises
    ------
    StackError
        If it is no volume of grey values: RGB, several channels or time points.
    """
    title, stack = str(image.getTitle()), image.getStack()
    bits, size = int(image.getBitDepth()), int(stack.getSize())
    channels, slices, frames = (int(n) for n in (image.getNChannels(), image.getNSlices(), image.getNFrames()))
    if bits not in (8, 16, 32):
        raise StackError(f'image {title!r} is RGB; expected grey values: end the macro with run("8-bit")')
    if size not in (slices, frames) or channels > 1:
        raise StackError(
            f"image {title!r} has {channels} channels, {slices} slices and {frames} frames; expected slices only"
        )
    dtype = {8: np.uint8, 16: np.uint16, 32: np.float32}[bits]
    volume = np.empty((size, int(image.getHeight()), int(image.getWidth())), dtype)
    for z in range(size):
        volume[z] = np.asarray(stack.getPixels(z + 1)).view(dtype).reshape(volume.shape[1:])
    return FijiImage(volume, _voxel_size(image.getCalibration()), _colours(image), title)


def _voxel_size(calibration: Any) -> VoxelSize | None:
    units = tuple(str(unit) for unit in (calibration.getZUnit(), calibration.getYUnit(), calibration.getXUnit()))
    if units[2] in ("pixel", "pixels", ""):
        return None
    try:
        z, y, x = calibration.pixelDepth, calibration.pixelHeight, calibration.pixelWidth
        return VoxelSize.of(abs(float(z)), abs(float(y)), abs(float(x)), (units[0], units[1], units[2]))
    except OptionError:  # no unit of length
        return None


def _colours(image: Any) -> np.ndarray | None:
    """The colour table; None if it has only greys."""
    luts = image.getLuts()
    if not len(luts):
        return None
    lut = luts[0]
    table = np.zeros((256, 3), np.int8)
    size = int(lut.getMapSize())
    import jpype

    for k, fill in enumerate((lut.getReds, lut.getGreens, lut.getBlues)):
        values = jpype.JArray(jpype.JByte)(size)
        fill(values)
        table[:size, k] = np.asarray(values)
    colours = table.view(np.uint8)
    return None if (colours == colours[:, :1]).all() else colours


def save_rois(rois: Sequence[Any], path: Path) -> None:
    """Save regions of ImageJ, `ij.gui.Roi`, as the zip that its ROI Manager opens; the names are those of the regions.

    Raises
    ------
    OptionError
        If there is none.
    """
    import io
    import zipfile

    from scyjava import jimport

    from densecell_batch.storage.atomic import write_file

    if not rois:
        raise OptionError(f"{path}: there is no region to save")
    encoder, whole, taken = jimport("ij.io.RoiEncoder"), io.BytesIO(), set[str]()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, roi in enumerate(rois, start=1):
            name = re.sub(r"[/\\:\0]", "-", str(roi.getName() or f"{number:04d}"))
            unique = name if name not in taken else f"{name}-{number}"
            taken.add(unique)
            archive.writestr(f"{unique}.roi", bytes(encoder.saveAsByteArray(roi)))
    write_file(path, whole.getvalue())
