"""The labelled stacks that come with the package: whole, calibrated, with the names of their classes."""

import numpy as np
import pytest

from densecell_batch import FLY_LABELLED, PLATELET_SLICES, TrainingOptions, VoxelSize, open_stack
from densecell_batch.models.classes import PLATELET_CLASSES
from densecell_batch.training.naming import classes_of

FLY_CLASSES = ("glia and extracellular", "intracellular", "mitochondrion", "synapse", "membrane")


@pytest.mark.parametrize(
    ("sample", "shapes", "size", "names"),
    [
        (FLY_LABELLED, [(10, 256, 256), (5, 256, 256)], VoxelSize.of(47, 9.2, 9.2, unit="nm"), FLY_CLASSES),
        (PLATELET_SLICES, [(1, 800, 800)] * 2, VoxelSize.of(40, 10, 10, unit="nm"), PLATELET_CLASSES),
    ],
    ids=["fly", "platelets"],
)
def test_each_stack_goes_with_its_labels(sample, shapes, size, names):
    pairs = ((sample.images, sample.labels), (sample.eval_images, sample.eval_labels))
    for (images, labels), shape in zip(pairs, shapes, strict=True):
        with open_stack(images) as stack, open_stack(labels, stored=True) as truth:
            assert stack.shape == truth.shape == shape
            for opened in (stack, truth):
                assert str(opened.info.voxel_size) == str(size)
                assert opened.notes == ()
            assert np.unique(np.asarray(truth)).tolist() == list(range(len(names)))  # some voxels of each class
            assert np.asarray(stack).std() > 30
        assert tuple(c.name for c in classes_of(None, [labels], TrainingOptions(steps=20))) == tuple(names)


@pytest.mark.parametrize("sample", [FLY_LABELLED, PLATELET_SLICES], ids=["fly", "platelets"])
def test_their_terms_lie_beside_them(sample):
    (folder,) = {path.parent for path in sample}
    text = (folder / "TERMS.md").read_text(encoding="utf-8")
    assert all(path.name in text for path in sample)
    assert "doi" in text
