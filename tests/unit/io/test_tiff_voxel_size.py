"""Voxel sizes as ImageJ, OME and the makers of microscopes write them. The last test asks real ImageJ."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile
from imagej_app import MISSING, look, run_macro
from tiff_files import set_place

from densecell_batch.io.reading import open_stack

VOLUME = np.random.default_rng(0).integers(0, 255, (4, 30, 26), np.uint8)


def voxel_size_of(path):
    with open_stack(path) as stack:
        size = stack.info.voxel_size
        return None if size is None else pytest.approx(size.nanometres, rel=1e-5), list(stack.notes)


def imagej(path, volume=VOLUME, description=(), resolution=(1 / 9, 1 / 8)):
    """As ImageJ writes it, key by key."""
    lines = ["ImageJ=1.53t", *([f"images={len(volume)}", f"slices={len(volume)}"] if volume.ndim == 3 else [])]
    text = "".join(f"{line}\n" for line in [*lines, *description])
    tifffile.imwrite(
        path, volume, photometric="minisblack", metadata=None, description=text, resolution=resolution, resolutionunit=1
    )


@pytest.mark.parametrize(
    ("description", "nanometres"),
    [
        (["unit=nm", "spacing=50.0"], (50, 8, 9)),
        (["unit=nm", "zunit=um", "spacing=0.05"], (50, 8, 9)),
        (["unit=nm", "yunit=\\u00B5m", "zunit=\\u00B5m", "spacing=0.05"], (50, 8000, 9)),
        (["unit=\\u00b5m", "yunit=nm", "zunit=nm", "spacing=50"], (50, 8, 9000)),
        (["unit=nanometers", "spacing=50"], (50, 8, 9)),
        (["unit=micrometers", "spacing=0.5"], (500, 8000, 9000)),
        (["unit=\\u00C5", "spacing=500"], (50, 0.8, 0.9)),
        (["unit=nm", "spacing=-50.0"], (50, 8, 9)),
    ],
)
def test_units_of_imagej(tmp_path, description, nanometres):
    imagej(tmp_path / "s.tif", description=description)
    assert voxel_size_of(tmp_path / "s.tif") == (nanometres, [])


def test_no_spacing_is_1_in_imagej(tmp_path):
    imagej(tmp_path / "s.tif", description=["unit=um"], resolution=(100, 100))
    found, (note,) = voxel_size_of(tmp_path / "s.tif")
    assert found == (1000, 10, 10)
    assert "no slice spacing, which in ImageJ is 1 um" in note


def test_one_slice_has_no_spacing(tmp_path):
    imagej(tmp_path / "s.tif", VOLUME[0], ["unit=nm"])
    found, (note,) = voxel_size_of(tmp_path / "s.tif")
    assert found is None
    assert "calibrated in x and y (9 x 8 nm), but says no slice spacing; give --voxel-size Z,8,9" in note


@pytest.mark.parametrize("description", [["unit=nm", "zunit=sec", "spacing=1"], ["unit=furlong", "spacing=1"]])
def test_units_of_something_else(tmp_path, description):
    imagej(tmp_path / "s.tif", description=description)
    found, (note,) = voxel_size_of(tmp_path / "s.tif")
    assert found is None
    assert "not usable" in note


def test_ome_with_a_unit_for_each_axis(tmp_path):
    sizes = {"PhysicalSizeZ": -0.05, "PhysicalSizeY": 8, "PhysicalSizeX": 90}
    units = {"PhysicalSizeZUnit": "µm", "PhysicalSizeYUnit": "nm", "PhysicalSizeXUnit": "Å"}
    tifffile.imwrite(
        tmp_path / "s.tif", VOLUME, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes, **units}
    )
    assert voxel_size_of(tmp_path / "s.tif") == ((50, 8, 9), [])


# Makers of microscopes

FEI = "[User]\r\nUser=a\r\n[Beam]\r\nBeam=EBeam\r\nScan=EScan\r\n{scan}\r\n[Image]\r\nDigitalContrast=1\r\n"
E_SCAN = "[EScan]\r\nPixelWidth=9e-009\r\nPixelHeight=8e-009\r\n"
I_SCAN = "[IScan]\r\nPixelWidth=5e-009\r\nPixelHeight=5e-009\r\n"
ZEISS = "0\r\n0\r\n{meters}\r\nAP_WD\r\nWD = 4.1 mm\r\n{name}\r\nPixel Size = {size}\r\nDP_OUT_DEV\r\nOut = 1\r\n"


def with_text(code, text, volume=VOLUME):
    def make(path):
        tags = [(code, 2, 0, text.encode("cp1252"), True)]
        tifffile.imwrite(
            path, volume, photometric="minisblack", metadata=None, resolution=(72, 72), resolutionunit=2, extratags=tags
        )

    return make


def olympus(path):
    """A structure at the end of the file, to which the tag leads; lengths in 10**-9 m."""
    tifffile.imwrite(
        path, VOLUME, photometric="minisblack", metadata=None, resolution=(200, 200), extratags=[(33560, 4, 1, 1, True)]
    )
    data = path.read_bytes()
    place = len(data)
    data += struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 1, 2, 3, 4, 120, b"image", 1)
    data += struct.pack("<hhI", 1, 1, place + 68)
    data += struct.pack("<10xhdd8xd2x34s32s", -9, 9.0, 8.0, 5000.0, b"camera", b"TEM")
    path.write_bytes(data)
    set_place(path, 33560, place)


MAKERS = {
    "FEI Helios": (with_text(34682, FEI.format(scan=I_SCAN + E_SCAN)), "9 x 8 nm by its FEI tags", "8,9"),
    "FEI SFEG": (with_text(34680, "[Scan]\nPixelWidth=9e-9\nPixelHeight=8e-9\n"), "9 x 8 nm by its FEI tags", "8,9"),
    "Zeiss": (
        with_text(34118, ZEISS.format(name="AP_PIXEL_SIZE", size="9.2 nm", meters="9.2e-9")),
        "9.2 x 9.2 nm by its Zeiss tags", "9.2,9.2",
    ),
    "Zeiss in micrometres": (
        with_text(34118, ZEISS.format(name="AP_IMAGE_PIXEL_SIZE", size="0.0092 µm", meters="9.2e-9")),
        "9.2 x 9.2 nm by its Zeiss tags", "9.2,9.2",
    ),
    "Olympus SIS": (olympus, "9 x 8 nm by its Olympus SIS tags", "8,9"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_pixel_sizes_of_makers(tmp_path, name):
    make, said, edges = MAKERS[name]
    make(tmp_path / "s.tif")
    found, (note,) = voxel_size_of(tmp_path / "s.tif")
    assert found is None
    assert said in note
    assert f"no slice spacing; give --voxel-size Z,{edges} " in note


def test_a_folder_of_slices_of_a_maker(tmp_path):
    for z, plane in enumerate(VOLUME):
        with_text(34682, FEI.format(scan=E_SCAN), plane)(tmp_path / f"s{z}.tif")
    found, (note,) = voxel_size_of(tmp_path)
    assert found is None
    assert "9 x 8 nm by its FEI tags" in note


@pytest.mark.parametrize(
    "make",
    [
        with_text(34682, FEI.format(scan="[EScan]\r\nPixelWidth=\r\n")),
        with_text(34682, FEI.format(scan="[EScan]\r\nPixelWidth=0\r\n")),
        with_text(34118, ZEISS.format(name="AP_PIXEL_SIZE", size="9 bananas", meters="0")),
        with_text(34118, "AP_PIXEL_SIZE\r\n"),
        with_text(34680, "no sections"),
    ],
)
def test_makers_that_say_nothing_of_use(tmp_path, make):
    make(tmp_path / "s.tif")
    assert voxel_size_of(tmp_path / "s.tif")[0] is None


# Real ImageJ


@pytest.mark.fiji
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_what_imagej_writes_and_reads(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", VOLUME, imagej=True, metadata={"axes": "ZYX"})
    nm = 'run("Properties...", "pixel_width=9 pixel_height=8 voxel_depth={} unit=nm");'
    steps = {
        "one": nm.format(1),
        "negative": nm.format(-50),
        "mixed": 'Stack.setXUnit("nm"); Stack.setYUnit("um"); Stack.setZUnit("um"); '
        'run("Properties...", "pixel_width=9 pixel_height=0.008 voxel_depth=0.05");',
    }
    (tmp_path / "m.ijm").write_text(
        "".join(
            f'open("{tmp_path}/s.tif"); {step} saveAs("Tiff", "{tmp_path}/{name}.tif"); close();\n'
            for name, step in steps.items()
        )
    )
    run_macro(tmp_path / "m.ijm", "")
    assert voxel_size_of(tmp_path / "mixed.tif") == ((50, 8, 9), [])
    assert voxel_size_of(tmp_path / "negative.tif") == ((50, 8, 9), [])
    found, notes = voxel_size_of(tmp_path / "one.tif")
    assert (found, len(notes)) == ((1, 8, 9), 1)
    imagej(tmp_path / "none.tif", description=["unit=um"])
    (seen,) = look([tmp_path / "none.tif"], tmp_path / "look")
    assert seen["voxel"][0] == 1
