"""Bundles keep what was put in, and everything that can be wrong with one has its own message."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from bundles import NET, fields
from safetensors.numpy import load_file, save_file

from densecell_batch.errors import BundleError, OutputError
from densecell_batch.models.bundle import load_bundle, pack_bundle, read_manifest, shape_differences, write_bundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.manifest import Member, Quantization
from densecell_batch.nets.architecture import UNet2D, tensor_shapes
from densecell_batch.nets.quantization import quantized_layers

HASH = "0" * 64
RANGES = [dict.fromkeys(quantized_layers(NET), (-1.0, 2.0))] * 2
SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", **fields()).path


@pytest.fixture
def folder(tmp_path: Path, pristine: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of the manifest; a value of `...` removes the field."""
    manifest = json.loads((folder / "bundle.json").read_text()) | changes
    (folder / "bundle.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


@pytest.mark.parametrize("name", ["tiny", "tiny.zip"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    written = write_bundle(tmp_path / name, **fields())
    bundle = load_bundle(tmp_path / name)
    assert bundle == written
    given = fields()
    for field in (
        "name",
        "version",
        "licence",
        "citation",
        "architecture",
        "classes",
        "voxel_size",
        "window",
        "scores",
    ):
        assert getattr(bundle, field) == given[field], field
    assert bundle.provenance == given["provenance"]
    assert bundle.normalization == "stack"
    for i, member in enumerate(given["members"]):
        weights = bundle.weights(i)
        assert weights.keys() == member.keys()
        assert all(np.array_equal(weights[key], member[key]) for key in member)
    for found, expected in zip(bundle.golden(), given["golden"], strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)


def test_a_2d_net_without_voxel_size(tmp_path: Path) -> None:
    net = UNet2D(n_classes=2, n_kernels=1, n_blocks=1, n_convs=1)
    weights = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes(net).items()}
    golden = (np.zeros((1, 16, 16), np.float32), np.full((1, 8, 8, 2), 0.5, np.float32))
    assert net.output_shape((1, 16, 16)) == (1, 8, 8)
    bundle = write_bundle(
        tmp_path / "b",
        **fields(architecture=net, voxel_size=None, window=(1, 16, 16), members=[weights], golden=golden),
    )
    assert bundle.voxel_size is None
    assert bundle.weights(0).keys() == weights.keys()
    assert bundle.golden()[1].shape == (1, 8, 8, 2)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_bundle(tmp_path / name / "tiny.zip", **fields())
    assert (tmp_path / "a" / "tiny.zip").read_bytes() == (tmp_path / "b" / "tiny.zip").read_bytes()


def test_pack_gives_the_bytes_that_write_gives(tmp_path: Path, pristine: Path) -> None:
    write_bundle(tmp_path / "written.zip", **fields())
    pack_bundle(pristine, tmp_path / "packed.zip")
    assert (tmp_path / "packed.zip").read_bytes() == (tmp_path / "written.zip").read_bytes()


def test_manifest_says_nanometres(pristine: Path) -> None:
    manifest = json.loads((pristine / "bundle.json").read_text())
    assert manifest["voxel_size"] == {"z": 47.0, "y": 9.2, "x": 9.2, "unit": "nm"}
    assert (
        manifest["members"][0]["sha256"] == hashlib.sha256((pristine / "member-0.safetensors").read_bytes()).hexdigest()
    )


def test_zip_with_everything_in_one_folder(tmp_path: Path, pristine: Path) -> None:
    shutil.make_archive(str(tmp_path / "a"), "zip", pristine.parent, pristine.name)
    assert load_bundle(tmp_path / "a.zip").weights(1).keys() == tensor_shapes(NET).keys()


def test_nothing_is_overwritten_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_bundle(tmp_path / "tiny", **fields())
    with pytest.raises(OutputError, match="cannot be written"):
        write_bundle(tmp_path / "nowhere" / "tiny", **fields())
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


FIT = {"windows": 4, "names": ["power_5px"], "centre": [0], "covariance": [[1]], "disagreement": 0}
MANIFESTS: list[tuple[dict[str, Any], str]] = [
    ({"schema_version": 3}, r"schema version 3; .* knows 1 to 2"),
    ({"schema_version": ...}, r"schema version None"),
    ({"own_data": {}}, r"unknown fields: own_data"),
    ({"schema_version": 2}, r"lacks own_data"),
    *(
        ({"schema_version": 2, "own_data": value}, r"own_data .*(cannot be understood|expected an object)")
        for value in (
            [],
            {"grey_values": [1, 2]},
            {"grey_values": [0.0] * 32 + [1e308]},
            {"grey_values": [0.0] * 32 + [-1.0]},
            {"fit": {"windows": 4, "names": ["disagreement"], "centre": [0], "covariance": [[1]], "disagreement": 0}},
            {"fit": {"windows": 4, "names": ["power_5px"], "centre": [1e200], "covariance": [[1]], "disagreement": 0}},
            {"fit": {"windows": 4, "names": ["power_5px"], "centre": [0], "covariance": [[-1]], "disagreement": 0}},
            {"fit": {**FIT, "names": ["power_1..5px"]}},
            {"fit": {**FIT, "size": {"names": ["ridges_4.5px"], "weights": [1e200], "offset": 0}}},
            {"fit": {**FIT, "size": {"names": ["../x"], "weights": [1], "offset": 0}}},
            {"scale": [1, 0, 1]},
            {"scale": [1, 1e9, 1]},
            {"scale": [1, 1]},
        )
    ),
    ({"class_offsets": [0, 0]}, r"unknown fields: class_offsets; expected exactly .*, provenance$"),
    (
        {"schema_version": 2, "own_data": {}, "extra": 1},
        r"unknown fields: extra; .*, and class_offsets, quantization if need be$",
    ),
    *(
        (
            {"schema_version": 2, "own_data": {}, "class_offsets": value},
            r"class_offsets is .*expected (a list|2 numbers)",
        )
        for value in (None, 0, {}, [], [0], [0, 0, 0], [0, True], [0, "1"], [0, None], [0, 10.1], [-1e300, 0])
    ),
    ({"quantization": {}}, r"unknown fields: quantization; expected exactly .*, provenance$"),
    *(
        (
            {"schema_version": 2, "own_data": {}, "quantization": value},
            r"bundle\.json:? .*quantization (is|has|does|cannot)",
        )
        for value in (
            None,
            [],
            {},
            {"ranges": RANGES},
            {"ranges": RANGES, "agreement": 1.5},
            {"ranges": RANGES, "agreement": "all"},
            {"ranges": RANGES, "agreement": 0.5, "mean_iou": [0.5]},
            {"ranges": RANGES, "agreement": 0.5, "mean_iou": [0.5, -1]},
            {"ranges": [], "agreement": 0.5},
            {"ranges": RANGES[:1], "agreement": 0.5},
            {"ranges": [{}] * 2, "agreement": 0.5},
            {"ranges": [{**RANGES[0], "more": [0, 1]}] * 2, "agreement": 0.5},
            *(
                {"ranges": [dict.fromkeys(RANGES[0], r)] * 2, "agreement": 0.5}
                for r in ([0], [1, 2], [-2, -1], [0, 1e300])
            ),
        )
    ),
    ({"schema_version": True}, r"schema version True"),
    ({"licence": ...}, r"lacks licence; expected exactly schema_version, name"),
    ({"extra": 1}, r"unknown fields: extra"),
    ({"version": 1}, r"version is 1; expected a text"),
    ({"voxel_size": [1, 2, 3]}, r"voxel_size is \[1, 2, 3\]; expected an object or null"),
    ({"scores": []}, r"scores is \[\]; expected an object"),
    ({"name": "../x"}, r"name is '\.\./x'; expected 1 to 64 letters"),
    ({"architecture": {"family": "resnet"}}, r"bundle\.json: architecture family is 'resnet'"),
    ({"architecture": {"family": "2d3d", "n_classes": 0}}, r"n_classes is 0"),
    ({"classes": [{"name": "a", "colour": [0, 0, 0]}]}, r"1 classes are named, but the nets have 2"),
    ({"classes": [{"name": "a", "colour": [0, 0, 0]}] * 2}, r"class 'a' stands there twice"),
    ({"classes": [{"name": "a", "colour": [0, 0, 256]}] * 2}, r"class a: colour is \[0, 0, 256\]; expected 3 whole"),
    ({"classes": [{"name": "a", "colour": [0, 0]}] * 2}, r"class a: colour is \[0, 0\]"),
    ({"classes": [{"name": "a", "colour": "red"}] * 2}, r"class a: colour is \['red'\]"),
    ({"classes": [{"name": "a", "colour": [0, 0.5, True]}] * 2}, r"class a: colour is \[0, 0\.5, True\]"),
    ({"classes": [{"name": "../a", "colour": [0, 0, 0]}] * 2}, r"class name '\.\./a': expected 1 to 64 printable"),
    ({"classes": [{"name": "a\tb", "colour": [0, 0, 0]}] * 2}, r"class name 'a\\tb'"),
    ({"classes": [{"name": 5, "colour": [0, 0, 0]}] * 2}, r"class name 5"),
    ({"classes": ["a", "b"]}, r"classes holds 'a'; expected objects of name and colour"),
    ({"classes": [{"name": name, "colour": [0, 0, 0]} for name in ("a b", "a-b")]}, r"'a b' and 'a-b' would both be"),
    ({"classes": [{"name": name, "colour": [0, 0, 0]} for name in ("Cell", "cell")]}, r"files named cell; expected"),
    ({"classes": [{"name": name, "colour": [0, 0, 0]} for name in ("a (b)", "a [b]")]}, r"files named a-b-; expected"),
    ({"classes": [{"name": name, "colour": [0, 0, 0]} for name in ("µ", "é")]}, r"'µ' and 'é' would both be"),
    ({"version": "1\nDENSECELL\tok"}, r"version is '1\\nDENSECELL\\tok'; expected a text of at most 64"),
    ({"version": "1" * 65}, r"version is '1+'; expected"),
    ({"licence": "\x1b]0;x\x07"}, r"licence is '\\x1b\]0;x\\x07'; expected"),
    ({"licence": "MIT\u202e"}, r"licence is 'MIT\\u202e'; expected"),
    ({"citation": "a\u2028b"}, r"citation is 'a\\u2028b'; expected"),
    ({"citation": "x" * 4001}, r"citation is 'x+; expected a text of at most 4000 characters"),
    ({"a\x1b[2J\nb": 1}, r"unknown fields: a\\x1b\[2J\\nb; expected"),
    ({"architecture": {"family": "2d3d", "n_classes": 2, "a\nb": 1}}, r"has no field a\\nb; expected"),
    ({"window": [5, 16, 10**6]}, r"window \[5, 16, 1000000\] is too large"),
    ({"window": [16_384, 16_384, 16_384]}, r"is too large: a net would need \d+(,\d+)+ bytes"),
    ({"window": [10**18, 16, 16]}, r"is too large"),
    ({"members": [{"file": f"m-{i}.safetensors", "sha256": HASH} for i in range(101)]}, r"members has 101; expected"),
    ({"voxel_size": {"z": 1, "y": 1, "x": 1, "unit": "\x1b[2J"}}, r"unit '\\x1b\[2J' is not a unit"),
    ({"voxel_size": {"z": 1, "y": 1, "x": 1}}, r"expected z, y, x and unit"),
    ({"voxel_size": {"z": 1, "y": 1, "x": 1, "unit": "furlong"}}, r"unit 'furlong' is not a unit"),
    ({"voxel_size": {"z": 0, "y": 1, "x": 1, "unit": "nm"}}, r"voxel size along z is 0"),
    ({"voxel_size": {"z": "1", "y": 1, "x": 1, "unit": "nm"}}, r"expected numbers for z, y and x"),
    ({"window": [5, 16]}, r"window is \[5, 16\]; expected 3 whole numbers"),
    ({"window": [5, 16, 0]}, r"window is \[5, 16, 0\]"),
    ({"window": [5, 16, "a"]}, r"window is \[5, 16, 'a'\]"),
    ({"window": [5, 1, 16]}, r"window \[5, 1, 16\] is too small"),
    (
        {"window": [3, 31, 64], "architecture": {"family": "residual", "n_classes": 2}},
        r"window \[3, 31, 64\] is too small",
    ),
    ({"normalization": "slice"}, r"normalization is 'slice'; expected 'stack'"),
    ({"members": []}, r"members is empty"),
    ({"members": [{"file": "a.safetensors"}]}, r"expected objects of file and sha256"),
    ({"members": [{"file": "../a.safetensors", "sha256": HASH}]}, r"member file is '\.\./a\.safetensors'"),
    ({"members": [{"file": "a.pkl", "sha256": HASH}]}, r"member file is 'a\.pkl'"),
    ({"members": [{"file": "a.safetensors", "sha256": "x"}]}, r"sha256 is 'x'; expected 64"),
    ({"members": [{"file": "a.safetensors", "sha256": HASH}] * 2}, r"member file 'a\.safetensors' stands there twice"),
    ({"members": [{"file": "a.safetensors", "sha256": HASH}]}, r"a\.safetensors is missing; the bundle is incomplete"),
]


@pytest.mark.parametrize("offsets", [(0.0, -1.25), (10.0, 0.0), None])
def test_offsets_make_it_schema_2(tmp_path: Path, offsets: tuple[float, ...] | None) -> None:
    bundle = write_bundle(tmp_path / "b.zip", **fields(class_offsets=offsets))
    assert bundle.class_offsets == offsets
    packed = pack_bundle(bundle.path, tmp_path / "packed.zip")
    manifest = read_manifest(packed.path)
    assert manifest["schema_version"] == (1 if offsets is None else 2)
    assert manifest.get("class_offsets") == (None if offsets is None else [*offsets])
    assert bundle.known.scale == (1, 1, 1)
    jsonschema.validate(
        manifest, json.loads((SCHEMAS / f"bundle-{manifest['schema_version']}.schema.json").read_text())
    )


@pytest.mark.parametrize(
    ("agreement", "scores", "near"),
    [
        (0.996, (0.7, 0.7), True),
        (0.994, (0.7, 0.7), False),
        (0.996, (0.7, 0.69), False),
        (1.0, (0.7, 0.8), True),
        (0.996, None, True),
        (0.5, None, False),
    ],
)
def test_what_is_known_of_int8(
    tmp_path: Path, agreement: float, scores: tuple[float, float] | None, near: bool
) -> None:
    found = Quantization(ranges=tuple(RANGES), agreement=agreement, mean_iou=scores)
    bundle = write_bundle(tmp_path / "b.zip", **fields(quantization=found))
    assert bundle.quantization == found
    assert bundle.quantization.is_near == near
    manifest = read_manifest(pack_bundle(bundle.path, tmp_path / "packed.zip").path)
    jsonschema.validate(manifest, json.loads((SCHEMAS / "bundle-2.schema.json").read_text()))


def test_offsets_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    for offsets in ((0, float("nan")), (0, 11), (0,)):
        with pytest.raises(BundleError):
            write_bundle(tmp_path / "b.zip", **fields(class_offsets=offsets))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("changes", "message"), MANIFESTS)
def test_bad_manifests(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "bundle.json is not JSON"),
        (b"\xff\xfe", "bundle.json is not JSON"),
        (b"[" * 100_000, "bundle.json is not JSON"),
        (b"[]", "holds no JSON object"),
        (b'{"voxel_size": NaN}', "bundle.json is not JSON .NaN is no number"),
        (b'{"window": [1e999]}', "bundle.json is not JSON .the number 1e999 is too large"),
        (b'{"window": [' + b"9" * 5000 + b"]}", "bundle.json is not JSON .the number 9+... is too large"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "bundle.json is not JSON .nested deeper than 50"),
        (b'{"name": "\\ud800"}', "bundle.json is not JSON .*surrogates not allowed"),
        (b" " * (2**24 + 1), "expected at most 4,194,304"),
    ],
)
def test_broken_manifests(folder: Path, content: bytes, message: str) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file or folder"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"bundle\.json is missing; this is no model bundle.* models import"):
        load_bundle(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(BundleError, match="cannot be read as a zip"):
        load_bundle(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("readme", "hello")
    with pytest.raises(BundleError, match=r"0 files bundle\.json where 1 was expected"):
        load_bundle(tmp_path / "b.zip")


def test_zip_whose_member_leaves_its_folder(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.zip", **fields()).path
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../evil", "x")
    with pytest.raises(BundleError, match="leaves its folder"):
        load_bundle(path)


@pytest.mark.parametrize("size", [2**21, 2**31])
def test_members_of_another_size_are_not_read(folder: Path, size: int) -> None:
    with (folder / "member-1.safetensors").open("wb") as file:
        file.truncate(size)
    with pytest.raises(BundleError, match=rf"member-1\.safetensors has {size:,} bytes; the tensors .* have 3,812"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "architecture",
    [
        {"family": "unet2d", "n_classes": 2, "n_kernels": 4096},
        {"family": "2d3d", "n_classes": 2, "n_kernels": 1024, "n_convs": 32},
        {"family": "2d3d", "n_classes": 2, "pyramid_convs": [64] * 4, "pyramid_kernels": 1024},
    ],
)
def test_nets_of_very_many_parameters(folder: Path, architecture: dict[str, Any]) -> None:
    edit(folder, architecture=architecture, window=[5, 1000, 1000])
    with pytest.raises(BundleError, match=r"2 nets of .* parameters; expected at most 268,435,456 each|is too"):
        load_bundle(folder)


@pytest.mark.parametrize("what", ["all", "header", "value"])
def test_bytes_of_a_golden_pair_that_are_damaged(folder: Path, what: str) -> None:
    content = bytearray((folder / "golden.npz").read_bytes())
    at = {"all": 0, "header": content.index(b"NUMPY"), "value": content.index(b"NUMPY") + 300}[what]
    content[at] ^= 1
    (folder / "golden.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"golden\.npz"):
        load_bundle(folder).golden()


def _declared(shape: tuple[int, ...], values: int) -> bytes:
    """A golden pair whose input says that it has this shape, and has so many values of 0."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": shape})
    expected = io.BytesIO()
    np.save(expected, np.zeros((1, 1, 1, 2), np.float32))
    pair = io.BytesIO()
    with zipfile.ZipFile(pair, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("input.npy", array.getvalue() + bytes(4 * values))
        file.writestr("expected.npy", expected.getvalue())
    return pair.getvalue()


@pytest.mark.parametrize(
    ("shape", "values", "message"),
    [
        ((5, 1024, 1024 * 64), 0, "its nets need .* bytes; expected a small one"),
        ((100_000, 1000, 1000), 10, "its nets need .* bytes"),
        ((999_999_999,) * 3, 0, "its nets need .* bytes"),
        ((1, 1024, 1024), 10, "expected has shape .1, 1, 1, 2.; it should be .1, 1024, 1024, 2."),
        ((1, 1, 1), 2, "it should be .1, 0, 0, 2."),
        ((1, 1024, 2**18), 2**22, "at most 100 times as much"),
    ],
)
def test_golden_pairs_that_declare_more_than_they_need(
    folder: Path, shape: tuple[int, ...], values: int, message: str
) -> None:
    (folder / "golden.npz").write_bytes(_declared(shape, values))
    with pytest.raises(BundleError, match=message):
        load_bundle(folder).golden()


def test_a_golden_pair_in_the_order_of_fortran(folder: Path) -> None:
    image = np.arange(5 * 8 * 8, dtype=np.float32).reshape(5, 8, 8)
    expected = np.full((5, 8, 8, 2), 0.5, np.float32)
    np.savez(folder / "golden.npz", input=np.asfortranarray(image), expected=expected)
    assert np.array_equal(load_bundle(folder).golden()[0], image)


@pytest.mark.parametrize("file", ["member-1.safetensors", "golden.npz"])
def test_missing_files(tmp_path: Path, folder: Path, file: str) -> None:
    (folder / file).unlink()
    shutil.make_archive(str(tmp_path / "a"), "zip", folder)
    for path in (folder, tmp_path / "a.zip"):
        with pytest.raises(BundleError, match=f"{file} is missing; the bundle is incomplete"):
            load_bundle(path)


def _without_first(t: dict[str, np.ndarray]) -> None:
    del t[min(t)]


def _short(t: dict[str, np.ndarray]) -> None:
    t["predictor_3d/logits/bias"] = t["predictor_3d/logits/bias"][:1]


def _one_tensor(t: dict[str, np.ndarray]) -> None:
    values = np.concatenate([value.ravel() for value in t.values()])
    t.clear()
    t["all"] = values


WEIGHTS: list[tuple[Callable[[dict[str, np.ndarray]], object], str]] = [
    (_without_first, r"tensor net/decoder/decode_block_0/comp_0/conv/bias is missing"),
    (_one_tensor, r"tensor .* and \d+ more is missing; tensor all is unknown"),
    (lambda t: t.update(extra=np.zeros(1, np.float32)), r"tensor extra is unknown"),
    (_short, r"predictor_3d/logits/bias has shape \[1\], expected \[2\]"),
    (lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}), r"is float16; expected float32"),
    (lambda t: t["predictor_3d/logits/bias"].fill(np.nan), r"predictor_3d/logits/bias holds NaN or infinite"),
    (lambda t: t["predictor_3d/logits/bias"].fill(np.inf), r"predictor_3d/logits/bias holds NaN or infinite"),
]


@pytest.mark.parametrize(("change", "message"), WEIGHTS)
def test_bad_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], object], message: str) -> None:
    file = folder / "member-0.safetensors"
    changed = {key: np.array(value) for key, value in load_file(file).items()}
    change(changed)
    save_file(changed, file)
    with pytest.raises(BundleError, match=r"member-0.safetensors has SHA-256 .* the manifest says"):
        load_bundle(folder).weights(0)
    members = json.loads((folder / "bundle.json").read_text())["members"]
    members[0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(folder, members=members)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder).weights(0)
    with pytest.raises(BundleError, match=message):
        pack_bundle(folder, folder.parent / "a.zip")
    with pytest.raises(BundleError, match=message):
        write_bundle(folder.parent / "again", **fields(members=[changed]))
    assert {path.name for path in folder.parent.iterdir()} == {"tiny"}


def test_a_member_that_is_no_safetensors_file(folder: Path) -> None:
    (folder / "member-0.safetensors").write_bytes(b"pickle?" * 1000)
    edit(folder, members=[{"file": "member-0.safetensors", "sha256": hashlib.sha256(b"pickle?" * 1000).hexdigest()}])
    with pytest.raises(BundleError, match="is no readable safetensors file"):
        load_bundle(folder).weights(0)


def _npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a zip"),
        (_npz(input=np.zeros((5, 8, 8), np.float32)), "golden.npz cannot be read"),
        (_npz(input=np.array([{}], dtype=object), expected=np.zeros(1)), "golden.npz cannot be read"),
        (_npz(input=np.zeros((5, 8, 8)), expected=np.zeros((5, 8, 8, 2), np.float32)), "input is float64"),
        (
            _npz(input=np.zeros((8, 8), np.float32), expected=np.zeros((5, 8, 8, 2), np.float32)),
            "input is float32 .8, 8.",
        ),
        (
            _npz(input=np.zeros((5, 8, 8), np.float32), expected=np.zeros((5, 8, 8, 3), np.float32)),
            "it should be .5, 8, 8, 2.",
        ),
    ],
)
def test_bad_golden_pairs(folder: Path, content: bytes, message: str) -> None:
    (folder / "golden.npz").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder).golden()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {"a": float("nan")}}, "what JSON cannot say"),
        ({"provenance": {"a": Path()}}, "what JSON cannot say"),
        ({"members": []}, "members is empty"),
        ({"name": "no good"}, "name is 'no good'"),
    ],
)
def test_write_refuses_what_load_would(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "a", **fields(**changes))
    assert list(tmp_path.iterdir()) == []


def test_differences() -> None:
    shapes = tensor_shapes(NET)
    assert shape_differences(NET, shapes) == ""
    assert "is unknown" in shape_differences(NET, shapes | {"x": (1,)})


def test_values_check_themselves() -> None:
    with pytest.raises(BundleError, match="colour"):
        ClassInfo("a", (0, 0, -1))
    with pytest.raises(BundleError, match="plain name"):
        Member("/etc/passwd", HASH)
