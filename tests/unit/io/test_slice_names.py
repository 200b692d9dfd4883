"""The order of slices, and what their names give away. Each row: names in the right order."""

import random
import re

import pytest

from densecell_batch.io.slice_names import SliceOrder, order_slices


def files(stems):
    """File names of a text: stems with spaces or, where they have spaces themselves, bars between them."""
    return tuple(f"{stem}.tif" for stem in stems.split("|" if "|" in stems else None))


def shuffled(names):
    return random.Random(0).sample(names, len(names))


WHOLE = [
    "s8 s9 s10 s11",
    "1 2 3",
    "s001 s002 s003",
    "s10 s20 s30",  # every tenth
    "one",
    "",
    # a hyphen is a separator ...
    "a-1 a-2 a-3",
    "a-1 a-2 a-3 a-4 a-5 a-6 a-7 a-8 a-9 a-10",
    "2024-05-01_s-1 2024-05-01_s-2",
    # ... or a sign
    "z-3 z-2 z-1 z0 z1",
    "z-002 z-001 z000 z001",
    "z-10 z-5 z0 z5",
    "-1 0 1",
    "slice_-1 slice_0 slice_+1",
    "z--1 z-0 z-1",
    "2024-05-01_z-1um 2024-05-01_z0um 2024-05-01_z1um",
    "z\N{MINUS SIGN}1 z0 z1",
    # a dot parts two numbers, or is that of a decimal
    "section1.9 section1.10 section1.11",
    "z0.25um z0.5um z0.75um z1.0um z1.25um",
    "z1 z1.5 z2 z2.5",
    "z0,5 z1,0 z1,5",
    "z-0.5um z0.0um z0.5um",
    "a.001 a.002 a.003",
    # other numbers beside the running one
    "s001_1203 s002_1210 s003_1291",
    "20240501_s1 20240501_s2 20240502_s3",
    "run1_001 run1_002 run2_003",
    "S1 s2 S3",
]


@pytest.mark.parametrize("stems", WHOLE)
def test_names_of_one_whole_stack(stems):
    names = files(stems)
    assert order_slices(shuffled(names)) == SliceOrder(names)


ODD = [
    ("s001 s002 s004", r"gaps: after s002\.tif comes s004\.tif"),
    ("s10 s20 s40 s50", r"gaps: after s20\.tif comes s40\.tif"),
    ("z-2 z-1 z1 z2", r"gaps: after z-1\.tif comes z1\.tif"),
    ("z0.5 z1.0 z1.5 z2.5", r"gaps: after z1\.5\.tif comes z2\.5\.tif"),
    ("s1 s2 s5 s6 s9 s10 s15 s16 s17 s18 s30", r"after s2\.tif .*, after s6.*, after s10.* and 1 more"),
    ("s001|s002|s002 (1)|s003", r"1 of 4 names .*s002 \(1\)\.tif\): looks like a copy"),
    ("s001|s002|s002 - Copy|s003", "looks like a copy"),
    ("s001|s002|s002 copy|s003 copy", r"2 of 4 names"),
    ("s001|s002|s003|s003~1", "1 of 4 names"),
    ("overview s1 s2 s3 thumb", r"2 of 5 names are not like the others \(overview\.tif, thumb\.tif\)"),
    ("a_001 a_002 b_003 b_004", "2 of 4 names"),  # one after the other: no rivals
    ("alpha beta gamma", r"\(alpha\.tif to gamma\.tif\) have no running number"),
    ("s01 s1 s2", r"same number is there twice \(s01\.tif, s1\.tif\)"),
]


@pytest.mark.parametrize(("stems", "note"), ODD)
def test_names_that_are_odd(stems, note):
    names = files(stems)
    found = order_slices(shuffled(names))
    assert (found.names, found.series) == (names, ())
    (said,) = found.notes
    assert re.search(note, said)


def test_the_same_name_with_two_suffixes():
    (said,) = order_slices(["s1.tif", "s2.tif", "s2.tiff"]).notes
    assert "twice (s2.tif, s2.tiff)" in said


SERIES = [
    ("a_001 a_002 a_003|b_001 b_002", "two texts"),
    ("run1_001 run1_002|run2_001 run2_002", "two numbers"),
    ("z001_c1 z002_c1 z003_c1|z001_c2 z002_c2 z003_c2", "a channel behind"),
    ("s001 s002 s003|s001_mask s002_mask s003_mask", "images and masks"),
    ("s1.1 s1.2 s1.10|s2.1 s2.2 s2.10", "with dots"),
    ("s-1 s-2 s-3|t-1 t-2 t-3|u-2 u-3", "three"),
]


@pytest.mark.parametrize(("series", "what"), SERIES)
def test_several_series(series, what):
    wanted = tuple(files(stems) for stems in series.split("|"))
    found = order_slices(shuffled([name for names in wanted for name in names]))
    assert found.series == wanted
    assert found.notes == ()


def test_many_slices_are_ordered_quickly():
    names = [f"s_{i}.tif" for i in range(20_000)]
    assert order_slices(shuffled(names)).names == tuple(names)


@pytest.mark.parametrize("stems", ["a a1 a2", "s1_ s1_2 s1_3", "a a1 a1_ a1_2"])
def test_a_name_that_others_go_on_from_comes_first(stems):
    names = files(stems)
    found = order_slices(shuffled(names))
    assert found.names == names
    assert found.notes
