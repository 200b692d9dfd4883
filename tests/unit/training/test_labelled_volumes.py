"""Files of labelled volumes for training: weights of voxels, bad files, and those that do not fit in memory."""

import numpy as np
import pytest
import tifffile
from phantoms import LEARNS, NET, phantom, save_phantoms

from densecell_batch.errors import StackError
from densecell_batch.training.fit import fit_member
from densecell_batch.training.volumes import LabelledVolume, load_labelled


@pytest.fixture
def files(tmp_path):
    return save_phantoms(tmp_path)


def test_weights_of_zero_hide_wrong_labels(files, tmp_path):
    """Labels that are wrong where the weights are 0 do no harm."""
    truth = phantom()
    wrong, weights = truth.labels.copy(), np.ones(truth.labels.shape, np.float32)
    most = slice(None), slice(54)  # of 72 rows
    wrong[most], weights[most] = (wrong[most] + 1) % 3, 0
    ious = {}
    for name, w in (("hidden", weights), ("shown", None)):
        volume = LabelledVolume(truth.image, wrong, None, ("", ""), w)
        ious[name] = fit_member(NET, [volume], [phantom(seed=1)], LEARNS, tmp_path / name, 3).scores.mean_iou
    assert ious["hidden"] > ious["shown"] + 0.1


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("weights", lambda a: a[:2], "the weights are 2 x 72 x 80"),
        ("weights", lambda a: a - 2.0, "the weights run from -2 to -1"),
        ("weights", lambda a: a * 0, "some above 0"),
        ("labels", lambda a: a[:, :40], "the labels are 6 x 40 x 80"),
        ("labels", lambda a: a.astype(np.float32), "the labels are float32"),
        ("labels", lambda a: a.astype(np.int16) - 1, "has the label -1"),
        ("labels", lambda a: a + 9, "has the label 11"),
        ("labels", lambda a: np.where(a == 0, 255, a), "has the label 255"),
        ("images", lambda a: a * 0, "every voxel is 0"),
        ("images", lambda a: np.where(a > 150, np.nan, a).astype(np.float32), "NaN"),
    ],
)
def test_bad_volumes(files, kind, make, message):
    path = files[f"train-{kind}"] = files.get(f"train-{kind}", files["train-labels"].with_name("weights.tif"))
    if kind == "weights":
        tifffile.imwrite(path, phantom().labels.astype(np.float32) % 2)
    tifffile.imwrite(path, make(tifffile.imread(path)), photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(StackError, match=message):
        load_labelled(files["train-images"], files["train-labels"], 3, (5, 32, 32), files.get("train-weights"))


@pytest.mark.parametrize("free", [0, 1000, 100_000])
def test_volumes_that_do_not_fit_in_memory_are_not_read(files, free, monkeypatch):
    monkeypatch.setattr("densecell_batch.system.available_memory", lambda: free)
    with pytest.raises(StackError, match=r"train-images\S*: as it describes itself it takes .* GiB of memory"):
        load_labelled(files["train-images"], files["train-labels"], 3)
