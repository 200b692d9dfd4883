"""Packages of bioimage.io: what they say, what their ONNX says, and the bundle back."""

from __future__ import annotations

import hashlib
import io
import resource
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from bundles import fields
from PIL import Image

from densecell_batch.data import BUNDLED
from densecell_batch.errors import BundleError, DeviceError, OptionError, OutputError, StackError
from densecell_batch.models import onnx_export
from densecell_batch.models.bioimageio import export_package, import_package, is_package
from densecell_batch.models.bundle import ModelBundle, load_bundle, pack_bundle, write_bundle
from densecell_batch.models.description import Package, description, halo_for, readme, spdx
from densecell_batch.models.golden import golden_pair
from densecell_batch.models.manifest import OwnRecords
from densecell_batch.models.onnx_export import export_onnx, normalized, window_for
from densecell_batch.models.published import import_published
from densecell_batch.nets.engines import for_processor
from densecell_batch.storage.yaml import as_yaml

NEAR = 1e-4  # of a probability, as is promised: these nets are steep
BIOIMAGEIO = shutil.which("bioimageio")


def needs_onnx() -> None:
    pytest.importorskip("onnx")


def tiny(path: Path, **changes: Any) -> ModelBundle:
    """A bundle whose golden pair is right."""
    given = fields(**changes)
    pair = golden_pair(given["architecture"], given["members"], given["window"], engine=for_processor())
    return write_bundle(path, **given | {"golden": pair})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny(tmp_path_factory.mktemp("bundle") / "tiny.zip")


@pytest.fixture(scope="module")
def package(bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_onnx()
    out = tmp_path_factory.mktemp("package") / "tiny.zip"
    export_package(bundle, out)
    return out


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def described(bundle: ModelBundle, **changes: Any) -> dict[str, Any]:
    window = window_for(bundle)
    names = ("README.md", "weights.onnx", "test_input.npy", "test_output.npy", "cover.png", "b.densecell.zip")
    given = {"window": window, "authors": ("A. Person",), "hashes": dict.fromkeys(names, "0" * 64)}
    given |= {"attached": names[-1], "halo": halo_for(bundle, window)}
    return description(Package(bundle, **given | changes))


def test_a_package_holds_what_its_description_names(package: Path) -> None:
    yaml = pytest.importorskip("yaml")
    files = contents(package)
    rdf = yaml.safe_load(files["rdf.yaml"])
    (given,), (made,) = rdf["inputs"], rdf["outputs"]
    named = [rdf["documentation"], *rdf["covers"], *rdf["attachments"], rdf["weights"]["onnx"]]
    named += [given["test_tensor"], made["test_tensor"]]
    assert {"rdf.yaml", *(file["source"] for file in named)} == files.keys()
    for file in named:
        assert hashlib.sha256(files[file["source"]]).hexdigest() == file["sha256"]
    sizes = {axis["id"]: axis["size"] for axis in given["axes"] if axis["type"] == "space"}
    assert np.load(io.BytesIO(files["test_input.npy"])).shape == (1, 1, *sizes.values())
    assert np.load(io.BytesIO(files["test_output.npy"])).shape == (1, 2, 5, 16, 16)
    assert len(files["cover.png"]) < 500_000
    assert Image.open(io.BytesIO(files["cover.png"])).size == (512, 256)
    assert b"## Validation" in files["README.md"]


def test_the_onnx_in_a_package_says_what_its_test_output_says(package: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    files = contents(package)
    voxels, expected = (np.load(io.BytesIO(files[f"test_{which}.npy"])) for which in ("input", "output"))
    session = runtime.InferenceSession(files["weights.onnx"], providers=["CPUExecutionProvider"])
    scaled = (voxels - voxels.mean()) / (voxels.std() + 1e-6)
    (found,) = session.run(None, {"image": scaled})
    np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR)


def test_equal_input_gives_equal_bytes(bundle: ModelBundle, package: Path, tmp_path: Path) -> None:
    export_package(bundle, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == package.read_bytes()


@pytest.mark.parametrize("name", ["back.zip", "back"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_import_gives_the_bundle_back(
    bundle: ModelBundle, package: Path, tmp_path: Path, name: str, unpacked: bool
) -> None:
    source = package
    if unpacked:
        source = tmp_path / "unpacked"
        shutil.unpack_archive(package, source)
    assert is_package(source)
    back = import_package(source, tmp_path / name)
    assert (back.path, back.members, back.name) == (tmp_path / name, bundle.members, bundle.name)
    packed = pack_bundle(back.path, tmp_path / "packed.zip").path
    assert packed.read_bytes() == bundle.path.read_bytes()


def test_what_is_there_stays(bundle: ModelBundle, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.zip"
    out.write_text("mine")
    for write in (export_package, export_onnx):
        with pytest.raises(OutputError, match="exists already"):
            write(bundle, out)
    with pytest.raises(OutputError, match="exists already"):
        import_package(package, out)
    assert out.read_text() == "mine"


def repacked(package: Path, out: Path, **changes: bytes | None) -> Path:
    """The package with other files; None leaves one out."""
    files = contents(package) | {name.replace("__", "."): content for name, content in changes.items()}
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
    return out


def test_the_packages_of_others_are_refused(package: Path, tmp_path: Path) -> None:
    foreign = repacked(package, tmp_path / "foreign.zip", tiny__densecell__zip=None)
    assert is_package(foreign)
    with pytest.raises(BundleError, match=r"does not come from densecell-batch: it holds 0 files"):
        import_package(foreign, tmp_path / "out")
    two = repacked(package, tmp_path / "two.zip", other__densecell__zip=b"")
    with pytest.raises(BundleError, match="holds 2 files"):
        import_package(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_bundle_in_a_package_is_refused(bundle: ModelBundle, package: Path, tmp_path: Path) -> None:
    files = contents(bundle.path)
    changed = bytearray(files["member-1.safetensors"])
    changed[-1] ^= 1
    for name, content, message in [
        ("hash", bytes(changed), r"hash\.zip: tiny\.densecell\.zip: member-1\.safetensors has SHA-256"),
        ("gone", None, r"gone\.zip: tiny\.densecell\.zip: member-1\.safetensors is missing"),
    ]:
        inner = repacked(bundle.path, tmp_path / "inner.zip", **{"member-1__safetensors": content})
        outer = repacked(package, tmp_path / f"{name}.zip", tiny__densecell__zip=inner.read_bytes())
        with pytest.raises(BundleError, match=message):
            import_package(outer, tmp_path / "out")
    outer = repacked(package, tmp_path / "none.zip", tiny__densecell__zip=b"no zip")
    with pytest.raises(BundleError, match="cannot be read as a zip"):
        import_package(outer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_other_answers_in_a_package_is_refused(package: Path, tmp_path: Path) -> None:
    wrong = write_bundle(tmp_path / "wrong.zip", **fields())  # its golden pair is made up
    outer = repacked(package, tmp_path / "outer.zip", tiny__densecell__zip=wrong.path.read_bytes())
    with pytest.raises(BundleError, match="do not give the recorded probabilities"):
        import_package(outer, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_what_is_no_package(bundle: ModelBundle, data: Path, tmp_path: Path) -> None:
    for path in (bundle.path, data / "published/2d3d-small_S", tmp_path / "nothing.zip", data / "vnc-crop.tif"):
        assert not is_package(path)


def test_an_image_becomes_the_test(bundle: ModelBundle, tmp_path: Path) -> None:
    needs_onnx()
    stack = np.random.default_rng(0).integers(0, 256, (7, 20, 24), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    export_package(bundle, tmp_path / "p.zip", image=tmp_path / "stack.tif")
    found = np.load(io.BytesIO(contents(tmp_path / "p.zip")["test_input.npy"]))
    np.testing.assert_array_equal(found[0, 0], stack[1:6, 2:18, 4:20])
    with pytest.raises(StackError, match=r"has \[7, 20, 24\] voxels \(z, y, x\); expected at least \[5, 24, 24\]"):
        export_package(bundle, tmp_path / "q.zip", (5, 24, 24), image=tmp_path / "stack.tif")
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((7, 20, 24), np.uint8), photometric="minisblack")
    with pytest.raises(StackError, match="one value, or NaN"):
        export_package(bundle, tmp_path / "q.zip", image=tmp_path / "flat.tif")


def test_windows_that_lose_nothing(bundle: ModelBundle, data: Path, tmp_path: Path) -> None:
    assert window_for(bundle) == (5, 16, 16)
    assert window_for(bundle, (5, 24, 32)) == (5, 24, 32)
    with pytest.raises(OptionError, match="a depth of 5 slices only"):
        window_for(bundle, (4, 16, 16))
    with pytest.raises(OptionError, match="sides in y and x such as 16 and 22, or more in steps of 2"):
        window_for(bundle, (5, 16, 23))
    with pytest.raises(OptionError, match="too small"):
        window_for(bundle, (5, 1, 16))
    published = import_published([data / "published/2d3d-small_S"], tmp_path / "s.zip", "s")
    assert published.window == (5, 60, 60)
    assert window_for(published) == (5, 56, 56)


def test_nets_that_onnx_says_otherwise_are_not_written(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_onnx()
    pytest.importorskip("openvino")
    monkeypatch.setattr(onnx_export, "answers", lambda content, image: np.zeros((*image.shape, 2), np.float32))
    with pytest.raises(BundleError, match="would not give the same probabilities"):
        export_onnx(bundle, tmp_path / "x.onnx")
    assert not any(tmp_path.iterdir())


def test_without_onnx_nothing_is_written(bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(DeviceError, match=r"pip install 'densecell-batch\[export\]'"):
        export_package(bundle, tmp_path / "p.zip")
    assert not any(tmp_path.iterdir())


def test_a_description(bundle: ModelBundle) -> None:
    rdf = described(bundle)
    assert (rdf["name"], rdf["version"], rdf["license"]) == ("tiny (densecell-batch)", "1", "CC0-1.0")
    assert rdf["authors"] == [{"name": "A. Person"}]
    assert [entry["doi"] for entry in rdf["cite"]] == ["10.1038/s41598-021-81590-0"]
    (given,), (made,) = rdf["inputs"], rdf["outputs"]
    assert given["axes"][2] == {"type": "space", "id": "z", "unit": "nanometer", "scale": 47.0, "size": 5}
    assert made["axes"][1]["channel_names"] == ["background", "cell"]
    assert made["axes"][2]["size"] == {"tensor_id": "image", "axis_id": "z", "offset": 0}
    assert "halo" not in made["axes"][2]
    assert made["axes"][3]["halo"] == 4  # half of the side is left
    assert given["preprocessing"][0]["kwargs"]["axes"] == ["channel", "z", "y", "x"]


def test_a_description_of_models_of_all_kinds(tmp_path: Path, data: Path) -> None:
    fast = described(load_bundle(BUNDLED / "fly-vnc-fast"))
    assert fast["license"] == "CC-BY-NC-SA-3.0"
    assert fast["cite"][0]["doi"] == "10.6084/m9.figshare.856713"
    assert [axis["halo"] for axis in fast["outputs"][0]["axes"][2:]] == [1, 64, 64]
    unet = described(import_published([data / "published/unet-small_0"], tmp_path / "u.zip", "a.b", version="x"))
    assert unet["name"] == "a-b (densecell-batch)"
    assert not unet.keys() & {"license", "version"}
    assert [axis.get("halo") for axis in unet["outputs"][0]["axes"][2:]] == [None, 92, 92]
    assert not any("scale" in axis for axis in unet["outputs"][0]["axes"])
    scaled = tiny(tmp_path / "scaled.zip", own_data=OwnRecords(scale=(1.0, 0.5, 0.5)), version="2.1")
    assert [axis["scale"] for axis in described(scaled)["inputs"][0]["axes"][2:]] == [47.0, 18.4, 18.4]


def test_class_names_that_are_no_names_of_channels(tmp_path: Path) -> None:
    from densecell_batch.models.classes import ClassInfo

    named = tiny(tmp_path / "a.zip", classes=(ClassInfo("1st", (0, 0, 0)), ClassInfo("b", (1, 1, 1))))
    assert described(named)["outputs"][0]["axes"][1]["channel_names"] == ["class_0", "class_1"]


def test_a_page_for_people_says_what_is_cropped(bundle: ModelBundle) -> None:
    text = readme(bundle, (5, 16, 16), (0, 4, 4), is_noise=True)
    assert "0 x 4 x 4 voxels (z, y, x) at each end" in text
    assert "say nothing" not in text
    assert "noise, not tissue" in text
    fast = load_bundle(BUNDLED / "fly-vnc-fast")
    assert "the outermost 1 x 0 x 0 voxels (z, y, x) the nets say nothing" in readme(
        fast, (3, 256, 256), (1, 64, 64), is_noise=False
    )
    assert not [line for line in text.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC BY-NC-SA 3.0", "CC-BY-NC-SA-3.0"),
        ("cc-by 4.0", "CC-BY-4.0"),
        ("CC0", "CC0-1.0"),
        ("MIT", "MIT"),
        ("not stated", None),
        ("cleared for public release by NIBIB", None),
    ],
)
def test_spdx(licence: str, expected: str | None) -> None:
    assert spdx(licence) == expected


def test_normalized_as_the_segmenter_does() -> None:
    found = normalized(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    assert found.dtype == np.float32
    assert (abs(found.mean()), abs(found.std() - 1)) < (1e-6, 1e-6)


def test_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    value = {
        "a": 'text: "quoted" # no comment\n\u2028ü😀',
        "list": [1, 2.5, None, True, "x"],
        "objects": [{"a": 1, "b": {"c": [], "d": {}}}, {"e": [{"f": [[1, 2], [3]]}]}],
        "1e3": "0x10",
    }
    assert yaml.safe_load(as_yaml(value)) == value
    assert as_yaml({"a": [{"b": 1, "c": 2}]}) == "a:\n  - b: 1\n    c: 2\n"


@pytest.mark.slow
@pytest.mark.skipif(BIOIMAGEIO is None, reason="not installed: bioimageio.core (make test-bioimageio)")
@pytest.mark.parametrize("name", ["fly-vnc", "fly-vnc-2d3d", "fly-vnc-fast", "2d3d-small_S", "unet-small_0"])
def test_the_official_test_passes(name: str, data: Path, tmp_path: Path) -> None:
    if name.startswith("fly"):
        model = load_bundle(BUNDLED / name)
    else:
        model = import_published([data / "published" / name], tmp_path / "model.zip", name)
    export_package(model, tmp_path / "package.zip")
    command = [str(BIOIMAGEIO), "test", str(tmp_path / "package.zip")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Reproduce test outputs from test inputs (onnx)" in done.stdout + done.stderr


@pytest.mark.parametrize("length", [240, 300])
def test_names_that_are_too_long(bundle: ModelBundle, package: Path, tmp_path: Path, length: int) -> None:
    """Said before the work."""
    for write in (export_package, export_onnx):
        with pytest.raises(OutputError, match="too long"):
            write(bundle, tmp_path / f"{'n' * length}.zip")
    with pytest.raises(OutputError, match="too long"):
        import_package(package, tmp_path / ("n" * length))
    with pytest.raises(OutputError, match="too long"):
        import_package(package, tmp_path / ("n" * 300) / "b.zip")


def test_a_link_to_nowhere_is_not_replaced(package: Path, tmp_path: Path) -> None:
    (tmp_path / "b.zip").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists already"):
        import_package(package, tmp_path / "b.zip")


@pytest.mark.parametrize("author", ["", " ", "a\nb", "\udcff", "x\u202ey"])
def test_authors_without_a_name(bundle: ModelBundle, tmp_path: Path, author: str) -> None:
    with pytest.raises(OptionError, match="author"):
        export_package(bundle, tmp_path / "p.zip", authors=["A. Person", author])
    assert [*tmp_path.iterdir()] == []


def test_import_with_no_room_for_temporary_files(package: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the bundle has more
    try:
        with pytest.raises(OutputError, match=r"inner\.zip: cannot be written"):
            import_package(package, tmp_path / "b.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_figures_of_other_scripts_are_no_version(tmp_path: Path) -> None:
    made = tiny(tmp_path / "b.zip", version="\u0661.\u0662", citation="doi 10.\u0661\u0662\u0663\u0664/x")
    rdf = described(made)
    assert "version" not in rdf
    assert len(rdf["cite"]) == 1
