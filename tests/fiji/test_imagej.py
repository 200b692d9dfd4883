"""What real ImageJ sees of our outputs: slices, voxel size, unit, colours, values."""

import numpy as np
import pytest
import tifffile
from imagej_app import MISSING, look, run_macro

from densecell_batch.calibration import VoxelSize
from densecell_batch.data import SAMPLE
from densecell_batch.io.writing import StackWriter, instance_colours, instance_range
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import segment_stack

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

KINDS = ["labels", "probabilities", "uncertainty", "mitochondrion_instances"]


@pytest.fixture(scope="module")
def bundle(data):
    return load_bundle(data / "fly-vnc-small.zip")


@pytest.fixture(scope="module")
def outputs(bundle, tmp_path_factory):
    """Kind of output -> its path, what ImageJ sees of it."""
    folder = tmp_path_factory.mktemp("out, with a comma")
    options = RunOptions(probabilities=True, uncertainty=True, instances=("mitochondrion",), precision="float32")
    segment_stack(SAMPLE, folder, RunSegmenter(bundle, options))
    paths = [folder / f"fly-vnc-sample_{kind}.tif" for kind in KINDS]
    return {kind: (path, seen) for kind, path, seen in zip(KINDS, paths, look(paths, folder / "ij"), strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_and_slices(outputs, kind):
    _, seen = outputs[kind]
    assert seen["shape"] == [10, 5 if kind == "probabilities" else 1, 1, 256, 256]
    np.testing.assert_allclose(seen["voxel"], [0.047, 0.0092, 0.0092], rtol=1e-6)
    assert seen["unit"] in ("um", "µm", "micron")


@pytest.mark.parametrize("kind", KINDS)
def test_values(outputs, kind):
    path, seen = outputs[kind]
    volume = tifffile.imread(path).astype(np.float64)
    planes = volume.reshape(-1, 256, 256)
    assert len(seen["slices"]) >= 3
    for number, mean, low, high, last in seen["slices"]:
        plane = planes[number - 1]
        found = [plane.mean(), plane.min(), plane.max(), plane[-1, -1]]
        np.testing.assert_allclose([mean, low, high, last], found, rtol=1e-5, atol=1e-6)


def test_labels_have_the_colours_and_names_of_the_classes(outputs, bundle):
    path, seen = outputs["labels"]
    assert seen["bits"] == 8
    assert len(np.unique(tifffile.imread(path))) > 2
    lut = np.reshape(seen["lut"], (256, 3))
    np.testing.assert_array_equal(lut[:5], [c.colour for c in bundle.classes])
    assert seen["range"] == [0, 255]  # so that the colour table is taken as it is
    for i, c in enumerate(bundle.classes):
        assert f"{i}" in seen["info"]
        assert c.name in seen["info"]


def test_instances_have_colours_that_tell_them_apart(outputs):
    path, seen = outputs["mitochondrion_instances"]
    assert seen["bits"] == 16
    assert tifffile.imread(path).max() > 1
    lut = np.reshape(seen["lut"], (256, 3))
    np.testing.assert_array_equal(lut[0], 0)
    np.testing.assert_array_equal(lut, instance_colours()[:256])
    assert len(np.unique(lut, axis=0)) > 200


# What is seen of each image of a list, as RGB.
_SHOWN = r"""
list = split(File.openAsString(getArgument()), "\n");
setBatchMode(true);
for (i = 0; i < list.length; i++) { open(list[i]); run("RGB Color"); saveAs("Tiff", list[i] + ".rgb.tif"); close(); }
"""


def test_no_object_is_black_unless_there_are_very_many(tmp_path):
    """Of more than 511 objects, older versions of ImageJ show one in 512 in black, the first ones; none else."""
    numbers = (100, 255, 511, 1000, 60_000)
    for n in numbers:
        plane = np.zeros((250, 250), np.uint16)
        plane.ravel()[: n + 1] = np.arange(n + 1)
        with StackWriter(
            tmp_path / f"{n}.tif", (2, 250, 250), "uint16", colours=instance_colours(), display_range=instance_range(n)
        ) as writer:
            writer.write(0, plane)
            writer.write(1, plane.T.copy())
            writer.commit()
    (tmp_path / "list.txt").write_text("\n".join(str(tmp_path / f"{n}.tif") for n in numbers))
    (tmp_path / "shown.ijm").write_text(_SHOWN)
    run_macro(tmp_path / "shown.ijm", str(tmp_path / "list.txt"))
    for n in numbers:
        first, second = tifffile.imread(tmp_path / f"{n}.tif.rgb.tif")
        np.testing.assert_array_equal(second, first.transpose(1, 0, 2))
        shown = first.reshape(-1, 3)[: n + 1]
        assert (shown[0] == 0).all()
        black = np.flatnonzero((shown == 0).all(-1))[1:]
        assert black.tolist() in ([], list(range(1, len(black) + 1)))
        assert len(black) in (0, 0 if n < 512 else n // 512)
        if n <= 255:
            np.testing.assert_array_equal(shown, instance_colours(n + 1))
        else:
            assert len(np.unique(shown, axis=0)) == 256


def test_probabilities_carry_the_class_names_and_their_range(outputs, bundle):
    _, seen = outputs["probabilities"]
    assert seen["bits"] == 32
    assert seen["range"] == [0, 1]
    assert bundle.classes[0].name in seen["label"]


@pytest.mark.slow
def test_labels_above_4_gb_open(tmp_path):
    """Imagej's own trick: one page, contiguous planes, however many."""
    shape = (550, 3000, 2700)
    path, rng = tmp_path / "large_labels.tif", np.random.default_rng(0)
    plane = rng.integers(0, 5, shape[1:], np.uint8)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    writer = StackWriter(
        path, shape, "uint8", voxel_size=VoxelSize(0.04, 0.01, 0.01), class_names=list("abcde"), colours=colours
    )
    with writer:
        for z in range(shape[0]):
            writer.write(z, np.roll(plane, z, axis=1))
        writer.commit()
    assert path.stat().st_size > 2**32
    (seen,) = look([path], tmp_path / "ij", memory="6g", timeout=300)
    assert seen["shape"] == [550, 1, 1, 3000, 2700]
    np.testing.assert_allclose(seen["voxel"], [0.04, 0.01, 0.01])
    np.testing.assert_array_equal(np.reshape(seen["lut"], (256, 3))[:5], colours)
    number, mean, _, _, last = seen["slices"][-1]
    assert number > 540
    assert mean == pytest.approx(plane.mean())
    assert last == np.roll(plane, number - 1, axis=1)[-1, -1]
