"""Zips from strangers are checked before a byte is unpacked; zips and folders of ours appear whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from densecell_batch.errors import BundleError, OutputError
from densecell_batch.storage import zips
from densecell_batch.storage.atomic import replacing
from densecell_batch.storage.zips import Folder, open_archive, write_folder, write_zip


def zip_of(path: Path, *entries: tuple[str, bytes], **attributes: int) -> Path:
    """A zip with these entries, each with the given attributes of ZipInfo."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            file.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "leaves its folder"),
        ("a/../../evil", "leaves its folder"),
        ("/etc/evil", "leaves its folder"),
        ("..\\evil", "leaves its folder"),
        ("C:\\evil", "leaves its folder"),
    ],
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str, message: str) -> None:
    path = zip_of(tmp_path / "a.zip", ("good", b"1"), (name, b"2"))
    with pytest.raises(BundleError, match=message), open_archive(path, BundleError):
        pass


def test_a_file_without_a_name_is_nothing(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("good", b"1"), ("", b"2"))
    with open_archive(path, BundleError) as opened:
        assert opened.size("good") == 1


def test_links_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("link", b"/etc/passwd"), external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(BundleError, match="'link' in the zip is a link"), open_archive(path, BundleError):
        pass


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(BundleError, match="'a' is in the zip twice"), open_archive(path, BundleError):
        pass


def test_rare_compression_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("a", b"1"), compress_type=zipfile.ZIP_LZMA)
    with pytest.raises(BundleError, match="use deflate"), open_archive(path, BundleError):
        pass


def test_encryption_is_refused(tmp_path: Path) -> None:
    content = bytearray(zip_of(tmp_path / "a.zip", ("a", b"1")).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BundleError, match="is encrypted"), open_archive(tmp_path / "a.zip", BundleError):
        pass


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 9), ("MAX_ENTRIES", 1)])
def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    path = zip_of(tmp_path / "a.zip", ("a", bytes(5)), ("b", bytes(5)))
    monkeypatch.setattr(zips, limit, value)
    with pytest.raises(BundleError, match="unpacks to 10 bytes in 2 files"), open_archive(path, BundleError):
        pass


@pytest.mark.parametrize(("size", "refused"), [(2**20, False), (2**21, True), (2**24, True), (2**28, True)])
def test_what_unpacks_to_a_hundred_times_its_size_is_refused(tmp_path: Path, size: int, refused: bool) -> None:
    """A file of a megabyte may be packed as well as it likes."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("zeros", "w") as out:
        for _ in range(0, size, 2**20):
            out.write(bytes(2**20))
    if not refused:
        with open_archive(tmp_path / "a.zip", BundleError) as opened:
            assert opened.size("zeros") == size
        return
    with pytest.raises(BundleError, match="at most 100 times as much"), open_archive(tmp_path / "a.zip", BundleError):
        pass


@pytest.mark.parametrize("n", [2, 3, 50])
def test_entries_that_share_their_bytes_are_refused(tmp_path: Path, n: int) -> None:
    """Directory entries that all name the same bytes: the sizes add up to more than there is."""
    content = bytearray(zip_of(tmp_path / "a.zip", ("a0", bytes(10_000))).read_bytes())
    start = content.index(b"PK\x01\x02")
    entry, end = bytes(content[start:-22]), bytearray(content[-22:])
    entries = b"".join(entry.replace(b"a0", b"%c%d" % (97 + i // 10, i % 10)) for i in range(n))
    end[8:12] = n.to_bytes(2, "little") * 2
    end[12:16] = len(entries).to_bytes(4, "little")
    path = tmp_path / "a.zip"
    path.write_bytes(bytes(content[:start]) + entries + bytes(end))
    with pytest.raises(BundleError, match=r"claim .* bytes of a zip that has"), open_archive(path, BundleError):
        pass


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_what_is_larger_than_its_reader_expects_is_not_read(tmp_path: Path, limit: int) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"precious")
    with open_archive(zip_of(tmp_path / "a.zip", ("a", b"precious")), BundleError) as file:
        for files in (file, Folder(tmp_path / "d", BundleError)):
            assert files.read("a", 8) == b"precious"
            with pytest.raises(BundleError, match=f"a has 8 bytes; expected at most {limit}"):
                files.read("a", limit)


def test_names_with_control_characters_are_shown_as_escapes(tmp_path: Path) -> None:
    name = "a\x1b[2J\nb"
    path = zip_of(tmp_path / "a.zip", (name, b"precious"))
    path.write_bytes(path.read_bytes().replace(b"precious", b"previous"))
    with open_archive(path, BundleError) as file, pytest.raises(BundleError, match=r"a\\x1b\[2J\\nb in the zip is"):
        file.read(name)


def test_a_folder_of_regular_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "inside").symlink_to("a")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nothing").symlink_to("gone")
    folder = Folder(tmp_path, BundleError)
    assert sorted(folder.names) == ["a", "inside"]
    assert folder.read("inside") == b"1"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "to/../../outside"])
def test_links_that_leave_a_folder_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "d" / "to").mkdir(parents=True)
    (tmp_path / "d" / "a").symlink_to(target)
    with pytest.raises(BundleError, match="a is a link that leaves the folder"):
        Folder(tmp_path / "d", BundleError)


def test_an_onnx_file_is_no_damaged_zip(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08")
    with (
        pytest.raises(BundleError, match="take the bundle that it was made of"),
        open_archive(tmp_path / "a.onnx", BundleError),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>", b"PK\x03\x04 and no end"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with (
        pytest.raises(BundleError, match=r"a\.zip: cannot be read as a zip"),
        open_archive(tmp_path / "a.zip", BundleError),
    ):
        pass


def test_damaged_bytes_are_an_error(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("a", b"precious"))
    path.write_bytes(path.read_bytes().replace(b"precious", b"previous"))
    with open_archive(path, BundleError) as file, pytest.raises(BundleError, match="a in the zip is damaged"):
        file.read("a")


def test_reads_extracts_and_leaves_out_what_macos_adds(tmp_path: Path) -> None:
    path = zip_of(
        tmp_path / "a.zip", ("d/", b""), ("d/a", b"12"), ("__MACOSX/d/._a", b"x"), ("d/._a", b"x"), ("d\\b", b"3")
    )
    with open_archive(path, BundleError) as file:
        assert file.names == ("d/a", "d/b")
        assert (file.size("d/a"), file.read("d/a")) == (2, b"12")
        file.extract("d/b", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == b"3"


def test_open_archive_reads_bytes_in_memory(tmp_path: Path) -> None:
    content = io.BytesIO(zip_of(tmp_path / "a.zip", ("a", b"1")).read_bytes())
    with open_archive(Path("called so"), BundleError, content) as file:
        assert file.read("a") == b"1"


def test_write_zip_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [("b", b"1"), ("a", bytes(100))]
    write_zip(tmp_path / "1.zip", files)
    write_zip(tmp_path / "2.zip", files)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as file:
        assert [(i.filename, i.date_time[0], i.compress_type) for i in file.infolist()] == [
            ("b", 1980, 0),
            ("a", 1980, 0),
        ]


def test_write_zip_takes_little_memory_for_each_of_many_files(tmp_path: Path) -> None:
    def highest(n: int) -> int:
        tracemalloc.start()
        write_zip(tmp_path / f"{n}.zip", ((f"{i:05d}-ä", b"1") for i in range(n)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    highest(10)  # what is imported and kept once
    assert highest(6000) - highest(1000) < 100 * 5000


def test_write_zip_writes_what_zipfile_does(tmp_path: Path) -> None:
    files = [("b", b"1"), ("ä/a.roi", bytes(100)), ("empty", b"")]
    files += [(f"{i}", b"1") for i in range(70_000)]  # more than 16 bits can count
    write_zip(tmp_path / "ours.zip", files)
    with zipfile.ZipFile(tmp_path / "its.zip", "w") as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    assert (tmp_path / "ours.zip").read_bytes() == (tmp_path / "its.zip").read_bytes()


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_failed_write_leaves_nothing(tmp_path: Path, write: object) -> None:
    def files():  # type: ignore[no-untyped-def]
        yield "a", b"1"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="the disk is full"):
        write(tmp_path / "out.zip", files())  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_nothing_is_overwritten(tmp_path: Path, write: object) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / "out", [("a", b"1")])  # type: ignore[operator]
    assert (tmp_path / "out").read_text() == "mine"


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"), replacing(tmp_path / "nowhere" / "out") as temporary:
        temporary.mkdir()
