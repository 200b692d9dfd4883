"""Voxel sizes: units, bad values, comparison."""

import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.io.stack import StackInfo


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [("nm", 1e-3), ("um", 1), ("µm", 1), ("μm", 1), ("micron", 1), ("Microns", 1), (" mm ", 1e3), ("cm", 1e4),
     ("m", 1e6), ("Å", 1e-4), ("angstrom", 1e-4), ("inch", 25400), ("nanometer", 1e-3), ("pm", 1e-6),
     ("nanometers", 1e-3), ("Nanometres", 1e-3), ("micrometers", 1), ("micrometres", 1), ("millimeters", 1e3),
     ("centimetre", 1e4), ("meters", 1e6), ("inches", 25400), ("in", 25400), ("angstroms", 1e-4), ("\u212b", 1e-4),
     ("A\u030a", 1e-4), ("Ångström", 1e-4), ("NM", 1e-3), ("picometers", 1e-6)],
)  # fmt: skip
def test_units(unit, micrometres):
    assert VoxelSize.of(4, 2, 1, unit).edges == pytest.approx((4 * micrometres, 2 * micrometres, micrometres))


def test_a_unit_for_each_axis():
    assert VoxelSize.of(0.05, 9, 9, ("um", "nm", "nm")) == VoxelSize.of(50, 9, 9, "nm")
    with pytest.raises(OptionError, match="'sec' is not"):
        VoxelSize.of(1, 1, 1, ("nm", "nm", "sec"))


def test_values_stay_readable():
    assert VoxelSize.of(47, 9.2, 9.2, "nm").edges == (0.047, 0.0092, 0.0092)
    assert str(VoxelSize.of(47, 9.2, 9.2, "nm")) == "47 x 9.2 x 9.2 nm (z, y, x)"


@pytest.mark.parametrize("unit", ["", "pixel", "sec", "MM2", "parsec", "ms", "ns", "pixels", "s", "µ²", "micros", "A"])
def test_no_unit_of_length(unit):
    with pytest.raises(OptionError, match="is not a unit of length"):
        VoxelSize.of(1, 1, 1, unit)


@pytest.mark.parametrize(
    ("edges", "axis"), [((0, 1, 1), "z"), ((1, -1, 1), "y"), ((1, 1, float("inf")), "x"), ((1, float("nan"), 1), "y")]
)
def test_no_length(edges, axis):
    with pytest.raises(OptionError, match=f"along {axis} is"):
        VoxelSize(*edges)


def test_derived():
    a = VoxelSize(0.04, 0.01, 0.01)
    assert a.volume == pytest.approx(4e-6)
    assert a.nanometres == pytest.approx((40, 10, 10))
    assert StackInfo("x", (3, 4, 5), "uint8", a, "tiff").n_voxels == 60
