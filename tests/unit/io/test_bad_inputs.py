"""Bad stacks, bundles and options: each ends with its own message and exit code, and costs nobody else anything."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from densecell_batch.cli import run_command
from densecell_batch.models.published import import_published

RNG = np.random.default_rng(0)
ZYX = {"axes": "ZYX"}
SLICES = RNG.integers(0, 255, (3, 48, 40), np.uint8)


def run(monkeypatch, *arguments) -> int:
    """Run the program as its entry point does, but in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["densecell-batch", *map(str, arguments)])
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        return run_command()
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


# Stacks: (file name, how it is made, what the reason says). All are given in one command, among good ones.


def saved(path: Path, array=SLICES, **options) -> None:
    tifffile.imwrite(path, array, **options)


def imagej(array=SLICES, axes=None):
    metadata = {"axes": axes or "ZYX"[-array.ndim :]}
    return lambda path: saved(path, array, imagej=True, metadata=metadata)


def plain(array, **options):
    return lambda path: saved(path, array, **{"photometric": "minisblack", **options})


def content(data: bytes):
    return lambda path: path.write_bytes(data)


def picture(kind: str, mode: str = "L"):
    def make(path: Path) -> None:
        Image.fromarray(SLICES[0]).convert(mode).save(path, kind)

    return make


def cut(lost: int, **options):
    """A file that lost its last bytes."""

    def make(path: Path) -> None:
        saved(path, **options)
        path.write_bytes(path.read_bytes()[:-lost])

    return make


def patched(find: bytes, replace: bytes, **options):
    def make(path: Path) -> None:
        saved(path, **options)
        data = path.read_bytes()
        assert find in data
        path.write_bytes(data.replace(find, replace, 1))

    return make


def scrambled(path: Path) -> None:
    """Compressed planes whose bytes were damaged on the way."""
    saved(path, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        start, length = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start : start + length] = b"\x55" * length
    path.write_bytes(data)


def looping(path: Path) -> None:
    """A chain of pages that leads back to the first."""
    saved(path, photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0].offset
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(data)


def beyond(path: Path) -> None:
    """A chain of pages that leads out of the file."""
    saved(path, SLICES[:1], photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0].offset
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, 10**8)
    path.write_bytes(data)


def folder(**files):
    def make(path: Path) -> None:
        path.mkdir()
        for name, make_file in files.items():
            make_file(path / f"{name}.tif")

    return make


def several(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(SLICES, photometric="minisblack", contiguous=False)
        writer.write(SLICES[:, :20, :20], photometric="minisblack", contiguous=False)


def ome(array=SLICES, **metadata):
    return lambda path: saved(path, array, ome=True, photometric="minisblack", metadata=metadata)


def with_one(value):
    array = SLICES.astype(np.float32)
    array[1, 5, 7] = value
    return array


STACKS = [
    ("text.tif", content(b"slice\tarea\n1\t17\n"), "not a TIFF file"),
    ("empty.tif", content(b""), "not a TIFF file"),
    ("short.tif", content(b"II*\0"), "not a TIFF that can be read"),
    ("header-only.tif", content(b"II*\0\x08\0\0\0"), "truncated or damaged"),
    ("jpeg.tif", picture("JPEG"), "not a TIFF file"),
    ("png.tif", picture("PNG"), "not a TIFF file"),
    ("zip.tif", content(b"PK\x03\x04" + bytes(100)), "not a TIFF file"),
    ("noise.tif", content(RNG.bytes(5000)), "not a TIFF file"),
    ("missing.tif", lambda path: None, "no such file or folder"),
    ("rgb.tif", plain(np.stack([SLICES] * 3, -1), photometric="rgb"), "RGB.*8-bit"),
    ("palette-rgb.tif", picture("TIFF", "RGB"), "RGB"),
    ("channels.tif", imagej(SLICES[:, None].repeat(2, 1), "ZCYX"), "2 channels.*Duplicate"),
    ("times.tif", imagej(axes="TYX"), "3 time points"),
    ("both.tif", imagej(np.zeros((2, 3, 2, 9, 9), np.uint8), "TZCYX"), "2 time points.*2 channels"),
    ("ome-channels.tif", ome(SLICES, axes="CYX"), "3 channels"),
    ("float64.tif", plain(SLICES.astype(np.float64)), "float64; expected uint8, uint16, int16, float32"),
    ("uint32.tif", plain(SLICES.astype(np.uint32)), "uint32; expected"),
    ("int8.tif", plain(SLICES.astype(np.int8)), "int8; expected"),
    ("int32.tif", plain(SLICES.astype(np.int32)), "int32; expected"),
    ("complex.tif", plain(SLICES.astype(np.complex64)), "complex64; expected"),
    ("bool.tif", plain(SLICES > 9), "bool .1 bit.*; expected.*8-bit"),
    ("half.tif", plain(SLICES.astype(np.float16)), "float16; expected"),
    ("nan.tif", plain(with_one(np.nan)), "NaN.*slice 1|slice 1.*NaN"),
    ("infinite.tif", plain(with_one(np.inf)), "infinite"),
    ("minus-infinite.tif", plain(with_one(-np.inf)), "infinite"),
    ("constant.tif", plain(np.full((3, 30, 30), 7, np.uint8)), "7"),
    ("constant-float.tif", plain(np.full((3, 30, 30), 0.1, np.float32)), "one value|constant|same"),
    ("cut-half.tif", cut(3000, imagej=True, metadata=ZYX), "truncated"),
    ("cut-last-byte.tif", cut(1, array=SLICES[0], photometric="minisblack", metadata=None), "truncated|damaged"),
    ("cut-compressed.tif", cut(2000, compression="zlib", photometric="minisblack"), "truncated or damaged"),
    ("cut-big.tif", cut(1900, bigtiff=True, photometric="minisblack"), "truncated|damaged|incomplete"),
    ("cut-ome.tif", cut(3000, ome=True, photometric="minisblack"), "truncated|damaged|incomplete"),
    ("more-slices-promised.tif", patched(b"images=3", b"images=9", imagej=True, metadata=ZYX), "truncated"),
    ("scrambled.tif", scrambled, "slice 1 cannot be read"),
    ("looping.tif", looping, "damaged|header|pages"),
    ("beyond.tif", beyond, "truncated or damaged"),
    ("several-images.tif", several, "2 images of different kind"),
    ("broken-ome.tif", patched(b"<Pixels", b"<Pixelz", ome=True, photometric="minisblack"), "OME|damaged|header"),
    ("empty-folder", folder(), "holds no TIFF file"),
    ("multi-page-folder", folder(a=imagej(), b=imagej()), "a.tif has 3 slices"),
    ("later-multi-page", folder(a=imagej(SLICES[0]), b=imagej()), "has 3 slices; expected one"),
    ("unlike-sizes", folder(s1=imagej(SLICES[0]), s2=imagej(SLICES[0, :9])), r"slice 1 is \(9, 40\)"),
    (
        "unlike-first",
        folder(a=imagej(SLICES[0, :9]), s1=imagej(SLICES[0]), s2=imagej(SLICES[1])),
        r"a\.tif: slice 0 is \(9, 40\) uint8; expected \(48, 40\) uint8 as in 2 of the 3",
    ),
    (
        "stack-among-slices",
        folder(a=imagej(), s1=imagej(SLICES[0]), s2=imagej(SLICES[1])),
        r"a\.tif: it has 3 slices, the other files have one: take a\.tif out",
    ),
    (
        "two-series",
        folder(**{f"{s}_{z}": imagej(SLICES[z]) for s in "ab" for z in range(3)}),
        r"2 series .*\(a_0\.tif to a_2\.tif, 3 files; b_0\.tif to b_2\.tif, 3 files\).* folder of its own",
    ),
    ("unlike-types", folder(s1=imagej(SLICES[0]), s2=imagej(SLICES[0].astype(np.uint16))), "slice 1 is .* uint16"),
    ("one-is-text", folder(s1=imagej(SLICES[0]), s2=content(b"hello")), "s2.tif.*not a TIFF"),
    ("one-is-rgb", folder(s1=imagej(SLICES[0]), s2=picture("TIFF", "RGB")), "s2.tif.*RGB"),
    ("dangling.tif", lambda path: path.symlink_to(path.with_name("nowhere")), "no such file"),
    ("circle.tif", lambda path: path.symlink_to(path), "no such file|cannot be read|symbolic"),
    ("fifo.tif", os.mkfifo, "neither a file nor a folder"),
]


@pytest.fixture(scope="module")
def bundle(data):
    return data / "fly-vnc-small.zip"


@pytest.fixture(scope="module")
def batch(bundle, tmp_path_factory):
    """One command with all bad stacks, good ones among them: exit code, verdict lines, stderr, folder."""
    place = tmp_path_factory.mktemp("batch")
    good = ["a-good.tif", "m-good.tif", "z-good.tif"]
    for name in good:
        saved(place / name, imagej=True, metadata=ZYX)
    for name, make, _ in STACKS:
        make(place / name)
    stacks = [good[0], *(s[0] for s in STACKS[:20]), good[1], *(s[0] for s in STACKS[20:]), good[2]]
    done = subprocess.run(
        [sys.executable, "-m", "densecell_batch", "segment", *stacks, "-o", "out", "--model", bundle],
        cwd=place, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, [line.split("\t") for line in done.stdout.splitlines()], done.stderr, place


@pytest.mark.parametrize(("name", "reason"), [(name, reason) for name, _, reason in STACKS])
def test_bad_stack(batch, name, reason):
    _, lines, _, place = batch
    (line,) = [line for line in lines if line[2] == name]
    assert line[:2] == ["DENSECELL", "failed"]
    print(line[3])
    assert re.search(reason, line[3])
    assert "internal error" not in line[3]
    assert name.split(".")[0] in line[3]  # the file is named
    assert not list((place / "out").glob(f"*{Path(name).stem}_*"))


def test_the_good_stacks_beside_them_are_done(batch):
    code, lines, stderr, place = batch
    assert code == 1
    assert len([line for line in lines if line[1] != "warning"]) == len(STACKS) + 3
    assert "Traceback" not in stderr
    assert len(stderr) < 2**16  # what ImageJ's exec() can take
    done = [line for line in lines if line[1] == "ok"]
    assert [line[2] for line in done] == [f"out/{name}-good_labels.tif" for name in "amz"]
    for _, _, labels, report in done:
        assert tifffile.imread(place / labels).shape == SLICES.shape
        assert json.loads((place / report).read_text())["outputs"]
    hidden = {path.name for path in (place / "out").iterdir() if path.name.startswith(".")}
    assert hidden == {".densecell-tables.json"}  # what was written of all stacks


# Bundles: (name, what is done to a good one in a folder, what stderr says). Each is exit code 3.


def manifest(**changes):
    def change(path: Path) -> None:
        found = json.loads((path / "bundle.json").read_text())
        for key, value in changes.items():
            if value is None:
                del found[key]
            else:
                found[key] = value
        (path / "bundle.json").write_text(json.dumps(found))

    return change


def architecture(**changes):
    def change(path: Path) -> None:
        found = json.loads((path / "bundle.json").read_text())
        found["architecture"] |= changes
        (path / "bundle.json").write_text(json.dumps(found))

    return change


def text(data: bytes):
    return lambda path: (path / "bundle.json").write_bytes(data)


def gone(name: str):
    return lambda path: (path / name).unlink()


def overwritten(name: str, data: bytes, *, hashed: bool = False):
    def change(path: Path) -> None:
        (path / name).write_bytes(data)
        if hashed:
            rehash(path)

    return change


def rehash(path: Path) -> None:
    import hashlib

    found = json.loads((path / "bundle.json").read_text())
    for member in found["members"]:
        member["sha256"] = hashlib.sha256((path / member["file"]).read_bytes()).hexdigest()
    (path / "bundle.json").write_text(json.dumps(found))


def tensors(change_tensors):
    """Weights that were changed, under a hash that fits."""

    def change(path: Path) -> None:
        from safetensors.numpy import load_file, save_file

        found = dict(load_file(path / "member-0.safetensors"))
        change_tensors(found)
        save_file(found, path / "member-0.safetensors")
        rehash(path)

    return change


def first_is(value):
    def change(found) -> None:
        key = min(found)
        found[key] = value(found[key])

    return change


def zipped(*entries: tuple[str, bytes]):
    """A zip in place of the folder."""

    def change(path: Path) -> None:
        shutil.rmtree(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in entries:
                archive.writestr(name, data)

    return change


def replaced(data: bytes):
    def change(path: Path) -> None:
        shutil.rmtree(path)
        path.write_bytes(data)

    return change


FIVE = [{"name": name, "colour": [1, 2, 3]} for name in "abcde"]

BUNDLES = [
    ("nowhere", shutil.rmtree, "no model"),
    ("empty-file", replaced(b""), "not a zip|no bundle"),
    ("text-file", replaced(b"weights"), "not a zip|no bundle"),
    ("cut-zip", replaced(b"PK\x03\x04" + bytes(50)), "zip"),
    ("zip-of-text", zipped(("readme.txt", b"hello")), "bundle.json"),
    ("zip-slip", zipped(("../evil", b"x"), ("bundle.json", b"{}")), r"\.\./evil"),
    ("zip-absolute", zipped(("/etc/evil", b"x"), ("bundle.json", b"{}")), "/etc/evil"),
    ("zip-bomb", zipped(("bundle.json", bytes(200_000_000))), "large|bytes|MiB|GiB"),
    ("no-manifest", gone("bundle.json"), "bundle.json"),
    ("no-member", gone("member-0.safetensors"), "member-0.safetensors.* is missing"),
    ("no-golden", gone("golden.npz"), "golden.npz is missing"),
    ("not-json", text(b"name: mine"), "not JSON"),
    ("binary-json", text(b"\xff\xfe\x00"), "not JSON"),
    ("deep-json", text(b"[" * 200_000), "not JSON"),
    ("list-json", text(b"[1]"), "list|object"),
    ("null-json", text(b"null"), "null|object|None"),
    ("newer-schema", manifest(schema_version=99), "schema.* 99"),
    ("schema-as-text", manifest(schema_version="1"), "schema version '1'"),
    ("no-classes", manifest(classes=None), "classes"),
    ("few-classes", manifest(classes=FIVE[:2]), "2 classes are named.* 5"),
    ("same-classes", manifest(classes=[FIVE[0]] * 5), "'a' stands there twice"),
    ("class-with-slash", manifest(classes=[{"name": "../x", "colour": [1, 2, 3]}, *FIVE[1:]]), r"class name '\.\./x'"),
    ("class-without-name", manifest(classes=[{"colour": [1, 2, 3]}, *FIVE[1:]]), "name"),
    ("colour-too-bright", manifest(classes=[{"name": "x", "colour": [1, 2, 300]}, *FIVE[1:]]), "0 to 255"),
    ("no-members", manifest(members=[]), "members is empty"),
    ("member-elsewhere", manifest(members=[{"file": "../m.safetensors", "sha256": "0" * 64}]), r"\.\./m\.safetensors"),
    ("member-pickle", manifest(members=[{"file": "m.pkl", "sha256": "0" * 64}]), "m.pkl"),
    ("bad-window", manifest(window=[5, 60]), "window"),
    ("small-window", manifest(window=[5, 3, 3]), "window .*too small"),
    ("other-normalization", manifest(normalization="slice"), "normalization is 'slice'"),
    ("name-with-slash", manifest(name="a/b"), "name is 'a/b'"),
    ("bad-voxel-size", manifest(voxel_size={"z": -1, "y": 1, "x": 1, "unit": "nm"}), "voxel.size"),
    ("other-family", architecture(family="transformer"), "family is 'transformer'"),
    ("huge-convs", architecture(n_convs=10**9), "n_convs is 1000000000"),
    ("huge-kernels", architecture(n_kernels=10**12), "n_kernels is 1000000000000"),
    ("no-kernels", architecture(n_kernels=0), "n_kernels is 0"),
    ("other-size", architecture(n_kernels=16), "has shape .* expected"),
    ("unknown-option", architecture(dropout=0.5), "dropout"),
    ("changed-weights", overwritten("member-0.safetensors", b"x"), "SHA-256"),
    ("no-safetensors", overwritten("member-0.safetensors", b"x" * 99, hashed=True), "no readable safetensors"),
    ("tensor-missing", tensors(lambda found: found.pop(min(found))), "is missing"),
    ("tensor-unknown", tensors(lambda found: found.update(x=np.zeros(3, np.float32))), "tensor x is unknown"),
    ("tensor-shape", tensors(first_is(lambda t: t[..., None])), "has shape"),
    ("tensor-double", tensors(first_is(lambda t: t.astype(np.float64))), "float64; expected float32"),
    ("tensor-nan", tensors(first_is(lambda t: np.full_like(t, np.nan))), "NaN"),
]


@pytest.fixture(scope="module")
def unpacked(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "good"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def good(tmp_path):
    saved(tmp_path / "good.tif", imagej=True, metadata=ZYX)
    return tmp_path / "good.tif"


@pytest.mark.parametrize(("name", "change", "message"), BUNDLES, ids=[row[0] for row in BUNDLES])
def test_bad_bundle(name, change, message, unpacked, good, tmp_path, monkeypatch, capsys):
    bad = tmp_path / name
    shutil.copytree(unpacked, bad)
    change(bad)
    assert run(monkeypatch, "segment", good, "-o", tmp_path / "out", "--model", bad) == 3
    said = capsys.readouterr()
    print(said.err)
    assert re.search(message, said.err)
    assert name in said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def pickled_golden() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, input=np.array([{}], object), expected=np.zeros(1))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "golden.npz"),
        (pickled_golden(), "Object arrays cannot be loaded|pickle"),
    ],
)
def test_bad_golden_pair(damage, message, unpacked, tmp_path, monkeypatch, capsys):
    """Only `models verify` looks at it."""
    shutil.copytree(unpacked, tmp_path / "b")
    (tmp_path / "b/golden.npz").write_bytes(damage)
    assert run(monkeypatch, "models", "verify", tmp_path / "b") == 3
    assert re.search(message, capsys.readouterr().err)


# Options: (arguments after the stack and the output folder, exit code, what stderr or the verdict says)

OPTIONS = [
    (["--tile", "5,512"], 2, "three whole numbers"),
    (["--tile", "0,512,512"], 2, "above 0"),
    (["--tile", "5x60x60"], 2, "Z,Y,X"),
    (["--tile", "-5,60,60"], 2, "three whole numbers"),
    (["--tile", "5,60,60", "--stitch", "deepest"], 1, "--tile does not go with --stitch deepest"),
    (["--memory", "much"], 2, "such as 4G or 800M"),
    (["--memory", "0G"], 2, "such as 4G"),
    (["--memory", "4"], 2, "such as 4G"),
    (["--memory", "300M"], 1, "GiB of memory do not suffice .* --memory"),
    (["--voxel-size", "40,10"], 2, "three lengths"),
    (["--voxel-size", "0,10,10"], 2, "along z is 0"),
    (["--voxel-size", "40,10,10parsec"], 2, "'parsec'"),
    (["--voxel-size", "40,10,-10"], 2, "three lengths"),
    (["--voxel-size", "1e999,10,10"], 2, "along z is inf"),
    (["--stitch", "average"], 2, "'average' is not one of"),
    (["--ensemble", "median"], 2, "'median' is not one of"),
    (["--precision", "int4"], 2, "'int4' is not one of"),
    (["--format", "png"], 2, "'png' is not one of"),
    (["--device", "tpu"], 2, "'tpu' is not one of"),
    (["--device", "gpu"], 3, "no GPU was found|cannot be used"),
    (["--instances", "nucleus"], 2, "no class 'nucleus'; the classes are"),
    (["--min-volume", "-1", "--instances", "mitochondrion"], 2, "-1.0 is not in the range"),
    (["--min-volume", "0.1"], 2, "--instances CLASS"),
    (["--min-volume", "0.1", "--instances", "mitochondrion"], 1, "no voxel size.*--voxel-size"),
    (["--model", "no-such-model"], 3, "no-such-model"),
    (["--shards", "3"], 2, "No such option"),
    (["no-match-*.tif"], 2, "matches no TIFF file"),
]


def test_tile_of_another_depth_than_a_published_net_has(data, good, tmp_path, monkeypatch, capsys):
    published = import_published([data / "published/2d3d-small_A"], tmp_path / "a", "a").path
    out = tmp_path / "out"
    assert run(monkeypatch, "segment", good, "-o", out, "--model", published, "--tile", "4,60,60") == 1
    assert "5 slices of its training window" in " ".join(capsys.readouterr().err.split())
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(("arguments", "code", "message"), OPTIONS, ids=[" ".join(row[0]) for row in OPTIONS])
def test_bad_option(arguments, code, message, good, bundle, tmp_path, monkeypatch, capsys):
    if arguments[:2] == ["--device", "gpu"] and Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    out = tmp_path / "out"
    assert run(monkeypatch, "segment", good, "-o", out, "--model", bundle, *arguments) == code
    said = capsys.readouterr()
    print(said.err)
    assert re.search(message, " ".join(said.err.split()))
    assert (said.out == "") == (code != 1)
    assert "Traceback" not in said.err
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage"),
        (["segmnet", "x.tif"], "No such command 'segmnet'"),
        (["segment"], "Missing argument 'STACK...'"),
        (["segment", "x.tif"], "Missing option '-o'"),
        (["segment", "-o", "out"], "Missing argument"),
        (["models", "frobnicate"], "No such command"),
        (["completion", "powershell"], "is not one of"),
    ],
)
def test_misuse(arguments, message, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_two_stacks_of_one_name(good, bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    saved(tmp_path / "other/good.tif", imagej=True, metadata=ZYX)
    code = run(monkeypatch, "segment", good, tmp_path / "other/good.tif", "-o", tmp_path / "out", "--model", bundle)
    assert code == 2
    assert "would both be written to" in capsys.readouterr().err


def test_output_folder_is_a_file(good, bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("mine")
    assert run(monkeypatch, "segment", good, "-o", tmp_path / "out", "--model", bundle) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_output_folder_that_nobody_can_make(good, bundle, monkeypatch, capsys):
    assert run(monkeypatch, "segment", good, "-o", "/proc/out", "--model", bundle) == 1
    assert "/proc/out: the output folder cannot be made" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("where", ["stack", "out"])
def test_no_permission(where, good, bundle, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (good if where == "stack" else out).chmod(0o500 if where == "out" else 0)
    assert run(monkeypatch, "segment", good, "-o", out, "--model", bundle) == 1
    assert "permission" in capsys.readouterr().out.lower()


def test_no_space_left(good, bundle, tmp_path, monkeypatch, capsys):
    """A device that is always full stands for a full disk."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 100, 100))
    assert run(monkeypatch, "segment", good, "-o", out, "--model", bundle) == 1
    assert "make room" in capsys.readouterr().out
    assert not out.exists() or not list(out.iterdir())
