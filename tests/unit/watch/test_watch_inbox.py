"""What a scan sees, and what it takes for complete."""

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from watched import save

from densecell_batch.errors import StackError
from densecell_batch.runs.checks import printable
from densecell_batch.watch.inbox import FolderGoneError, Inbox, check_whole

KEPT_BY_STORAGE = [
    "#recycle", "$RECYCLE.BIN", "RECYCLER", "#snapshot", "~snapshot", ".snapshot", "@eaDir", "@tmp", "@Recycle",
    "@Recently-Snapshot", "System Volume Information", "lost+found", ".Trash-1000", ".zfs", "Network Trash Folder",
]  # fmt: skip


def names(inbox):
    return set(inbox.look())


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["a.tif", "b.TIFF", "c.ome.tif"], {"a.tif", "b.TIFF", "c.ome.tif"}),
        (["README", "a.txt", "a.tif.part", "a.tif~", ".a.tif.Xy12", ".hidden.tif", "tif"], set()),
        (["sub/deep/a.tif", ".snapshots/a.tif"], {"sub/deep/a.tif"}),
        (["results/a_labels.tif", "a.tif"], {"a.tif"}),
        ([f"{folder}/a.tif" for folder in KEPT_BY_STORAGE], set()),
        ([f"sub/{folder.upper()}/deep/a.tif" for folder in KEPT_BY_STORAGE], set()),
        (["recycled/a.tif", "snapshot/a.tif", "@me/a.tif"], {"recycled/a.tif", "snapshot/a.tif", "@me/a.tif"}),
    ],
)
def test_names(tmp_path, files, found):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    assert names(Inbox(tmp_path, quiet=1, skip=[tmp_path / "results"])) == found


def test_what_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "nowhere.tif").symlink_to("nothing")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.tif").symlink_to("self.tif")
    target = save(tmp_path.with_name("elsewhere") / "real.tif")
    (tmp_path / "linked.tif").symlink_to(target)
    # Links are stacks, whose verdict says what they are.
    assert names(Inbox(tmp_path, quiet=1)) == {"linked.tif", "nowhere.tif", "self.tif"}
    assert names(Inbox(tmp_path, quiet=1, links=True)) == {"linked.tif"}


def test_quiet_is_counted_from_the_last_change(tmp_path):
    path, inbox = tmp_path / "a.tif", Inbox(tmp_path, quiet=5)
    path.write_text("1")
    first = inbox.look()["a.tif"]
    assert inbox.look()["a.tif"].since == first.since
    assert inbox.quiet_at(first) == first.since + 5
    path.write_text("12")
    second = inbox.look()["a.tif"]
    assert second.since > first.since
    os.utime(path, (1, 1))  # an old time of change, as copy programs set it, says nothing
    third = inbox.look()["a.tif"]
    assert third.since > second.since
    path.unlink()
    inbox.look()
    path.write_text("12")
    os.utime(path, (1, 1))
    assert inbox.look()["a.tif"].since > third.since  # it came back: nobody knows what happened to it


def test_folders_of_slices(tmp_path):
    stack = tifffile.imread(save(tmp_path.with_name("source.tif"), 0, (4, 40, 44)))
    for folder in ("series", "series/more", "stacks"):
        (tmp_path / folder).mkdir()
    for z, plane in enumerate(stack):
        tifffile.imwrite(tmp_path / "series" / f"{z}.tif", plane)
        tifffile.imwrite(tmp_path / "series" / "more" / f"{z}.tif", plane)
        save(tmp_path / "stacks" / f"{z}.tif", z)
        tifffile.imwrite(tmp_path / f"{z}.tif", plane)  # in the folder itself each is a stack
    stacks = {f"{z}.tif" for z in range(4)} | {f"stacks/{z}.tif" for z in range(4)}
    inbox = Inbox(tmp_path, quiet=5)
    found = inbox.look()
    assert found.keys() == {"series", "series/more"} | stacks
    assert found["series"].stamp.files == 4
    tifffile.imwrite(tmp_path / "series" / "4.tif", stack[0])
    later = inbox.look()["series"]
    assert later.since > found["series"].since
    assert inbox.quiet_at(later) == later.since + 5
    (tmp_path / "series" / ".done").touch()
    marked = inbox.look()["series"]
    assert inbox.quiet_at(marked) == marked.since == later.since  # the mark changes nothing, and ends the waiting
    without = Inbox(tmp_path, quiet=5, slices=False).look()
    assert {"series/0.tif", "series/more/3.tif"} <= without.keys()


def test_a_slice_that_is_just_being_written_is_no_verdict_on_its_folder(tmp_path):
    folder, inbox = tmp_path / "series", Inbox(tmp_path, quiet=0)
    folder.mkdir()
    (folder / "0.tif").write_bytes(b"II*")
    assert names(inbox) == {"series/0.tif"}
    tifffile.imwrite(folder / "0.tif", tifffile.imread(save(tmp_path.with_name("source.tif")))[0])
    assert names(inbox) == {"series"}


def fill(folder, *files):
    """TIFFs with so many slices, of so many rows: an overview, slices, stacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, slices, rows in files:
        tifffile.imwrite(folder / name, np.zeros((slices, rows, 30)[slices == 1 :], np.uint8), photometric="minisblack")


def test_an_overview_beside_stacks_makes_no_folder_of_slices(tmp_path):
    stacks = [(f"s{i:02}.tif", 3, 20) for i in range(20)]
    fill(tmp_path / "first", ("a_overview.tif", 1, 200), *stacks)
    fill(tmp_path / "last", ("z.tif", 1, 5), *stacks[:2])
    fill(
        tmp_path / "mostly", *((f"snap{i:02}.tif", 1, 20) for i in range(40)), ("snap40b.tif", 9, 20), ("t.tif", 1, 20)
    )
    rgb = np.zeros((200, 200, 3), np.uint8)
    fill(tmp_path / "colour", *stacks[:3])
    tifffile.imwrite(tmp_path / "colour/overview.tif", rgb, photometric="rgb")
    expected = {f"first/{name}" for name, *_ in stacks} | {"first/a_overview.tif", "last/z.tif"}
    expected |= {"last/s00.tif", "last/s01.tif", "mostly/t.tif", "mostly/snap40b.tif"}
    expected |= {f"mostly/snap{i:02}.tif" for i in range(40)}
    expected |= {"colour/overview.tif", "colour/s00.tif", "colour/s01.tif", "colour/s02.tif"}
    inbox = Inbox(tmp_path, quiet=0)
    assert names(inbox) == names(inbox) == expected


def test_a_folder_becomes_one_of_stacks_and_of_slices_again(tmp_path):
    folder, inbox = tmp_path / "f", Inbox(tmp_path, quiet=0)
    fill(folder, ("0.tif", 1, 20), ("1.tif", 1, 20))
    assert names(inbox) == {"f"}
    fill(folder, ("2.tif", 4, 20))
    assert names(inbox) == {"f/0.tif", "f/1.tif", "f/2.tif"}
    (folder / "2.tif").unlink()
    assert names(inbox) == {"f"}


def test_what_was_opened_is_not_opened_again(tmp_path, monkeypatch):
    opened = []

    def spy(path, reach):
        opened.append(path.name)
        return True

    monkeypatch.setattr("densecell_batch.watch.inbox._has_one_slice", spy)
    fill(tmp_path / "f", *((f"{i}.tif", 1, 20) for i in range(50)))
    inbox = Inbox(tmp_path, quiet=0)
    inbox.look()
    assert {"0.tif", "49.tif"} <= set(opened)
    assert 4 <= len(opened) <= 6
    opened.clear()
    inbox.look()
    assert opened == []
    fill(tmp_path / "f", ("50.tif", 1, 20))
    inbox.look()
    assert "50.tif" in opened
    assert "0.tif" not in opened


@pytest.mark.parametrize(
    ("odd", "says"),
    [(("b.tif", 4, 20), "b.tif: has 4 x 20 x 30 voxels"), (("b.tif", 1, 50), "b.tif: has 1 x 50 x 30 voxels")],
)
def test_what_does_not_go_with_the_slices_is_named_with_the_remedy(tmp_path, odd, says):
    fill(tmp_path / "f", *((f"s{i}.tif", 1, 20) for i in range(3)))
    check_whole(tmp_path / "f")
    fill(tmp_path / "f", odd)
    with pytest.raises(StackError, match=rf"{says} .*; expected 1 x 20 x 30.* --no-slices"):
        check_whole(tmp_path / "f")


def test_colours_among_the_slices_are_named_with_the_remedy(tmp_path):
    fill(tmp_path / "f", ("s0.tif", 1, 20), ("s1.tif", 1, 20))
    tifffile.imwrite(tmp_path / "f/overview.tif", np.zeros((20, 30, 3), np.uint8), photometric="rgb")
    with pytest.raises(StackError, match=r"overview.tif: .*--no-slices"):
        check_whole(tmp_path / "f")


def test_linked_folders_are_told_of_once(tmp_path, caplog):
    root = tmp_path / "in"
    for folder in (root / "sub", tmp_path / "elsewhere", tmp_path / "out"):
        folder.mkdir(parents=True)
    save(tmp_path / "elsewhere" / "a.tif")
    (root / "sub" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "results").symlink_to(tmp_path / "out")
    (root / "self").symlink_to("self")
    (root / "nowhere").symlink_to("nothing")
    (root / "a.tif").symlink_to(tmp_path / "elsewhere" / "a.tif")
    inbox = Inbox(root, quiet=0, skip=[root / "results"])
    assert names(inbox) == names(inbox) == {"a.tif"}
    assert inbox.links == {str(root / "sub" / "linked")}
    assert caplog.text.count("which is not followed") == caplog.text.count("linked: a link to a folder") == 1
    (root / "sub" / "linked").unlink()
    inbox.look()
    assert inbox.links == set()


def test_rivals(tmp_path):
    for name in ("a.tif", "a.tiff", "a.ome.tif", "b.tif"):
        (tmp_path / name).write_text("x")
    found = Inbox(tmp_path, quiet=0).look()
    assert set(found["a.tif"].rivals) == {"a.tiff", "a.ome.tif"}
    assert found["b.tif"].rivals == ()


def test_a_folder_that_is_gone(tmp_path):
    inbox = Inbox(tmp_path / "in", quiet=0)
    with pytest.raises(FolderGoneError, match="cannot be read"):
        inbox.look()


@pytest.mark.parametrize("lost", [500, 5000, -1])
def test_whole_to_the_last_slice(tmp_path, lost):
    path = save(tmp_path / "a.tif")
    check_whole(path)
    path.write_bytes(path.read_bytes()[:-lost] if lost > 0 else b"")
    with pytest.raises(StackError):
        check_whole(path)


def test_names_that_are_no_text(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.tif"
    save(tmp_path / "a.tif").rename(os.fsdecode(raw))
    (name,) = names(Inbox(tmp_path, quiet=0))
    assert name == "\\xff\\xfe.tif" == printable(os.fsdecode(b"\xff\xfe.tif"))


def test_many_files_are_scanned_quickly(tmp_path):
    for i in range(2000):
        (tmp_path / f"{i}.tif").touch()
    inbox = Inbox(tmp_path, quiet=0)
    begun = time.process_time()
    assert len(inbox.look()) == 2000
    assert time.process_time() - begun < 5


@contextmanager
def somebody_else():
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read(caplog):
    with tempfile.TemporaryDirectory() as scratch:  # others may not enter tmp_path
        root = Path(scratch)
        root.chmod(0o755)
        for name in ("a.tif", "closed/b.tif", "open/c.tif"):
            save(root / name)
        (root / "a.tif").chmod(0)
        (root / "closed").chmod(0)
        inbox = Inbox(root, quiet=0)
        with somebody_else():
            assert names(inbox) == names(inbox) == {"a.tif", "open/c.tif"}
            with pytest.raises(StackError, match="no permission to read it; ask its owner"):
                check_whole(root / "a.tif")
        (root / "closed").chmod(0o755)
    assert caplog.text.count("what lies in it is not seen") == 1


def test_rivals_do_not_depend_on_where_the_watcher_was_started(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "a.tiff"):
        (tmp_path / "in" / name).write_text("x")
    (tmp_path / "a.tif").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Inbox(tmp_path / "in", quiet=0).look()["a.tif"].rivals == ("a.tiff",)
