"""Objects that touch are told apart: against known objects, whatever part of them is in memory."""

import io
import tempfile
import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError
from densecell_batch.measure import distance
from densecell_batch.measure.distance import distances
from densecell_batch.measure.split import default_tolerance, split_instances
from tests.support.solids import panoptic_quality, touching_ellipsoids, touching_tubes

CUBES = (96, 160, 160), VoxelSize(0.01, 0.01, 0.01), 0.13
SLABS = (40, 220, 220), VoxelSize(0.05, 0.01, 0.01), 0.25


def split(mask, voxel_size, **options):
    found = split_instances(mask.__getitem__, len(mask), voxel_size, io.BytesIO(), **options)
    return np.stack(list(found.slices())), found


@pytest.mark.parametrize(("shape", "voxel_size", "size"), [CUBES, SLABS])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["ellipsoids", "shells", "tubes"])
def test_known_objects_that_touch(kind, seed, shape, voxel_size, size):
    if kind == "tubes":
        true = touching_tubes(shape, voxel_size, size * 0.4, 8, seed)
    else:
        true = touching_ellipsoids(shape, voxel_size, size, 10, seed, hollow=0.4 if kind == "shells" else 0.0)
    assert true.max() >= 6
    assert panoptic_quality(true, label(true > 0, connectivity=1)) < 0.5
    found, objects = split(true > 0, voxel_size)
    assert panoptic_quality(true, found) >= 0.9
    np.testing.assert_array_equal(found > 0, true > 0)
    np.testing.assert_array_equal(objects.voxels, np.bincount(found.ravel())[1:])


def test_a_neck_parts_if_it_is_narrower_by_the_tolerance():
    mask = np.zeros((41, 41, 120), bool)
    z, y, x = np.indices(mask.shape)
    for centre in (20, 99):
        mask |= (z - 20) ** 2 + (y - 20) ** 2 + (x - centre) ** 2 <= 15**2
    mask |= ((z - 20) ** 2 + (y - 20) ** 2 <= 8**2) & (x > 20) & (x < 99)
    voxel_size = VoxelSize(0.01, 0.01, 0.01)
    assert len(split(mask, voxel_size, tolerance=0.05)[1]) == 2
    assert len(split(mask, voxel_size, tolerance=0.09)[1]) == 1


def test_what_is_one_thing_stays_one():
    tube = touching_tubes((30, 120, 120), VoxelSize(0.05, 0.01, 0.01), 0.12, 2, 5) == 1
    assert len(split(tube, VoxelSize(0.05, 0.01, 0.01))[1]) == 1
    assert len(split(np.ones((4, 30, 30), bool), VoxelSize(0.05, 0.01, 0.01))[1]) == 1
    assert len(split(np.zeros((4, 30, 30), bool), VoxelSize(0.05, 0.01, 0.01))[1]) == 0


def test_numbers_are_in_the_order_of_the_first_voxel_and_small_objects_are_dropped():
    true = touching_ellipsoids(*SLABS, 8, 1)
    found, objects = split(true > 0, SLABS[1])
    first = [int(np.argmax(found.ravel() == i)) for i in range(1, len(objects) + 1)]
    assert first == sorted(first)
    least = int(np.median(objects.voxels))
    kept, few = split(true > 0, SLABS[1], min_voxels=least)
    assert few.dropped == (objects.voxels < least).sum()
    np.testing.assert_array_equal(kept > 0, np.isin(found, 1 + np.flatnonzero(objects.voxels >= least)))


def test_objects_never_reach_across_components():
    shell = touching_ellipsoids(*CUBES, 8, 2, hollow=0.6) > 0
    core = touching_ellipsoids(*CUBES, 8, 2) > 0
    mask = shell.copy()
    inner = distance_transform_edt(core & ~shell) > 3  # something else within the cavities
    mask |= inner
    found, _ = split(mask, CUBES[1])
    components = label(mask, connectivity=1)
    for number in range(1, found.max() + 1):
        assert len(np.unique(components[found == number])) == 1


@pytest.mark.parametrize("voxel_size", [VoxelSize(0.05, 0.01, 0.01), VoxelSize(0.01, 0.02, 0.01)])
@pytest.mark.parametrize("limit", [0.03, 5.0])
@pytest.mark.parametrize("in_memory", [2**29, 0])
def test_distances_are_those_of_the_whole_volume(monkeypatch, tmp_path, voxel_size, limit, in_memory):
    monkeypatch.setattr(distance, "_IN_MEMORY", in_memory)
    mask = np.random.default_rng(0).random((9, 31, 47)) < 0.9
    mask[4, 5:25, 5:40] = True
    found = np.zeros(mask.shape)
    for z, (where, here) in enumerate(distances(mask.__getitem__, 9, voxel_size, limit, tmp_path)):
        found[z].ravel()[where] = here
    expected = np.minimum(distance_transform_edt(mask, sampling=voxel_size.edges), limit)
    np.testing.assert_allclose(found, expected, atol=limit * 2e-5)
    assert not list(tmp_path.iterdir())


def test_a_deep_stack_keeps_few_slices():
    read, asked = [], set()

    def slice_of(z):
        asked.add(z)
        return np.pad(np.ones((20, 20), bool), 3)

    for z, _ in enumerate(distances(slice_of, 200, VoxelSize(0.05, 0.01, 0.01), 0.2)):
        read.append(max(asked) - z)
    assert max(read) == 3


def test_memory_is_that_of_a_few_slices():
    """Four times the slices with four times the objects, which all touch."""

    def peak(depth):
        place = 2 * ((np.arange(120) + 0.5) / 40 % 1) - 1
        across = place[:, None] ** 2 + place**2
        tracemalloc.start()
        with tempfile.TemporaryFile() as scratch:
            found = split_instances(
                lambda z: (2 * ((z + 0.5) / 5 % 1) - 1) ** 2 + across < 1.04**2, depth, SLABS[1], scratch
            )
            highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found) == depth // 5 * 9
        return highest

    peak(5)  # what is imported and kept once
    assert peak(80) < 1.1 * peak(20)


def test_the_default_tolerance_is_that_of_the_voxels():
    assert default_tolerance(VoxelSize(0.05, 0.01, 0.01)) == 0.025
    assert default_tolerance(VoxelSize(0.01, 0.01, 0.02)) == pytest.approx(0.03)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_is_above_zero(tolerance):
    with pytest.raises(OptionError, match="expected micrometres above 0"):
        split(np.ones((1, 2, 2), bool), VoxelSize(1, 1, 1), tolerance=tolerance)
