"""Zips from strangers are checked before a byte is unpacked; zips and folders of ours appear whole or not at all."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from densecell_batch import archive
from densecell_batch.archive import open_archive, write_folder, write_zip
from densecell_batch.atomic import replacing
from densecell_batch.errors import BundleError, OutputError


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
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(BundleError, match="unpacks to 10 bytes in 2 files"), open_archive(path, BundleError):
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
