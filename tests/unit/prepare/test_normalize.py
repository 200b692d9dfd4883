"""Mean and standard deviation in one pass equal those of numpy on the whole volume in float64."""

import numpy as np
import pytest
import tifffile

from densecell_batch.errors import StackError
from densecell_batch.io.reading import open_stack
from densecell_batch.prepare.normalize import Moments, StatisticsOf, normalize

RNG = np.random.default_rng(0)

VOLUMES = {
    "uint8": RNG.integers(0, 256, (5, 40, 30)).astype(np.uint8),
    "uint16, bright": RNG.integers(65000, 65536, (5, 40, 30)).astype(np.uint16),
    "int16": RNG.integers(-32768, 32768, (5, 40, 30)).astype(np.int16),
    "float32": RNG.standard_normal((5, 40, 30)).astype(np.float32),
    "float32, little contrast": (1e6 + RNG.standard_normal((5, 40, 30))).astype(np.float32),
    "float32, slices unlike each other": (RNG.standard_normal((5, 40, 30)) + 1e4 * np.arange(5)[:, None, None]).astype(
        np.float32
    ),
    "float32, huge": (1e30 * RNG.standard_normal((5, 40, 30))).astype(np.float32),
    "one slice": RNG.integers(0, 256, (1, 9, 7)).astype(np.uint8),
    "two values": (np.arange(60).reshape(3, 4, 5) == 17).astype(np.uint8),
}


@pytest.fixture
def opened(tmp_path):
    stacks = []

    def open_volume(volume):
        tifffile.imwrite(tmp_path / "s.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
        stacks.append(open_stack(tmp_path / "s.tif"))
        return stacks[-1]

    yield open_volume
    for stack in stacks:
        stack.close()


def measure(stack):
    statistics = StatisticsOf(stack)
    for z in range(len(stack)):
        statistics.add(z, stack.read(z))
    return statistics.found()


@pytest.mark.parametrize("name", VOLUMES)
def test_equals_numpy(opened, name):
    volume = VOLUMES[name]
    found = measure(opened(volume))
    wide = volume.astype(np.float64)
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12, abs=1e-9)
    assert found.std == pytest.approx(wide.std(), rel=1e-9)
    assert (found.minimum, found.maximum) == (volume.min(), volume.max())
    normalized = normalize(volume, found.mean, found.std)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, (wide - wide.mean()) / wide.std(), rtol=1e-6, atol=1e-6)


def test_real_em(data):
    volume = tifffile.imread(data / "vnc-crop.tif")
    with open_stack(data / "vnc-crop.tif") as stack:
        found = measure(stack)
    assert found.mean == volume.mean(dtype=np.float64)
    assert found.std == pytest.approx(volume.std(dtype=np.float64), rel=1e-14)


def test_the_reference_is_normalized_as_published(data, published_input):
    with open_stack(data / "genenet/input.tif") as stack:
        found = measure(stack)
        slices = np.stack([normalize(stack.read(z), found.mean, found.std) for z in range(stack.info.shape[0])])
    np.testing.assert_array_equal(slices, published_input)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_none(opened, value):
    volume = VOLUMES["float32"].copy()
    volume[2, 3, 4] = value
    with pytest.raises(StackError, match="slice 2 has 1 values that are NaN or infinite, the first at y=3, x=4"):
        measure(opened(volume))


@pytest.mark.parametrize("volume", [np.full((3, 4, 5), 9, np.uint8), np.full((3, 4, 5), 0.1, np.float32)])
def test_no_contrast(opened, volume):
    with pytest.raises(StackError, match="every voxel is"):
        measure(opened(volume))


@pytest.mark.parametrize("name", VOLUMES)
def test_moments_of_parts_are_those_of_the_whole(name):
    volume = VOLUMES[name]
    whole, added = Moments.of(volume), sum((Moments.of(plane) for plane in volume), Moments())
    assert added.count == whole.count == volume.size
    assert added.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-9)
    assert added.std == pytest.approx(whole.std, rel=1e-12)
    if whole.sums is not None:
        assert added == whole
    assert (-whole).mean == -whole.mean
    assert (-whole).std == whole.std
    assert Moments.of(volume[:0]) == Moments()


def test_what_is_outside_does_not_count(opened):
    volume = VOLUMES["uint8"]
    outside = np.zeros(volume.shape[1:], bool)
    outside[:2] = True
    statistics = StatisticsOf(opened(volume))
    found = [statistics.add(z, plane, outside) for z, plane in enumerate(volume)]
    assert sum(found, Moments()) == Moments.of(volume[:, 2:])
    assert statistics.found().mean == Moments.of(volume[:, 2:]).mean
