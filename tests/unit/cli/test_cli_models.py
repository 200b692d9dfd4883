"""The verbs of `densecell-batch models`, each through the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from densecell_batch.cli.models import models
from densecell_batch.errors import BundleError, DensecellError, ModelError
from densecell_batch.models import fetching, registry
from densecell_batch.models.published import import_published


def run(*arguments: object) -> Result:
    """Run a verb; an error meant for the user is raised, as the entry point of the command line sees it."""
    result = CliRunner().invoke(models, [str(argument) for argument in arguments])
    if isinstance(result.exception, DensecellError):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENSECELL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_published([data / "published/2d3d-small_S"], tmp_path_factory.mktemp("cli") / "small", "small").path


def test_import_then_verify(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "ab.zip"
    paths = [data / "published/2d3d-small_A", data / "published/2d3d-small_B"]
    names = "a, b,c,d,e,f,g g"
    options = [
        "--classes",
        names,
        "--voxel-size",
        "40,10,10",
        "--window",
        "5,60,60",
        "--licence",
        "CC0",
        "--version",
        "2",
    ]
    result = run("import", *paths, "-o", out, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: version 2, 2d3d, 2 members, 7 classes\n"
    shown = json.loads(run("show", out, "--json").stdout)
    assert (shown["name"], shown["version"], shown["licence"]) == ("ab", "2", "CC0")
    assert [c["name"] for c in shown["classes"]] == ["a", "b", "c", "d", "e", "f", "g g"]
    assert shown["voxel_size"] == {"z": 40.0, "y": 10.0, "x": 10.0, "unit": "nm"}
    verified = run("verify", out).stdout
    assert "member-1.safetensors: SHA-256 " in verified
    assert "66 tensors, 165,326 parameters" in verified
    (difference,) = re.findall(r"golden pair: largest difference (\S+) of a probability, 0.0001 allowed\n", verified)
    assert float(difference) < 2e-6  # recorded with TensorFlow, computed with what this machine takes
    assert verified.endswith("ab 2: ok\n")


def test_import_says_how_it_named_the_classes(tmp_path: Path, data: Path) -> None:
    result = run("import", data / "published/2d3d-small_A", "-o", tmp_path / "x", "--name", "called")
    assert "note: classes were named background, cell" in result.stderr
    assert "called" in run("show", tmp_path / "x").stdout


def test_show(bundle: Path) -> None:
    lines = run("show", bundle).stdout.splitlines()
    assert f"{'path':<14}{bundle}" in lines
    assert f"{'':<14}2 mitochondrion (#00d4ff)" in lines
    assert f"{'voxel size':<14}not recorded" in lines
    assert f"{'window':<14}5 x 60 x 60 (z, y, x)" in lines
    assert f"{'':<14}pyramid_convs: [3, 5]" in lines


STRANGE = {"by\x1b[2J\u202e": ["a\nDENSECELL\tok", "\x85\u2028\x7f", "µ“ ”"]}


@pytest.mark.parametrize("field", ["scores", "provenance"])
def test_strings_of_a_bundle_do_not_reach_the_terminal_as_they_are(tmp_path: Path, bundle: Path, field: str) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest[field] = STRANGE
    (folder / "bundle.json").write_text(json.dumps(manifest))
    shown = run("show", folder).stdout
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "µ“ ”" in shown
    as_json = run("show", folder, "--json").stdout
    assert all(line.isprintable() for line in as_json.split("\n"))
    assert json.loads(as_json)[field] == STRANGE


@pytest.mark.parametrize("verb", ["show", "verify"])
@pytest.mark.parametrize(("field", "value"), [("version", "1\nx"), ("licence", "\x1b[2J"), ("citation", "a\tb")])
def test_forged_strings_are_refused(tmp_path: Path, bundle: Path, verb: str, field: str, value: str) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {field: value}))
    with pytest.raises(BundleError, match=f"{field} is ") as caught:
        run(verb, folder)
    assert str(caught.value).isprintable()


def test_list_shows_a_forged_bundle_in_one_line(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundled" / "hurt"))
    (folder / "bundle.json").write_text('{"schema_version": "\\u001b[2J\\nDENSECELL"}')
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "bundled")
    lines = run("list").stdout.splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (["0" * 64], "is not FILE=HASH"),
        (["a.zip=0123"], "is not FILE=HASH"),
        (["a.zip=" + "0" * 64, "a.zip=" + "1" * 64], "once for each file"),
        (["a.zip=" + "g" * 64], "64 hexadecimal digits"),
    ],
)
def test_hashes_that_are_none(pins: list[str], message: str) -> None:
    result = run("fetch", "platelet-2d3d", *(word for pin in pins for word in ("--sha256", pin)))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_hashes_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(fetching, "fetch", lambda name, pins: asked.append(pins))
    run("fetch", "platelet-2d3d", "--sha256", "2d3d-3x3x3_0.zip=" + "A" * 64, "--sha256", "b.zip=" + "0" * 64)
    run("fetch", "platelet-data", "--sha256", "1" * 64)
    assert asked == [{"2d3d-3x3x3_0.zip": "a" * 64, "b.zip": "0" * 64}, {"platelet_data_1219.zip": "1" * 64}]


def test_pack(tmp_path: Path, bundle: Path) -> None:
    assert run("pack", bundle, "-o", tmp_path / "a.zip").stdout.startswith(f"{tmp_path / 'a.zip'}: version 1")
    assert "small 1: ok" in run("verify", tmp_path / "a.zip").stdout


def test_list(tmp_path: Path, bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(bundle, tmp_path / "bundled" / "demo")
    shutil.copytree(bundle, tmp_path / "bundled" / "hurt")
    (tmp_path / "bundled" / "hurt" / "golden.npz").unlink()
    shutil.copytree(bundle, cache / "models" / "platelet-2d3d")
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "bundled")
    rows = [line.split(maxsplit=2) for line in run("list").stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        ["NAME", "WHERE"],
        ["demo", "bundled"],
        ["hurt", "bundled"],
        ["platelet-2d3d", "cached"],
        ["platelet-data", "fetchable"],
    ]
    assert rows[1][2] == "model: version 1, 2d3d, 1 member, 7 classes"
    assert "golden.npz is missing" in rows[2][2]
    assert rows[4][2].startswith("data set: ")


def test_fetch_prints_the_place(bundle: Path, cache: Path) -> None:
    place = cache / "models" / "platelet-2d3d"
    shutil.copytree(bundle, place)
    assert run("fetch", "platelet-2d3d").stdout == f"{place}\n"


def test_verify_notices_other_probabilities(tmp_path: Path, bundle: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    with np.load(folder / "golden.npz") as arrays:
        image, expected = arrays["input"], arrays["expected"].copy()
    expected[0, 0, 0, 0] += 0.01
    np.savez(folder / "golden.npz", input=image, expected=expected)
    with pytest.raises(BundleError, match="do not give the recorded probabilities"):
        run("verify", folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "Missing argument 'MODEL'"),
        (["import", "-o", "x"], "Missing argument 'PATH...'"),
        (["import", "a"], "Missing option '-o'"),
        (["import", "a", "-o", "x", "--window", "5,60"], "'5,60' is not three whole numbers"),
        (["import", "a", "-o", "x", "--voxel-size", "1,2"], "'1,2' is not three lengths"),
        (["pack", "a", "-o", "b.tar"], "b.tar does not end in .zip"),
        (["calibrate", "a", "--labels", "b", "-o", "c"], "Missing option '--images'"),
        (["calibrate", "a", "--images", "b", "--labels", "c"], "Missing option '-o'"),
        (["unknown"], "No such command 'unknown'"),
    ],
)
def test_misuse(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("arguments", [["show", "nothing"], ["verify", "nothing"], ["fetch", "nothing"]])
def test_unknown_models(arguments: list[str]) -> None:
    with pytest.raises(ModelError, match="'nothing'") as caught:
        run(*arguments)
    assert caught.value.exit_code == 3


def test_export_and_import_back(tmp_path: Path, bundle: Path) -> None:
    pytest.importorskip("onnx")
    result = run("export", bundle, "-o", tmp_path / "package.zip", "--author", "A. Person", "--author", "B. Person")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"{tmp_path / 'package.zip'}: small 1, for windows of 5 x 56 x 56 voxels (z, y, x)\n")
    back = run("import", tmp_path / "package.zip", "-o", tmp_path / "back.zip")
    assert back.stdout == f"{tmp_path / 'back.zip'}: version 1, 2d3d, 1 member, 7 classes\n"
    run("pack", bundle, "-o", tmp_path / "packed.zip")
    assert (tmp_path / "back.zip").read_bytes() == (tmp_path / "packed.zip").read_bytes()
    for arguments, message in [
        (("--classes", "a,b"), "--classes: the bundle in a package of bioimage.io says it already"),
        ((bundle,), "PATH: a package of bioimage.io is a whole model"),
    ]:
        refused = run("import", tmp_path / "package.zip", "-o", tmp_path / "no", *arguments)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr


def test_export_onnx(tmp_path: Path, bundle: Path) -> None:
    onnx = pytest.importorskip("onnx")
    result = run("export", bundle, "--format", "onnx", "--window", "5,64,48", "-o", tmp_path / "small.onnx")
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / "small.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 5, 64, 48]
    assert {p.key: p.value for p in model.metadata_props}["name"] == "small"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.onnx"], "x.onnx does not end in .zip"),
        (["--format", "onnx", "-o", "x.zip"], "x.zip does not end in .onnx"),
        (["--format", "onnx", "-o", "x.onnx", "--author", "me"], "only a package has one"),
        (["--format", "onnx", "-o", "x.onnx", "--image", "i.tif"], "only a package has one"),
    ],
)
def test_exports_that_cannot_be(bundle: Path, arguments: list[str], message: str) -> None:
    refused = run("export", bundle, *arguments)
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr


def test_list_for_programs(data: Path) -> None:
    """Tab-separated, with a heading; also a model of one's own. What is not known is empty."""
    small = data / "fly-vnc-small.zip"
    lines = run("list", "--format", "tsv", small).output.splitlines()
    heading, *rows = [line.split("\t") for line in lines]
    assert heading == ["name", "where", "version", "members", "window", "voxel_size_nm", "classes"]
    assert all(len(row) == len(heading) for row in rows)
    found = {row[0]: row for row in rows}
    classes = "glia and extracellular,intracellular,mitochondrion,synapse,membrane"
    assert found["fly-vnc"][1:] == ["bundled", "1", "3", "3,256,256", "47,9.2,9.2", classes]
    assert found["fly-vnc-2d3d"][1:] == ["bundled", "2", "4", "5,160,160", "47,9.2,9.2", classes]
    assert found[str(small)][1:4] == ["given", "1", "1"]
    assert found["platelet-2d3d"] == ["platelet-2d3d", "fetchable", "", "", "", "", ""]
    with pytest.raises(ModelError, match="no model 'x'"):
        run("list", "--format", "tsv", "x")
    assert run("list", "x").exit_code == 2
