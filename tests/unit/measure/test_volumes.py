"""Objects of arrays, as notebooks ask for them."""

import numpy as np
import pytest

import densecell_batch as dc
from tests.support.solids import touching_ellipsoids

SIZE = dc.VoxelSize(0.05, 0.01, 0.01)


def test_from_labels_to_a_table():
    true = touching_ellipsoids((20, 120, 120), SIZE, 0.2, 4, 1)
    labels = (true > 0).astype(np.uint8)
    numbers = dc.find_instances(labels, 1, split=True, voxel_size=SIZE)
    assert numbers.max() == true.max()
    assert dc.find_instances(labels, 1).max() == true.max() // 2
    grey = np.random.default_rng(0).integers(0, 255, labels.shape, dtype=np.uint8)
    table = dc.measure_objects(numbers, labels, ["rest", "thing"], voxel_size=SIZE, grey=grey)
    assert table["voxels"].tolist() == np.bincount(numbers.ravel())[1:].tolist()
    assert table["mean_grey"][0] == pytest.approx(grey[numbers == 1].mean())
    assert (table["contact_thing_um2"] > 0).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"split": True}, "split needs a voxel_size"),
    ({"split": True, "voxel_size": SIZE, "connectivity": 26}, "and connectivity 6"),
    ({"split_tolerance": 0.1}, "give split=True as well"),
])  # fmt: skip
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(dc.OptionError, match=message):
        dc.find_instances(np.ones((2, 3, 3), np.uint8), 1, **options)


@pytest.mark.parametrize(("numbers", "labels", "values", "message"), [
    (np.ones((1, 2, 2)), np.ones((1, 2, 2), np.uint8), {}, "expected whole numbers"),
    (np.ones((1, 2, 2), int), np.ones((1, 2, 3), np.uint8), {}, "labels is"),
    (np.ones((1, 2, 2), int), np.ones((1, 2, 2), np.uint8), {"grey": np.ones((2, 2))}, "grey is"),
    (-np.ones((1, 2, 2), int), np.ones((1, 2, 2), np.uint8), {}, "negative"),
    (np.ones((1, 2, 2), int), np.full((1, 2, 2), 2, np.uint8), {}, "no class; expected 0 to 1"),
])  # fmt: skip
def test_what_cannot_be_measured(numbers, labels, values, message):
    with pytest.raises(dc.OptionError, match=message):
        dc.measure_objects(numbers, labels, ["a", "b"], **values)
