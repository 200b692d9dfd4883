"""What is refused before any work: names that cannot be written, results taken for stacks."""

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from watched import BUNDLE, save

from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.discovery import find_stacks
from densecell_batch.io.formats.own import own_result
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import content_sha256
from densecell_batch.io.writing import FORMATS, StackWriter
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.batch import Verdict, segment_batch, without_outputs
from densecell_batch.runs.checks import check_image, check_result_names, longest_name, printable
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.paths import StackPaths

NAMES, COLOURS = ["background", "cell"], np.array([[0, 0, 0], [0, 0, 255]], np.uint8)


def test_the_longest_name_is_found_before_the_work(tmp_path):
    def verdict(length, letter="n", **options):
        stack = tmp_path / f"{letter * length}.tif"
        check_result_names(stack, StackPaths(tmp_path / "out", stack), RunOptions(**options))

    fits = max(n for n in range(1, 252) if _passes(verdict, n))
    assert 130 < fits < 251
    with pytest.raises(StackError, match=r"too long: .*names of up to 256 bytes.* takes 255; shorten it by 1 letters"):
        verdict(fits + 1)
    with pytest.raises(StackError, match="too long"):
        verdict(fits, instances=("a class of forty letters, as somebody named it",))
    with pytest.raises(StackError, match="too long"):
        verdict(fits // 2 + 1, letter="é")  # of two bytes


def _passes(check, length):
    try:
        check(length)
    except StackError:
        return False
    return True


@pytest.mark.parametrize("name", [".tif", "..tif", "...ome.tif"])
def test_a_stack_without_a_name(tmp_path, name):
    paths = StackPaths(tmp_path / "out", tmp_path / name)
    with pytest.raises(StackError, match="no name"):
        check_result_names(tmp_path / name, paths, RunOptions())


def test_a_long_path(tmp_path):
    folder = tmp_path.joinpath(*["d" * 200] * 20)
    with pytest.raises(StackError, match=r"would have .* bytes, and 4095 are possible"):
        check_result_names(tmp_path / "a.tif", StackPaths(folder, tmp_path / "a.tif"), RunOptions())
    assert longest_name(folder) == longest_name(tmp_path)


@pytest.fixture(scope="module")
def nets():
    """Never loaded: what is tested here ends before."""
    return RunSegmenter(load_bundle(BUNDLE), RunOptions())


def test_names_fail_alone_and_before_anything_is_read(tmp_path, nets):
    raw = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.tif"))
    long, beyond = tmp_path / f"{'n' * 240}.tif", tmp_path / f"{'n' * 400}.tif"
    for path in (raw, long):
        path.write_bytes(b"not even a TIFF")
    assert without_outputs(find_stacks([str(raw), str(long), str(beyond)]), tmp_path / "out") == [raw, long, beyond]
    verdicts = list(segment_batch([raw, long, beyond], tmp_path / "out", nets))
    for found, message in zip(verdicts, ("not text in UTF-8.*rename it", "too long", "too long"), strict=True):
        assert re.search(message, found.reason)
    assert not (tmp_path / "out").exists()


def test_lines_and_names_of_slices_may_be_no_text(tmp_path):
    raw = Path(os.fsdecode(b"\xff.tif"))
    line = str(Verdict(raw, reason="why"))
    assert line.encode() == b"DENSECELL\tfailed\t\\xff.tif\twhy"
    assert printable(str(raw)) == "\\xff.tif"
    slices = [tmp_path / os.fsdecode(name) for name in (b"\xff1.tif", b"\xff2.tif")]
    for z, path in enumerate(slices):  # of a folder whose own name is text
        tifffile.imwrite(path, np.full((9, 9), z, np.uint8))
    with open_stack(tmp_path) as stack:
        assert list(stack.files) == slices
        assert len(content_sha256(stack.files)) == 64


@pytest.mark.parametrize("file_format", FORMATS)
def test_results_are_known_by_what_is_in_them(tmp_path, file_format):
    for kind, look in {
        "class map": {"class_names": NAMES, "colours": COLOURS},
        "probabilities": {},
        "uncertainty": {},
        "objects": {},
        "": {},
    }.items():
        path = tmp_path / f"{kind or 'stack'}.tif"
        with StackWriter(path, (2, 9, 9), "uint8", file_format=file_format, kind=kind, **look) as writer:
            for z in range(2):
                writer.write(z, np.zeros((9, 9), np.uint8))
            writer.commit()
        assert own_result(path) == kind
        if kind:
            with pytest.raises(StackError, match=f"a result that densecell-batch wrote \\({kind}\\).* give the stack"):
                check_image(path)


@pytest.mark.parametrize("byteorder", "<>")
def test_labels_that_were_corrected_and_saved_again(tmp_path, byteorder):
    """ImageJ keeps the Info, and writes it in the order of bytes of the file."""
    metadata = {"axes": "ZYX", "Info": "corrected by hand\nclass 0 = background #000000\nclass 1 = cell #0000ff\n"}
    volume = np.zeros((2, 9, 9), np.uint8)
    tifffile.imwrite(tmp_path / "l.tif", volume, imagej=True, metadata=metadata, byteorder=byteorder, software=False)
    assert own_result(tmp_path / "l.tif") == "class map"
    tifffile.imwrite(tmp_path / "u.tif", volume, imagej=True, metadata={"axes": "ZYX", "Info": "first class\n"})
    assert own_result(tmp_path / "u.tif") == ""
    (tmp_path / "t.tif").write_text("densecell-batch (class map)")
    for name in ("t.tif", "none.tif"):
        assert own_result(tmp_path / name) == ""


def test_a_glob_leaves_results_out(tmp_path, caplog):
    stack = save(tmp_path / "cells.tif")
    labels = tmp_path / "cells_labels.tif"
    with StackWriter(labels, (1, 9, 9), "uint8", kind="class map") as writer:
        writer.write(0, np.zeros((9, 9), np.uint8))
        writer.commit()
    with caplog.at_level(logging.INFO, "densecell_batch"):
        assert find_stacks([f"{tmp_path}/*.tif"]) == [stack]
    assert "1 results of densecell-batch among them are left out (cells_labels.tif ...)" in caplog.text
    assert find_stacks([str(labels)]) == [labels]  # who names it is told
    with pytest.raises(OptionError, match="nothing but results"):
        find_stacks([f"{tmp_path}/*_labels.tif"])
