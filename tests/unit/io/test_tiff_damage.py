"""Which files are damaged and which are only odd: the chain of pages and the place of the pixels decide."""

import logging
import os
import struct
import tempfile

import numpy as np
import pytest
import tifffile
from tiff_files import poke, set_next, set_place, set_type

from densecell_batch.errors import StackError
from densecell_batch.io.formats.chain import read_at, read_chain
from densecell_batch.io.reading import open_stack

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 255, (4, 30, 26), np.uint8)
PLAIN = {"photometric": "minisblack", "metadata": None}
OME = {"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}}
FAR = 2**31


def tagged(*tags, after=lambda path: None, **options):
    def make(path):
        tifffile.imwrite(path, VOLUME, extratags=tags, **{**PLAIN, **options})
        after(path)

    return make


def replaced(old: bytes, new: bytes, **options):
    def make(path):
        tifffile.imwrite(path, VOLUME, **options)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new.ljust(len(old))))

    return make


def short_counts(path):
    """StripByteCounts of 0, as some cameras write them."""
    tifffile.imwrite(path, VOLUME, **PLAIN)
    for page in range(len(VOLUME)):
        set_place(path, 279, 0, page)


def long_last_strip(path):
    """The last strip is said to be as long as the others, beyond the end of the file."""
    tifffile.imwrite(path, VOLUME[0], rowsperstrip=8, **PLAIN)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].tags[279].valueoffset
        form = {3: "H", 4: "I"}[tiff.pages[0].tags[279].dtype]
    poke(path, place + 3 * struct.calcsize(form), form, 8 * 26)


ODD = {
    "Japanese text in a tag": tagged((315, 2, 9, "細胞一".encode(), True)),
    "Japanese text in the description": tagged(description="細胞".encode()),
    "Shift-JIS in Software": tagged((305, 2, 0, "電子顕微鏡".encode("shift_jis"), True), software=False),
    "private tag that leads nowhere": tagged((65000, 4, 9, [1] * 9, True), after=lambda p: set_place(p, 65000, FAR)),
    "private tag in every page": tagged(
        (65000, 4, 9, [1] * 9, False), after=lambda p: [set_place(p, 65000, FAR, page) for page in range(4)]
    ),
    "private tag without end": tagged(
        (65000, 2, 9, b"invalid..", True), after=lambda p: set_place(p, 65000, 8, count=FAR)
    ),
    "unknown type of tag": tagged((65000, 4, 1, 7, True), after=lambda p: set_type(p, 65000, 99)),
    "resolution that leads nowhere": tagged(resolution=(3, 3), after=lambda p: set_place(p, 282, FAR)),
    "date that is none": tagged(datetime="2020:13:45 99:99:99"),
    "broken metadata of ImageJ": tagged((50838, 4, 2, [4, 9], True), (50839, 1, 4, b"\1\2\3\4", True)),
    "text that says invalid": tagged(description="invalid, corrupt and truncated"),
    "no-data value that is none": tagged((42113, 2, 5, b"void\0", True)),
    "EXIF that leads nowhere": tagged((34665, 4, 1, FAR - 1, True)),
    "Zeiss tag without content": tagged((34118, 2, 4, b"\0\0\0\0", True)),
    "FEI tag without content": tagged((34682, 2, 4, b"=[]\0", True)),
    "Olympus tag without content": tagged((33560, 4, 1, 0, True)),
    "counts of 0": short_counts,
    "OME-XML that is no XML": replaced(b"<Pixels", b"<Pixelz", **OME),
    "OME-XML of a larger image": replaced(b'SizeX="26"', b'SizeX="99"', **OME),
    "OME-XML of another order": replaced(b"DimensionOrder", b"DimensionOrdar", **OME),
    "OME-XML of another type": replaced(b'Type="uint8"', b'Type="none!"', **OME),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_read(tmp_path, name, caplog, recwarn, capfd):
    ODD[name](tmp_path / "s.tif")
    with open_stack(tmp_path / "s.tif") as stack:
        assert stack.info.shape == VOLUME.shape
        for z, plane in enumerate(VOLUME):
            np.testing.assert_array_equal(stack.read(z), plane)
    assert not caplog.records
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_last_strip_that_says_too_much(tmp_path):
    long_last_strip(tmp_path / "s.tif")
    with open_stack(tmp_path / "s.tif") as stack:
        np.testing.assert_array_equal(stack.read(0), VOLUME[0])
        np.testing.assert_array_equal(stack.read(0, (25, 29)), VOLUME[0, 25:29])


def test_the_user_is_told_of_xml_that_does_not_fit(tmp_path):
    ODD["OME-XML of a larger image"](tmp_path / "s.tif")
    with open_stack(tmp_path / "s.tif") as stack:
        assert "OME-XML (4 x 30 x 99) does not fit its pages (4 x 30 x 26" in stack.notes[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (replaced(b'SizeC="1"', b'SizeC="2"', **OME), "2 channels"),
        (replaced(b'SizeT="1"', b'SizeT="4"', **OME), "4 time points"),
        (lambda path: broken_with_channels(path), "does not fit its pages.*channels"),
    ],
)
def test_xml_that_speaks_of_channels_is_believed(tmp_path, make, message):
    make(tmp_path / "s.tif")
    with pytest.raises(StackError, match=message):
        open_stack(tmp_path / "s.tif")


def broken_with_channels(path):
    tifffile.imwrite(path, VOLUME, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    path.write_bytes(path.read_bytes().replace(b"<Pixels", b"<Pixelz"))


# Files that are damaged


def cut(lost, volume=VOLUME, **options):
    def make(path):
        tifffile.imwrite(path, volume, **{**PLAIN, **options})
        path.write_bytes(path.read_bytes()[:-lost])

    return make


def changed(change, **options):
    def make(path):
        tifffile.imwrite(path, VOLUME, **{**PLAIN, **options})
        change(path)

    return make


def pages_last(cut_off):
    """A file whose only list of tags stands at its end, as libtiff writes it, and is cut there."""
    tags = [(256, 26), (257, 30), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 30), (279, 26 * 30)]
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
    whole = struct.pack("<2sHI", b"II", 42, 8 + 780) + VOLUME[0].tobytes()
    whole += struct.pack("<H", len(tags)) + entries + bytes(4)
    return lambda path: path.write_bytes(whole[: len(whole) - cut_off])


DAMAGED = {
    "the end of the only list of tags is lost": (pages_last(1), "truncated or damaged .page 1"),
    "half of the only list of tags is lost": (pages_last(60), "truncated or damaged .page 1"),
    "the only list of tags is lost": (pages_last(200), "truncated or damaged .page 1"),
    "the last byte is lost": (cut(1, VOLUME[0]), "truncated: .* expected at least .* for page 1"),
    "the last byte is lost, compressed": (cut(1, compression="zlib"), "truncated"),
    "half is lost": (cut(1500), "truncated"),
    "half is lost, compressed": (cut(1200, compression="zlib"), "truncated"),
    "half is lost, tiled": (cut(1000, tile=(16, 16)), "truncated"),
    "half is lost, BigTIFF": (cut(1500, bigtiff=True), "truncated"),
    "half is lost, ImageJ": (cut(1500, imagej=True, photometric=None, metadata={"axes": "ZYX"}), "truncated"),
    "pixels of a middle page beyond the end": (changed(lambda p: set_place(p, 273, FAR, 2)), "truncated.* for page 3"),
    "a compressed page beyond the end": (
        changed(lambda p: set_place(p, 273, FAR, 1), compression="zlib"), "truncated.* for page 2",
    ),
    "places of strips beyond the end": (
        changed(lambda p: set_place(p, 273, FAR), rowsperstrip=4), "truncated or damaged .tag 273",
    ),
    "a chain that leads out": (changed(lambda p: set_next(p, 1, FAR)), "truncated or damaged .page 3 would be at byte"),
    "a chain that leads back": (changed(lambda p: set_next(p, 3, 8)), "damaged: page 4 leads back to page 1"),
    "a page that leads to itself": (changed(lambda p: set_next(p, 0, 8)), "damaged: page 1 leads back to page 1"),
    "nothing but a header": (lambda p: p.write_bytes(b"II*\0\x08\0\0\0"), "truncated or damaged"),
}  # fmt: skip


def test_a_list_of_tags_at_the_end(tmp_path):
    pages_last(0)(tmp_path / "s.tif")
    with open_stack(tmp_path / "s.tif") as stack:
        np.testing.assert_array_equal(stack.read(0), VOLUME[0])


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(tmp_path, name, caplog, recwarn):
    make, message = DAMAGED[name]
    make(tmp_path / "s.tif")
    with pytest.raises(StackError, match=f"s.tif: .*{message}.*copy it again"):
        open_stack(tmp_path / "s.tif")
    assert not caplog.records
    assert not recwarn.list


def test_tifffile_may_speak_elsewhere_only_if_asked(caplog):
    logging.getLogger("tifffile").error("what it finds odd")
    assert not caplog.records


# Large readings


def test_a_reading_of_more_than_one_call_can_give(monkeypatch):
    """Linux gives 2,147,479,552 bytes at once, other systems less; here a pipe's worth stands for it."""
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: real(descriptor, min(size, 1000), offset))
    with tempfile.TemporaryFile() as stream:
        data = RNG.bytes(4321)
        stream.write(data)
        stream.flush()
        assert read_at(stream.fileno(), 4000, 100) == data[100:4100]
        assert read_at(stream.fileno(), 10**6, 0) == data  # as far as it goes
        assert read_at(stream.fileno(), 5, 10**6) == b""


@pytest.mark.slow
def test_a_slice_of_more_than_2_gib(tmp_path):
    """A hole on disk, with marks at both ends and around the limit; needs 5 GB of memory."""
    shape = (1, 40_000, 55_000)
    with tifffile.TiffWriter(tmp_path / "s.tif", bigtiff=True) as writer:
        start, _ = writer.write(None, shape=shape, dtype="uint8", returnoffset=True, **PLAIN)
    marks = [0, 2_147_479_551, 2_147_479_552, 2**31, 40_000 * 55_000 - 1]
    with (tmp_path / "s.tif").open("r+b") as stream:
        for value, mark in enumerate(marks, start=1):
            stream.seek(start + mark)
            stream.write(bytes([value]))
    with open_stack(tmp_path / "s.tif") as stack:
        plane = stack.read(0).ravel()
        assert plane[marks].tolist() == [1, 2, 3, 4, 5]
        assert np.count_nonzero(plane) == 5


def test_what_the_chain_tells(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", VOLUME, tile=(16, 16), compression="zlib", byteorder=">", **PLAIN)
    with (tmp_path / "s.tif").open("rb") as stream:
        pages = read_chain(stream.fileno(), tmp_path / "s.tif")
    with tifffile.TiffFile(tmp_path / "s.tif") as tiff:
        assert [page.offset for page in pages] == [page.offset for page in tiff.pages]
        assert [page.offsets for page in pages] == [page.dataoffsets for page in tiff.pages]
        assert [page.counts for page in pages] == [page.databytecounts for page in tiff.pages]
    assert {(page.length, page.width, page.bits, page.samples) for page in pages} == {(30, 26, 8, 1)}
    assert all(page.start is None for page in pages)
