"""Published models become bundles: just what their checkpoints hold, nothing executed, each damage with its message."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import BundleError, OutputError, PublishedModelError
from densecell_batch.models import published
from densecell_batch.models.bundle import ModelBundle, load_bundle
from densecell_batch.models.classes import PLATELET_CLASSES, default_classes, jet_colours
from densecell_batch.models.crc32c import crc32c, masked
from densecell_batch.models.published import import_published, read_published
from densecell_batch.nets.architecture import Hybrid2D3D, UNet2D, tensor_shapes
from densecell_batch.storage import zips

pytestmark = pytest.mark.keras

SMALL = Hybrid2D3D(n_classes=7, n_kernels=8, pyramid_kernels=8)
BEST = "model/checkpoints/best"
TINY = UNet2D(n_classes=2, n_kernels=1, n_blocks=1, n_convs=1)
TINY_WINDOW = (1, 12, 12)

_opened: list[str] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" or (event == "open" and str(arguments[0]).endswith(".pkl")):
        _opened.append(f"{event} {arguments[0]}")


sys.addaudithook(_hear)  # cannot be removed, so it is light and there once


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test of this module opens a pickle: gene_graph.pkl executes code."""
    read = zipfile.ZipFile.open

    def spy(self: zipfile.ZipFile, name: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "r" and str(getattr(name, "filename", name)).endswith(".pkl"):
            _opened.append(f"in zip: {name}")
        return read(self, name, mode, *arguments, **options)

    _opened.clear()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", spy)
        yield
    assert _opened == []


@pytest.fixture
def models(data: Path) -> Path:
    return data / "published"


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A copy of model A that a test may damage."""
    folder = tmp_path / "A"
    for file in (models / "2d3d-small_A").rglob("*"):
        if file.is_file() and file.suffix != ".pkl":
            target = folder / file.relative_to(models / "2d3d-small_A")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder


def zip_of(folder: Path, path: Path, root: str = "model_0/") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(folder.rglob("*")):
            if source.is_file():
                file.writestr(root + source.relative_to(folder).as_posix(), source.read_bytes())
    return path


def write_model(folder: Path, tensors: dict[str, np.ndarray], window: tuple[int, ...] = TINY_WINDOW) -> Path:
    """A model with these tensors, as TensorFlow writes it."""
    import tensorflow as tf

    best = folder / BEST
    best.mkdir(parents=True)
    tf.raw_ops.SaveV2(
        prefix=str(best / "model.ckpt-9"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[np.asarray(tensor) for tensor in tensors.values()],
    )
    sides = "\n".join(f"          dim {{\n            size: {side}\n          }}" for side in window)
    (best / "graph.pbtxt").write_text(
        'node {\n  name: "queue"\n  op: "RandomShuffleQueueV2"\n'
        '  attr {\n    key: "shapes"\n    value {\n      list {\n'
        f"        shape {{\n        }}\n        shape {{\n{sides}\n        }}\n      }}\n    }}\n  }}\n}}\n"
    )
    return folder


def tiny(n_classes: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = tensor_shapes(UNet2D(n_classes, TINY.n_kernels, TINY.n_blocks, TINY.n_convs))
    return {f"U-Net/{name}": random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "architecture", "window", "step", "mean_iou"),
    [
        ("2d3d-small_S", SMALL, (5, 60, 60), 600, 0.1556629240512848),
        ("2d3d-small_A", SMALL, (5, 60, 60), 600, 0.1556629240512848),
        ("2d3d-small_B", SMALL, (5, 60, 60), 500, 0.25436562299728394),
        ("unet-small_0", UNet2D(n_classes=7, n_kernels=8), (1, 284, 284), 216, 0.12983836233615875),
    ],
)
def test_reads_what_was_published(
    models: Path, name: str, architecture: Any, window: tuple[int, ...], step: int, mean_iou: float
) -> None:
    import tensorflow as tf

    model = read_published(models / name)
    assert model.architecture == architecture
    assert model.window == window
    assert model.checkpoint == f"{BEST}/model.ckpt-{step}"
    assert model.notes == ()
    assert model.scores["mean_iou"] == mean_iou
    reader = tf.train.load_checkpoint(str(models / name / model.checkpoint))
    assert model.weights.keys() == tensor_shapes(architecture).keys()
    for key, tensor in model.weights.items():
        assert np.array_equal(tensor, reader.get_tensor(f"{architecture.scope}/{key}")), key


def test_optimizer_slots_are_there_in_one_and_not_in_another(models: Path) -> None:
    import tensorflow as tf

    counts = []
    for name in ("2d3d-small_S", "2d3d-small_A"):
        checkpoint = next((models / name / BEST).glob("*.index")).with_suffix("")
        counts.append(len(tf.train.load_checkpoint(str(checkpoint)).get_variable_to_shape_map()))
    assert counts == [201, 67]


def test_the_published_nets_at_full_size(data: Path) -> None:
    with (data / "genenet/full-checkpoint-variables.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["name"].startswith("2D3D/")]
    shapes = {row["name"]: tuple(json.loads(row["shape"])) for row in rows if "/adam" not in row["name"]}
    assert published._infer(Path("full"), shapes) == Hybrid2D3D(n_classes=7)


@pytest.mark.parametrize(
    "architecture",
    [
        Hybrid2D3D(n_classes=3, n_kernels=4, n_blocks=2, n_convs=1, pyramid_convs=(1, 2, 1), pyramid_kernels=5),
        Hybrid2D3D(n_classes=2, n_kernels=2, n_blocks=1, pyramid_convs=(2,), pyramid_kernels=3),
        Hybrid2D3D(n_classes=2, n_kernels=2, n_blocks=4, pyramid_unpools_z=False),
        UNet2D(n_classes=4, n_kernels=3, n_blocks=2, n_convs=3),
    ],
)
def test_architecture_follows_from_names_and_shapes(architecture: Any) -> None:
    shapes = {f"{architecture.scope}/{name}": shape for name, shape in tensor_shapes(architecture).items()}
    assert published._infer(Path("x"), shapes) == architecture


@pytest.mark.parametrize("root", ["", "model_0/"])
def test_zip_and_folder_are_the_same(tmp_path: Path, model: Path, root: str) -> None:
    path = zip_of(model, tmp_path / "a.zip", root)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"{root}gene_graph.pkl", b"never read")
    a, b = read_published(path), read_published(model)
    assert (a.architecture, a.window, a.checkpoint) == (b.architecture, b.window, b.checkpoint)
    assert a.weights.keys() == b.weights.keys() == tensor_shapes(b.architecture).keys()
    assert all(np.array_equal(a.weights[key], b.weights[key]) for key in b.weights)


def test_a_folder_around_the_model(model: Path) -> None:
    (model.parent / "around").mkdir()
    model.rename(model.parent / "around" / "A")
    assert read_published(model.parent / "around").architecture == SMALL


@pytest.mark.parametrize("place", ["model/checkpoints/last", "model"])
def test_without_best_another_is_read_and_it_says_so(model: Path, place: str) -> None:
    (model / BEST).rename(model / "saved")
    if place == "model":
        shutil.copytree(model / "saved", model / place, dirs_exist_ok=True)
    else:
        (model / "saved").rename(model / place)
    read = read_published(model)
    assert read.checkpoint == f"{place}/model.ckpt-600"
    assert read.notes == (f"no {BEST} in it, so {place} was read",)


def test_best_goes_before_last_and_live(model: Path) -> None:
    for place in ("model/checkpoints/last", "model"):
        (model / place).mkdir(exist_ok=True)
        (model / place / "model.ckpt-900.index").touch()
    assert read_published(model).checkpoint == f"{BEST}/model.ckpt-600"


def test_of_several_checkpoints_the_newest(model: Path) -> None:
    (model / BEST / "model.ckpt-99.index").touch()
    read = read_published(model)
    assert read.checkpoint == f"{BEST}/model.ckpt-600"
    assert read.notes == ("2 checkpoints in one folder, model.ckpt-600 was read",)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[5]", b'[{"global_step": 600, "mean_iou": "high"}]', None])
def test_scores_are_optional(model: Path, content: bytes | None) -> None:
    if content is None:
        (model / "file_history.json").unlink()
    else:
        (model / "file_history.json").write_bytes(content)
    assert read_published(model).scores == {}


def _cut(pattern: str, size: int) -> Callable[[Path], None]:
    def damage(best: Path) -> None:
        file = next(best.glob(pattern))
        file.write_bytes(file.read_bytes()[:size])

    return damage


def _flip(best: Path) -> None:
    file = next(best.glob("*.data-*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def _rename_shards(best: Path) -> None:
    file = next(best.glob("*.data-*"))
    file.rename(file.with_name(file.name.replace("00000-of-00001", "00001-of-00002")))


def _graph(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(best: Path) -> None:
        file = best / "graph.pbtxt"
        file.write_text(change(file.read_text()))

    return damage


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "no published model: model/checkpoints/best/model.ckpt-N.index"),
    (_cut("*.index", 0), "model.ckpt-600.index is damaged"),
    (_cut("*.index", 1000), "model.ckpt-600.index is damaged"),
    (_cut("*.data-*", 300_000), "has 300,000 bytes, its tensors need 661,312; a file is truncated"),
    (_flip, "tensor .* is damaged .its checksum is wrong"),
    (lambda best: next(best.glob("*.data-*")).unlink(), "data-00000-of-00001 is missing beside model.ckpt-600.index"),
    (_rename_shards, "data-00000-of-00002 is missing"),
    (lambda best: (best / "graph.pbtxt").unlink(), "graph.pbtxt is missing .* --window Z,Y,X"),
    (_cut("graph.pbtxt", 100), "0 nodes RandomShuffleQueueV2 with 0 different windows.* --window"),
    (_graph(lambda text: text.replace('key: "shapes"', 'key: "forms"')), "1 nodes .* 0 different windows.* --window"),
    (_graph(lambda text: text + text.replace("size: 60", "size: 80")), "2 nodes .* 2 different windows.* --window"),
    (_graph(lambda text: text.replace("size: 60", "size: 4")), r"window \[5, 4, 4\] is too small.*--window"),
    (lambda best: (best / "graph.pbtxt").write_bytes(b"\xff\xfe\x00"), "--window Z,Y,X"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_models(tmp_path: Path, model: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(model / BEST)
    (model / "readme").touch()
    for path in (model, zip_of(model, tmp_path / "a.zip")):
        with pytest.raises(PublishedModelError, match=message) as caught:
            read_published(path)
        assert str(caught.value).startswith(str(path))


def test_the_window_can_be_given(model: Path) -> None:
    (model / BEST / "graph.pbtxt").unlink()
    assert read_published(model, window=(5, 80, 80)).window == (5, 80, 80)


def _shape(tensors: dict[str, np.ndarray]) -> None:
    tensors["U-Net/net/encoder/encode_block_0/comp_0/conv/kernel"] = np.zeros((3, 3, 2, 1), np.float32)


TENSORS: list[tuple[Callable[[dict[str, np.ndarray]], object], str]] = [
    (lambda t: t.pop("U-Net/predictor/logits/bias"), "tensor predictor/logits/bias is missing"),
    (lambda t: t.pop("U-Net/predictor/logits/kernel"), "tensor predictor/logits/kernel is missing"),
    (lambda t: t.update({"U-Net/new/kernel": np.zeros(3, np.float32)}), "tensor new/kernel is unknown"),
    (
        lambda t: t.update({"Other/x": np.zeros(3, np.float32)}),
        "stand in the scopes Other, U-Net; expected one of 2D3D and U-Net",
    ),
    (lambda t: (t.clear(), t.update(x=np.zeros(3, np.float32))), "stand in the scopes x; expected one of"),
    (lambda t: (t.clear(), t.update(global_step=np.int64(3))), "stand in the scopes none"),
    (_shape, r"comp_0/conv/kernel has shape \[3, 3, 2, 1\], expected \[3, 3, 1, 1\]"),
    (
        lambda t: t.update({"U-Net/predictor/logits/kernel": np.float32(1)}),
        "the shapes of its tensors make no U-Net net",
    ),
    (lambda t: t["U-Net/predictor/logits/bias"].fill(np.nan), "predictor/logits/bias is not finite"),
    (lambda t: t.update({"U-Net/predictor/logits/bias": np.zeros(2)}), "predictor/logits/bias is float64"),
    (
        lambda t: t.update({"U-Net/net/encoder/encode_block_999999999/x": np.zeros(1, np.float32)}),
        "n_blocks is .* expected a whole number from 1 to 8",
    ),
]


@pytest.mark.parametrize(("change", "message"), TENSORS)
def test_tensors_that_make_no_net(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object], message: str
) -> None:
    tensors = tiny()
    change(tensors)
    with pytest.raises(PublishedModelError, match=message):
        read_published(write_model(tmp_path / "m", tensors))


def test_what_the_optimizer_kept_is_left_out(tmp_path: Path) -> None:
    tensors = tiny()
    slots = {f"{name}/{slot}": tensor for name, tensor in tensors.items() for slot in ("adam", "adam_1")}
    more = {"global_step": np.int64(9), "train/beta1_power": np.float32(0.5)}
    model = read_published(write_model(tmp_path / "m", tensors | slots | more))
    assert {f"U-Net/{name}" for name in model.weights} == tensors.keys()
    assert model.architecture == TINY
    assert model.window == TINY_WINDOW


def test_zips_that_hold_more_than_a_model(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = zip_of(model, tmp_path / "two.zip", "a/")
    with zipfile.ZipFile(two, "a") as file:
        file.writestr(f"b/{BEST}/model.ckpt-1.index", b"")
    with pytest.raises(PublishedModelError, match=r"several models \(a, b\) where one was expected"):
        read_published(two)
    evil = zip_of(model, tmp_path / "evil.zip")
    with zipfile.ZipFile(evil, "a") as file:
        file.writestr("../../evil", b"")
    with pytest.raises(PublishedModelError, match="leaves its folder"):
        read_published(evil)
    good = zip_of(model, tmp_path / "good.zip")
    monkeypatch.setattr(zips, "MAX_BYTES", 100_000)
    with pytest.raises(PublishedModelError, match="expected at most 100,000 bytes"):
        read_published(good)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((1, 12, 100_000), "window .1, 12, 100000. is too large"),
        ((999_999_999, 12, 12), "is too large"),
        ((1, 16_000, 16_000), "a net would need .* bytes for it"),
        ((1, 4, 4), "is too small"),
    ],
)
def test_windows_that_no_training_had(tmp_path: Path, window: tuple[int, ...], message: str) -> None:
    shapes = tensor_shapes(UNet2D(n_classes=200, n_kernels=64, n_blocks=1, n_convs=1))
    tensors = {f"U-Net/{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(PublishedModelError, match=message):
        read_published(write_model(tmp_path / "m", tensors, (1, *window)))


@pytest.mark.parametrize("depth", [3000, 10_000, 16_000])
def test_a_deep_window_is_not_computed(tmp_path: Path, depth: int) -> None:
    """The golden pair has the depth of the window."""
    shapes = tensor_shapes(UNet2D(n_classes=2, n_kernels=16))
    tensors = {f"U-Net/{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    model = write_model(tmp_path / "m", tensors, (1, depth, 188, 188))
    with pytest.raises((PublishedModelError, BundleError), match=r"is too large|for a golden input of .* need"):
        import_published([model], tmp_path / "b", "b")
    assert not (tmp_path / "b").exists()


def _kind(index: bytes) -> bytes:
    """A field of a kind that does not exist, under a checksum that is right."""
    end = index.index(b"\0\0\0\0\1\0\0\0") + 8
    at = index.index(b"\x08\x01\x12", 40)
    changed = index[:at] + b"\x07" + index[at + 1 :]
    return changed[: end + 1] + masked(crc32c(changed[: end + 1])).to_bytes(4, "little") + changed[end + 5 :]


@pytest.mark.parametrize(
    "change",
    [_kind, lambda index: index[:-48] + bytes(48), lambda index: b"\xff" * 40 + index[40:], lambda index: index[9:]],
)
def test_damaged_indices_name_the_file(model: Path, change: Callable[[bytes], bytes]) -> None:
    """TensorFlow's own reader ends the process for some of these."""
    file = next((model / BEST).glob("*.index"))
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(PublishedModelError, match=r"model\.ckpt-600\.index is damaged"):
        read_published(model)


def test_neither_tensorflow_nor_a_temporary_folder_is_needed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert read_published(model).architecture == SMALL


@pytest.mark.parametrize("name", ["model\x1b[2J.ckpt-600", "a\nb-600", "x" * 150])
def test_checkpoints_with_strange_names(model: Path, name: str) -> None:
    for file in list((model / BEST).glob("model.ckpt-600.*")):
        file.rename(file.with_name(file.name.replace("model.ckpt-600", name)))
    with pytest.raises(PublishedModelError, match=r"expected a name like model\.ckpt-600") as caught:
        read_published(model)
    assert str(caught.value).isprintable()


def test_a_graph_with_a_constant_longer_than_is_kept(model: Path) -> None:
    graph = model / BEST / "graph.pbtxt"
    constant = 'node {\n  name: "c"\n  op: "Const"\n  tensor_content: "' + "x" * 5_000_000 + '"\n}\n'
    graph.write_text(constant + graph.read_text() + constant)
    assert read_published(model).window == (5, 60, 60)


@pytest.mark.parametrize("what", ["file_history.json", f"{BEST}/graph.pbtxt", f"{BEST}/model.ckpt-600.index"])
def test_links_that_leave_the_model(model: Path, what: str) -> None:
    (model / what).rename(model.parent / "outside")
    (model / what).symlink_to(model.parent / "outside")
    with pytest.raises(PublishedModelError, match="is a link that leaves the folder"):
        read_published(model)


def test_no_model(tmp_path: Path, data: Path) -> None:
    with pytest.raises(PublishedModelError, match="no such file or folder"):
        read_published(tmp_path / "nothing")
    with pytest.raises(PublishedModelError, match="no published model"):
        read_published(tmp_path)
    with pytest.raises(PublishedModelError, match=r"it has a bundle.json: a bundle is used as it is"):
        read_published(data / "fly-vnc-small.zip")
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(PublishedModelError, match="cannot be read as a zip"):
        read_published(tmp_path / "a.zip")
    for name in ("a", "b"):
        (tmp_path / name / BEST).mkdir(parents=True)
        (tmp_path / name / BEST / "model.ckpt-1.index").touch()
    with pytest.raises(PublishedModelError, match="several models"):
        read_published(tmp_path)


def test_import_of_the_small_ensemble(tmp_path: Path, models: Path) -> None:
    paths = [models / "2d3d-small_A", models / "2d3d-small_B"]
    bundle = import_published(
        paths, tmp_path / "ab.zip", "ab", licence="CC0-1.0", voxel_size=VoxelSize.of(40, 10, 10, "nm"), citation="us"
    )
    assert load_bundle(tmp_path / "ab.zip") == bundle
    assert (bundle.architecture, bundle.window, bundle.licence, bundle.citation) == (
        SMALL,
        (5, 60, 60),
        "CC0-1.0",
        "us",
    )
    assert [c.name for c in bundle.classes] == list(PLATELET_CLASSES)
    assert bundle.voxel_size == VoxelSize(0.04, 0.01, 0.01)
    for i, path in enumerate(paths):
        weights, expected = bundle.weights(i), read_published(path).weights
        assert weights.keys() == expected.keys() == tensor_shapes(SMALL).keys()
        assert all(np.array_equal(weights[key], expected[key]) for key in expected)
    image, probabilities = bundle.golden()
    assert probabilities.shape == (*SMALL.output_shape(image.shape), 7)
    assert np.allclose(probabilities.sum(-1), 1, atol=1e-5)
    assert bundle.provenance["imported from"][1] == {"source": "2d3d-small_B", "checkpoint": f"{BEST}/model.ckpt-500"}
    assert any("classes were named background, cell" in note for note in bundle.provenance["notes"])
    text = json.dumps(bundle.provenance)
    assert str(tmp_path) not in text
    assert str(models) not in text


@pytest.fixture
def import_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelBundle]:
    """Import tiny models without running them."""
    from densecell_batch.models import golden as module

    def golden(architecture: Any, members: Any, window: Any, **_: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(window, np.float32), np.zeros((*architecture.output_shape(window), 2), np.float32)

    monkeypatch.setattr(module, "golden_pair", golden)

    def run(*models: Path, **options: Any) -> ModelBundle:
        return import_published(models, tmp_path / "bundle", "tiny", **options)

    return run


def test_import_options(tmp_path: Path, import_tiny: Callable[..., ModelBundle]) -> None:
    bundle = import_tiny(write_model(tmp_path / "m", tiny()), version="3", classes=["in", "out"], window=(1, 20, 20))
    assert [c.name for c in bundle.classes] == ["in", "out"]
    assert (bundle.version, bundle.window, bundle.voxel_size) == ("3", (1, 20, 20), None)
    assert (bundle.licence, bundle.citation) == ("not stated", "not stated")
    assert bundle.provenance["notes"] == []


def test_import_refuses_members_that_are_not_alike(tmp_path: Path, import_tiny: Callable[..., ModelBundle]) -> None:
    a = write_model(tmp_path / "a", tiny())
    three = write_model(tmp_path / "three", tiny(n_classes=3))
    wide = write_model(tmp_path / "wide", tiny(seed=1), window=(1, 20, 20))
    shapes = tensor_shapes(UNet2D(n_classes=2, n_kernels=2, n_blocks=1, n_convs=1))
    other = write_model(tmp_path / "other", {f"U-Net/{k}": np.ones(v, np.float32) for k, v in shapes.items()})
    rows = [
        ((a, three), {}, r"three has 3 classes, .*a has 2; members of a bundle have the same classes"),
        ((a, other), {}, r"other is UNet2D\(.*n_kernels=2.*a is UNet2D\(.*n_kernels=1"),
        ((a, wide), {}, r"wide was trained on windows of \(1, 20, 20\), .*a of \(1, 12, 12\).*--window"),
        ((a,), {"classes": ["one"]}, r"1 class names were given; .* has 2 classes"),
        ((), {}, "no model given"),
    ]
    for models, options, message in rows:
        with pytest.raises(PublishedModelError, match=message):
            import_tiny(*models, **options)
    with pytest.raises(BundleError, match="class 'x' stands there twice"):
        import_tiny(a, classes=["x", "x"])
    assert not (tmp_path / "bundle").exists()
    assert len(import_tiny(a, wide, window=(1, 20, 20)).members) == 2
    with pytest.raises(OutputError, match="exists already"):
        import_tiny(a)


def test_jet_colours() -> None:
    # Of the colour map jet in matplotlib, bytes=True, at i / (n - 1).
    lab = [(0, 0, 127), (0, 40, 255), (0, 212, 255), (124, 255, 121), (255, 229, 0), (255, 70, 0), (127, 0, 0)]
    assert jet_colours(7) == lab
    assert jet_colours(5) == [(0, 0, 127), (0, 128, 255), (124, 255, 121), (255, 148, 0), (127, 0, 0)]
    assert jet_colours(1) == [(0, 0, 127)]
    assert [c.colour for c in default_classes(7)] == lab
    assert [c.name for c in default_classes(3)] == ["class-0", "class-1", "class-2"]


def test_the_marker_would_be_noticed(models: Path) -> None:
    """The pickles among the test data raise when loaded, and the watch over `open` works."""
    import pickle

    with (
        pytest.raises(RuntimeError, match="was unpickled"),
        (models / "2d3d-small_S/gene_graph.pkl").open("rb") as file,
    ):
        pickle.load(file)
    assert len(_opened) == 2
    _opened.clear()
