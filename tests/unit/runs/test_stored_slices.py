"""Slices of a piece: as they were written, or refused."""

import numpy as np
import pytest

from densecell_batch.errors import OutputError
from densecell_batch.inference.stitch import FinishedSlice
from densecell_batch.labels import OUTSIDE
from densecell_batch.runs.pieces import PieceWriter, joined, opened_piece, stored_slice

SHAPE = (4, 5)


def labels_of(part):
    labels = np.arange(20, dtype=np.uint8).reshape(SHAPE) % 3
    labels[:part] = OUTSIDE
    return labels


def write(path, labels, n_classes=3):
    confidence = np.where(labels == OUTSIDE, 0, 0.5).astype(np.float32)
    with PieceWriter([(path, range(7, 8))], n_classes) as writer:
        writer(FinishedSlice(7, labels, confidence, None, confidence))


@pytest.mark.parametrize("part", range(5), ids=lambda part: f"{part} rows outside")
def test_slices_with_voxels_outside_come_back(tmp_path, part):
    labels = labels_of(part)
    write(tmp_path / "p.npz", labels)
    with opened_piece(tmp_path / "p.npz") as arrays:
        found = stored_slice(arrays, 7, SHAPE)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.sums[0].sum() == 20 - 5 * part
    assert found.sums[1].sum() == (20 - 5 * part) / 2
    whole = joined([found, found])
    assert whole.labels.size - whole.sums[0].sum() == 10 * part


def outside_where_tissue_was(labels, sums):
    labels[3, 0] = OUTSIDE


def tissue_where_outside_was(labels, sums):
    labels[0, 0] = 0


def no_class(labels, sums):
    labels[3, 0] = 3


def one_more_in_the_sums(labels, sums):
    sums[0, 0] += 1


@pytest.mark.parametrize("change", [outside_where_tissue_was, tissue_where_outside_was, no_class, one_more_in_the_sums])
def test_slices_that_were_changed_are_refused(tmp_path, change):
    path = tmp_path / "p.npz"
    write(path, labels_of(2))
    with np.load(path) as arrays:
        values = dict(arrays)
    change(values["labels-7"], values["sums-7"])
    with path.open("wb") as stream:
        np.savez(stream, **values)
    with pytest.raises(OutputError, match="slice 7 is not as it was written"), opened_piece(path) as arrays:
        stored_slice(arrays, 7, SHAPE)
    assert not path.exists()


@pytest.mark.parametrize("n_classes", [1, 255])
def test_the_fewest_and_the_most_classes(tmp_path, n_classes):
    labels = np.full(SHAPE, n_classes - 1, np.uint8)
    labels[0] = OUTSIDE
    write(tmp_path / "p.npz", labels, n_classes)
    with opened_piece(tmp_path / "p.npz") as arrays:
        assert stored_slice(arrays, 7, SHAPE).sums[0, -1] == 15
