"""Zips and folders from strangers, read with care; and zips of ours, the same bytes for the same content.

Bundles and published models come as zips or folders. Everything about one that could harm is checked before a byte of
it is unpacked, so that its readers need not think of it: they ask how large a file is, hold that against what they
expect, and read it.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from densecell_batch.errors import ModelError
from densecell_batch.printable import printable
from densecell_batch.storage.atomic import open_new, replacing, sync

__all__ = [
    "MAX_BYTES",
    "MAX_ENTRIES",
    "MAX_RATIO",
    "Archive",
    "Files",
    "Folder",
    "open_archive",
    "write_folder",
    "write_zip",
]

MAX_BYTES = 4 * 2**30  # unpacked; the published ensemble at full size has 0.5 GB
MAX_ENTRIES = 10_000
MAX_RATIO = 100  # unpacked bytes a byte in the zip: text of a graph has about 10, trained weights 1
_FREE = 2**20  # a file of no more than this may be packed as well as it likes
_CHUNK = 2**20

# What zipfile, zlib and the file system raise for damage.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError,
    OverflowError,
)  # fmt: skip


class Files(ABC):
    """The files of a bundle or a published model, by name, wherever they lie."""

    _where = ""

    def __init__(self, path: Path, error: type[ModelError]) -> None:
        self._path, self._error = path, error

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the files, with "/" between folders."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of one file when unpacked."""

    @abstractmethod
    def _opened(self, name: str) -> IO[bytes]:
        """One file, to be read and to be searched forward."""

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open one file for reading.

        Raises
        ------
        ModelError
            Of the class given, if the bytes are damaged or cannot be read, here or where they are read.
        """
        try:
            with self._opened(name) as file:
                yield file
        except _DAMAGE as error:
            raise self._error(
                f"{self._path}: {printable(name)} {self._where}is damaged or cannot be read ({printable(error)}); get "
                "the file again"
            ) from error

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """The bytes of one file.

        Raises
        ------
        ModelError
            Of the class given, if it has more than `limit` bytes, of which then none is read; or as `open` does.
        """
        size = self.size(name)
        if size > limit:
            raise self._error(
                f"{self._path}: {printable(name)} has {size:,} bytes; expected at most {limit:,}: this is no model, or "
                "a damaged one"
            )
        with self.open(name) as file:
            return file.read(size)

    def extract(self, name: str, target: Path) -> None:
        """Write one file to `target`; raises as `open` does."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            for chunk in self._chunks(name):
                out.write(chunk)

    def _chunks(self, name: str) -> Iterator[bytes]:
        # A generator, so that trouble in writing the bytes is not taken for damage of what they are read from.
        with self.open(name) as file:
            while chunk := file.read(_CHUNK):
                yield chunk


class Folder(Files):
    """Regular files below a folder. Links are followed as far as they stay in it.

    Parameters
    ----------
    path
        The folder.
    error
        Class of the errors raised.
    names
        Which files; those that are none are left out. None for all files right in it.
    """

    def __init__(self, path: Path, error: type[ModelError], names: Iterable[str] | None = None) -> None:
        super().__init__(path, error)
        try:
            listed = [entry.name for entry in os.scandir(path)] if names is None else names
            self._names = tuple(name for name in listed if (path / name).is_file())
        except OSError as problem:
            raise error(f"{path}: the folder cannot be read ({problem.strerror})") from problem
        root = path.resolve()
        for name in self._names:
            if not (path / name).resolve().is_relative_to(root):
                raise error(
                    f"{path}: {printable(name)} is a link that leaves the folder; expected the files themselves: copy "
                    "them into it"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files."""
        return self._names

    def size(self, name: str) -> int:
        """Bytes of one file when unpacked."""
        return (self._path / name).stat().st_size

    def _opened(self, name: str) -> IO[bytes]:
        return (self._path / name).open("rb")


class Archive(Files):
    """A checked zip. Made by `open_archive`. What macOS adds for itself is left out."""

    _where = "in the zip "

    def __init__(self, file: zipfile.ZipFile, path: Path, error: type[ModelError], packed: int) -> None:
        super().__init__(path, error)
        self._file = file
        self._entries = self._checked(packed)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(self._entries)

    def size(self, name: str) -> int:
        """Bytes of one file when unpacked."""
        return self._entries[name].file_size

    def _opened(self, name: str) -> IO[bytes]:
        # zipfile stops at the size that the directory claims, and compares the checksum.
        return self._file.open(self._entries[name])

    def _checked(self, packed: int) -> dict[str, zipfile.ZipInfo]:
        """Entries by name, or an error for the first thing that an honest zip of `packed` bytes does not have."""
        infos = self._file.infolist()
        total = sum(info.file_size for info in infos)
        if total > MAX_BYTES or len(infos) > MAX_ENTRIES:
            raise self._error(
                f"{self._path}: unpacks to {total:,} bytes in {len(infos):,} files; expected at most "
                f"{MAX_BYTES:,} bytes in {MAX_ENTRIES:,} files: this is no model"
            )
        claimed = sum(info.compress_size for info in infos)
        if claimed > packed:  # as where several entries share one bomb
            raise self._error(
                f"{self._path}: its files claim {claimed:,} bytes of a zip that has {packed:,}; get the file again"
            )
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            path = PurePosixPath(info.filename.replace("\\", "/"))
            problem = _harm(info, path)
            if problem:
                raise self._error(f"{self._path}: {info.filename!r} in the zip {problem}")
            if not path.parts or info.is_dir() or path.parts[0] == "__MACOSX" or path.name.startswith("._"):
                continue
            if str(path) in entries:
                raise self._error(f"{self._path}: {info.filename!r} is in the zip twice; expected each file once")
            entries[str(path)] = info
        return entries


def _harm(info: zipfile.ZipInfo, path: PurePosixPath) -> str:
    """What an honest entry of a zip does not have, and what to do; empty for an honest one."""
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "leaves its folder; do not use this file"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link; expected files and folders"
    if info.flag_bits & 1:
        return "is encrypted; pack it without password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a rare way; use deflate"
    if info.file_size > _FREE + MAX_RATIO * info.compress_size:
        return (
            f"unpacks from {info.compress_size:,} to {info.file_size:,} bytes; expected at most {MAX_RATIO} times as "
            "much: this is no model"
        )
    return ""


@contextmanager
def open_archive(path: Path, error: type[ModelError], file: IO[bytes] | None = None) -> Iterator[Archive]:
    """Open a zip and check its directory.

    Parameters
    ----------
    path
        The zip; with `file`, what messages call it.
    error
        Class of the errors raised.
    file
        The bytes, if they are not those of `path`.

    Raises
    ------
    ModelError
        Of class `error`: not a zip, a name that leaves its folder, a link, a duplicate, an encrypted file, more than
        `MAX_BYTES` or `MAX_ENTRIES` unpacked, or more than `MAX_RATIO` times what is there.
    """
    try:
        opened = zipfile.ZipFile(file or path)
        packed = path.stat().st_size if file is None else file.seek(0, os.SEEK_END)
    except _DAMAGE as problem:
        what_to_do = "take the bundle that it was made of" if path.suffix.lower() == ".onnx" else "get the file again"
        raise error(f"{path}: cannot be read as a zip ({problem}); {what_to_do}") from problem
    with opened:
        yield Archive(opened, path, error, packed)


def write_folder(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a folder that appears under its name only when whole; raises as `atomic.replacing` does."""
    with replacing(path) as folder:
        folder.mkdir()
        for name, content in files:
            (folder / name).write_bytes(content)
            sync(folder / name)


class _Directory:
    """What stands of the files at the end of a zip, as zipfile wants it: in 30 bytes and the name each. Of a million
    small files, its own list would take half a gigabyte.
    """

    _PLACE = struct.Struct("<QQIH")  # where it begins, bytes, checksum, bytes of the name

    def __init__(self) -> None:
        self._packed, self._n = bytearray(), 0

    def __len__(self) -> int:
        return self._n

    def append(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.encode()
        self._packed += self._PLACE.pack(info.header_offset, info.file_size, info.CRC, len(name)) + name
        self._n += 1

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        at = 0
        while at < len(self._packed):
            offset, size, checksum, length = self._PLACE.unpack_from(self._packed, at)
            at += self._PLACE.size + length
            info = _stored(self._packed[at - length : at].decode())
            info.header_offset, info.CRC, info.file_size, info.compress_size = offset, checksum, size, size
            yield info


def _stored(name: str) -> zipfile.ZipInfo:
    """A file in a zip of ours."""
    info = zipfile.ZipInfo(name)  # dated 1980 and so the same at any time
    info.create_system = 3  # Unix, wherever it is written
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def write_zip(path: Path, files: Iterable[tuple[str, bytes]], *, may_exist: bool = False) -> None:
    """Write a zip that appears under its name only when whole, the same bytes for the same files in the same order.

    Files are stored, not deflated: trained weights do not compress, and zlib's output depends on its version.

    Raises
    ------
    OutputError
        As `atomic.replacing` does.
    """
    with (
        replacing(path, may_exist=may_exist) as temporary,
        open_new(temporary) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.filelist = _Directory()  # type: ignore[assignment] # as much of a list as is asked of it
        for name, content in files:
            archive.writestr(_stored(name), content)
            archive.NameToInfo.clear()
