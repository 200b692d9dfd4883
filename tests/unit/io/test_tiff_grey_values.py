"""Grey values are those that a viewer shows; labels are what is stored. The last tests ask real ImageJ."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from imagej_app import MISSING, run_macro

from densecell_batch.errors import StackError
from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.measure.compare import read_classes
from densecell_batch.training.volumes import load_labelled

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 250, (3, 20, 24), np.uint8)
FALLING = np.arange(255, -1, -1)
SHUFFLED = RNG.permutation(256)


def grey_table(values, scale=257):
    """A colour table of greys, as TIFF wants it."""
    return np.repeat((np.asarray(values) * scale).astype(np.uint16)[None], 3, axis=0)


def read_all(path, **options):
    with open_stack(path, **options) as stack:
        planes = [stack.read(z) for z in range(stack.info.shape[0])]
        for z, plane in enumerate(planes):
            np.testing.assert_array_equal(stack.read(z, (3, 9)), plane[3:9])
            assert plane.dtype == stack.info.dtype
        return np.stack(planes), stack.notes


LAYOUTS = [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 6}, {"byteorder": ">"}]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (VOLUME, 255 - VOLUME),
        (VOLUME.astype(np.uint16) * 200, 65535 - VOLUME.astype(np.uint16) * 200),
        (VOLUME.astype(np.int16) - 120, -1 - (VOLUME.astype(np.int16) - 120)),
        (VOLUME.astype(np.float32) / 7, -(VOLUME.astype(np.float32) / 7)),
    ],
    ids=["uint8", "uint16", "int16", "float32"],
)
def test_zero_is_white(tmp_path, values, shown, options):
    tifffile.imwrite(tmp_path / "s.tif", values, photometric="miniswhite", metadata=None, **options)
    found, notes = read_all(tmp_path / "s.tif")
    np.testing.assert_array_equal(found, shown)
    assert ["0 is white" in note for note in notes] == [True]
    stored, notes = read_all(tmp_path / "s.tif", stored=True)
    np.testing.assert_array_equal(stored, values)
    assert notes == ()


@pytest.mark.parametrize(
    "options", [{"imagej": True}, {"ome": True}, {"metadata": None}, {"compression": "lzw"}], ids=str
)
@pytest.mark.parametrize("scale", [256, 257, 1])
@pytest.mark.parametrize("table", [FALLING, SHUFFLED, np.arange(256) // 2], ids=["falling", "shuffled", "dark"])
def test_grey_colour_tables(tmp_path, table, scale, options):
    if "metadata" not in options:
        options = {**options, "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "s.tif", VOLUME, photometric="palette", colormap=grey_table(table, scale), **options)
    found, notes = read_all(tmp_path / "s.tif")
    np.testing.assert_array_equal(found, table.astype(np.uint8)[VOLUME])
    assert ["colour table" in note for note in notes] == [True]
    np.testing.assert_array_equal(read_all(tmp_path / "s.tif", stored=True)[0], VOLUME)


@pytest.mark.parametrize("scale", [256, 257, 1])
def test_the_ramp_from_black_to_white_changes_nothing(tmp_path, scale):
    table = grey_table(np.arange(256), scale)
    tifffile.imwrite(tmp_path / "s.tif", VOLUME, photometric="palette", colormap=table, metadata=None)
    found, notes = read_all(tmp_path / "s.tif")
    np.testing.assert_array_equal(found, VOLUME)
    assert notes == ()


def fire():
    """Colours, with greys among them."""
    table = grey_table(np.arange(256))
    table[2, 100:] = 0
    return table


def test_colours_that_lie_over_an_image_are_no_grey_values(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", VOLUME, photometric="palette", colormap=fire(), metadata=None)
    found, notes = read_all(tmp_path / "s.tif")
    np.testing.assert_array_equal(found, VOLUME)
    assert ["not grey; the stored values are taken" in note for note in notes] == [True]


@pytest.mark.parametrize("table", [np.zeros(256), None])
def test_a_table_that_says_nothing(tmp_path, table):
    """Empty, or too short to be one."""
    from tiff_files import set_place

    tifffile.imwrite(tmp_path / "s.tif", VOLUME[0], photometric="palette", colormap=grey_table(FALLING), metadata=None)
    if table is None:
        set_place(tmp_path / "s.tif", 320, 2**31)
    else:
        tifffile.imwrite(
            tmp_path / "s.tif", VOLUME[0], photometric="palette", colormap=grey_table(table), metadata=None
        )
    np.testing.assert_array_equal(read_all(tmp_path / "s.tif")[0][0], VOLUME[0])


def test_each_page_has_its_own(tmp_path):
    tables = [grey_table(FALLING), grey_table(SHUFFLED), grey_table(np.arange(256))]
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for plane, table in zip(VOLUME, tables, strict=True):
            writer.write(plane, photometric="palette", colormap=table, metadata=None)
        writer.write(VOLUME[0], photometric="miniswhite", metadata=None, compression="zlib")
        writer.write(VOLUME[1], photometric="minisblack", metadata=None, rowsperstrip=5)
    found, notes = read_all(tmp_path / "s.tif")
    wanted = [255 - VOLUME[0], SHUFFLED.astype(np.uint8)[VOLUME[1]], VOLUME[2], 255 - VOLUME[0], VOLUME[1]]
    np.testing.assert_array_equal(found, wanted)
    assert len(notes) == 2


def test_each_slice_of_a_folder_has_its_own(tmp_path):
    tifffile.imwrite(tmp_path / "s1.tif", VOLUME[0], photometric="miniswhite")
    tifffile.imwrite(tmp_path / "s2.tif", VOLUME[1], photometric="minisblack")
    tifffile.imwrite(tmp_path / "s3.tif", VOLUME[2], photometric="palette", colormap=grey_table(SHUFFLED))
    wanted = [255 - VOLUME[0], VOLUME[1], SHUFFLED.astype(np.uint8)[VOLUME[2]]]
    np.testing.assert_array_equal(read_all(tmp_path)[0], wanted)
    np.testing.assert_array_equal(read_all(tmp_path, stored=True)[0], VOLUME)


def test_packed_bits(tmp_path):
    """12 bits a value, 0 white: as cameras pack them."""
    values = RNG.integers(0, 4096, (1, 6, 8), np.uint16)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    packed = np.packbits(bits.ravel()).reshape(6, 12)
    from tiff_files import entry_of, poke

    tifffile.imwrite(tmp_path / "s.tif", packed, photometric="miniswhite", metadata=None)
    for code, value in ((256, 8), (258, 12)):
        poke(tmp_path / "s.tif", entry_of(tmp_path / "s.tif", code) + 8, "H", value)
    with open_stack(tmp_path / "s.tif") as stack:
        assert stack.info.dtype == "uint16"
        np.testing.assert_array_equal(stack.read(0), 4095 - values[0])


def test_notes_on_values_stay_where_the_user_says_the_voxel_size(tmp_path):
    from densecell_batch.calibration import VoxelSize

    tifffile.imwrite(
        tmp_path / "s.tif", VOLUME, imagej=True, photometric="miniswhite", metadata={"axes": "ZYX", "unit": "mile"}
    )
    assert len(read_all(tmp_path / "s.tif")[1]) == 2
    notes = read_all(tmp_path / "s.tif", voxel_size=VoxelSize(1, 1, 1))[1]
    assert ["0 is white" in note for note in notes] == [True]


# Labels


def test_labels_of_training_and_evaluation_are_what_is_stored(tmp_path):
    labels, weights = VOLUME % 4, (VOLUME % 3).astype(np.float32)
    tifffile.imwrite(tmp_path / "image.tif", VOLUME, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="palette", colormap=grey_table(FALLING))
    tifffile.imwrite(tmp_path / "weights.tif", weights, photometric="miniswhite")
    found = load_labelled(tmp_path / "image.tif", tmp_path / "labels.tif", 4, weights=tmp_path / "weights.tif")
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.weights, weights)
    assert np.corrcoef(found.image.ravel(), VOLUME.ravel())[0, 1] == pytest.approx(-1)
    np.testing.assert_array_equal(read_classes(tmp_path / "labels.tif")[0], labels)


def test_float_labels_name_a_remedy_that_keeps_them(tmp_path):
    tifffile.imwrite(tmp_path / "labels.tif", (VOLUME % 4).astype(np.float32), photometric="minisblack")
    with pytest.raises(StackError, match="Scale when converting, then Image > Type > 8-bit"):
        open_labels(tmp_path / "labels.tif")


# Real ImageJ


@pytest.fixture(scope="module")
def by_imagej(tmp_path_factory):
    """Folder of what ImageJ makes of images: inverted, coloured, made finite, converted."""
    folder = tmp_path_factory.mktemp("ij")
    holes = VOLUME.astype(np.float32) + 1
    holes[1, 3:12, 4:16], holes[2, 1, 1], holes[0, 1, 1] = np.nan, np.inf, -np.inf
    images = {
        "uint8": VOLUME,
        "uint16": VOLUME.astype(np.uint16) * 200,
        "float32": VOLUME.astype(np.float32) / 7,
        "holes": holes,
        "labels": (VOLUME % 5).astype(np.float32),
    }
    for name, image in images.items():
        tifffile.imwrite(folder / f"{name}.tif", image, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "int32.tif", VOLUME.astype(np.int32), photometric="minisblack", metadata=None)
    from densecell_batch.prepare.normalize import FINITE_MACRO

    steps = [f'open("{folder}/{n}.tif"); run("Invert LUT");' for n in ("uint8", "uint16", "float32")]
    steps += [
        f'open("{folder}/uint8.tif"); run("Fire");',
        f'open("{folder}/holes.tif"); run("Macro...", "code=[{FINITE_MACRO}] stack");',
        f'run("Conversions...", " "); open("{folder}/labels.tif"); run("8-bit"); run("Conversions...", "scale");',
        f'open("{folder}/int32.tif");',
    ]
    names = ["inverted-uint8", "inverted-uint16", "inverted-float32", "fire", "finite", "classes", "from-int32"]
    macro = folder / "make.ijm"
    macro.write_text(
        "".join(f'{step} saveAs("Tiff", "{folder}/{n}.tif"); close();\n' for step, n in zip(steps, names, strict=True))
    )
    said = run_macro(macro, "")
    assert (folder / "from-int32.tif").exists(), said
    return folder


fiji = pytest.mark.fiji
there = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@fiji
@there
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("inverted-uint8", 255 - VOLUME),
        ("inverted-uint16", 65535 - VOLUME.astype(np.uint16) * 200),
        ("inverted-float32", -(VOLUME.astype(np.float32) / 7)),
        ("fire", VOLUME),
        ("from-int32", VOLUME.astype(np.float32)),
    ],
)
def test_what_imagej_saves(by_imagej, name, shown):
    found, notes = read_all(by_imagej / f"{name}.tif")
    np.testing.assert_array_equal(found, shown)
    assert len(notes) == (name != "from-int32")


@fiji
@there
def test_the_remedy_for_nan_helps(by_imagej):
    found = read_all(by_imagej / "finite.tif")[0]
    assert np.isfinite(found).all()
    assert np.count_nonzero(found == 0) == 9 * 12 + 2
    np.testing.assert_array_equal(found[found != 0], (VOLUME.astype(np.float32) + 1)[found != 0])


@fiji
@there
def test_the_remedy_for_float_labels_keeps_them(by_imagej):
    with open_labels(by_imagej / "classes.tif") as labels:
        np.testing.assert_array_equal(labels.read(1), VOLUME[1] % 5)
