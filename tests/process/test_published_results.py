"""The published code's results through the whole command: import its models, segment its input, compare every voxel.

The kernels of oneDNN, which TensorFlow uses by default, sum in another order than those the published code ran on.
Where two probabilities differ by the last bit of float32, either class may then win: 1 of 128,700 voxels of model S.
With the kernels that the published code ran on (`TF_ENABLE_ONEDNN_OPTS=0`) the class maps are identical.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from densecell_batch.models.published import import_published

CASES = [
    ("A", ["2d3d-small_A"], "input.tif", "expected-probabilities.npz"),
    ("B", ["2d3d-small_B"], "input.tif", "expected-probabilities.npz"),
    ("S", ["2d3d-small_S"], "input.tif", "expected-probabilities.npz"),
    ("ensemble_AB", ["2d3d-small_A", "2d3d-small_B"], "input.tif", "expected-probabilities.npz"),
    ("unet", ["unet-small_0"], "unet-input.tif", "unet-expected-probabilities.npz"),
]


@pytest.mark.parametrize(("name", "members", "image", "expected"), CASES, ids=[case[0] for case in CASES])
def test_every_voxel(name, members, image, expected, data, tmp_path):
    bundle = import_published([data / "published" / member for member in members], tmp_path / "bundle", "reference")
    done = subprocess.run(
        [sys.executable, "-m", "densecell_batch", "segment", data / "genenet" / image, "-o", tmp_path,
         "--model", bundle.path, "--as-published", "--device", "cpu", "--probabilities"],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stem = image.removesuffix(".tif")
    probabilities = np.moveaxis(tifffile.imread(tmp_path / f"{stem}_probabilities.tif"), 1, -1)
    wanted = np.load(data / "genenet" / expected)[name]
    difference = np.abs(probabilities - wanted).max()
    labels = tifffile.imread(tmp_path / f"{stem}_labels.tif")
    print(f"{name}: largest difference of a probability {difference:.2g}")
    assert difference < 2e-5
    # Processors sum in different orders: where the two best probabilities differ by the last bit, either will do.
    best = np.sort(wanted, axis=-1)
    clear = best[..., -1] - best[..., -2] > 4e-5
    assert clear.mean() > 0.99
    if name != "unet":  # for which no class map was recorded
        np.testing.assert_array_equal(labels[clear], np.load(data / "genenet/expected-classes.npz")[name][clear])
    np.testing.assert_array_equal(labels[clear], wanted.argmax(-1)[clear])
