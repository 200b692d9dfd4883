"""Instances slice by slice against scikit-image on the whole volume."""

import numpy as np
import pytest
from skimage.measure import label

from densecell_batch.errors import OptionError
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.instances import find_instances, of_class


def volume_of(instances):
    return np.stack(list(instances.slices()))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("seed", range(6))
def test_equal_to_the_whole_volume(connectivity, seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, 3)
    labels = rng.choice(3, shape, p=[0.4, 0.25, 0.35]).astype(np.uint8)
    found = find_instances(of_class(labels.__getitem__, 2), len(labels), connectivity=connectivity)
    expected = label(labels == 2, connectivity={6: 1, 18: 2, 26: 3}[connectivity])
    np.testing.assert_array_equal(volume_of(found), expected)
    np.testing.assert_array_equal(found.voxels, np.bincount(expected.ravel())[1:])


def test_branches_that_meet_in_a_later_slice_are_one_object():
    labels = np.zeros((3, 1, 5), np.uint8)
    labels[:2, 0, [0, 4]] = 1
    labels[2] = 1
    assert len(find_instances(of_class(labels.__getitem__, 1), 3)) == 1
    assert len(find_instances(of_class(labels.__getitem__, 1), 2)) == 2


def test_a_diagonal_is_connected_as_asked():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    assert [len(find_instances(of_class(labels.__getitem__, 1), 2, connectivity=c)) for c in (6, 18, 26)] == [2, 2, 1]
    labels[1, 1, 1], labels[1, 0, 1] = 0, 1
    assert [len(find_instances(of_class(labels.__getitem__, 1), 2, connectivity=c)) for c in (6, 18, 26)] == [2, 1, 1]


def test_small_objects_are_dropped_and_the_others_numbered_without_gaps():
    labels = np.zeros((2, 3, 9), np.uint8)
    labels[0, 0, 0] = 1
    labels[:, 1, 2:6] = 1
    labels[1, :, 8] = 1
    found = find_instances(of_class(labels.__getitem__, 1), 2, min_voxels=3)
    assert found.voxels.tolist() == [8, 3]
    assert found.dropped == 1
    assert np.unique(volume_of(found)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("class_index", [0, 1])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_what_is_outside_is_of_no_object_and_joins_none(class_index, connectivity):
    labels = np.full((2, 3, 7), OUTSIDE, np.uint8)
    labels[:, :, :2] = labels[:, :, 5:] = class_index
    found = find_instances(of_class(labels.__getitem__, class_index), 2, connectivity=connectivity)
    assert found.voxels.tolist() == [12, 12]
    np.testing.assert_array_equal(volume_of(found) > 0, labels == class_index)
    assert len(find_instances(of_class(np.full((2, 3, 7), OUTSIDE, np.uint8).__getitem__, class_index), 2)) == 0


def test_none():
    found = find_instances(of_class(np.zeros((3, 4, 4), np.uint8).__getitem__, 1), 3)
    assert len(found) == 0
    assert not volume_of(found).any()
    assert found.dtype == "uint16"


def test_many_instances_need_more_bits():
    labels = np.zeros((2, 400, 400), np.uint8)
    labels[:, ::2, ::2] = 1
    labels[1] = np.roll(labels[1], 1, axis=0)
    found = find_instances(of_class(labels.__getitem__, 1), 2)
    assert len(found) == 80_000
    assert found.dtype == "uint32"
    assert volume_of(found).max() == 80_000


def test_unknown_connectivity():
    with pytest.raises(OptionError, match="expected one of 6, 18, 26"):
        find_instances(of_class(np.zeros((1, 2, 2)).__getitem__, 1), 1, connectivity=8)
