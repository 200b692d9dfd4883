"""Stacks of every container and dtype come back bit for bit, a slice at a time. What is refused: test_bad_inputs.py."""

import hashlib
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError, Stopped
from densecell_batch.io.discovery import find_stacks, natural_key
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import DTYPES, content_sha256

RNG = np.random.default_rng(0)


def noise(dtype="uint8", shape=(4, 30, 26)):
    if dtype == "float32":
        return RNG.standard_normal(shape).astype(np.float32)
    return RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def read_all(path, **options):
    with open_stack(path, **options) as stack:
        return stack.info, np.stack([stack.read(z) for z in range(stack.info.shape[0])])


def imagej(path, volume, **metadata):
    tifffile.imwrite(path, volume, imagej=True, resolution=(100, 50), metadata={"axes": "ZYX", **metadata})


PLAIN = {"photometric": "minisblack", "metadata": None}
CONTAINERS = {
    "imagej": ({"imagej": True, "metadata": {"axes": "ZYX"}}, "imagej"),
    "ome": ({"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}}, "ome-tiff"),
    "plain": (PLAIN, "tiff"),
    "bigtiff": ({**PLAIN, "bigtiff": True}, "tiff"),
    "big-endian": ({**PLAIN, "byteorder": ">"}, "tiff"),
    "tiled": ({**PLAIN, "tile": (16, 16)}, "tiff"),
    "strips": ({**PLAIN, "rowsperstrip": 7}, "tiff"),
    "zlib": ({**PLAIN, "compression": "zlib"}, "tiff"),
    "zlib with predictor": ({**PLAIN, "compression": "zlib", "predictor": True}, "tiff"),
    "lzw": ({**PLAIN, "compression": "lzw"}, "tiff"),
    "packbits": ({**PLAIN, "compression": "packbits"}, "tiff"),
    "zstd": ({**PLAIN, "compression": "zstd"}, "tiff"),
    "imagej, compressed": ({"imagej": True, "compression": "zlib", "metadata": {"axes": "ZYX"}}, "imagej"),
    "ome, compressed": (
        {"ome": True, "compression": "zlib", "photometric": "minisblack", "metadata": {"axes": "ZYX"}},
        "ome-tiff",
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_and_dtype(tmp_path, name, dtype):
    options, container = CONTAINERS[name]
    if dtype == "int16" and "imagej" in name:
        pytest.skip("tifffile writes no int16 for ImageJ")
    volume = noise(dtype)
    tifffile.imwrite(tmp_path / "s.tif", volume, **options)
    info, found = read_all(tmp_path / "s.tif")
    np.testing.assert_array_equal(found, volume)
    assert found.dtype == volume.dtype
    assert (info.shape, info.dtype, info.container) == (volume.shape, dtype, container)


@pytest.mark.parametrize("name", ["imagej", "ome", "plain", "zlib"])
def test_a_single_slice_is_a_volume_of_one(tmp_path, name):
    options = {**CONTAINERS[name][0]}
    if options.get("metadata"):
        options["metadata"] = {"axes": "YX"}
    plane = noise()[0]
    tifffile.imwrite(tmp_path / "s.tif", plane, **options)
    info, found = read_all(tmp_path / "s.tif")
    assert info.shape == (1, *plane.shape)
    np.testing.assert_array_equal(found[0], plane)


def test_singleton_axes_do_not_matter(tmp_path):
    volume = noise()
    tifffile.imwrite(tmp_path / "s.tif", volume[None, :, None], imagej=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(read_all(tmp_path / "s.tif")[1], volume)


def test_real_em(data):
    info, found = read_all(data / "vnc-crop.tif")
    assert info.voxel_size.edges == pytest.approx((0.047, 0.0092, 0.0092))
    np.testing.assert_array_equal(found, tifffile.imread(data / "vnc-crop.tif"))


# Voxel size


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("inch", 25400)],
)
def test_imagej_calibration(tmp_path, unit, scale):
    imagej(tmp_path / "s.tif", noise(), unit=unit, spacing=0.04)
    info, _ = read_all(tmp_path / "s.tif")
    assert info.voxel_size.edges == pytest.approx((0.04 * scale, 0.02 * scale, 0.01 * scale))


@pytest.mark.parametrize(
    ("metadata", "note"),
    [
        ({}, None),
        ({"unit": "pixel", "spacing": 4}, None),
        ({"unit": "furlong", "spacing": 1}, "not usable.*furlong"),
        ({"unit": "um", "spacing": 0.0}, "not usable"),
    ],
)
def test_calibration_that_says_too_little(tmp_path, metadata, note):
    imagej(tmp_path / "s.tif", noise(), **metadata)
    with open_stack(tmp_path / "s.tif") as stack:
        assert stack.info.voxel_size is None
        assert len(stack.notes) == (note is not None)
        if note:
            assert re.search(note, stack.notes[0])
            assert "--voxel-size" in stack.notes[0]


@pytest.mark.parametrize(("unit", "scale"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("Å", 1e-4)])
def test_ome_calibration(tmp_path, unit, scale):
    sizes = {"PhysicalSizeZ": 4, "PhysicalSizeY": 2, "PhysicalSizeX": 1}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "ZYX"}
    tifffile.imwrite(
        tmp_path / "s.ome.tif", noise(), photometric="minisblack", metadata={"axes": "ZYX", **sizes, **units}
    )
    info, _ = read_all(tmp_path / "s.ome.tif")
    assert info.voxel_size.edges == pytest.approx((4 * scale, 2 * scale, scale))


def test_resolution_of_a_printer_is_no_voxel_size(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", noise(), resolution=(72, 72), resolutionunit="INCH", **PLAIN)
    assert read_all(tmp_path / "s.tif")[0].voxel_size is None


def test_voxel_size_of_the_user_wins(tmp_path):
    imagej(tmp_path / "s.tif", noise(), unit="um", spacing=0.04)
    mine = VoxelSize(0.1, 0.2, 0.3)
    assert read_all(tmp_path / "s.tif", voxel_size=mine)[0].voxel_size == mine


# Lazily


def test_only_the_slice_that_is_asked_for_is_read(tmp_path):
    """A hole of 40 GB on disk: reading it whole would fail or take minutes."""
    shape = (40_000, 1000, 1000)
    with tifffile.TiffWriter(tmp_path / "s.tif", bigtiff=True) as writer:
        writer.write(None, shape=shape, dtype="uint8", photometric="minisblack", metadata={"axes": "ZYX"})
    with open_stack(tmp_path / "s.tif") as stack:
        assert stack.info.shape == shape
        assert not stack.read(39_999).any()


@pytest.mark.parametrize("name", ["imagej", "zlib"])
def test_slices_from_several_threads(tmp_path, name):
    volume = noise(shape=(40, 30, 26))
    tifffile.imwrite(tmp_path / "s.tif", volume, **CONTAINERS[name][0])
    order = RNG.permutation(np.repeat(np.arange(40), 5))
    with open_stack(tmp_path / "s.tif") as stack, ThreadPoolExecutor(4) as pool:
        for z, plane in zip(order, pool.map(stack.read, order.tolist()), strict=True):
            np.testing.assert_array_equal(plane, volume[z])


# Folders and names


def test_folder_in_natural_order(tmp_path):
    volume = noise(shape=(12, 20, 22))
    for z, plane in enumerate(volume):
        imagej(tmp_path / f"slice{z}.tif", plane, axes="YX", unit="um", spacing=0.04)
    (tmp_path / "notes.txt").write_text("not a slice")
    (tmp_path / "._slice0.tif").write_bytes(b"what another system leaves")
    info, found = read_all(tmp_path)
    np.testing.assert_array_equal(found, volume)
    assert (info.container, info.shape) == ("folder", volume.shape)
    assert info.voxel_size.edges == pytest.approx((0.04, 0.02, 0.01))


def test_natural_key():
    names = ["s1.tif", "s2.tif", "s10.tif", "s011.tif", "t1.tif"]
    assert [path.name for path in sorted(map(Path, reversed(names)), key=natural_key)] == names


def test_find_stacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a10.tif", "a2.tif", "b.TIFF", "[c].tif"):
        imagej(tmp_path / name, noise())
    (tmp_path / "a.txt").write_text("no stack")
    (tmp_path / "a-slices").mkdir()

    def names(*patterns):
        return [str(path) for path in find_stacks(patterns)]

    assert names("a*") == ["a2.tif", "a10.tif", "a-slices"]
    assert names("*.TIFF", "a2.tif", str(tmp_path / "a2.tif"), "./a2.tif") == ["b.TIFF", "a2.tif"]
    assert names("[c].tif") == ["[c].tif"]  # a name goes before a pattern of the same spelling
    assert names("none.tif") == ["none.tif"]  # fails later, alone
    with pytest.raises(OptionError, match=r"none\*\.tif matches no TIFF"):
        names("a2.tif", "none*.tif")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    a, b = tmp_path / "a", tmp_path / "b"
    assert content_sha256([a]) == hashlib.sha256(b"1").hexdigest()
    assert len({content_sha256(files) for files in ([a], [b], [a, b], [b, a])}) == 4
    before = content_sha256([a, b])
    b.rename(tmp_path / "c")
    assert content_sha256([a, tmp_path / "c"]) != before
    with pytest.raises(StackError, match="cannot be read"):
        content_sha256([b])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
        {"tile": (32, 48)},
        {"tile": (16, 32), "compression": "lzw"},
        {"rowsperstrip": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_rows_of_slices(tmp_path, options, dtype):
    """Bands of rows are those of the whole slice, however the file is cut."""
    volume = np.random.default_rng(0).integers(0, 250, (4, 70, 90)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", volume, photometric="minisblack", **options)
    (tmp_path / "slices").mkdir()
    for z, plane in enumerate(volume):
        tifffile.imwrite(tmp_path / f"slices/{z}.tif", plane, photometric="minisblack", **options)
    for path in (tmp_path / "a.tif", tmp_path / "slices"):
        with open_stack(path) as stack:
            for rows in ((0, 70), (0, 1), (3, 40), (69, 70), (31, 33)):
                np.testing.assert_array_equal(stack.read(2, rows), volume[2, rows[0] : rows[1]])
                assert stack.read(2, rows).dtype == dtype


def test_a_signal_while_a_stack_is_opened_stops_the_run(tmp_path, monkeypatch):
    """It is not taken for something that is wrong with the file."""
    imagej(tmp_path / "a.tif", noise())

    def stopped(*arguments, **options):
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr(tifffile, "TiffFile", stopped)
    with pytest.raises(Stopped):
        open_stack(tmp_path / "a.tif")


# Folders: what is said of them


def test_names_that_are_odd_are_told_of_whatever_voxel_size_is_given(tmp_path):
    for name in ("s001", "s002", "s002 (1)", "s003"):
        tifffile.imwrite(tmp_path / f"{name}.tif", noise()[0], photometric="minisblack")
    for voxel_size in (None, VoxelSize(1, 1, 1)):
        with open_stack(tmp_path, voxel_size) as stack:
            assert [note for note in stack.notes if "looks like a copy" in note] == list(stack.notes)
            assert len(stack.notes) == 1


def test_slices_below_zero_come_first(tmp_path):
    volume = noise(shape=(5, 20, 22))
    for z, plane in enumerate(volume):
        tifffile.imwrite(tmp_path / f"z{z - 2}.tif", plane, photometric="minisblack")
    np.testing.assert_array_equal(read_all(tmp_path)[1], volume)


@pytest.mark.parametrize("name", ["plain", "with [brackets] and 'quotes'", "a*b?"])
def test_the_glob_that_is_advised_matches(tmp_path, name):
    (tmp_path / name).mkdir()
    for i in range(2):
        imagej(tmp_path / name / f"stack{i}.tif", noise())
    with pytest.raises(StackError, match="give ") as error:
        open_stack(tmp_path / name)
    (pattern,) = shlex.split(str(error.value).partition(" own, give ")[2])
    assert [path.name for path in find_stacks([pattern])] == ["stack0.tif", "stack1.tif"]


def test_the_slice_that_is_not_like_the_others_is_blamed(tmp_path):
    for z in range(5):
        plane = noise()[0].astype(np.uint16 if z == 0 else np.uint8)
        tifffile.imwrite(tmp_path / f"s{z}.tif", plane, photometric="minisblack")
    with open_stack(tmp_path) as stack, pytest.raises(StackError, match=r"s0\.tif: slice 0 is .*uint16; .* uint8"):
        stack.read(1)


def test_links_to_nothing_are_told_of(tmp_path):
    for z in range(3):
        tifffile.imwrite(tmp_path / f"s{z}.tif", np.arange(64, dtype=np.uint8).reshape(8, 8))
    (tmp_path / "s3.tif").symlink_to(tmp_path / "not mounted" / "s3.tif")
    with pytest.raises(StackError, match=r"s3\.tif is a link to a file that is not there"):
        open_stack(tmp_path)
    assert tmp_path / "s3.tif" in find_stacks([str(tmp_path / "*.tif")])
