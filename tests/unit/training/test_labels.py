"""Labels as people have them: what nobody labelled, scribbles, a few slices of many, names, stacks of several kinds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from phantoms import CLASSES, phantom, save_phantoms

from densecell_batch import write_stack
from densecell_batch.api import train as train_files
from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.reading import open_stack
from densecell_batch.models.classes import ClassInfo
from densecell_batch.training import train as training
from densecell_batch.training.error_weights import error_weights
from densecell_batch.training.held_back import Division, divide, hold_back, labelled_span
from densecell_batch.training.losses import improved_loss, soft_dice
from densecell_batch.training.naming import UNLABELLED, classes_of
from densecell_batch.training.options import TrainingOptions
from densecell_batch.training.stacks import Stacks
from densecell_batch.training.volumes import LabelledVolume, load_labelled
from densecell_batch.training.voxel_sizes import check_alike
from densecell_batch.training.windows import Augmentation, Sampler

SMALL = {
    "net": "2d3d", "kernels": 4, "pyramid_kernels": 4, "window": (5, 32, 32), "steps": 20, "floor": 0,
    "precision": "float32", "scale": "off",
}  # fmt: skip
SHALLOW = {**SMALL, "window": (3, 32, 32)}  # fits where slices are held back


@pytest.fixture
def files(tmp_path):
    return save_phantoms(tmp_path)


def saved(path, labels):
    tifffile.imwrite(path, labels, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


# What does not count


@pytest.mark.parametrize(("ignore", "dtype"), [(255, np.uint8), (-1, np.int16), (60_000, np.uint16)])
def test_what_nobody_labelled_does_not_count(files, ignore, dtype):
    truth = phantom().labels
    there = np.random.default_rng(0).random(truth.shape) < 0.1
    saved(files["train-labels"], np.where(there, truth.astype(int), ignore).astype(dtype))
    volume = load_labelled(files["train-images"], files["train-labels"], 3, ignore=ignore)
    np.testing.assert_array_equal(volume.counted, there)
    np.testing.assert_array_equal(volume.labels[there], truth[there])
    assert not volume.labels[~there].any()
    assert volume.tissue is None  # it is tissue all the same, and what a model remembers of its data is of all of it
    assert len(volume.greys) == 6
    with pytest.raises(StackError, match=rf"has the label {ignore}; expected 0 to 2 .* --ignore-label {ignore}"):
        load_labelled(files["train-images"], files["train-labels"], 3)


def test_nothing_is_labelled(files):
    saved(files["train-labels"], np.full((6, 72, 80), 255, np.uint8))
    with pytest.raises(StackError, match=r"train-labels\.tif: every label is 255, which --ignore-label leaves out"):
        load_labelled(files["train-images"], files["train-labels"], 3, ignore=255)


def test_labels_where_there_is_no_tissue(files):
    """Of nothing that counts nets learn nothing, and the mean IoU is no number: it is told of before the training."""
    image, labels = tifffile.imread(files["eval-images"]), np.full((6, 72, 80), 255, np.uint8)
    image[:, :, :30], labels[:, :, :10] = 0, 1
    saved(files["eval-images"], image)
    saved(files["eval-labels"], labels)
    with pytest.raises(StackError, match=r"eval-labels\.tif: no voxel that counts lies in the tissue of .*eval-images"):
        load_labelled(files["eval-images"], files["eval-labels"], 3, ignore=255)


def test_places_of_windows_are_few_and_everywhere():
    """Of many voxels in a row those that are kept do not lie in step with the rows, nor is more held in memory."""
    labels = np.zeros((100, 128, 1024), np.uint8)  # 64 times what is kept
    volume = LabelledVolume(np.zeros(1, np.float32), labels, None, ("", ""), weights=np.ones(labels.shape, np.float32))
    draw = Sampler([volume], (3, 32, 32), 1, 1, augmentation=None)
    for places in (draw._places[0][0], draw._counted[0]):
        assert places.base is None
        assert 100_000 < len(places) < 400_000
        assert len(np.unique(places % 1024)) == 1024


def test_windows_lie_about_what_counts():
    """Of 40 slices two are labelled, in a corner each: every window has some of it, and classes are met alike."""
    volume = phantom((40, 128, 128))
    labels, weights = np.zeros(volume.labels.shape, np.uint8), np.zeros(volume.labels.shape, np.float32)
    weights[3, :20, :20] = weights[30, 100:, 100:] = 1
    labels[3, 5, 5] = 1
    labels[20] = 2  # where nothing counts
    sparse = replace(volume, labels=labels, weights=weights)
    draw = Sampler([sparse], (3, 32, 32), 1, 3, augmentation=Augmentation(), rare=0.5, context=1)
    met = [(w > 0).any() for w in (draw(step)[2][0, 1] for step in range(100))]
    assert np.mean(met) > 0.95  # a bend may leave a corner out
    plain = Sampler([sparse], (3, 32, 32), 1, 3, augmentation=None, rare=0.5, context=1)
    batches = [plain(step) for step in range(200)]
    assert all(w[0, 1].any() for _, _, w in batches)
    assert not any((found[0, 1] == 2).any() for _, found, _ in batches)
    assert np.mean([(found[0, 1] == 1).any() for _, found, _ in batches]) > 0.2  # one voxel of 1184


def test_volumes_are_drawn_by_what_counts_of_them():
    full, sparse = phantom(), phantom(seed=1)
    weights = np.zeros(sparse.labels.shape, np.float32)
    weights[:, :8] = 1
    marked = [replace(full, image=full.image * 0 + 1), replace(sparse, image=full.image * 0, weights=weights)]
    draw = Sampler(marked, (5, 32, 32), 1, 3, augmentation=None)
    share = np.mean([draw(step)[0].mean() for step in range(300)])
    assert share == pytest.approx(0.9, abs=0.06)


@pytest.mark.keras
def test_few_labels_have_the_say_that_all_have():
    """The loss of a window of which a part counts is that of this part; of next to nothing it is less."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((1, 2, 20, 30, 3)).astype(np.float32), rng.integers(0, 3, (1, 2, 20, 30))
    part = np.zeros(labels.shape, np.float32)
    part[:, :, :, :5] = 1
    found = float(improved_loss(labels, part, [logits], dice=0.0))
    alone = float(improved_loss(labels[..., :5], part[..., :5], [logits[:, :, :, :5]], dice=0.0))
    assert found == pytest.approx(alone, rel=1e-5)
    one = np.zeros(labels.shape, np.float32)
    one[0, 0, 0, 0] = 1  # of 1200
    of_one = float(improved_loss(labels[:, :1, :1, :1], one[:, :1, :1, :1], [logits[:, :1, :1, :1]], dice=0.0))
    assert float(improved_loss(labels, one, [logits], dice=0.0)) == pytest.approx(of_one / 12, rel=1e-5)


@pytest.mark.keras
def test_dice_of_scribbles_is_that_of_full_labels():
    """Also of a class that is nowhere in the window, of which the net expects some voxels."""
    rng = np.random.default_rng(0)
    labels = (np.indices((1, 1, 200, 200))[3] > 60).astype(int)
    logits = np.log(np.where(labels[..., None] == [0, 1, 2], 0.9, 0.1)) + rng.normal(0, 0.1, (*labels.shape, 3))
    logits[..., 2] = np.log(1e-4)
    full, sparse = np.ones(labels.shape, np.float32), (rng.random(labels.shape) < 0.1).astype(np.float32)
    of_all, of_some = (float(soft_dice(labels, logits.astype(np.float32), weights)) for weights in (full, sparse))
    assert of_some == pytest.approx(of_all, rel=0.02)
    assert of_all > 0.3  # the absent class has a large part in it


def test_error_weights_of_what_is_labelled():
    labels = np.zeros((1, 20, 40), np.uint8)
    labels[:, :, 10:] = 1
    counted = np.ones(labels.shape, bool)
    counted[:, :, 20:] = False
    labels[~counted] = 0  # as they are read
    found = error_weights(labels, counted)
    np.testing.assert_allclose(found[:, :, :20], error_weights(labels[:, :, :20]), atol=1e-5)
    assert not found[:, :, 20:].any()


# Slices that are held back


@pytest.mark.parametrize(
    ("labelled", "division"),
    [
        ([*range(10)], Division((0, 7), (8, 10))),
        ([*range(5)], Division((0, 3), (4, 5))),
        ([0, 1], Division((0, 1), (1, 2))),
        ([0, 10, 20, 90], Division((0, 89), (90, 91))),
        ([4], Division()),
        ([], Division()),
    ],
)
def test_the_last_fifth_of_the_labelled_slices_judges(labelled, division):
    assert divide(labelled) == division


def test_slices_are_held_back_where_something_counts(tmp_path):
    labels = np.zeros((12, 4, 4), np.uint8)
    for z in (2, 5, 7):
        labels[z, 0, 0] = 1
    path, one = saved(tmp_path / "a.tif", labels), saved(tmp_path / "one.tif", labels[:4])
    assert hold_back([path, one], ignore=0) == [Division((0, 6), (7, 8)), Division()]
    weights = saved(tmp_path / "w.tif", np.repeat((np.arange(12) < 6).astype(np.float32), 16).reshape(12, 4, 4))
    assert hold_back([path], 0, [weights]) == [Division((0, 4), (5, 6))]
    with pytest.raises(OptionError, match=r"one\.tif: of no stack two slices .* --eval-images and --eval-labels"):
        hold_back([one], ignore=0)
    # Of an evaluation stack the labelled slices are looked at, and their neighbours.
    assert labelled_span(path, 12, 0) == (0, 10)
    assert labelled_span(path, 12, None) is None
    assert labelled_span(one, 4, 0) is None


def test_a_part_of_a_stack_is_read(files):
    whole = load_labelled(files["train-images"], files["train-labels"], 3)
    part = load_labelled(files["train-images"], files["train-labels"], 3, slices=(2, 5))
    np.testing.assert_array_equal(part.labels, whole.labels[2:5])
    assert np.corrcoef(part.image.ravel(), whole.image[2:5].ravel())[0, 1] > 0.999
    assert part.sha256 == whole.sha256
    stacks = Stacks.of([files["train-images"]], [files["train-labels"]], (), (), TrainingOptions(steps=20))
    (train,), (judge,) = stacks.load(3, (1, 32, 32), None)
    assert (len(train.image), len(judge.image)) == (4, 1)
    np.testing.assert_array_equal(judge.labels, whole.labels[5:])
    assert stacks.held_back == ("stack 1: slices 6 to 6; trained on 1 to 4",)


# What labels are called


def naming(labels, asked=None, **options):
    return classes_of(asked, labels, TrainingOptions(steps=20, **options))


def test_classes_as_label_files_name_them(tmp_path):
    path = write_stack(tmp_path / "a.tif", phantom().labels, classes=CLASSES)
    assert naming([path]) == CLASSES
    plain = saved(tmp_path / "plain.tif", phantom().labels)
    assert naming([plain, path]) == CLASSES
    with pytest.raises(OptionError, match="give --classes: what the labels"):
        naming([plain])
    other = write_stack(tmp_path / "b.tif", phantom().labels, classes=[*CLASSES[:2], ClassInfo("speck", (1, 2, 3))])
    with pytest.raises(OptionError, match=r"b\.tif: it names its classes otherwise than .*a\.tif; give --classes"):
        naming([path, other])


def with_info(path, info):
    tifffile.imwrite(path, phantom().labels, imagej=True, metadata={"axes": "ZYX", "Info": info})
    return path


@pytest.mark.parametrize(
    ("info", "error", "message"),
    [
        ("class 0 = a\nclass 2 = b", OptionError, "names class 0, 2; expected two or more, one after the other"),
        ("class 0 = a", OptionError, "names class 0; expected two or more"),
        ("class 1 = a\nclass 2 = b", OptionError, "from 0 on: give --classes"),
        ("class 0 = a\nclass 1 = b/c", StackError, r"a\.tif: class name 'b/c': expected .* correct its Info"),
    ],
)
def test_an_info_that_names_no_classes_of_a_training(tmp_path, info, error, message):
    with pytest.raises(error, match=message):
        naming([with_info(tmp_path / "a.tif", info)])


def test_colours_of_the_labels_are_those_of_the_classes(tmp_path):
    """Those that are named on the command line come first, then those of the Info, then the colour table."""
    table = np.zeros((3, 256), np.uint16)
    table[:, :3] = np.array([(0, 0, 0), (0, 0, 255), (255, 128, 0)]).T * 257
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, phantom().labels, colormap=table, photometric="palette", metadata={"axes": "ZYX"})
    named = naming([path], ["a", "b=#010203", "c"])
    assert [c.colour for c in named] == [(0, 0, 0), (1, 2, 3), (255, 128, 0)]
    jet = [c.colour for c in naming([saved(tmp_path / "b.tif", phantom().labels)], ["a", "b", "c"])]
    table[:, 2] = table[:, 1]  # two that nobody could tell apart
    tifffile.imwrite(path, phantom().labels, colormap=table, photometric="palette", metadata={"axes": "ZYX"})
    assert [c.colour for c in naming([path], ["a", "b", "c"])] == jet
    info = with_info(tmp_path / "c.tif", "class 1 = other #090909")
    assert [c.colour for c in naming([info], ["a", "b", "c"])] == [jet[0], (9, 9, 9), jet[2]]


def test_labels_of_which_0_is_what_nobody_labelled(tmp_path):
    """The classes are those of the labels from 1 on, which keep their values."""
    path = saved(tmp_path / "a.tif", phantom().labels)
    named = naming([path], ["cell", "dot"], ignore_label=0)
    assert named[0] == UNLABELLED
    assert [c.name for c in named[1:]] == ["cell", "dot"]
    info = with_info(tmp_path / "b.tif", "class 1 = cell #00ff00\nclass 2 = dot")
    named = naming([info], ignore_label=0)
    assert [c.name for c in named] == ["not labelled", "cell", "dot"]
    assert named[1].colour == (0, 255, 0)
    assert naming([write_stack(tmp_path / "c.tif", phantom().labels, classes=CLASSES)], ignore_label=0) == CLASSES


def test_labels_that_call_classes_otherwise_than_the_bundle(tmp_path, data):
    path = write_stack(tmp_path / "a.tif", phantom().labels, classes=CLASSES)
    init = str(data / "fly-vnc-small.zip")
    with pytest.raises(OptionError, match=r"a\.tif: it calls class 0 'outside', which to .* is 'glia and"):
        naming([path], init=init)
    assert [c.name for c in naming([path], list("abcde"), init=init)] == list("abcde")
    assert len(naming([saved(tmp_path / "b.tif", phantom().labels)], init=init)) == 5


# Voxel sizes


def sized(path, x, z=47.0):
    volume = np.random.default_rng(0).integers(0, 256, (4, 40, 40), dtype=np.uint8)
    return write_stack(path, volume, voxel_size=None if x is None else VoxelSize.of(z, x, x, unit="nm"))


def told(tmp_path, caplog, sizes, *, as_they_are=False, **options):
    caplog.set_level("INFO")
    infos = []
    for i, size in enumerate(sizes):
        with open_stack(sized(tmp_path / f"{i}.tif", *size)) as stack:
            infos.append(stack.info)
    check_alike(infos, TrainingOptions(steps=20, **options), as_they_are=as_they_are)
    return [record.getMessage().replace(str(tmp_path), "") for record in caplog.records]


def test_stacks_of_other_voxel_sizes_are_told_of(tmp_path, caplog):
    assert told(tmp_path, caplog, [(9.2,), (9.2,), (9.3,)]) == []
    (other,) = told(tmp_path, caplog, [(9.2,), (18.4,)])
    assert "/1.tif: its voxels are 47 x 18.4 x 18.4 nm" in other
    assert other.endswith("it is brought to the same")
    caplog.clear()
    (thick,) = told(tmp_path, caplog, [(9.2,), (9.2, 5.0)])
    assert "not resampled along z" in thick
    caplog.clear()
    assert told(tmp_path, caplog, [(9.2,), (9.2, 5.0)], scale=(0.5, 1.0, 1.0)) == []
    caplog.clear()
    (none,) = told(tmp_path, caplog, [(None,), (9.2,)])
    assert "/0.tif: it has no voxel size; it is taken to have that of /1.tif, 47 x 9.2 x 9.2 nm" in none
    caplog.clear()
    (all_,) = told(tmp_path, caplog, [(None,), (None,)])
    assert "/0.tif: it has no voxel size, nor has any other stack" in all_


@pytest.mark.parametrize("second", [(18.4,), (9.2, 5.0)])
@pytest.mark.parametrize("options", [{"scale": "off"}, {"preset": "published"}])
def test_stacks_of_other_voxel_sizes_are_not_mixed_as_they_are(tmp_path, caplog, second, options):
    with pytest.raises(OptionError, match=r"1\.tif: its voxels are .* expected the same, for --(scale off|preset pub)"):
        told(tmp_path, caplog, [(9.2,), second], as_they_are=True, **options)


class Seen(Exception):  # noqa: N818
    """The shapes of volumes that would be trained on, and judge."""


def test_stacks_of_other_voxel_sizes_are_brought_to_one(tmp_path, monkeypatch):
    """Also where it is the evaluation stack, and where the first has none."""

    def see(run, train, judges, *others, **more):
        raise Seen([volume.image.shape for volume in (*train, *judges)], run.scale)

    monkeypatch.setattr(training, "train_ensemble", see)
    fine, coarse, none = (sized(tmp_path / f"{i}.tif", x) for i, x in enumerate((10.0, 20.0, None)))
    labels = saved(tmp_path / "labels.tif", (np.indices((4, 40, 40))[2] > 20).astype(np.uint8))
    with pytest.raises(Seen) as seen:
        train_files([none, fine, coarse], [labels] * 3, (coarse, labels), tmp_path / "run", ["a", "b"],
                    **{**SHALLOW, "scale": 1.0})  # fmt: skip
    assert seen.value.args == ([(4, 40, 40), (4, 40, 40), (4, 80, 80), (4, 80, 80)], (1, 1, 1))
    with pytest.raises(OptionError, match=r"1\.tif: its voxels are 47 x 20 x 20 nm .*, those of .*0\.tif 47 x 10 x 10"):
        train_files([fine], [labels], (coarse, labels), tmp_path / "run", ["a", "b"], **SHALLOW)


# From files to a bundle


def test_a_net_that_takes_no_single_slice_says_which_does(files):
    for kind in ("images", "labels"):
        saved(files[f"train-{kind}"], tifffile.imread(files[f"train-{kind}"])[:1])
    with pytest.raises(StackError, match=r"it is 1 x 72 x 80 .* for stacks of one slice there are --net unet"):
        train_files([files["train-images"]], [files["train-labels"]], (files["eval-images"], files["eval-labels"]),
                    files["train-images"].parent / "run", list("abc"), **SMALL)  # fmt: skip


def test_the_published_loss_counts_all():
    with pytest.raises(OptionError, match="give --ignore-label with --preset improved"):
        TrainingOptions(preset="published", ignore_label=255)


@pytest.mark.keras
def test_scribbles_held_back_slices_and_what_comes_of_them(files, tmp_path, caplog):
    """0 is what nobody labelled; classes 1 to 3 keep their values all the way into what is segmented."""
    caplog.set_level("INFO")
    truth = phantom().labels + 1
    sparse = np.where(np.random.default_rng(0).random(truth.shape) < 0.2, truth, 0).astype(np.uint8)
    saved(files["train-labels"], sparse)
    bundle = train_files([files["train-images"]], [files["train-labels"]], None, tmp_path / "run",
                         ["outside", "cell", "dot"], ignore_label=0, **SHALLOW)  # fmt: skip
    assert [c.name for c in bundle.classes] == ["not labelled", "outside", "cell", "dot"]
    assert bundle.provenance["held_back"] == ["stack 1: slices 6 to 6; trained on 1 to 4"]
    assert bundle.provenance["ignore_label"] == 0
    assert "some slices are held back to judge the nets by: stack 1: slices 6 to 6" in caplog.text
    assert "labels 1 to 3 are outside, cell, dot" in caplog.text
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["ignore_label"] == 0
    with pytest.raises(OptionError, match="ignore_label was 0, is 9"):
        train_files([files["train-images"]], [files["train-labels"]], None, tmp_path / "run",
                    bundle.classes, ignore_label=9, **SHALLOW)  # fmt: skip


@pytest.mark.keras
def test_several_stacks_judge_together(files, tmp_path):
    """The confusion of two is the sum of those of each."""
    pairs = [(files["eval-images"], files["eval-labels"]), (files["train-images"], files["train-labels"])]
    train = [files["train-images"]], [files["train-labels"]]
    found = {
        name: train_files(*train, some, tmp_path / name, CLASSES, **SMALL)
        for name, some in (("first", pairs[0]), ("both", pairs))
    }
    checksums = {name: bundle.provenance["evaluation"] for name, bundle in found.items()}
    assert checksums["both"][:2] == checksums["first"]
    assert len(checksums["both"]) == 4
    assert found["both"].scores["evaluation"] != found["first"].scores["evaluation"]


@pytest.mark.parametrize("judges", [1, 0])
def test_stacks_that_are_learned_and_judge(files, tmp_path, monkeypatch, caplog, judges):
    """Given for both, or given twice, so that what is held back of the one is learned of the other."""
    monkeypatch.setattr(training, "train_ensemble", lambda *args, **more: None)
    images, labels = [files["train-images"]], [files["train-labels"]]
    other = [(files["eval-images"], files["eval-labels"])]
    for pairs in (other, None):
        train_files(images, labels, pairs, tmp_path / "run", CLASSES, **SHALLOW)
    assert "flatter" not in caplog.text
    if judges:
        train_files(images, labels, [(images[0], labels[0])], tmp_path / "run", CLASSES, **SHALLOW)
    else:
        train_files(2 * images, 2 * labels, None, tmp_path / "run", CLASSES, **SHALLOW)
    assert "train-images.tif is trained on, and judges" in caplog.text


def test_classes_without_a_voxel(files, tmp_path):
    train = [files["train-images"]], [files["train-labels"]]
    with pytest.raises(StackError, match=r"it is 4 x 72 x 80 \(z, y, x\), its slices 1 to 4, for the others are held"):
        train_files(*train, None, tmp_path / "run", list("abcd"), **SMALL)
    with pytest.raises(OptionError, match=r"no voxel of class 3, 'd' \(some slices are held back"):
        train_files(*train, None, tmp_path / "run", list("abcd"), **SHALLOW)
    saved(files["train-labels"], np.minimum(tifffile.imread(files["train-labels"]), 1))
    evaluation = files["eval-images"], files["eval-labels"]
    with pytest.raises(OptionError, match="no voxel of class 2, 'c'; expected some of each class"):
        train_files(*train, evaluation, tmp_path / "run", list("abc"), **SMALL)


def test_a_volume_knows_its_tissue(files):
    image = tifffile.imread(files["train-images"])
    image[:, :, :20] = 0
    saved(files["train-images"], image)
    volume = load_labelled(files["train-images"], files["train-labels"], 3)
    assert not volume.tissue[:, :, :20].any()
    assert volume.tissue[:, :, 20:].all()
    assert isinstance(volume, LabelledVolume)
