"""The published results, and tiles that do not fit in memory."""

from types import SimpleNamespace

import numpy as np
import pytest
from random_nets import random_member

from densecell_batch.data import SAMPLE
from densecell_batch.errors import OptionError, StackError
from densecell_batch.inference.planning import plan_tiles
from densecell_batch.inference.stitch import Canvas
from densecell_batch.io.reading import open_stack
from densecell_batch.models.bundle import load_bundle
from densecell_batch.models.golden import golden_pair
from densecell_batch.models.published import read_published
from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet, UNet2D, tensor_shapes
from densecell_batch.nets.ensemble import decide, entropy
from densecell_batch.nets.predictor import Predictor

# Classes whose expected probabilities are closer than float32 sums of different order: either is right.
TIE = 1e-6


@pytest.fixture(params=[pytest.param("keras", marks=pytest.mark.keras), "openvino"])
def engine(request):
    """Whatever computes a net, it gives the same."""
    return request.param


def segment(volume, model, members, engine="keras", **options):
    """Labels and probabilities of a normalized volume, through plan, predictor and canvas."""
    plan = plan_tiles(volume.shape, model.architecture, model.window, **options)
    predictor = Predictor(model.architecture, members, options.get("precision", "float32"), engine=engine)
    canvas = Canvas(plan.grid, plan.rule, model.architecture.n_classes, keep_probabilities=True)
    labels, probabilities = [], []
    for row in range(len(plan.grid.z.corners)):
        for tile in plan.grid.row(row):
            regions = [axis.input_indices(i) for axis, i in zip(plan.grid.axes, tile.index, strict=True)]
            canvas.paint(tile, predictor.together(volume[np.ix_(*regions)], with_probabilities=True))
        for finished in canvas.finished(row):
            labels.append(finished.labels.copy())
            probabilities.append(finished.probabilities.copy())
    return np.stack(labels), np.stack(probabilities)


@pytest.fixture(scope="module")
def models(data):
    return {name: read_published(data / f"published/2d3d-small_{name}") for name in "ABS"}


@pytest.mark.parametrize("name", ["A", "B", "S", "ensemble_AB"])
def test_published_probabilities_and_classes(data, published_input, models, name, engine):
    members = ["A", "B"] if name == "ensemble_AB" else [name]
    labels, probabilities = segment(
        published_input, models[members[0]], [models[m].weights for m in members], engine, stitch="deepest"
    )
    expected = np.load(data / "genenet/expected-probabilities.npz")[name]
    assert np.abs(probabilities - expected).max() < 2e-5
    classes = np.load(data / "genenet/expected-classes.npz")[name]
    second, first = np.moveaxis(np.sort(expected, axis=-1)[..., -2:], -1, 0)
    differs = labels != classes
    print(f"{name}: {differs.sum()} of {labels.size} voxels differ")
    assert not differs[first - second >= TIE].any()
    assert differs.sum() <= 2


def test_published_unet(data, engine):
    import tifffile

    model = read_published(data / "published/unet-small_0")
    volume = tifffile.imread(data / "genenet/unet-input.tif").astype(np.float64)
    volume = ((volume - volume.mean()) / volume.std()).astype(np.float32)
    _, probabilities = segment(volume, model, [model.weights], engine, stitch="deepest")
    expected = np.load(data / "genenet/unet-expected-probabilities.npz")["unet"]
    assert np.abs(probabilities - expected).max() < 2e-5


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def model_a(models):
    return models["A"]


def test_crop_equals_an_untiled_pass_where_context_is_complete(model_a, engine):
    volume = noise(9, 400, 330)
    whole, single = segment(volume, model_a, [model_a.weights], engine)
    tiled, several = segment(volume, model_a, [model_a.weights], engine, tile=(5, 290, 290))
    np.testing.assert_allclose(several, single, atol=1e-5)
    assert (whole == tiled).mean() > 0.9999


@pytest.mark.parametrize("shape", [(9, 300, 190), (1, 64, 150), (3, 33, 31)])
@pytest.mark.parametrize("stitch", ["crop", "blend"])
def test_residual_nets_tile_without_a_trace(shape, stitch, engine):
    """Whole slices, tiles of one slice, and every slice for itself among copies of its neighbours."""
    net = ResidualUNet(3, 4, 2)
    model = SimpleNamespace(architecture=net, window=(3, 64, 64))
    members, volume = [random_member(net)], noise(*shape)
    _, single = segment(volume, model, members, engine, stitch=stitch)
    for tile in ((1, 128, 128), (4, 400, 128)):
        _, several = segment(volume, model, members, engine, stitch=stitch, tile=tile)
        if stitch == "crop":
            np.testing.assert_allclose(several, single, atol=1e-5)
    padded = np.concatenate([volume[1:2] if len(volume) > 1 else volume, volume, volume[-1:]])  # as it is mirrored
    for z in (0, len(volume) - 1):
        _, alone = segment(padded[z : z + 3], model, members, engine)
        np.testing.assert_allclose(alone[1], single[z], atol=1e-5)


def test_blend_equals_an_untiled_pass_where_context_is_complete(model_a, engine):
    # So long that tiles overlap by more than twice the reach of the net.
    volume, reach = noise(5, 1400, 90), model_a.architecture.reach[1]
    _, single = segment(volume, model_a, [model_a.weights], engine)
    _, several = segment(volume, model_a, [model_a.weights], engine, stitch="blend", tile=(5, 900, 200))
    plan = plan_tiles(volume.shape, model_a.architecture, model_a.window, stitch="blend", tile=(5, 900, 200))
    (_, stop), *others = plan.grid.y.inside
    assert len(others) == 1
    # Only one tile covers the voxel, or both have their whole context.
    one = np.s_[:, : others[0][0], :]
    np.testing.assert_allclose(several[one], single[one], atol=1e-5)
    both = np.s_[:, others[0][0] + reach : stop - reach, :]
    assert several[both].shape[1] > 30
    np.testing.assert_allclose(several[both], single[both], atol=1e-5)


def test_2d_nets_tile_without_a_trace(data, engine):
    model = read_published(data / "published/unet-small_0")
    volume = noise(2, 300, 260)
    _, single = segment(volume, model, [model.weights], engine)
    _, several = segment(volume, model, [model.weights], engine, tile=(1, 120, 120))
    np.testing.assert_allclose(several, single, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 130, 110), (9, 1, 1), (2, 7, 200)])
@pytest.mark.parametrize("stitch", ["crop", "deepest", "blend"])
def test_volumes_smaller_than_a_tile(model_a, shape, stitch, engine):
    labels, probabilities = segment(noise(*shape), model_a, [model_a.weights], engine, stitch=stitch)
    assert labels.shape == shape
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_bfloat16_agrees_with_float32(data, engine):
    """On real EM, with a net that was trained on it, at least 99.5 % of the class map."""
    bundle = load_bundle(data / "fly-vnc-small.zip")
    with open_stack(SAMPLE) as stack:
        volume = np.stack([stack.read(z) for z in range(5)])
    volume = ((volume - volume.mean()) / volume.std()).astype(np.float32)
    labels = {}
    for precision in ("float32", "bfloat16"):
        labels[precision], _ = segment(volume, bundle, [bundle.weights(0)], engine, precision=precision)
    agreement = (labels["float32"] == labels["bfloat16"]).mean()
    print(f"bfloat16 agrees on {agreement:.2%}")
    assert agreement >= 0.995
    assert (np.bincount(labels["float32"].ravel()) > 1000).sum() >= 3


class ExhaustedError(Exception):
    """What a backend raises when memory runs out."""


class Cramped(Predictor):
    """A predictor on a machine whose memory holds tiles of at most `limit` voxels."""

    limit = 0

    def _nets(self, shape):
        if np.prod(shape) > self.limit:
            words = {"openvino": "Failed to allocate 123 bytes of memory"}  # as its plugin for processors says it
            raise ExhaustedError(words.get(self.engine, "RESOURCE_EXHAUSTED: OOM when allocating tensor"))
        return super()._nets(shape)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (Hybrid2D3D(3, 4, pyramid_kernels=4), (5, 400, 376)),
        (UNet2D(3, 4, 2), (2, 104, 92)),
        (ResidualUNet(3, 4, 1), (4, 120, 88)),
        (ResidualUNet(3, 4, 1), (4, 90, 123)),
    ],
)
def test_a_tile_that_does_not_fit_is_cut_without_a_trace(architecture, shape, caplog, engine):
    members, image = [random_member(architecture)], noise(*shape)
    (whole,) = Predictor(architecture, members, engine=engine)(image)
    cramped = Cramped(architecture, members, engine=engine)
    cramped.limit = 0.75 * image.size
    (cut,) = cramped(image)
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    (again,) = cramped(image)
    np.testing.assert_array_equal(again, cut)
    labels, confidence, both, disagreement = cramped.together(image, True, with_disagreement=True)
    np.testing.assert_allclose(both, whole, atol=1e-5)
    assert labels.shape == confidence.shape == disagreement.shape == whole.shape[:-1]
    assert caplog.text.count("not enough memory") == 1  # said once, remembered afterwards


@pytest.mark.parametrize(("may_split", "remedy"), [(True, "more memory"), (False, "--stitch crop")])
def test_no_memory_at_all(may_split, remedy, engine):
    architecture = Hybrid2D3D(3, 4)
    cramped = Cramped(architecture, [random_member(architecture)], may_split=may_split, engine=engine)
    with pytest.raises(StackError, match=remedy):
        list(cramped(noise(5, 304, 304)))


def test_other_errors_of_a_net_are_not_taken_for_lack_of_memory(engine):
    architecture = Hybrid2D3D(3, 4)
    members = [random_member(architecture)]
    del members[0]["predictor_3d/logits/bias"]
    with pytest.raises(KeyError):
        list(Predictor(architecture, members, engine=engine)(noise(5, 32, 32)))


@pytest.mark.parametrize(
    ("architecture", "shape"), [(Hybrid2D3D(3, 4, pyramid_kernels=4), (5, 48, 48)), (UNet2D(3, 4, 2), (2, 104, 92))]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_offsets_are_added_to_log_probabilities_of_each_member(architecture, shape, precision, engine):
    offsets, image = [0.5, 0.0, -1.5], noise(*shape)
    members = [random_member(architecture) for _ in range(2)]
    plain = [p.copy() for p in Predictor(architecture, members, precision, engine=engine)(image)]
    biased = Predictor(architecture, members, precision, offsets=offsets, engine=engine)
    for before, found in zip(plain, biased(image), strict=True):
        weighted = before * np.exp(offsets)
        np.testing.assert_allclose(found, weighted / weighted.sum(-1, keepdims=True), atol=1e-5)
        assert found.dtype == np.float32
    _, golden = golden_pair(architecture, members, shape, offsets=offsets, engine=engine)
    assert np.abs(golden - golden_pair(architecture, members, shape, engine=engine)[1]).max() > 0.01


def test_there_is_an_offset_for_each_class():
    with pytest.raises(OptionError, match="2 offsets for a net of 3 classes"):
        Predictor(UNet2D(3, 4, 2), [], offsets=[0, 0])


def test_golden_pair_is_reproducible(model_a, engine):
    pairs = [golden_pair(model_a.architecture, [model_a.weights], model_a.window, engine=engine) for _ in range(2)]
    (image, probabilities), (again, same) = pairs
    np.testing.assert_array_equal(image, again)
    np.testing.assert_allclose(probabilities, same, atol=1e-6)
    assert abs(image.mean()) < 1e-6
    assert image.nbytes + probabilities.nbytes < 2**20
    assert len(np.unique(np.argmax(probabilities, -1))) > 1


def test_a_process_of_months_does_not_keep_every_shape(engine):
    architecture = UNet2D(3, 4, 2)
    predictor = Predictor(architecture, [random_member(architecture)], engine=engine)
    tiles = [noise(2, 104 + 4 * i, 92) for i in range(5)]
    first = [next(predictor(tile)) for tile in tiles]
    assert len(predictor._compiled) == 4
    np.testing.assert_array_equal(next(predictor(tiles[0])), first[0])  # dropped, and made again
    assert len(predictor._compiled) == 4


@pytest.mark.parametrize("rule", ["mean", "vote"])
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (Hybrid2D3D(3, 4, pyramid_kernels=4), (5, 48, 54)),
        (Hybrid2D3D(3, 4, 2, 1, (1, 2), 6, pyramid_unpools_z=False), (3, 50, 48)),
        (UNet2D(3, 4, 2), (2, 104, 92)),
        (ResidualUNet(3, 4, 2), (4, 61, 83)),
        (ResidualUNet(3, 4, 1, neighbours=0), (1, 64, 32)),
    ],
)
@pytest.mark.keras
def test_engines_agree(architecture, shape, rule):
    """In float32 all but the last digits; ties of classes apart, which random members hardly have."""
    members, image = [random_member(architecture) for _ in range(3)], noise(*shape)
    predictors = [Predictor(architecture, members, engine=engine) for engine in ("keras", "openvino")]
    for ours, theirs in zip(*(p(image) for p in predictors), strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, ours, atol=2e-6)
    ours, theirs = (p.together(image, True, rule=rule, with_disagreement=True) for p in predictors)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=2e-6)
    np.testing.assert_allclose(theirs.disagreement, ours.disagreement, atol=1e-5)
    assert theirs.disagreement.min() >= 0
    for answer in (ours, theirs):
        for found, wanted in zip(answer, decide(answer.probabilities), strict=False):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    few, (both, _, shares, unsure) = predictors[1].together(image, rule=rule), theirs
    np.testing.assert_array_equal(few.labels, both)
    assert few.probabilities is few.disagreement is None
    assert shares.shape[:-1] == unsure.shape == few.confidence.shape
    assert predictors[1].together(image, rule=rule, with_disagreement=True).probabilities is None


def test_one_net_alone_is_as_unsure_as_its_probabilities(engine):
    architecture = ResidualUNet(3, 4, 1)
    found = Predictor(architecture, [random_member(architecture)], engine=engine).together(
        noise(3, 64, 64), True, with_disagreement=True
    )
    np.testing.assert_allclose(found.disagreement, entropy(found.probabilities), atol=1e-5)
    assert found.disagreement.mean() > 0.1


@pytest.mark.parametrize("n_classes", [2, 3, 7, 40])
def test_the_lowest_class_on_a_tie(n_classes, engine):
    """Where a net cannot tell its classes apart, as it cannot where all of its weights are 0."""
    architecture = ResidualUNet(n_classes, 4, 1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(architecture).items()}
    found = Predictor(architecture, [weights], engine=engine).together(noise(3, 64, 72))
    assert not found.labels.any()
    np.testing.assert_allclose(found.confidence, 1 / n_classes, rtol=1e-6)


def test_a_tile_may_lie_in_memory_as_it_likes(engine):
    architecture = ResidualUNet(3, 4, 1)
    predictor = Predictor(architecture, [random_member(architecture)], engine=engine)
    tile = noise(3, 64, 64)
    right = predictor.together(tile, True).probabilities
    for other in (np.asfortranarray(tile), np.repeat(tile, 2, axis=2)[:, :, ::2], tile.astype(np.float64)):
        np.testing.assert_array_equal(predictor.together(other, True).probabilities, right)


def test_what_was_given_out_stays():
    """An engine that computes in place must not overwrite it."""
    architecture = ResidualUNet(3, 4, 1)
    predictor = Predictor(architecture, [random_member(architecture)], engine="openvino")
    first = predictor.together(noise(3, 64, 64), True)
    kept = [None if array is None else array.copy() for array in first]
    predictor.together(-noise(3, 64, 64), True)
    for array, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_other_members_take_the_place_of_those_that_were_there(engine):
    architecture = UNet2D(3, 4, 2)
    (one,), (other,) = ([random_member(architecture)] for _ in range(2))
    predictor, image = Predictor(architecture, [one], engine=engine), noise(2, 104, 92)
    before = next(predictor(image))
    predictor.reload([other])
    np.testing.assert_array_equal(next(predictor(image)), next(Predictor(architecture, [other], engine=engine)(image)))
    assert np.abs(next(predictor(image)) - before).max() > 0.01
