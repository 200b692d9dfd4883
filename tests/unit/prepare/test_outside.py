"""What is no tissue in a slice, and tissue mirrored into it."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from densecell_batch.prepare.outside import box_of, find_outside, mirrored

HIGHEST = {"uint8": 255, "uint16": 65535, "int16": 32767, "float32": 1}


def tissue(shape=(160, 200), dtype="uint8", seed=0):
    """Grey values like those of tissue: blobs and noise, 5 standard deviations within the range of the dtype."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.standard_normal(shape), 2, mode="wrap")
    values = 0.5 + 0.08 * blobs / blobs.std() + 0.03 * rng.standard_normal(shape)
    return (HIGHEST[dtype] * np.clip(values, 0.01, 0.99)).astype(dtype)


@pytest.fixture(scope="module")
def crops(data: Path) -> np.ndarray:
    """Slices of fly tissue, a few voxels at 0 and 255, enlarged to 192 x 192."""
    return tifffile.imread(data / "vnc-crop.tif").repeat(2, axis=1).repeat(2, axis=2)


def clipped(plane, percent):
    low, high = np.percentile(plane, (percent, 100 - percent))
    return np.clip((plane - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("dtype", HIGHEST)
def test_tissue_has_no_outside(dtype):
    assert find_outside(tissue(dtype=dtype)) is None


@pytest.mark.parametrize("percent", [0, 2, 5, 10])
@pytest.mark.parametrize("blur", [0, 1, 2])
def test_clipped_tissue_at_the_border_is_tissue(crops, percent, blur):
    for plane in crops:
        smooth = ndimage.gaussian_filter(plane.astype(np.float32), blur)
        assert find_outside(clipped(smooth, percent)) is None


@pytest.mark.parametrize("width", [1, 2, 8, 40])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *(("uint8", value) for value in (0, 1, 100, 128, 255)),
        *(("uint16", value) for value in (0, 30_000, 65535)),
        *(("int16", value) for value in (-32768, -1, 0, 16_000, 32767)),
        *(("float32", value) for value in (-3.5, 0, 0.5, 1e9)),
    ],
)
def test_a_rim(dtype, value, width):
    plane = np.pad(tissue(dtype=dtype), width, constant_values=value)
    expected = np.pad(np.zeros((160, 200), bool), width, constant_values=True)
    found = find_outside(plane)
    assert found.dtype == bool
    assert (found & ~expected).mean() < 0.001  # tissue of that very value beside it
    assert (found | ~expected).all()


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("side", range(4))
def test_a_ragged_side(value, side):
    depth = np.random.default_rng(1).integers(3, 9, 160).cumsum() % 40 + 1
    expected = np.rot90(np.arange(160) < depth[:, None], side)
    plane = tissue((160, 160))
    plane[expected] = value
    found = find_outside(plane)
    assert (found & expected).sum() > 0.95 * expected.sum()
    assert (found & ~expected).mean() < 0.002


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("degrees", [1, 7, -30])
@pytest.mark.parametrize("order", [0, 1])
def test_corners_of_a_rotated_slice(value, degrees, order):
    options = {"reshape": False, "order": order, "mode": "grid-constant"}
    plane = ndimage.rotate(tissue((200, 200)).astype(np.float32), degrees, cval=value, **options).round()
    inside = ndimage.rotate(np.ones((200, 200), np.float32), degrees, cval=0, **options)
    found = find_outside(plane.astype(np.uint8))
    assert found[inside == 0].mean() > 0.98
    assert not found[inside > 0.1].any()
    # Of what was blended with the fill, only the tips of the corners, where there is no fill beside it, is left.
    filled, original = mirrored(plane.astype(np.uint8), found, edge=2), tissue((200, 200))
    assert ((filled < original.min()) | (filled > original.max())).mean() < 0.003


def test_two_values_and_a_frame_within_a_frame():
    plane = tissue()
    plane[:, :20], plane[-30:, 60:] = 0, 255
    expected = np.zeros(plane.shape, bool)
    expected[:, :20] = expected[-30:, 60:] = True
    assert (find_outside(plane) == expected).all()
    framed = np.pad(plane, 5, constant_values=90)
    assert (find_outside(framed) == np.pad(expected, 5, constant_values=True)).all()


@pytest.mark.parametrize("dtype", HIGHEST)
def test_blank_slices(dtype):
    for shape in ((100, 100), (1, 40), (3, 3)):
        assert find_outside(np.full(shape, 1, dtype)).all()
    plane = np.zeros((100, 100), dtype)
    plane[[3, 50, 99], [0, 50, 20]] = 1  # hot pixels
    assert find_outside(plane).all()


def test_constant_tissue_within_the_slice_is_tissue():
    plane = tissue()
    plane[40:120, 50:150] = 255
    assert find_outside(plane) is None
    plane[:10] = 255
    assert box_of(find_outside(plane), plane.shape) == (10, 160, 0, 200)


@pytest.mark.parametrize("noise", [0, 4, 12])
@pytest.mark.parametrize("highest", [False, True])
def test_resin_that_fades_into_tissue_is_tissue(noise, highest):
    rng = np.random.default_rng(2)
    ramp = np.clip((np.arange(200) - 60) / 40, -1, 1)
    plane = tissue() * np.clip(ramp, 0, 1) + 20 * np.minimum(ramp, 0) + noise * rng.standard_normal((160, 200))
    plane = np.clip(plane.round(), 0, 255).astype(np.uint8)
    assert (plane[:, :20] == 0).mean() > 0.9
    assert find_outside(255 - plane if highest else plane) is None


def test_short_runs_count_unless_tissue_has_that_value():
    for value, counts in ((0, True), (255, True), (128, False)):
        plane = tissue()
        plane[:9, 40:60] = value
        found = find_outside(plane)
        assert (found is not None) == counts
    plane = clipped(tissue(), 5)
    plane[:9, 40:60] = 0
    assert find_outside(plane) is None
    plane[:9, :100] = 0
    assert find_outside(plane)[:9, :100].all()


def test_not_a_number_is_never_outside():
    plane = tissue(dtype="float32")
    plane[:10] = np.nan
    assert find_outside(plane) is None
    plane[:, :10] = 0
    assert (find_outside(plane) == (plane == 0)).all()


@given(
    hnp.arrays(st.sampled_from(["uint8", "int16", "float32"]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    st.integers(0, 12),
)
@settings(max_examples=80)
def test_any_slice_gives_a_mask_that_can_be_mirrored(plane, width):
    plane = np.pad(plane, width, constant_values=3)
    before = plane.copy()
    found = find_outside(plane)
    np.testing.assert_array_equal(plane, before)
    if found is not None:
        assert found.shape == plane.shape
        assert found.any()
        if not found.all():
            assert np.isin(np.nan_to_num(mirrored(plane, found)), np.nan_to_num(plane[~found])).all()


@pytest.mark.parametrize("shape", [(20, 30), (17, 40)])
@pytest.mark.parametrize("width", [1, 7, 45])
@pytest.mark.parametrize("edge", [0, 1, 2])
def test_a_rim_is_mirrored_as_numpy_does(shape, width, edge):
    inner = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    outside = np.pad(np.zeros(shape, bool), width, constant_values=True)
    whole = np.pad(inner, width, constant_values=-99)
    kept = inner[edge : shape[0] - edge, edge : shape[1] - edge]
    np.testing.assert_array_equal(mirrored(whole, outside, edge), np.pad(kept, width + edge, mode="reflect"))


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)), st.integers(0, 2))
@settings(max_examples=150)
def test_only_tissue_is_mirrored(outside, edge):
    plane = np.arange(1, outside.size + 1).reshape(outside.shape)
    if outside.all():
        with pytest.raises(ValueError, match="without tissue"):
            mirrored(plane, outside, edge)
        return
    filled = mirrored(plane, outside, edge)
    assert np.isin(filled, plane[~outside]).all()
    deep = ~ndimage.maximum_filter(outside, 2 * edge + 1, mode="nearest")
    np.testing.assert_array_equal(filled[deep], plane[deep])


def test_the_nearest_tissue_is_mirrored():
    plane = np.arange(400).reshape(20, 20)
    outside = np.zeros((20, 20), bool)
    outside[8:, 15:] = True  # nearer to the left
    filled = mirrored(plane, outside, edge=0)
    assert filled[19, 15] == plane[19, 13]
    assert filled[8, 19] == plane[6, 19]
    assert filled[19, 19] == plane[19, 9]


def test_longer_stretches_are_preferred_and_edges_stay_where_little_is_left():
    plane = np.tile(np.arange(60), (3, 1))
    outside = np.zeros((3, 60), bool)
    outside[:, 30:50] = outside[:, 53:] = True
    filled = mirrored(plane, outside, edge=0)
    assert filled[0, 49] == 9  # by the 30 voxels to the left, not the three beside it
    assert (filled[0, 50:53] == plane[0, 50:53]).all()
    assert (mirrored(plane[:, 50:], outside[:, 50:], edge=1)[:, 2] == 50).all()
    assert (mirrored(plane[:, 52:], outside[:, 52:], edge=1) == 52).all()


def test_mirrored_tissue_is_not_flat():
    plane = tissue()
    plane[:, 120:] = 0
    filled = mirrored(plane, find_outside(plane))
    assert filled[:, 120:].std() == pytest.approx(filled[:, :120].std(), rel=0.1)
    assert find_outside(filled) is None


def test_boxes():
    outside = np.ones((30, 40), bool)
    assert box_of(outside, (30, 40)) is None
    outside[4:9, 7:20] = False
    assert box_of(outside, (30, 40)) == (4, 9, 7, 20)
    assert box_of(None, (30, 40)) == (0, 30, 0, 40)
