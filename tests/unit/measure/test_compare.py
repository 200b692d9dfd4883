"""`densecell-batch evaluate` as users start it."""

import json

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from densecell_batch import system
from densecell_batch.cli.evaluate import evaluate
from densecell_batch.errors import DensecellError, OptionError, StackError
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.compare import agreement, compare, n_classes_of, read_classes, read_mask
from densecell_batch.plots.confusion import render_confusion

TRUTH = np.array([[[0, 0, 1], [1, 2, 2]]], np.uint8)
FOUND = np.array([[[0, 1, 1], [1, 2, 0]]], np.uint8)


def run(*arguments):
    result = CliRunner().invoke(evaluate, [str(argument) for argument in arguments])
    if isinstance(result.exception, DensecellError):
        raise result.exception
    return result


@pytest.fixture
def files(tmp_path):
    for name, volume in (("truth", TRUTH), ("found", FOUND)):
        tifffile.imwrite(tmp_path / f"{name}.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
    return tmp_path


def scores(files, *arguments):
    result = run("--labels", files / "truth.tif", *arguments, "--json", files / "scores.json")
    assert result.exit_code == 0, result.output
    return result.stdout, json.loads((files / "scores.json").read_text())


def test_table_json_and_picture(files):
    table, found = scores(files, files / "found.tif", files / "truth.tif", "--confusion", files / "c.png")
    assert found["found"]["iou"] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert found["truth"]["mean_iou"] == 1
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["found", "truth"]
    assert ["mean", "iou", "0.5000", "1.0000"] in lines
    assert ["IoU", "class", "2", "0.5000", "1.0000"] in lines
    with Image.open(files / "c.png") as picture:  # of the first one
        drawn = render_confusion(np.array(found["found"]["confusion"]), [f"class {i}" for i in range(3)])
        np.testing.assert_array_equal(np.asarray(picture), drawn)


def test_label_files_name_the_classes(files):
    """The truth is asked first; a class without a name has its number."""
    for name, volume, info in (
        ("truth", TRUTH, "class 0 = resin\nclass 1 = cell"),
        ("found", FOUND, "class 0 = other"),
    ):
        tifffile.imwrite(files / f"{name}.tif", volume, imagej=True, metadata={"axes": "ZYX", "Info": info})
    table, _ = scores(files, files / "found.tif")
    rows = [line.rsplit(None, 1)[0].strip() for line in table.splitlines()]
    assert rows[-3:] == ["IoU resin", "IoU cell", "IoU class 2"]


@pytest.mark.parametrize("how", ["mask", "ignore-label"])
def test_sparse_truth(files, how):
    """Class 2 was not annotated."""
    tifffile.imwrite(
        files / "mask.tif", (TRUTH != 2).astype(np.uint8), photometric="minisblack", metadata={"axes": "ZYX"}
    )
    option = ["--mask", files / "mask.tif"] if how == "mask" else ["--ignore-label", 2]
    _, found = scores(files, files / "found.tif", *option)
    assert found["found"]["voxels"] == 4
    assert found["found"]["iou"][:2] == pytest.approx([1 / 2, 2 / 3])


def test_a_label_that_marks_nothing_may_be_any_number(files):
    truth = np.where(TRUTH == 2, 255, TRUTH).astype(np.uint8)
    tifffile.imwrite(files / "truth.tif", truth, photometric="minisblack", metadata={"axes": "ZYX"})
    _, found = scores(files, files / "found.tif", "--ignore-label", 255)
    assert found["found"]["voxels"] == 4
    assert len(found["found"]["iou"]) == 3


def test_what_is_outside_is_not_scored_but_told_of(files):
    found = FOUND.copy()
    found[0, 1, 2] = found[0, 0, 0] = OUTSIDE
    tifffile.imwrite(files / "part.tif", found, photometric="minisblack", metadata={"axes": "ZYX"})
    table, told = scores(files, files / "found.tif", files / "part.tif", "--confusion", files / "c.png")
    assert (told["found"]["outside_voxels"], told["part"]["outside_voxels"]) == (0, 2)
    assert (told["found"]["voxels"], told["part"]["voxels"]) == (6, 4)
    assert told["part"]["confusion"] == [[0, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert table.splitlines()[-1] == "2 voxels are outside in part and not scored"
    assert table.count("outside") == 1
    assert "class 3" not in table
    _, told = scores(files, files / "part.tif", "--ignore-label", 2)  # of those that count, one is outside
    assert (told["part"]["voxels"], told["part"]["outside_voxels"]) == (3, 1)


def test_there_is_no_boundary_to_what_is_outside():
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[:, :, 10:] = 1
    found = truth.copy()
    found[:, :4] = OUTSIDE
    told = compare(truth, found, 2)[1]
    assert (told.boundary_f_score, told.mean_iou, told.voxels, told.outside_voxels) == (1, 1, 320, 80)
    masked = compare(truth, truth, 2, found != OUTSIDE)[1]
    assert masked.confusion == told.confusion


def test_all_is_outside(files):
    found = np.where(TRUTH == 2, FOUND, OUTSIDE).astype(np.uint8)
    tifffile.imwrite(files / "part.tif", found, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(OptionError, match=r"part: no voxel is left to score: all that count are outside in it"):
        run("--labels", files / "truth.tif", files / "part.tif", "--ignore-label", 2, "--mask", files / "found.tif")
    with pytest.raises(OptionError, match="the class map: no voxel is left"):
        compare(TRUTH, np.full_like(TRUTH, OUTSIDE), 3)


def test_classes_are_counted_without_what_is_outside():
    outside = np.full_like(TRUTH, OUTSIDE)
    assert n_classes_of(TRUTH, FOUND, outside) == 3
    assert n_classes_of(TRUTH * 0, outside) == 1
    assert n_classes_of(TRUTH, np.where(FOUND == 1, 9, outside)) == 10


def test_the_truth_is_nowhere_outside(files):
    """Whoever labelled it says what counts."""
    truth = np.where(TRUTH == 2, OUTSIDE, TRUTH).astype(np.uint8)
    tifffile.imwrite(files / "truth.tif", truth, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(StackError, match=r"truth\.tif: it has the label 255 .* classes from 0 to 254.*--ignore-label"):
        run("--labels", files / "truth.tif", files / "found.tif")


def test_a_model_and_its_members(files, data):
    image = tifffile.imread(data / "vnc-crop.tif")
    tifffile.imwrite(files / "image.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    truth = np.ones(image.shape, np.uint8)
    tifffile.imwrite(files / "truth.tif", truth, photometric="minisblack", metadata={"axes": "ZYX"})
    bundle = data / "fly-vnc-small.zip"
    table, found = scores(files, "--model", bundle, "--images", files / "image.tif", "--members")
    assert set(found) == {"fly-vnc-small", "member 0"}
    assert found["member 0"] == found["fly-vnc-small"]
    assert found["fly-vnc-small"]["iou"][1] > 0.5  # most of it is the inside of cells
    assert "IoU mitochondrion" in table


@pytest.fixture
def pairs(files):
    """Two truths of different shapes, and what was found of each."""
    tifffile.imwrite(files / "truth-2.tif", TRUTH[:, :1], photometric="minisblack", metadata={"axes": "ZYX"})
    found = np.array([[[0, 2, 1]]], np.uint8)
    tifffile.imwrite(files / "found-2.tif", found, photometric="minisblack", metadata={"axes": "ZYX"})
    return ["--labels", files / "truth-2.tif", files / "found.tif", files / "found-2.tif"]


def test_several_stacks_are_scored_one_by_one_and_together(files, pairs):
    table, told = scores(files, *pairs, "--confusion", files / "c.png")
    assert [*told] == ["together", "found", "found-2"]
    both = np.array(told["found"]["confusion"]) + told["found-2"]["confusion"]
    assert told["together"]["confusion"] == both.tolist()
    assert told["together"]["voxels"] == 9
    assert told["found"] == scores(files, files / "found.tif")[1]["found"]
    assert table.split()[:3] == ["together", "found", "found-2"]
    with Image.open(files / "c.png") as picture:
        drawn = render_confusion(both, [f"class {i}" for i in range(3)])
        np.testing.assert_array_equal(np.asarray(picture), drawn)


def test_agreements_of_parts_are_those_of_the_whole():
    """All scores of two halves together are those of a volume that is both."""
    rng = np.random.default_rng(0)
    truth, found = np.sort(rng.integers(0, 3, (2, 6, 20, 20)), axis=-1).astype(np.uint8)
    found[2, 5] = OUTSIDE
    halves = [agreement(truth[part], found[part], 3) for part in (np.s_[:3], np.s_[3:])]
    whole = compare(truth, found, 3)[1]
    assert (halves[0] + halves[1]).comparison == whole
    assert 0 < whole.boundary_f_score < 1
    assert whole.outside_voxels == 20


def test_a_model_on_several_stacks(files, data):
    image = tifffile.imread(data / "vnc-crop.tif")
    images, labels = [], []
    for name in ("a", "b"):  # of the same file names
        (files / name).mkdir()
        images.append(files / name / "image.tif")
        labels.append(files / name / "truth.tif")
        crop = image[:, : 96 if name == "a" else 128]
        tifffile.imwrite(images[-1], crop, photometric="minisblack", metadata={"axes": "ZYX"})
        truth = np.ones(crop.shape, np.uint8)
        tifffile.imwrite(labels[-1], truth, photometric="minisblack", metadata={"axes": "ZYX"})
    words = [w for a, b in zip(images, labels, strict=True) for w in ("--images", a, "--labels", b)]
    result = run(*words, "--model", data / "fly-vnc-small.zip", "--json", files / "scores.json")
    assert result.exit_code == 0, result.output
    told = json.loads((files / "scores.json").read_text())
    assert [*told] == ["fly-vnc-small: together", "fly-vnc-small: 1 image", "fly-vnc-small: 2 image"]
    voxels = [scores["voxels"] for scores in told.values()]
    assert voxels[0] == voxels[1] + voxels[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda f: [f / "found.tif"], "1 label files to score and 2 --labels; expected one for each"),
        (lambda f: ["--model", "x", "--images", f / "a.tif"], "1 --images and 2 --labels"),
        (lambda f: [f / "found.tif", f / "found-2.tif", "--mask", f / "m.tif"], "1 --mask and 2 --labels"),
    ],
)
def test_numbers_of_files_that_do_not_go_together(files, pairs, arguments, message):
    with pytest.raises(OptionError, match=message):
        run("--labels", files / "truth.tif", "--labels", files / "truth-2.tif", *arguments(files))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda f: [], OptionError, "nothing to score"),
        (lambda f: ["--model", "x"], OptionError, "--model needs --images"),
        (lambda f: [f / "small.tif"], StackError, "small.tif: it is 1 x 2 x 2"),
        (lambda f: [f / "float.tif"], StackError, "float.tif: the labels are float32"),
        (lambda f: [f / "negative.tif"], StackError, "negative.tif: it has the label -1"),
        (lambda f: [f / "found.tif", "--mask", f / "none.tif"], StackError, "none.tif: no such file"),
        (lambda f: [f / "found.tif", "--mask", f / "nothing.tif"], StackError, "no voxel is left to score"),
    ],
)
def test_bad_input(files, arguments, error, message):
    made = {
        "small": TRUTH[:, :, :2], "float": TRUTH.astype(np.float32), "negative": TRUTH.astype(np.int16) - 1,
        "nothing": TRUTH * 0,
    }  # fmt: skip
    for name, volume in made.items():
        tifffile.imwrite(files / f"{name}.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(error, match=message):
        run("--labels", files / "truth.tif", *arguments(files))


@pytest.mark.parametrize("label", [256, 8000, 65_535])
@pytest.mark.parametrize("where", ["truth", "found"])
def test_labels_that_are_no_classes(files, label, where):
    """A matrix of their confusion would have gigabytes."""
    volume = (TRUTH if where == "truth" else FOUND).astype(np.uint16)
    volume[0, 0, 0] = label
    tifffile.imwrite(files / f"{where}.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(
        StackError, match=rf"{where}\.tif: it has the label {label} in slice 1; expected classes from 0"
    ):
        run("--labels", files / "truth.tif", files / "found.tif")


@pytest.mark.parametrize("label", [256, 65_535])
def test_a_label_of_any_number_can_be_ignored(files, label):
    truth = np.where(TRUTH == 2, label, TRUTH.astype(np.uint16)).astype(np.uint16)
    tifffile.imwrite(files / "truth.tif", truth, photometric="minisblack", metadata={"axes": "ZYX"})
    _, found = scores(files, files / "found.tif", "--ignore-label", label)
    assert found["found"]["voxels"] == 4


def test_a_mask_may_have_any_number(files):
    mask = (TRUTH != 2).astype(np.uint16) * 65_535
    tifffile.imwrite(files / "mask.tif", mask, photometric="minisblack", metadata={"axes": "ZYX"})
    _, found = scores(files, files / "found.tif", "--mask", files / "mask.tif")
    assert found["found"]["voxels"] == 4


@pytest.mark.parametrize("read", [read_classes, read_mask])
def test_what_does_not_fit_in_memory_is_not_read(files, read, monkeypatch):
    monkeypatch.setattr(system, "available_memory", lambda: 5)
    with pytest.raises(StackError, match=r"truth\.tif: as it describes itself it takes .* GiB of memory"):
        read(files / "truth.tif")


def test_a_picture_shows_classes_that_occur_and_not_too_many():
    confusion = np.zeros((256, 256), int)
    confusion[0, 255] = 5
    few = render_confusion(np.array([[0, 5], [0, 0]]), ["class 0", "class 255"])
    np.testing.assert_array_equal(render_confusion(confusion, [f"class {i}" for i in range(256)]), few)
    with pytest.raises(OptionError, match="room for 64 classes, 256 occur"):
        render_confusion(np.eye(256, dtype=int), [f"class {i}" for i in range(256)])


def test_confusion_of_an_absent_class():
    """Its row is as white as what never happened: there is nothing to have a share of."""
    drawn = render_confusion(np.array([[5, 0], [0, 0]]), ["a", "b"])
    cells = [[drawn[62 + 74 * i, 192 + 74 * j].tolist() for j in range(2)] for i in range(2)]
    assert cells == [[[30, 80, 140], [255, 255, 255]], [[255, 255, 255], [255, 255, 255]]]


def test_shares_of_the_true_class_are_shades():
    drawn = render_confusion(np.array([[3, 1], [10, 10]]), ["a", "b"]).astype(int)
    cells = np.array([[drawn[62 + 74 * i, 192 + 74 * j] for j in range(2)] for i in range(2)])
    shares = np.array([[0.75, 0.25], [0.5, 0.5]])[..., None]
    np.testing.assert_allclose(cells, 255 - shares * (255 - np.array([30, 80, 140])), atol=0.51)
