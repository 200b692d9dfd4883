"""OME-TIFF in several files: one stack, whichever file is named, and nothing that lies elsewhere."""

import json
import os
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from ome import identifier, image, write, write_set, xml
from watched import BUNDLE, save

from densecell_batch.errors import StackError
from densecell_batch.io.discovery import find_stacks, stamp_of
from densecell_batch.io.formats.ome_set import files_of, find_set
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import content_sha256
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.batch import segment_batch
from densecell_batch.runs.options import RunOptions, RunSegmenter

VOLUME = np.random.default_rng(0).integers(0, 255, (6, 20, 22), np.uint8)
TWO = {"a.ome.tif": [0, 1, 2, 3], "b.ome.tif": [4, 5]}
SIZES = {"Z": 6, "Y": 20, "X": 22, "C": 1, "T": 1}
KINDS = {
    "XML in every file": {},
    "no identifiers": {"uuids": False},
    "XML in the first": {"binary_only": "a.ome.tif"},
    "XML in the last": {"binary_only": "b.ome.tif"},
    "XML beside them": {"binary_only": "all.companion.ome"},
}


def read_all(path):
    with open_stack(path) as stack:
        return stack, np.stack([stack.read(z) for z in range(stack.info.shape[0])])


@pytest.mark.parametrize("named", ["a.ome.tif", "b.ome.tif", "."])
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_the_whole_stack(tmp_path, kind, named):
    write_set(tmp_path, VOLUME, TWO, **KINDS[kind])
    stack, found = read_all(tmp_path / named)
    np.testing.assert_array_equal(found, VOLUME)
    assert stack.info.path == tmp_path / named
    assert (stack.info.container, stack.info.voxel_size.edges) == ("ome-tiff", pytest.approx((0.04, 0.02, 0.01)))
    assert {file.name for file in stack.files} == {file.name for file in tmp_path.iterdir()}
    assert stack.files[0].name == "a.ome.tif"
    assert stack.notes == ()


@pytest.mark.parametrize(
    "files",
    [
        {f"z{z}.tif": [z] for z in range(6)},
        {"x.tif": [5, 3, 1], "y.tif": [0, 2, 4]},  # neither in the order of names nor in files one after the other
    ],
)
def test_the_order_is_that_of_the_xml(tmp_path, files):
    write_set(tmp_path, VOLUME, files)
    with open_stack(tmp_path / min(files)) as stack:
        for z in (5, 0, 3, 3, 1):
            np.testing.assert_array_equal(stack.read(z, (4, 9)), VOLUME[z, 4:9])


def test_more_files_than_may_be_open(tmp_path):
    write_set(tmp_path, np.repeat(VOLUME, 20, 0), {f"{z}.ome.tif": [z] for z in range(120)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 60, hard))
    try:
        assert read_all(tmp_path / "7.ome.tif")[1].shape == (120, 20, 22)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_identity_is_that_of_all_files(tmp_path):
    write_set(tmp_path, VOLUME, TWO, binary_only="all.companion.ome")
    a, b = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    with open_stack(a) as stack:
        before, stamp = content_sha256(stack.files), stamp_of(a)
        sizes = [file.stat() for file in stack.files]
    assert (stamp.files, stamp.bytes) == (3, sum(s.st_size for s in sizes))
    assert stamp.mtime_ns == max(s.st_mtime_ns for s in sizes)
    changed = bytearray(b.read_bytes())
    changed[-1] ^= 1
    b.write_bytes(changed)
    assert stamp_of(a) != stamp
    with open_stack(a) as stack:
        assert content_sha256(stack.files) != before


@pytest.mark.parametrize("kind", [{}, {"binary_only": "s10.ome.tif"}, {"binary_only": "all.companion.ome"}])
def test_a_set_is_found_once(tmp_path, kind):
    files = {"s1.ome.tif": [4, 5], "s2.ome.tif": [0, 1], "s10.ome.tif": [2, 3]}
    write_set(tmp_path / "sets", VOLUME, files, **kind)
    tifffile.imwrite(tmp_path / "sets/other.tif", VOLUME, photometric="minisblack")
    first, other = tmp_path / "sets/s2.ome.tif", tmp_path / "sets/other.tif"
    assert find_stacks([f"{tmp_path}/sets/*.tif"]) == [other, first]
    assert find_stacks([f"{tmp_path}/sets/s10.ome.tif"]) == [first]
    assert find_stacks([str(first), f"{tmp_path}/sets/s1.ome.tif"]) == [first]
    assert find_stacks([str(tmp_path / "sets")]) == [tmp_path / "sets"]
    first.unlink()  # then the one that is named has to fail, by name
    assert find_stacks([f"{tmp_path}/sets/s10.ome.tif"]) == [tmp_path / "sets/s10.ome.tif"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_missing_or_incomplete(tmp_path, kind):
    a, b = write_set(tmp_path, VOLUME, TWO, **KINDS[kind])
    whole = b.read_bytes()
    b.unlink()
    with pytest.raises(StackError, match=r"b\.ome\.tif: it is missing; it belongs to a\.ome\.tif"):
        open_stack(a)
    for lost in (300, len(whole) - 4):
        b.write_bytes(whole[:-lost])
        with pytest.raises(StackError, match=r"b\.ome\.tif"):
            open_stack(a)
    if kind in ("XML in every file", "no identifiers", "XML in the first"):
        tifffile.imwrite(b, VOLUME[:1], photometric="minisblack", metadata=None, ome=False)
        with pytest.raises(StackError, match=r"b\.ome\.tif: it has 1 slices; expected 2"):
            open_stack(a)
        tifffile.imwrite(b, VOLUME[:2, :9], photometric="minisblack", metadata=None, ome=False)
        with pytest.raises(StackError, match=r"b\.ome\.tif: it is \(9, 22\) uint8; expected \(20, 22\) uint8"):
            open_stack(a)


def test_a_companion_that_is_missing(tmp_path):
    a, _ = write_set(tmp_path, VOLUME, TWO, binary_only="all.companion.ome")
    for text, message in ((xml(""), "says that it holds nothing"), ("hello", "has none; copy that file again")):
        (tmp_path / "all.companion.ome").write_text(text)
        with pytest.raises(StackError, match=message):
            open_stack(a)
    (tmp_path / "all.companion.ome").unlink()
    with pytest.raises(StackError, match=r"all\.companion\.ome: it is missing"):
        open_stack(a)
    assert files_of(a) == [a]


@pytest.mark.parametrize("name", ["../b.ome.tif", "/etc/passwd", "sub/b.ome.tif", "..", "C:\\data\\b.ome.tif"])
@pytest.mark.parametrize("where", ["FileName", "MetadataFile"])
def test_names_that_lead_out_of_the_folder(tmp_path, name, where):
    (tmp_path / "in").mkdir()
    write(tmp_path / "b.ome.tif", VOLUME[:3], xml(""))
    pointer = f'<BinaryOnly MetadataFile="{name}"/>'
    content = image({"a.ome.tif": [0, 1, 2], name: [3, 4, 5]}, SIZES) if where == "FileName" else pointer
    a = write(tmp_path / "in/a.ome.tif", VOLUME[:3], xml(content, "a.ome.tif"))
    with pytest.raises(StackError, match="expected a name without a folder"):
        open_stack(a)
    assert find_stacks([str(a)]) == [a]
    assert stamp_of(a).files == 1


def test_links_are_not_followed_but_for_the_one_that_was_named(tmp_path):
    write_set(tmp_path / "real", VOLUME, TWO)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.ome.tif").symlink_to(tmp_path / "real/a.ome.tif")
    (tmp_path / "in/b.ome.tif").write_bytes((tmp_path / "real/b.ome.tif").read_bytes())
    np.testing.assert_array_equal(read_all(tmp_path / "in/a.ome.tif")[1], VOLUME)
    with pytest.raises(StackError, match=r"in/a\.ome\.tif: it is a link"):
        open_stack(tmp_path / "in/b.ome.tif")
    (tmp_path / "in/b.ome.tif").unlink()
    os.mkfifo(tmp_path / "in/b.ome.tif")
    with pytest.raises(StackError, match="no regular file"):
        open_stack(tmp_path / "in/a.ome.tif")


def test_what_the_xml_declares_is_not_expanded(tmp_path):
    text = xml(image(TWO, SIZES)).replace("<OME", '<!DOCTYPE x [<!ENTITY a "b">]><OME', 1)
    with pytest.raises(StackError, match="declares entities"):
        open_stack(write(tmp_path / "a.ome.tif", VOLUME, text))


@pytest.mark.parametrize("uuids", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_a_single_file_that_was_renamed_is_itself(tmp_path, uuids, other):
    write_set(tmp_path, VOLUME, {"old.ome.tif": range(6)}, uuids=uuids)
    (tmp_path / "old.ome.tif").rename(tmp_path / "new.ome.tif")
    if other:  # under the old name lies another one now
        write_set(tmp_path, VOLUME[::-1], {"old.ome.tif": range(6)}, uuids=uuids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack, found = read_all(tmp_path / "new.ome.tif")
    np.testing.assert_array_equal(found, VOLUME)
    assert stack.files == (tmp_path / "new.ome.tif",)
    assert stack.info.voxel_size.edges == pytest.approx((0.04, 0.02, 0.01))
    assert len(find_stacks([f"{tmp_path}/*.tif"])) == 1 + other


def test_a_member_that_was_renamed_is_known_by_its_identifier(tmp_path):
    write_set(tmp_path, VOLUME, TWO)
    (tmp_path / "a.ome.tif").rename(tmp_path / "mine.tif")
    np.testing.assert_array_equal(read_all(tmp_path / "mine.tif")[1], VOLUME)
    with pytest.raises(StackError, match=r"a\.ome\.tif: it is missing"):
        open_stack(tmp_path / "b.ome.tif")


AXES = {"metadata": {"axes": "ZYX"}}


@pytest.mark.parametrize("victim", ["its own OME-XML", "ImageJ", "silent"])
def test_a_file_that_knows_nothing_of_a_set_is_no_part_of_it(tmp_path, victim):
    """Whoever adds a file to a folder must not decide that another one there is no stack."""
    name = "b.ome.tif" if "OME" in victim else "b.tif"
    more = {"its own OME-XML": AXES, "ImageJ": AXES | {"imagej": True}, "silent": {"metadata": None}}[victim]
    tifffile.imwrite(tmp_path / name, VOLUME[:2], **{"photometric": "minisblack"} | more)
    write(
        tmp_path / "a.ome.tif",
        VOLUME[:2],
        xml(image({"a.ome.tif": [0, 1], name: [2, 3]}, SIZES | {"Z": 4}), "a.ome.tif"),
    )
    with pytest.raises(StackError, match=rf"{name} is a part of it, which {name} knows nothing of"):
        open_stack(tmp_path / "a.ome.tif")
    assert find_stacks([f"{tmp_path}/*.tif"]) == [tmp_path / "a.ome.tif", tmp_path / name]
    with open_stack(tmp_path / name) as stack:
        np.testing.assert_array_equal(stack.read(1), VOLUME[1])


def test_a_file_of_another_set_is_told_of(tmp_path):
    write_set(tmp_path, VOLUME, TWO)
    write_set(tmp_path / "other", VOLUME, {"b.ome.tif": [0, 1], "c.ome.tif": [2, 3]})
    (tmp_path / "other/b.ome.tif").write_bytes(
        (tmp_path / "other/b.ome.tif").read_bytes().replace(identifier("b.ome.tif").encode(), b"urn:uuid:" + b"0" * 36)
    )
    (tmp_path / "other/b.ome.tif").replace(tmp_path / "b.ome.tif")
    with open_stack(tmp_path / "a.ome.tif") as stack:
        assert [note.split(" is not known")[0] for note in stack.notes] == ["b.ome.tif"]


def test_slices_that_the_xml_leaves_out_are_told_of(tmp_path):
    a, b = write_set(tmp_path, VOLUME, TWO)
    write(b, VOLUME[[4, 5, 0]], xml(image(TWO, SIZES), b.name))
    stack, found = read_all(a)
    np.testing.assert_array_equal(found, VOLUME)
    assert stack.notes == ("b.ome.tif has 3 slices, of which the OME-XML names 2",)


def test_an_image_for_each_file_is_a_stack_for_each(tmp_path):
    """As multi-position acquisitions are saved: every file speaks of all."""
    content = "".join(
        image({name: [0, 1, 2]}, SIZES | {"Z": 3}, number=i) for i, name in enumerate(("p0.ome.tif", "p1.ome.tif"))
    )
    for i, name in enumerate(("p0.ome.tif", "p1.ome.tif")):
        write(tmp_path / name, VOLUME[3 * i : 3 * i + 3], xml(content, name))
    assert [path.name for path in find_stacks([f"{tmp_path}/*.tif"])] == ["p0.ome.tif", "p1.ome.tif"]
    np.testing.assert_array_equal(read_all(tmp_path / "p1.ome.tif")[1], VOLUME[3:])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (SIZES | {"C": 2, "Z": 3}, "has 2 channels; expected one volume"),
        (SIZES | {"T": 6, "Z": 1}, "has 6 time points"),
        (SIZES | {"Z": 10**9}, "says 1000000000 slices, and other numbers"),
        (SIZES | {"Z": 8}, "says 8 slices, and of 2 of them not where they are"),
    ],
)
def test_what_is_no_volume(tmp_path, sizes, message):
    a, _ = write_set(tmp_path, VOLUME, TWO, sizes=sizes)
    with pytest.raises(StackError, match=message):
        open_stack(a)


def test_a_folder_with_a_set_and_more(tmp_path):
    folder = tmp_path / "my [a] set"
    write_set(folder, VOLUME, TWO)
    tifffile.imwrite(folder / "c.tif", VOLUME, photometric="minisblack")
    with pytest.raises(StackError, match=r"set of 2 OME-TIFFs .* 1 files that are no part of it \(c\.tif\)"):
        open_stack(folder)


def test_what_is_no_set(tmp_path):
    tifffile.imwrite(tmp_path / "o.tif", VOLUME, ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "i.tif", VOLUME, imagej=True, metadata={"axes": "ZYX"})
    (tmp_path / "t.tif").write_bytes(b"II*\0")
    (tmp_path / "h.tif").write_bytes(b"MM\0*\0\0\0\x08\0\1\1\x0e\0\2\xff\xff\xff\xff")
    for name in ("o.tif", "i.tif", "t.tif", "h.tif", "none.tif"):
        assert find_set(tmp_path / name) is None
    write_set(tmp_path, VOLUME, {"one.ome.tif": range(6)})
    assert find_set(tmp_path / "one.ome.tif") is None


@pytest.fixture(scope="module")
def nets():
    segmenter = RunSegmenter(load_bundle(BUNDLE), RunOptions(precision="float32"))
    segmenter.load()
    return segmenter


def test_results_are_of_all_files(tmp_path, nets, caplog, recwarn):
    volume = tifffile.imread(save(tmp_path / "source.tif", 0, (6, 40, 44)))
    _, b = write_set(tmp_path / "in", volume, TWO)
    stacks = find_stacks([f"{tmp_path}/in/*.tif"])

    def run():
        (verdict,) = segment_batch(stacks, tmp_path / "out", nets)
        assert verdict.labels.name == "a_labels.tif"
        return verdict.skipped, json.loads(verdict.report.read_text())["input"]

    skipped, entry = run()
    stamp = stamp_of(stacks[0])
    assert (entry["files"], entry["bytes"], entry["mtime_ns"]) == (stamp.files, stamp.bytes, stamp.mtime_ns)
    assert (skipped, entry["shape"], entry["files"]) == (False, [6, 40, 44], 2)
    assert run()[0]
    with tifffile.TiffFile(b) as tiff:
        description = tiff.pages[0].description
    write(b, volume[[5, 4]], description)
    skipped, changed = run()
    assert not skipped
    assert changed["sha256"] != entry["sha256"]
    assert not recwarn.list
