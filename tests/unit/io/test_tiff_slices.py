"""Which pages of a file are its stack: however they were written, and whatever the metadata say."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from densecell_batch.errors import OutputError, StackError
from densecell_batch.io.reading import open_stack
from densecell_batch.io.writing import StackWriter

VOLUME = np.random.default_rng(0).integers(0, 255, (5, 48, 40), np.uint8)
GREY = {"photometric": "minisblack"}
BARE = {**GREY, "metadata": None}
OME = {"ome": True, "metadata": {"axes": "ZYX"}, **GREY}


def check(path, volume=VOLUME):
    """The stack is this volume, whole and in rows; its notes."""
    with open_stack(path) as stack:
        assert stack.info.shape == volume.shape
        for z, plane in enumerate(volume):
            np.testing.assert_array_equal(stack.read(z), plane)
            np.testing.assert_array_equal(stack.read(z, (0, 1)), plane[:1])
            np.testing.assert_array_equal(stack.read(z, (len(plane) // 3, len(plane))), plane[len(plane) // 3 :])
        return stack.notes


def one_by_one(path, *kinds, writer=None, **options):
    """Slice by slice with one writer, each slice with the next of some options."""
    with tifffile.TiffWriter(path, **(writer or {})) as file:
        for z, plane in enumerate(VOLUME):
            file.write(plane, **{**options, **(kinds[z % len(kinds)] if kinds else {})})


def appended(**options):
    def make(path):
        for plane in VOLUME:
            tifffile.imwrite(path, plane, append=True, **options)

    return make


def mixed(*kinds, **options):
    return lambda path: one_by_one(path, *kinds, **options)


STRIPS = ({"rowsperstrip": 7}, {"rowsperstrip": 9}, {"rowsperstrip": 48})
IN_THE_MIDDLE = ({}, {}, {"compression": "zlib"}, {}, {})  # tifffile looks at the first and the last
IMAGEJ = "ImageJ=1.53t\nimages={n}\nslices={n}\nunit=nm\nspacing=50\n"

WRITTEN = {
    "appended": appended(**GREY),
    "appended with axes": appended(**GREY, metadata={"axes": "YX"}),
    "appended without metadata": appended(**BARE),
    "appended, compressed": appended(**GREY, compression="zlib"),
    "one writer": mixed(**GREY),
    "one writer, contiguous": mixed(**GREY, contiguous=True),
    "one writer, OME": mixed(**GREY, writer={"ome": True}),
    "mixed compression": mixed({"compression": "zlib"}, {}, {"compression": "lzw", "predictor": True}, **GREY),
    "mixed compression, bare": mixed({"compression": "zlib"}, {}, **BARE),
    "mixed strips": mixed(*STRIPS, **BARE),
    "mixed strips, compressed": mixed(*STRIPS, **BARE, compression="zlib"),
    "mixed tiles": mixed({"tile": (16, 16)}, {"compression": "lzw"}, {}, **BARE),
    "another in the middle": mixed(*IN_THE_MIDDLE, **BARE),
    "another in the middle, ImageJ": mixed(*IN_THE_MIDDLE, **BARE, description=IMAGEJ.format(n=5)),
    "ImageJ's header in each page": mixed(**BARE, description="ImageJ=1.53t\nimages=1\n"),
    "ImageJ's header in each, mixed": mixed({"compression": "zlib"}, {}, **BARE, description="ImageJ=1.53t\n"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_pages_that_are_alike_are_one_stack(tmp_path, name):
    WRITTEN[name](tmp_path / "s.tif")
    notes = check(tmp_path / "s.tif")
    assert len(notes) == ("OME" in name)


def test_blocks_of_slices_are_one_stack_and_said(tmp_path):
    for block in (VOLUME[:3], VOLUME[3:]):
        tifffile.imwrite(tmp_path / "s.tif", block, append=True, **GREY)
    (note,) = check(tmp_path / "s.tif")
    assert "2 images one after another, of 3, 2 slices; they are taken as one stack of 5" in note


def header_of_some(description, **options):
    """The first page says how many there are; there are five."""

    def make(path):
        with tifffile.TiffWriter(path) as file:
            for z, plane in enumerate(VOLUME):
                file.write(plane, description=description if z == 0 else None, **BARE, **options)

    return make


def fewer_planes(size, **options):
    def make(path):
        tifffile.imwrite(path, VOLUME, **OME, **options)
        path.write_bytes(path.read_bytes().replace(b'SizeZ="5"', f'SizeZ="{size}"'.encode()))

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (fewer_planes(3), "OME-XML says 3 slices, the file has 5 pages"),
        (fewer_planes(3, compression="zlib"), "OME-XML says 3 slices, the file has 5 pages"),
        (fewer_planes(1), "OME-XML says 1 slices, the file has 5 pages"),
        (header_of_some(IMAGEJ.format(n=3)), "ImageJ header says 3 slices, the file has 5 pages"),
        (header_of_some(IMAGEJ.format(n=2), compression="zlib"), "ImageJ header says 2 slices, the file has 5 pages"),
    ],
)
def test_more_slices_than_the_metadata_say(tmp_path, make, said):
    make(tmp_path / "s.tif")
    (note,) = check(tmp_path / "s.tif")
    assert said in note


def test_xml_that_does_not_say_where_the_slices_are(tmp_path):
    """As is left when slices were taken out of a stack: places that are beyond what the XML says of itself."""
    tifffile.imwrite(tmp_path / "whole.tif", VOLUME, **OME)
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        xml = tiff.pages[0].description
    whole = '<TiffData IFD="0" PlaneCount="5"/>'
    assert whole in xml
    places = "".join(f'<TiffData IFD="{z}" FirstZ="{z + 3}" PlaneCount="1"/>' for z in range(5))
    header_of_some(xml.replace(whole, places))(tmp_path / "s.tif")
    (note,) = check(tmp_path / "s.tif")
    assert "does not say where all of its 5 slices are" in note


def test_pages_of_ome_that_are_packed_in_different_ways(tmp_path):
    tifffile.imwrite(tmp_path / "whole.tif", VOLUME, **OME)
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        xml = tiff.pages[0].description
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        for z, plane in enumerate(VOLUME):
            options = {"compression": "zlib"} if z == 2 else {"rowsperstrip": 5} if z == 3 else {}
            file.write(plane, description=xml if z == 0 else None, **BARE, **options)
    assert check(tmp_path / "s.tif") == ()


def with_thumbnail(path):
    with tifffile.TiffWriter(path) as file:
        file.write(VOLUME, **GREY)
        file.write(VOLUME[0, ::2, ::2], subfiletype=1, **GREY)


def channels_in_blocks(path):
    for block in (VOLUME[:2], VOLUME[2:4]):
        tifffile.imwrite(path, block, append=True, metadata={"axes": "CYX"}, **GREY)


def several_ome_images(path):
    with tifffile.TiffWriter(path, ome=True) as file:
        for block in (VOLUME[:2], VOLUME[2:4]):
            file.write(block, metadata={"axes": "ZYX"}, **GREY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_thumbnail, r"2 images of different kind \(5 x 48 x 40, 24 x 20\)"),
        (channels_in_blocks, "2 images"),
        (several_ome_images, "2 images"),
        (fewer_planes(9), "5 of 9 slices are there"),
        (header_of_some(IMAGEJ.format(n=9)), "the header says 9 slices, 5 are there"),
        (
            lambda path: tifffile.imwrite(path, VOLUME[:, :, :1], **GREY),
            "5 x 48 x 1, which may be slices of one column",
        ),
    ],
)
def test_what_is_not_one_stack(tmp_path, make, message):
    make(tmp_path / "s.tif")
    with pytest.raises(StackError, match=message):
        open_stack(tmp_path / "s.tif")


# One column, one row


def writes_columns(path):
    """Whether this tifffile does: older ones take one column for one row."""
    tifffile.imwrite(path, VOLUME[:, :, :1], **BARE)
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].shape == (48, 1)


@pytest.mark.parametrize("part", [np.s_[:, :, :1], np.s_[:, :1], np.s_[:, :1, :1], np.s_[:1, :, :1]], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        BARE,
        OME,
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {**GREY, "metadata": {"axes": "ZYX"}},
        {**GREY, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
        {**GREY, "metadata": {"axes": "ZYX"}, "tile": (16, 16)},
    ],
    ids=str,
)
def test_one_column_and_one_row(tmp_path, part, options):
    volume = np.ascontiguousarray(VOLUME[part])
    if len(volume) == 1 and options.get("imagej"):
        pytest.skip("written as one row, with nothing that says otherwise")
    if volume.shape[2] == 1 and options in (BARE, OME) and not writes_columns(tmp_path / "try.tif"):
        pytest.skip("this tifffile writes no columns")
    tifffile.imwrite(tmp_path / "s.tif", volume, **options)
    check(tmp_path / "s.tif", volume)


@pytest.mark.parametrize("part", [np.s_[:, :, :1], np.s_[:, :1], np.s_[:, :1, :1], np.s_[:1, :, :1]], ids=str)
@pytest.mark.parametrize("file_format", ["imagej", "ome-tiff"])
@pytest.mark.parametrize("colours", [None, np.array([[0, 0, 0], [255, 0, 0]], np.uint8)], ids=["grey", "coloured"])
def test_results_of_one_column_and_one_row(tmp_path, part, file_format, colours):
    """Each slice is a page of its own shape, as viewers want it."""
    volume = np.ascontiguousarray(VOLUME[part])
    if volume.shape[2] == 1 and not writes_columns(tmp_path / "try.tif"):
        with pytest.raises(OutputError, match="cannot write slices of one column; update it"):
            StackWriter(tmp_path / "s.tif", volume.shape, "uint8", file_format=file_format, colours=colours)
        return
    with StackWriter(tmp_path / "s.tif", volume.shape, "uint8", file_format=file_format, colours=colours) as writer:
        for z, plane in enumerate(volume):
            writer.write(z, plane)
        writer.commit()
    with tifffile.TiffFile(tmp_path / "s.tif") as tiff:
        assert [page.shape for page in tiff.pages] == [volume.shape[1:]] * len(volume)
    check(tmp_path / "s.tif", volume)


def test_an_axis_of_length_1_at_the_end(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", VOLUME[..., None], **GREY)
    check(tmp_path / "s.tif")


# Kinds of values


def grey_and_alpha(path):
    both = np.stack([VOLUME, 255 - VOLUME], -1)
    tifffile.imwrite(path, both, planarconfig="contig", extrasamples=["unassalpha"], **BARE)


def of(dtype):
    return lambda path: tifffile.imwrite(path, (VOLUME > 9).astype(dtype), **BARE)


@pytest.mark.parametrize(
    ("make", "said", "never"),
    [
        (grey_and_alpha, "2 values a pixel, grey and alpha; expected grey values alone", "RGB"),
        (of(bool), r"bool \(1 bit.*save it as TIFF: that makes it 8-bit", "Python"),
        (of(np.int32), "int32;.*open it in Fiji and save it as TIFF: that makes it 32-bit", "Python"),
        (of(np.uint32), "uint32;.*open it in Fiji and save it as TIFF: that makes it 32-bit", "Python"),
        (of(np.float64), r"float64;.*in Python: .*astype\('float32'\)", "Fiji"),  # plain ImageJ does not open these
        (of(np.float16), r"float16;.*in Python: .*astype\('float32'\)", "Fiji"),
        (of(np.uint64), r"uint64;.*in Python: .*astype\('float32'\)", "Fiji"),
    ],
)
def test_values_that_are_refused(tmp_path, make, said, never):
    make(tmp_path / "s.tif")
    with pytest.raises(StackError, match=said) as error:
        open_stack(tmp_path / "s.tif")
    assert never not in str(error.value)


def test_labels_of_other_values_keep_their_numbers(tmp_path):
    of(np.int32)(tmp_path / "labels.tif")
    with pytest.raises(StackError, match=r"save the numbers as they are .*imread\('labels.tif'\).astype\('uint16'\)"):
        open_stack(tmp_path / "labels.tif", stored=True)
