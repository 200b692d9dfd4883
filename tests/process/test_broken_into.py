"""Ways in that were found by attacking the program: each is held by a test."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import watched
from ome import image, write, xml
from test_same_work import asked, loaded  # noqa: F401
from test_watch_hostile import watch

from densecell_batch.errors import OutputError, StackError
from densecell_batch.io.discovery import find_stacks
from densecell_batch.io.reading import open_stack
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.pipeline import segment_stack
from densecell_batch.storage.opening import Reach
from densecell_batch.watch.ledger import Ledger, Row
from densecell_batch.watch.moving import move_below
from densecell_batch.watch.place import Place


def odd_ome(path: Path, other: str, element: str) -> None:
    """OME-XML that names another file in an element that only some readers take for UUID."""
    content = image({path.name: (0, 1), other: (2, 3)}, {"Z": 4, "Y": 40, "X": 44, "C": 1, "T": 1})
    text = xml(content).replace("<UUID ", f"<{element} ").replace("</UUID>", f"</{element}>")
    write(path, np.arange(2 * 40 * 44, dtype=np.uint8).reshape(2, 40, 44), text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("element", ["xUUID", "x.UUID", "UUID"])
@pytest.mark.parametrize("other", ["absolute", "relative", "pipe"])
def test_no_reader_opens_what_the_xml_names(tmp_path, element, other):
    inbox = tmp_path / "in"
    inbox.mkdir()
    secret = tmp_path / "secret.tif"
    tifffile.imwrite(secret, np.full((2, 40, 44), 77, np.uint8), photometric="minisblack")
    os.mkfifo(inbox / "pipe")
    odd_ome(inbox / "a.ome.tif", {"absolute": str(secret), "relative": "../secret.tif", "pipe": "pipe"}[other], element)
    try:
        with open_stack(inbox / "a.ome.tif") as stack:
            found = np.stack([stack.read(z) for z in range(stack.info.shape[0])])
    except StackError:
        return
    assert not (found == 77).all((1, 2)).any()


def test_a_link_that_was_moved_leads_the_next_stack_nowhere(tmp_path):
    root, done = tmp_path / "in", tmp_path / "done"
    watched.save(root / "series" / "0.tif")
    (tmp_path / "elsewhere").mkdir()
    (root / "series" / "sub").symlink_to(tmp_path / "elsewhere")
    move_below(root / "series", Reach(root), done)
    evil = watched.save(root / "series" / "sub" / "evil.tif")
    with pytest.raises(OutputError):
        move_below(evil, Reach(root), done)
    assert evil.is_file()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_member_that_is_a_link_is_not_taken_for_what_the_user_named(tmp_path):
    secret = tmp_path / "plans.tif"
    tifffile.imwrite(secret, np.full((2, 40, 44), 77, np.uint8), photometric="minisblack", metadata=None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ome.tif").symlink_to(secret)
    content = image({"a.ome.tif": (0, 1), "b.ome.tif": (2, 3)}, {"Z": 4, "Y": 40, "X": 44, "C": 1, "T": 1})
    write(tmp_path / "in" / "b.ome.tif", np.zeros((2, 40, 44), np.uint8), xml(content, "b.ome.tif"))
    assert find_stacks([str(tmp_path / "in" / "b.ome.tif")]) == [tmp_path / "in" / "b.ome.tif"]
    with pytest.raises(StackError, match=r"a\.ome\.tif: it is a link"):
        open_stack(tmp_path / "in" / "b.ome.tif")


def test_pages_that_share_one_long_list(tmp_path):
    """2 MB that would become gigabytes of numbers."""
    strips, data = 500_000, bytearray(b"II*\0\0\0\0\0")
    data += bytes(4 * strips)
    struct.pack_into("<I", data, 4, len(data))
    for page in range(50):
        tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
                (273, 4, strips, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, strips, 8)]  # fmt: skip
        data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        data += struct.pack("<I", len(data) + 4 if page < 49 else 0)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(StackError, match="longer lists of strips"):
        open_stack(tmp_path / "a.tif")


# In a watched folder


def verdicts(done) -> dict[str, str]:
    return {Path(line.split("\t")[2]).name: line.split("\t")[1] for line in done.stdout.splitlines()}


def test_results_that_would_lie_too_deep_are_that_stacks_trouble(tmp_path, monkeypatch):
    watched.save(tmp_path / "in" / "good.tif", 1)
    deep = tmp_path / "in"
    for _ in range(15):
        deep /= "d" * 250
    monkeypatch.chdir(tmp_path)
    deep.mkdir(parents=True)
    watched.save(deep / "x.tif", 2)
    done = watch(monkeypatch, tmp_path / "in", tmp_path / ("o" * 250) / ("p" * 250))
    assert verdicts(done) == {"x.tif": "failed", "good_labels.tif": "ok"}, done.output


def test_a_folder_of_slices_does_not_rename_the_results_of_a_file(tmp_path, monkeypatch):
    watched.save(tmp_path / "in" / "victim.tif", 1)
    assert verdicts(watch(monkeypatch, tmp_path / "in", tmp_path / "out")) == {"victim_labels.tif": "ok"}
    before = (tmp_path / "out" / "victim_labels.tif").read_bytes()
    for number in range(2):
        watched.save(tmp_path / "in" / "victim" / f"{number}.tif", 9 + number, (1, 40, 44))
    for _ in range(2):
        done = watch(monkeypatch, tmp_path / "in", tmp_path / "out")
        assert verdicts(done) in ({"victim": "failed"}, {}), done.output
    assert (tmp_path / "out" / "victim_labels.tif").read_bytes() == before
    assert not list((tmp_path / "out").glob("*.old-*"))


def test_junk_of_the_same_name_does_not_keep_a_stack_from_being_done(tmp_path, monkeypatch):
    watched.save(tmp_path / "in" / "victim.tif", 1)
    (tmp_path / "in" / "victim.ome.tif").symlink_to("nowhere")
    found = verdicts(watch(monkeypatch, tmp_path / "in", tmp_path / "out"))
    assert found == {"victim.ome.tif": "failed", "victim_labels.tif": "ok"}


# In an output folder


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x.tif", "a/../../x.tif", ""])
def test_rows_that_lead_out_of_the_folder_are_none(tmp_path, name):
    ledger = Ledger(tmp_path / "l.sqlite", "me")
    ledger.put(Row(name, state="running"), Row("good.tif", state="running"))
    assert [row.name for row in ledger.of_state("running")] == ["good.tif"]
    ledger.close()


@pytest.mark.parametrize("folder", [".densecell-watch", ".densecell-watch/claims", ".densecell-watch/contents"])
def test_what_watchers_keep_is_not_kept_behind_a_link(tmp_path, folder):
    home, link = tmp_path / "home", tmp_path / "out" / folder
    home.mkdir()
    (home / "setup.json").write_text("[]")
    link.parent.mkdir(parents=True)
    link.symlink_to(home)
    with pytest.raises(OutputError, match="it is a link"):
        Place(tmp_path / "out", {"model": None, "options": None})
    assert [path.name for path in home.iterdir()] == ["setup.json"]


@pytest.fixture
def begun(asked, tmp_path):  # noqa: F811
    """A stack with one of two shards, and the folder of its pieces."""
    stack = watched.save(tmp_path / "in" / "cells.tif", 1, (7, 40, 44))
    options = {"tile": (2, 24, 24)}
    segment_stack(stack, tmp_path / "out", asked(shard=(1, 2), **options))
    (pieces,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    whole = segment_stack(stack, tmp_path / "whole", asked(**options)).labels.read_bytes()
    return stack, pieces, lambda: segment_stack(stack, tmp_path / "out", asked(**options)), whole


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"report": {}, "plan": {}}', '{"report": [], "plan": {"grid": 1}}', "7"]
)
def test_a_job_that_is_none_is_begun_anew(begun, content):
    _, pieces, again, whole = begun
    (pieces / "job.json").write_text(content)
    assert again().labels.read_bytes() == whole


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["[]", "link", "pipe"])
def test_a_preparation_that_is_none_is_made_again(begun, tmp_path, kind):
    _, pieces, again, whole = begun
    path = pieces / "preparation.json"
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(json.dumps([]))
    for piece in pieces.glob("piece-*"):
        piece.unlink()
    assert again().labels.read_bytes() == whole
    assert not (tmp_path / "elsewhere").exists()


def test_pieces_are_not_written_behind_a_link(begun, tmp_path):
    _, pieces, again, whole = begun
    (tmp_path / "home").mkdir()
    pieces.rename(tmp_path / "away")
    pieces.symlink_to(tmp_path / "home")
    assert again().labels.read_bytes() == whole
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"0" * 63, None])
def test_a_shared_hash_that_is_none_is_computed_again(asked, tmp_path, content):  # noqa: F811
    stack = watched.save(tmp_path / "in" / "cells.tif", 1, (7, 40, 44))
    segment_stack(stack, tmp_path / "out", asked(shard=(1, 2), tile=(2, 24, 24)))
    (path,) = (tmp_path / "out").glob(".cells.hash-*")
    path.unlink()
    if content is None:
        path.symlink_to("nowhere")
    else:
        path.write_bytes(content)
    assert not segment_stack(stack, tmp_path / "out", asked(shard=(2, 2), tile=(2, 24, 24))).missing


def test_a_setup_of_another_kind_is_no_setup(asked, tmp_path):  # noqa: F811
    place = Place(tmp_path / "out", Identity.of_any_stack(asked()))
    (place.folder / "setup.json").write_text("[1, 2]")
    assert Place(tmp_path / "out", Identity.of_any_stack(asked())).identity == place.identity
