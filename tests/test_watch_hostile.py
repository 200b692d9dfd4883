"""A stack that somebody dropped ends as that stack's verdict, whatever it is; the others are done."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
import watched
from click.testing import CliRunner

from densecell_batch.atomic import open_new, temporary_name, write_file
from densecell_batch.cli import cli
from densecell_batch.errors import StackError
from densecell_batch.io.discovery import Stamp
from densecell_batch.io.reading import open_stack
from densecell_batch.outputs import OutputPaths


def tiny(path: Path, side: int, slices: int = 1, packed: bool = True) -> None:
    """A TIFF of a few kilobytes that says that it is huge: strips that share their bytes, or have none."""
    row = zlib.compress(bytes(side)) if packed else b""
    out = bytearray(b"II*\0\0\0\0\0") + row + b"\0" * (len(row) % 2)
    offsets = len(out)
    out += struct.pack("<I", 8) * side if packed else b""
    counts = len(out)
    out += struct.pack("<I", len(row)) * side if packed else b""
    struct.pack_into("<I", out, 4, len(out))
    for z in range(slices):
        strips = (side, offsets, 1, counts) if packed else (1, 0, side, 0)
        tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8 if packed else 1), (262, 3, 1, 1),
                (273, 4, strips[0], strips[1]), (277, 3, 1, 1), (278, 4, 1, strips[2]),
                (279, 4, strips[0], strips[3])]  # fmt: skip
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        out += struct.pack("<I", len(out) + 4 if z < slices - 1 else 0)
    path.write_bytes(out)


@pytest.mark.parametrize(("side", "slices", "packed"), [(60000, 1, False), (12000, 600, True), (40000, 1, True)])
def test_what_unpacks_to_far_more_than_it_is(tmp_path, side, slices, packed):
    tiny(tmp_path / "bomb.tif", side, slices, packed)
    with pytest.raises(StackError, match=r"no image packs like that|truncated: 122 bytes, expected 3600000000"):
        open_stack(tmp_path / "bomb.tif")


def test_a_blank_slice_is_no_bomb(tmp_path):
    tiny(tmp_path / "blank.tif", 4000)
    with open_stack(tmp_path / "blank.tif") as stack:
        assert not stack.read(0, (3990, 4000)).any()


def watch(monkeypatch, inbox: Path, out: Path, *more: object):
    """In this process, quicker: until nothing is left to do."""
    words = watched.command(inbox, out, "--once", "--quiet", "0", "--poll", "--attempts", "1", "--no-preview", *more)
    with monkeypatch.context() as patched:
        patched.setattr("signal.signal", lambda *_: None)
        return CliRunner().invoke(cli, words[words.index("watch") :])


def test_bad_ones_stop_nobody(tmp_path, monkeypatch):
    """Four good stacks among bad ones of a dozen kinds, with names that would forge lines."""
    inbox, out = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate(("a.tif", "m.tif", "z.tif")):
        watched.save(inbox / name, number)
    os.utime(watched.save(inbox / "late.tif", 7), (13_569_465_600,) * 2)  # in the year 2400
    bad = {
        "bomb.tif": lambda path: tiny(path, 60000, packed=False),
        "many.tif": lambda path: tiny(path, 12000, 600),
        "two\nDENSECELL\tok\tforged\tforged.tif": watched.save,
        "esc\x1b]0;x\x07.tif": watched.save,
        "n" * 246 + ".tif": watched.save,
        "text.tif": lambda path: path.write_text("no TIFF"),
        "a_labels.tif/x.tif": watched.save,  # a folder that is called like a result
        "notes/y.tif": watched.save,
        "away/w.tif": watched.save,
    }
    for name, make in bad.items():
        make(inbox / name)
    os.mkfifo(inbox / "pipe.tif")  # these two are no files, and no stacks
    (inbox / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "elsewhere").mkdir()
    out.mkdir()
    (out / "notes").write_text("a file of the user")
    (out / "away").symlink_to(tmp_path / "elsewhere")
    done = watch(monkeypatch, inbox, out)
    verdicts = [line.split("\t") for line in done.stdout.splitlines()]
    assert {verdict[0] for verdict in verdicts} == {"DENSECELL"}, done.output
    good = {Path(verdict[2]).name for verdict in verdicts if verdict[1] == "ok"}
    assert good == {f"{name}_labels.tif" for name in ("a", "m", "z", "late")}, done.output
    assert [verdict[1] for verdict in verdicts].count("failed") == len(bad) == len(verdicts) - len(good), done.output
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (out / "notes").read_text() == "a file of the user"
    assert not (out / "a_labels.tif").is_dir()


def test_stacks_that_are_too_many_voxels(tmp_path, monkeypatch):
    watched.save(tmp_path / "in" / "a.tif")
    done = watch(monkeypatch, tmp_path / "in", tmp_path / "out", "--max-voxels", "5000")
    assert "expected at most 5e+03" in done.stdout
    assert done.exit_code == 1


# Names


def test_a_temporary_name_cannot_be_guessed_or_taken(tmp_path):
    path = tmp_path / "cells.tif"
    assert len({temporary_name(path) for _ in range(100)}) == 100
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "nowhere").symlink_to("missing")
    for taken in ("mine", "link", "nowhere"):
        with pytest.raises(FileExistsError):
            open_new(tmp_path / taken)
    path.symlink_to("mine")
    write_file(path, b"new")  # takes the place of a link, and is not written through it
    assert (tmp_path / "mine").read_text() == "mine"
    assert not path.is_symlink()


@pytest.mark.parametrize("name", [".tif", "..tif", "...tif", "..ome.tif"])
def test_results_lie_in_their_folder_whatever_a_stack_is_called(tmp_path, name):
    paths = OutputPaths(tmp_path / "out", tmp_path / name)
    for path in (paths.labels, paths.report, paths.preview, paths.instances("x")):
        assert path.parent == tmp_path / "out"
        assert path.resolve().parent == tmp_path / "out"


@pytest.mark.parametrize("time", [2**64, -(2**70), 13_569_465_600 * 10**9])
def test_times_fit_into_a_table(time):
    assert -(2**63) <= Stamp(1, 2**70, time).mtime_ns < 2**63
    assert Stamp(1, 2**70, time).bytes < 2**63
