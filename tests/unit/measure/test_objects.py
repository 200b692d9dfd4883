"""The table of objects against numpy and scikit-image on the whole volume."""

import tracemalloc

import numpy as np
import pytest
from skimage.measure import label, regionprops

from densecell_batch.calibration import VoxelSize
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.objects import ObjectSums, plain, rows_of
from densecell_batch.measure.surface import direction_areas

CLASSES = ["rest", "thing", "other"]


def table_of(numbers, labels, voxel_size=None, **values):
    sums = ObjectSums(int(numbers.max()), CLASSES, voxel_size)
    for z in range(len(numbers)):
        sums.add(numbers[z], labels[z], **{name: volume[z] for name, volume in values.items()})
    return sums.columns()


@pytest.fixture
def scene():
    rng = np.random.default_rng(4)
    labels = rng.choice([0, 1, 2, OUTSIDE], (6, 20, 24), p=[0.5, 0.35, 0.1, 0.05]).astype(np.uint8)
    labels[:, 5:12, 5:15] = 1
    return label(labels == 1, connectivity=1), labels, rng.random((6, 20, 24)).astype(np.float32)


def test_equal_to_scikit_image(scene):
    numbers, labels, grey = scene
    size = VoxelSize(0.05, 0.01, 0.02)
    table = table_of(numbers, labels, size, grey=grey)
    for i, region in enumerate(regionprops(numbers, spacing=size.edges)):
        assert table["voxels"][i] == region.num_pixels
        assert table["volume_um3"][i] == pytest.approx(region.area)
        centroid = [table[f"centroid_{axis}_um"][i] for axis in "zyx"]
        np.testing.assert_allclose(centroid, region.centroid)
        assert table["mean_grey"][i] == pytest.approx(grey[numbers == i + 1].mean(), rel=1e-5)
        box = [table[f"{axis}_{end}"][i] for end in ("start", "stop") for axis in "zyx"]
        assert box == list(region.bbox)
        if region.num_pixels > 5:
            assert table["longest_axis_um"][i] == pytest.approx(region.axis_major_length, rel=1e-6, abs=1e-9)
        places = region.coords
        at_border = ((places == 0) | (places == np.array(numbers.shape) - 1)).any()
        assert table["touches_border"][i] == at_border


def test_contacts_are_those_of_all_pairs_of_neighbours(scene):
    numbers, labels, _ = scene
    size = VoxelSize(0.05, 0.01, 0.02)
    table = table_of(numbers, labels, size)
    expected = np.zeros((numbers.max() + 1, 256))
    for (dz, dy, dx), area in direction_areas(size).items():
        for z, y, x in np.ndindex(numbers.shape):
            other = z + dz, y + dy, x + dx
            if all(0 <= i < n for i, n in zip(other, numbers.shape, strict=True)):
                a, b = numbers[z, y, x], numbers[other]
                if a != b:
                    expected[a, labels[other]] += area
                    expected[b, labels[z, y, x]] += area
    for i, name in enumerate(CLASSES):
        np.testing.assert_allclose(table[f"contact_{name}_um2"], expected[1:, i], atol=1e-12)
    np.testing.assert_allclose(table["contact_outside_um2"], expected[1:, OUTSIDE], atol=1e-12)
    np.testing.assert_array_equal(table["touches_outside"], expected[1:, OUTSIDE] > 0)
    np.testing.assert_allclose(table["surface_um2"], expected[1:].sum(axis=1))


@pytest.mark.parametrize(
    "size", [VoxelSize(0.01, 0.01, 0.01), VoxelSize(0.05, 0.01, 0.01), VoxelSize(0.02, 0.01, 0.005)]
)
def test_the_surface_of_a_ball_is_that_of_a_ball(size):
    radius = 0.2
    shape = np.ceil(2 * radius / np.array(size.edges)).astype(int) + 5
    places = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * e for n, e in zip(shape, size.edges, strict=True)], indexing="ij"), -1
    )
    ball = (((places - shape * size.edges / 2) ** 2).sum(axis=-1) <= radius**2).astype(np.uint8)
    table = table_of(ball, ball, size)
    assert table["surface_um2"][0] == pytest.approx(4 * np.pi * radius**2, rel=0.02)
    assert table["volume_um3"][0] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.015)
    assert table["sphericity"][0] == pytest.approx(1, abs=0.02)
    assert table["longest_axis_um"][0] == pytest.approx(2 * radius, rel=0.01)


def test_without_calibration_what_needs_it_is_left_out(scene):
    numbers, labels, _ = scene
    table = table_of(numbers, labels)
    assert all(np.isnan(column).all() for name, column in table.items() if name.endswith(("_um", "_um2", "_um3")))
    np.testing.assert_array_equal(
        table["touches_outside"], table_of(numbers, labels, VoxelSize(1, 1, 1))["touches_outside"]
    )


def test_one_object_that_fills_the_stack_has_no_surface():
    full = np.ones((3, 4, 5), np.uint8)
    table = table_of(full, full, VoxelSize(1, 1, 1))
    assert table["voxels"].tolist() == [60]
    assert table["surface_um2"].tolist() == [0]
    assert np.isnan(table["sphericity"]).all()
    assert table["touches_border"].tolist() == [1]


def test_a_class_called_outside_keeps_its_contacts():
    labels = np.array([[[0, 1, 2, OUTSIDE]]], np.uint8)
    sums = ObjectSums(1, ["rest", "thing", "outside"], VoxelSize(1, 1, 1))
    sums.add(np.array([[0, 1, 0, 0]]), labels[0])
    table = sums.columns()
    contacts = [column for name, column in table.items() if name.startswith("contact_")]
    assert len(contacts) == 4
    assert sum(contacts) == pytest.approx(table["surface_um2"])
    assert table["contact_outside (class)_um2"] == table["contact_rest_um2"] > 0 == table["contact_outside_um2"]


def test_rows_are_made_one_by_one():
    columns = {f"column {i}": np.random.default_rng(i).random(20_000) for i in range(5)}
    tracemalloc.start()
    n = sum(1 for _ in rows_of(columns, stack="a"))
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 20_000
    assert highest < 2**19  # Python's own numbers of all would be 3 MiB


def test_no_objects_are_an_empty_table():
    empty = np.zeros((2, 3, 3), np.uint8)
    assert list(rows_of(table_of(empty, empty, VoxelSize(1, 1, 1)))) == []


def test_a_name_stays_in_its_cell():
    assert next(iter(rows_of({"n": np.array([2])}, stack="\t=a\nb"))) == ["\\t=a\\nb", "2"]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a"])
def test_a_spreadsheet_takes_no_name_for_a_formula(text):
    assert plain(text) == f"'{text}"
    assert plain("\ta") == "'\ta"
    assert next(iter(rows_of({"n": np.array([1.5])}, stack=text))) == [f"'{text}", "1.5"]
    assert plain("a=b") == "a=b"
