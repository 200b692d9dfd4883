"""Zip files from strangers, read with care; and zip files of ours, the same bytes for the same content.

Bundles and published models come as zips. Everything about a zip that could harm is checked before a byte of it is
unpacked, so that its readers need not think of it.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from densecell_batch.atomic import replacing, sync
from densecell_batch.errors import ModelError

__all__ = [
    "MAX_BYTES",
    "MAX_ENTRIES",
    "Archive",
    "open_archive",
    "write_folder",
    "write_zip",
]

MAX_BYTES = 4 * 2**30  # unpacked; the published ensemble at full size has 0.5 GB
MAX_ENTRIES = 10_000
_CHUNK = 2**20


class Archive:
    """A checked zip: the files in it by name, and their bytes. Made by `open_archive`."""

    def __init__(self, file: zipfile.ZipFile, path: Path, error: type[ModelError]) -> None:
        self._file, self._path, self._error = file, path, error
        self._entries = self._checked()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files, in the order of the zip. What macOS adds for itself is left out."""
        return tuple(self._entries)

    def size(self, name: str) -> int:
        """Bytes of one file when unpacked."""
        return self._entries[name].file_size

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises
        ------
        ModelError
            Of the class given to `open_archive`, if the bytes are damaged.
        """
        return b"".join(self._chunks(name))

    def extract(self, name: str, target: Path) -> None:
        """Write one file to `target`; raises as `read` does."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            for chunk in self._chunks(name):
                out.write(chunk)

    def _chunks(self, name: str) -> Iterator[bytes]:
        """Bytes of one file; zipfile stops at the size that the directory claims, and compares the checksum."""
        try:
            with self._file.open(self._entries[name]) as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise self._error(f"{self._path}: {name} in the zip is damaged ({error}); get the file again") from error

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        """Entries by name, or an error for the first thing that an honest zip does not have."""
        entries: dict[str, zipfile.ZipInfo] = {}
        infos = self._file.infolist()
        total = sum(info.file_size for info in infos)
        if total > MAX_BYTES or len(infos) > MAX_ENTRIES:
            raise self._error(
                f"{self._path}: unpacks to {total:,} bytes in {len(infos):,} files; expected at most "
                f"{MAX_BYTES:,} bytes in {MAX_ENTRIES:,} files: this is no model"
            )
        for info in infos:
            path = PurePosixPath(info.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
                raise self._error(f"{self._path}: {info.filename!r} in the zip leaves its folder; do not use this file")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise self._error(f"{self._path}: {info.filename!r} in the zip is a link; expected files and folders")
            if info.is_dir() or not path.parts or path.parts[0] == "__MACOSX" or path.name.startswith("._"):
                continue
            if info.flag_bits & 1:
                raise self._error(f"{self._path}: {info.filename!r} in the zip is encrypted; pack it without password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._error(f"{self._path}: {info.filename!r} is compressed in a rare way; use deflate")
            if str(path) in entries:
                raise self._error(f"{self._path}: {info.filename!r} is in the zip twice; expected each file once")
            entries[str(path)] = info
        return entries


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
        Of class `error`: not a zip, a name that leaves its folder, a link, a duplicate, an encrypted file, or more than
        `MAX_BYTES` or `MAX_ENTRIES` unpacked.
    """
    try:
        archive = zipfile.ZipFile(file or path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as problem:
        raise error(f"{path}: cannot be read as a zip ({problem}); get the file again") from problem
    with archive:
        yield Archive(archive, path, error)


def write_folder(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a folder that appears under its name only when whole; raises as `atomic.replacing` does."""
    with replacing(path) as folder:
        folder.mkdir()
        for name, content in files:
            (folder / name).write_bytes(content)
            sync(folder / name)


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
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, content in files:
            info = zipfile.ZipInfo(name)  # dated 1980 and so the same at any time
            info.create_system = 3  # Unix, wherever it is written
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
