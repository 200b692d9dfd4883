"""A stack that somebody dropped ends as that stack's verdict, whatever it is; the others are done."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import watched
from click.testing import CliRunner
from ome import image, write, write_set, xml

from densecell_batch.cli import cli
from densecell_batch.errors import StackError
from densecell_batch.io.discovery import Stamp
from densecell_batch.io.reading import open_stack
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.paths import StackPaths
from densecell_batch.storage.atomic import open_new, temporary_name, write_file
from densecell_batch.storage.opening import Reach


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


def ome_of(path: Path, other: str) -> None:
    """An OME-TIFF whose slices are said to lie in another file."""
    content = image({other: (0, 1, 2)}, {"Z": 3, "Y": 40, "X": 44, "C": 1, "T": 1})
    write(path, np.zeros((3, 40, 44), np.uint8), xml(content))


def many_strips(path: Path) -> None:
    """A TIFF that says that it has 4 billion rows in strips of one."""
    watched.save(path)
    content = bytearray(path.read_bytes())
    order = ">" if content[:2] == b"MM" else "<"
    start = struct.unpack_from(f"{order}I", content, 4)[0] + 2
    for at in range(start, start + 12 * 30, 12):
        if struct.unpack_from(f"{order}H", content, at)[0] in (257, 278):
            number = 2**32 - 1 if struct.unpack_from(f"{order}H", content, at)[0] == 257 else 1
            struct.pack_into(f"{order}HII", content, at + 2, 4, 1, number)
    path.write_bytes(content)


@pytest.mark.parametrize(("side", "slices", "packed"), [(60000, 1, False), (12000, 600, True), (40000, 1, True)])
def test_what_unpacks_to_far_more_than_it_is(tmp_path, side, slices, packed):
    tiny(tmp_path / "bomb.tif", side, slices, packed)
    with pytest.raises(StackError, match=r"no image packs like that|longer lists of strips|truncated: 122 bytes"):
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


@pytest.mark.parametrize("good", [3, pytest.param(499, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_bad_ones_stop_nobody(tmp_path, monkeypatch, good):
    """Good stacks among bad ones of many kinds, with names that would forge lines."""
    inbox, out = tmp_path / "in", tmp_path / "out"
    names = {f"{'amz'[number % 3]}{number}" for number in range(good)}
    for number, name in enumerate(names):
        watched.save(inbox / f"{name}.tif", number)
    os.utime(watched.save(inbox / "late.tif", 777), (13_569_465_600,) * 2)  # in the year 2400
    bad = {
        "bomb.tif": lambda path: tiny(path, 60000, packed=False),
        "many.tif": lambda path: tiny(path, 12000, 600),
        "two\nDENSECELL\tok\tforged\tforged.tif": watched.save,
        "esc\x1b]0;x\x07.tif": watched.save,
        "n" * 246 + ".tif": watched.save,
        "text.tif": lambda path: path.write_text("no TIFF"),
        "empty.tif": lambda path: path.write_bytes(b""),
        "cut.tif": lambda path: path.write_bytes(watched.save(path).read_bytes()[:-3000]),
        "colour.tif": lambda path: tifffile.imwrite(path, np.zeros((9, 9, 3), np.uint8), photometric="rgb"),
        "nan.tif": lambda path: tifffile.imwrite(path, np.full((3, 40, 44), np.nan, np.float32), imagej=True),
        "elsewhere.ome.tif": lambda path: ome_of(path, "../private/secret.tif"),
        "missing.ome.tif": lambda path: ome_of(path, "missing.ome.tiff"),
        "many tags.tif": many_strips,
        "a_labels.tif/x.tif": watched.save,  # a folder that is called like a result
        "notes/y.tif": watched.save,
        "away/w.tif": watched.save,
        "loop.tif": lambda path: path.symlink_to("loop.tif"),
        "nowhere.tif": lambda path: path.symlink_to("nothing"),
        "link.tif": lambda path: path.symlink_to(watched.save(tmp_path / "private" / "secret.tif")),
        "passwd.tif": lambda path: path.symlink_to("/etc/passwd"),
        "zero.tif": lambda path: path.symlink_to("/dev/zero"),
    }
    for name, make in bad.items():
        make(inbox / name)
    os.mkfifo(inbox / "pipe.tif")  # no file, and no stack
    (tmp_path / "elsewhere").mkdir()
    out.mkdir()
    (out / "notes").write_text("a file of the user")
    (out / "away").symlink_to(tmp_path / "elsewhere")
    done = watch(monkeypatch, inbox, out)
    verdicts = [line.split("\t") for line in done.stdout.splitlines()]
    assert {verdict[0] for verdict in verdicts} == {"DENSECELL"}, done.output
    done_well = {Path(verdict[2]).name for verdict in verdicts if verdict[1] == "ok"}
    assert done_well == {f"{name}_labels.tif" for name in names | {"late"}}, done.output
    failed = [verdict[2] for verdict in verdicts if verdict[1] == "failed"]
    assert len(failed) == len(set(failed)) == len(bad) == len(verdicts) - len(done_well), done.output
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert done.stdout.count("it is a link") == 5
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (out / "notes").read_text() == "a file of the user"
    assert not (out / "a_labels.tif").is_dir()


@pytest.mark.parametrize("kind", ["strip", "tiles", "folder", "fine strips", "plain"])
def test_what_is_packed_as_one_piece_is_held_against_the_memory(tmp_path, data, kind):
    """A slice of 64 MiB, under --memory 96M: as one strip it would be unpacked whole for each band of rows."""
    slices = np.zeros((1, 8192, 8192), np.uint8)
    packing = {
        "strip": {"compression": "zlib", "rowsperstrip": 8192},
        "folder": {"compression": "zlib", "rowsperstrip": 8192},
        "tiles": {"compression": "zlib", "tile": (8192, 8192)},
        "fine strips": {"compression": "zlib", "rowsperstrip": 64},
        "plain": {"imagej": True},
    }[kind]
    path = stack = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, slices, **packing)
    if kind == "folder":
        stack = path.parent
        for name in ("b", "c"):
            path.with_name(f"{name}.tif").write_bytes(path.read_bytes())
    segmenter = RunSegmenter(load_bundle(data / "fly-vnc-small.zip"), RunOptions(memory=96 * 2**20))
    with open_stack(stack) as opened:
        if kind in ("fine strips", "plain"):
            segmenter.check_memory(opened)
        else:
            with pytest.raises(StackError, match=r"pieces of 0.06 GiB .*save it uncompressed .* --memory 1G"):
                segmenter.check_memory(opened)


def test_a_later_slice_of_a_folder_is_packed_in_no_larger_pieces(tmp_path):
    slices = np.zeros((9000, 9000), np.uint8)
    tifffile.imwrite(tmp_path / "0.tif", slices, compression="zlib", rowsperstrip=64)
    tifffile.imwrite(tmp_path / "1.tif", slices, compression="zlib", rowsperstrip=9000)
    with open_stack(tmp_path) as stack:
        stack.read(0, (0, 1))
        with pytest.raises(StackError, match=r"1\.tif: it is packed in pieces of 8.1e\+07 bytes"):
            stack.read(1, (0, 1))


def test_tiles_much_larger_than_the_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((100, 100), np.uint8), compression="zlib", tile=(112, 112))
    content = bytearray((tmp_path / "a.tif").read_bytes())
    for code in (322, 323):
        at = content.index(struct.pack("<HH", code, 3)) if struct.pack("<HH", code, 3) in content else 0
        at = at or content.index(struct.pack("<HH", code, 4))
        content[at : at + 12] = struct.pack("<HHII", code, 4, 1, 65536)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(StackError, match="no image packs like that"):
        open_stack(tmp_path / "a.tif")


def test_stacks_that_are_too_many_voxels(tmp_path, monkeypatch):
    watched.save(tmp_path / "in" / "a.tif")
    done = watch(monkeypatch, tmp_path / "in", tmp_path / "out", "--max-voxels", "5000")
    assert "expected at most 5e+03" in done.stdout
    assert done.exit_code == 1


# Links


def test_no_link_below_the_inbox_is_followed_unless_asked_for(tmp_path, monkeypatch):
    inbox, secret = tmp_path / "in", watched.save(tmp_path / "private" / "secret.tif")
    for slice_name in ("0.tif", "1.tif", "2.tif"):
        watched.save(inbox / "series" / slice_name, 1, (1, 40, 44))
        watched.save(tmp_path / "private" / "slices" / slice_name, 2, (1, 40, 44))
    (inbox / "series" / "3.tif").symlink_to(tmp_path / "private" / "slices" / "2.tif")
    (inbox / "linked").symlink_to(tmp_path / "private" / "slices")
    (inbox / "back").symlink_to(inbox)
    (inbox / "link.tif").symlink_to(secret)
    done = watch(monkeypatch, inbox, tmp_path / "out")
    verdicts = [line.split("\t") for line in done.stdout.splitlines()]
    assert sorted(Path(verdict[2]).name for verdict in verdicts) == ["link.tif", "series"], done.output
    assert {verdict[1] for verdict in verdicts} == {"failed"}
    assert "give --follow-links" in done.stdout
    assert not list((tmp_path / "out").rglob("*_labels.tif"))
    done = watch(monkeypatch, inbox, tmp_path / "other", "--follow-links", "--move-done", str(tmp_path / "done"))
    verdicts = [line.split("\t") for line in done.stdout.splitlines()]
    assert sorted(verdict[2].removeprefix(f"{tmp_path}/other/") for verdict in verdicts) == [
        "link_labels.tif", "linked_labels.tif", "series_labels.tif"
    ], done.output  # fmt: skip
    assert secret.is_file()
    assert (tmp_path / "done" / "link.tif").readlink() == secret


def test_a_folder_of_slices_that_becomes_a_link_while_work_goes_on(tmp_path):
    """Each slice is opened by the descriptor of its folder, reached without links."""
    for number, place in enumerate(("in/sub/series", "private/series")):
        for slice_name in ("0.tif", "1.tif"):
            watched.save(tmp_path / place / slice_name, number, (1, 40, 44))
    with open_stack(tmp_path / "in/sub/series", reach=Reach(tmp_path / "in")) as stack:
        stack.read(0)
        (tmp_path / "in/sub").rename(tmp_path / "in/was")
        (tmp_path / "in/sub").symlink_to(tmp_path / "private")
        for read in (lambda: stack.read(1), stack.sha256):
            with pytest.raises(StackError, match=r"it is a link, or lies behind one.*--follow-links"):
                read()
        with open_stack(tmp_path / "in/sub/series", reach=Reach(tmp_path / "in", links=True)) as followed:
            followed.read(1)


@pytest.mark.parametrize("where", ["slice", "folder", "member", "first member"])
def test_what_the_user_names_may_be_a_link_and_nothing_in_it(tmp_path, where):
    volume = np.zeros((4, 40, 44), np.uint8)
    if "member" in where:
        write_set(tmp_path / "set", volume, {"a.ome.tif": (0, 1), "b.ome.tif": (2, 3)})
        named, link = tmp_path / "set" / "a.ome.tif", tmp_path / "set" / f"{'a' if 'first' in where else 'b'}.ome.tif"
    else:
        for number in range(2):
            watched.save(tmp_path / "series" / f"{number}.tif", number, (1, 40, 44))
        named = tmp_path / "series"
        link = named / "1.tif" if where == "slice" else named
    link.rename(tmp_path / f"real{link.suffix}")
    link.symlink_to(tmp_path / f"real{link.suffix}")
    if where in ("folder", "first member"):
        open_stack(named).close()
    else:
        with pytest.raises(StackError, match="is a link"), open_stack(named) as stack:
            stack.read(1)
    with open_stack(named, reach=Reach.of(named, links=True)) as stack:
        stack.read(1)


def test_segment_follows_links_in_folders_where_it_is_told_to(tmp_path, data):
    watched.save(tmp_path / "real.tif", 1, (1, 40, 44))
    (tmp_path / "series").mkdir()
    for number in range(2):
        (tmp_path / "series" / f"{number}.tif").symlink_to("../real.tif")
    words = ["segment", str(tmp_path / "series"), "-o", str(tmp_path / "out"), "--dry-run",
             "--model", str(data / "fly-vnc-small.zip"), "--device", "cpu", "--precision", "float32"]  # fmt: skip
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 1
    assert "0.tif: it is a link" in refused.stdout
    followed = CliRunner().invoke(cli, [*words, "--follow-links"])
    assert followed.exit_code == 0, followed.output


# Claims


def test_a_forged_claim_keeps_one_stack_waiting_and_says_so(tmp_path):
    watched.save(tmp_path / "in" / "x.tif", 1)
    watched.save(tmp_path / "in" / "y.tif", 2)
    claims = tmp_path / "out" / ".densecell-watch" / "claims"
    claims.mkdir(parents=True)
    forged = claims / f"name-{hashlib.sha256(b'x_report.json').hexdigest()[:24]}"
    forged.write_text("othernode 1 2 -\n")
    watcher = watched.Running(tmp_path / "in", tmp_path / "out", "--quiet", "0", "--interval", "0.2", "--poll")
    try:
        watcher.until(lambda: watcher.said("ok", "y_labels.tif"))
        told = f"process 1 on othernode is at it; if that is not so, remove {forged}"
        watcher.until(lambda: told in (tmp_path / "out" / "status.html").read_text())
        assert watcher.row("x.tif")["reason"] == told
        forged.unlink()
        watcher.until(lambda: watcher.said("ok", "x_labels.tif"))
    finally:
        watcher.end()


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
    paths = StackPaths(tmp_path / "out", tmp_path / name)
    for path in (paths.labels, paths.report, paths.preview, paths.instances("x")):
        assert path.parent == tmp_path / "out"
        assert path.resolve().parent == tmp_path / "out"


@pytest.mark.parametrize("time", [2**64, -(2**70), 13_569_465_600 * 10**9])
def test_times_fit_into_a_table(time):
    assert -(2**63) <= Stamp(1, 2**70, time).mtime_ns < 2**63
    assert Stamp(1, 2**70, time).bytes < 2**63
