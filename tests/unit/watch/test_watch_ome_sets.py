"""Sets of OME-TIFFs in a watched folder, and files that can never be done: results, names that are too long."""

import json

import numpy as np
import pytest
import tifffile
from ome import write_set
from timing import least
from watched import save, wait_until
from watching import drain, folders, in_thread, names, segmenter  # noqa: F401 (fixtures)

from densecell_batch.io.discovery import stamp_of
from densecell_batch.storage.opening import Reach
from densecell_batch.watch import ome_sets
from densecell_batch.watch.inbox import Inbox
from densecell_batch.watch.moving import move_below

VOLUME = np.random.default_rng(0).integers(0, 255, (6, 40, 44), np.uint8)
TWO = {"a.ome.tif": [0, 1, 2, 3], "b.ome.tif": [4, 5]}
KINDS = [{}, {"binary_only": "a.ome.tif"}, {"binary_only": "b.ome.tif"}, {"binary_only": "all.companion.ome"}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("place", [".", "sub"])
def test_a_set_is_seen_once(tmp_path, kind, place):
    files = {"s1.ome.tif": [4, 5], "s2.ome.tif": [0, 1], "s10.ome.tif": [2, 3]}
    kind = {"binary_only": "s10.ome.tif"} if kind.get("binary_only") == "b.ome.tif" else kind
    kind = {"binary_only": "s1.ome.tif"} if kind.get("binary_only") == "a.ome.tif" else kind
    write_set(tmp_path / place, VOLUME, files, **kind)
    save(tmp_path / place / "other.tif")
    name = "s2.ome.tif" if place == "." else "sub/s2.ome.tif"
    inbox = Inbox(tmp_path, quiet=5)
    found = inbox.look()
    assert found.keys() == {name, name.replace("s2.ome", "other")}
    assert found[name].stamp == stamp_of(tmp_path / name)
    assert found[name].stamp.files == 3 + ("all.companion.ome" in kind.values())
    again = inbox.look()[name]
    assert again.since == found[name].since
    (tmp_path / place / "s10.ome.tif").touch()
    later = inbox.look()[name]
    assert later.since > again.since
    assert later.stamp == stamp_of(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_set_that_arrives_file_by_file(tmp_path, kind):
    write_set(tmp_path / "source", VOLUME, TWO, **kind)
    (tmp_path / "in").mkdir()
    inbox, since = Inbox(tmp_path / "in", quiet=5), 0.0
    for file in sorted((tmp_path / "source").iterdir(), reverse=True):
        content = file.read_bytes()
        for part in (content[:100], content):
            (tmp_path / "in" / file.name).write_bytes(part)
            found = inbox.look()
            for name, sighting in found.items():
                assert sighting.stamp == stamp_of(tmp_path / "in" / name)
            if file.suffix == ".tif":  # else it can be half there only when nothing else is missing
                assert max(sighting.since for sighting in found.values()) > since
                since = max(sighting.since for sighting in found.values())
    assert inbox.look().keys() == {"a.ome.tif"}


def test_what_files_say_is_read_once(tmp_path, monkeypatch):
    for i in range(20):
        save(tmp_path / f"{i}.tif", i)
    write_set(tmp_path / "sets", VOLUME, TWO)
    asked, ask = [], ome_sets.find_set
    monkeypatch.setattr(ome_sets, "find_set", lambda path, reach: asked.append(path.name) or ask(path, reach))
    inbox = Inbox(tmp_path, quiet=5)
    inbox.look()
    assert len(asked) == 21  # the second file of the set is known from the first
    inbox.look()
    assert len(asked) == 21
    (tmp_path / "3.tif").touch()
    inbox.look()
    assert asked[21:] == ["3.tif"]


def test_many_files_cost_next_to_nothing_once_they_are_known(tmp_path):
    content = save(tmp_path / "0.tif").read_bytes()
    for i in range(1, 1000):
        (tmp_path / f"{i}.tif").write_bytes(content)
    inbox = Inbox(tmp_path, quiet=5)
    inbox.look()
    assert len(inbox.look()) == 1000
    assert least(inbox.look) < 0.3  # once in 30 s: a hundredth of a core, at the very most


def test_a_set_is_done_once_and_again_when_a_file_of_it_changes(folders, segmenter):  # noqa: F811
    inbox, out = folders
    volume = tifffile.imread(save(inbox.with_name("source.tif"), 0, (6, 40, 44)))
    write_set(inbox, volume, TWO)
    code, said = drain(folders, segmenter)
    assert (code, [verdict.labels.name for verdict in said]) == (0, ["a_labels.tif"])
    assert json.loads(said[0].report.read_text())["input"]["files"] == 2
    assert drain(folders, segmenter) == (0, [])
    first = (inbox / "a.ome.tif").read_bytes()
    write_set(inbox, volume[::-1], TWO)
    (inbox / "a.ome.tif").write_bytes(first)
    code, said = drain(folders, segmenter)
    assert (code, len(said)) == (0, 1)
    assert len([name for name in names(out) if ".old-" in name]) == 2


def test_a_file_that_is_missing_is_waited_for(folders, segmenter):  # noqa: F811
    inbox, out = folders
    volume = tifffile.imread(save(inbox.with_name("source.tif"), 0, (6, 40, 44)))
    _, b = write_set(inbox, volume, TWO)
    b.rename(inbox.with_name("later.tif"))
    with in_thread(folders, segmenter, attempts=2) as (said, _):
        wait_until(lambda: said)
        assert "b.ome.tif: it is missing" in said[0].reason
        inbox.with_name("later.tif").rename(b)
        wait_until(lambda: len(said) == 2)
    assert said[1].ok
    assert names(out) == {"a_labels.tif", "a_report.json", "status.html", "summary.csv", "summary.html"}


def test_what_was_said_of_its_files_alone_is_taken_back(folders, segmenter):  # noqa: F811
    inbox, out = folders
    volume = tifffile.imread(save(inbox.with_name("source.tif"), 0, (6, 40, 44)))
    write_set(inbox, volume, TWO, binary_only="all.companion.ome")
    (inbox / "all.companion.ome").rename(inbox.with_name("later.ome"))
    assert drain(folders, segmenter, attempts=1)[0] == 1
    assert {"a.error.txt", "b.error.txt"} <= names(out)
    inbox.with_name("later.ome").rename(inbox / "all.companion.ome")
    assert drain(folders, segmenter)[0] == 0
    assert names(out) == {"a_labels.tif", "a_report.json", "status.html", "summary.csv", "summary.html"}


def test_a_set_is_moved_as_a_whole(tmp_path):
    root = tmp_path / "in"
    for number in range(2):
        write_set(root / "sub", VOLUME, TWO, binary_only="all.companion.ome")
        moved = move_below(root / "sub/a.ome.tif", Reach(root), tmp_path / "done")
        place = tmp_path / "done/sub" / ("a.ome-2" if number else ".")
        assert moved == place / "a.ome.tif"
        assert {path.name for path in place.iterdir() if path.is_file()} == {*TWO, "all.companion.ome"}
        assert not list((root / "sub").iterdir())


def test_a_result_that_is_dropped(folders, segmenter):  # noqa: F811
    inbox, out = folders
    save(inbox / "cells.tif")
    assert drain(folders, segmenter)[0] == 0
    (inbox / "again.tif").write_bytes((out / "cells_labels.tif").read_bytes())
    code, (verdict,) = drain(folders, segmenter)
    assert code == 1
    assert "a result that densecell-batch wrote (class map)" in (out / "again.error.txt").read_text()
    assert verdict.stack.name == "again.tif"


@pytest.mark.parametrize("letter", ["n", "é"])
def test_a_name_that_is_too_long_for_results(folders, segmenter, letter):  # noqa: F811
    inbox, out = folders
    stack = save(inbox / f"{letter * (250 // len(letter.encode()))}.tif")
    save(inbox / "good.tif", 1)
    code, said = drain(folders, segmenter)
    assert code == 1
    assert sorted(verdict.ok for verdict in said) == [False, True]  # the others are done
    (text,) = out.glob("*.error.txt")
    assert "too long" in text.read_text()
    assert drain(folders, segmenter, attempts=1) == (1, [])  # given up, and known to be
    stack.rename(inbox / "short.tif")
    assert drain(folders, segmenter)[0] == 0
