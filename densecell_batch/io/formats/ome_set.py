"""OME-TIFF whose slices lie in several files: which files belong together, from what their OME-XML says.

::

    a.ome.tif  OME-XML of all         or  a.ome.tif  OME-XML of all       or  stack.companion.ome  OME-XML of all
    b.ome.tif  the same again             b.ome.tif  "see a.ome.tif"          a.ome.tif, b.ome.tif  "see there"

The XML names its files; they have to lie in the folder of the one that was named, as files and not as links: what
comes with an image must not decide what else of the disk is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree as ET

from densecell_batch.errors import StackError
from densecell_batch.io.formats.tiff_head import Head, read_head
from densecell_batch.storage.opening import Reach

__all__ = ["OmeSet", "files_of", "find_set"]

_UUID = re.compile(rb"""<(?:\w+:)?OME\s[^>]*\bUUID=["']([^"'<>]+)["']""")
_FILE_NAME = re.compile(rb"""\bFileName=["']([^"']*)["']""")
_MOST_SLICES = 10**6
_MOST_XML = 256 * 2**20  # bytes


class _Part(NamedTuple):
    """An element TiffData: slices that follow each other in a file."""

    first: int  # slice
    file: str
    page: int
    length: int | None  # None: all pages of the file


class _Image(NamedTuple):
    """An element Image: its attributes, its channels, and where its slices are."""

    pixels: Mapping[str, str]
    channels: int
    parts: tuple[_Part, ...]
    uuids: Mapping[str, str]  # file name -> identifier

    def lies_in(self, name: str) -> bool:
        """Whether a slice of it is in a file."""
        return any(part.file == name for part in self.parts)


@dataclass(frozen=True)
class OmeSet:
    """The files that one image consists of.

    Attributes
    ----------
    path : Path
        The file that was named.
    files : tuple of str
        Names of the files with slices, in the order of their first one.
    metadata : str
        Name of the file with the OME-XML, if that is none of them; else "".
    image : _Image
        What the XML says of the image.
    reach : Reach
        What may be opened.
    """

    path: Path
    files: tuple[str, ...]
    metadata: str
    image: _Image
    reach: Reach

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files, that of the metadata last."""
        return (*self.files, self.metadata) if self.metadata else self.files

    @property
    def paths(self) -> list[Path]:
        """All files, that of the metadata last."""
        return [self.path.with_name(name) for name in self.names]

    def size(self, axis: str) -> int:
        """Number of slices ("Z"), time points ("T"), or channels ("C") without colour samples."""
        return self.image.channels if axis == "C" else int(self.image.pixels[f"Size{axis}"])

    def planes(self, pages: Mapping[str, int]) -> list[tuple[str, int] | None]:
        """File and page of each slice; None where the XML says nothing of it.

        Parameters
        ----------
        pages
            Number of pages of each file.

        Raises
        ------
        StackError
            If the XML says of more slices where they are than there can be.
        """
        depth, runs = self.size("Z"), []
        for part in self.image.parts:
            count = pages[part.file] - part.page if part.length is None else part.length
            runs.append((part, min(count, depth - part.first)))
        if depth > _MOST_SLICES or sum(max(0, count) for _, count in runs) > max(1, 2 * depth):
            raise StackError(
                f"{self.path}: its OME-XML says {depth} slices, and other numbers for its files; export it again"
            )
        found: list[tuple[str, int] | None] = [None] * depth
        for part, count in runs:
            for i in range(count):
                found[part.first + i] = (part.file, part.page + i)
        return found

    def knows(self, name: str, stream: BinaryIO) -> bool:
        """Whether a file says that it is the one that the XML means, or says nothing of it."""
        head = read_head(stream)
        match = None if head is None else _UUID.search(head.description[:4096])
        return match is None or self.image.uuids.get(name) in (None, "", match[1].decode())

    def opened(self, name: str) -> BinaryIO:
        """A file of the set, open for reading.

        Raises
        ------
        StackError
            If it is missing, a link, or not to be read.
        """
        return _opened(self.path, name, self.reach)


def find_set(path: Path, reach: Reach | None = None) -> OmeSet | None:
    """The set that a TIFF belongs to; None if it is no OME-TIFF, or all its slices lie in itself under this very name.

    `reach` says which links are followed, if not only `path` itself.

    A single file that was renamed still says its old name: it is a set of one, so that nobody looks for the other one.

    Raises
    ------
    StackError
        If what it says cannot be followed: the file with the XML is missing, a name leads out of the folder.
    """
    reach = reach or Reach.of(path)
    root = _own_root(path, reach)
    if root is None:
        return None
    uuid, metadata = root.get("UUID", ""), ""
    pointer = next((child for child in root if _tag(child) == "BinaryOnly"), None)
    if pointer is not None:
        metadata = _plain(path, pointer.get("MetadataFile", ""))
        root = _root_of(path, metadata, reach)
    try:
        images = [_image(element, metadata or path.name) for element in root if _tag(element) == "Image"]
    except (KeyError, ValueError) as error:
        raise StackError(f"{path}: its OME-XML is damaged ({error}); export it again") from error
    images = [_under_new_name(image, path.name, uuid) for image in images]
    named = {part.file for image in images for part in image.parts}
    if not metadata and named <= {path.name}:
        return None
    if not metadata and len(named) == 1:
        images, named = [_renamed(image, path.name) for image in images], {path.name}
    mine = [image for image in images if image.lies_in(path.name)]
    if len(mine) != 1:
        what = f"{len(mine)} images" if mine else "nothing"
        raise StackError(
            f"{path}: the OME-XML of its set ({_some(named)}) says that it holds {what}; expected one volume, and "
            "files under the names that they were saved with: export it again as one file"
        )
    files = tuple(dict.fromkeys(_plain(path, part.file) for part in sorted(mine[0].parts, key=lambda p: p.first)))
    for name in files:
        if name != path.name and not _belongs(path.with_name(name), reach):
            raise StackError(
                f"{path}: its OME-XML says that {name} is a part of it, which {name} knows nothing of; expected files "
                "that name each other, or silent ones that are called .ome.tif: export it again as one file"
            )
    return OmeSet(path, files, "" if metadata in files else metadata, mine[0], reach)


def _belongs(member: Path, reach: Reach) -> bool:
    """Whether a file says itself that it is a part of a set, or says nothing and is called like one: what comes with an
    image must not decide whose file another one is. A file that is not there, or cannot be read, is told of later.
    """
    try:
        with reach.open(member) as stream:
            head = read_head(stream)
    except (OSError, StackError):
        return True
    if head is None:
        return True
    text = head.description
    if b"BinaryOnly" in text:
        return True
    names = {name.decode("utf-8", "replace") for name in _FILE_NAME.findall(text)}
    if names - {member.name}:
        return True
    return not names and b"OME>" not in text[-16:] and re.search(r"\.ome\.tiff?$", member.name.lower()) is not None


def files_of(path: Path, reach: Reach | None = None) -> list[Path]:
    """The files of the stack that a TIFF belongs to, the first slice first; itself alone if it is no set."""
    try:
        found = find_set(path, reach)
    except StackError:  # whoever opens it is told
        found = None
    return [path] if found is None else found.paths


def _root(text: bytes) -> ET.Element | None:
    """The root of an OME-XML; None if it is none.

    Raises
    ------
    ValueError
        If it declares entities: of these a few lines can make gigabytes.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        decoded = text.decode("cp1252", "replace")
    if not decoded.rstrip("\0 \t\r\n").endswith("OME>"):
        return None
    if "<!ENTITY" in decoded:
        raise ValueError("it declares entities")
    try:
        return ET.fromstring(decoded.rstrip("\0"))
    except (ET.ParseError, ValueError):  # a text with a declaration of its encoding, wrongly
        return None


def _own_root(path: Path, reach: Reach) -> ET.Element | None:
    """The root of the OME-XML in a file, if it speaks of files."""
    try:
        with reach.open(path) as stream:
            head = read_head(stream)
        if head is None or not any(word in head.description for word in (b"FileName", b"BinaryOnly")):
            return None
        return _root(head.description)
    except OSError:  # whoever opens it is told
        return None
    except ValueError as error:
        raise StackError(f"{path}: its OME-XML cannot be used: {error}; export it again") from error


def _root_of(path: Path, metadata: str, reach: Reach) -> ET.Element:
    """The root of the OME-XML in another file, a TIFF or a text."""
    with _opened(path, metadata, reach) as stream:
        try:
            head = read_head(stream)
            if head is None:
                head = Head(stream.read(_MOST_XML), b"", b"")
            root = _root(head.description)
        except (OSError, ValueError) as error:
            raise StackError(f"{path}: its OME-XML lies in {metadata}, which cannot be used ({error})") from error
    if root is None:
        raise StackError(f"{path}: its OME-XML should lie in {metadata}, which has none; copy that file again")
    return root


def _image(element: ET.Element, home: str) -> _Image:
    """What an element Image says; `home` is the file that holds the XML."""
    pixels = next((child for child in element if _tag(child) == "Pixels"), None)
    if pixels is None:
        raise ValueError("an image without pixels")
    samples = [int(child.get("SamplesPerPixel", 1)) for child in pixels if _tag(child) == "Channel"]
    parts, uuids = [], {}
    for data in pixels:
        if _tag(data) != "TiffData":
            continue
        uuid = next((child for child in data if _tag(child) == "UUID"), None)
        file = home if uuid is None else uuid.get("FileName", home)
        if uuid is not None:
            uuids[file] = (uuid.text or "").strip()
        count = data.get("PlaneCount", data.get("NumPlanes", "1" if "IFD" in data.attrib else None))
        part = _Part(int(data.get("FirstZ", 0)), file, int(data.get("IFD", 0)), None if count is None else int(count))
        if min(part.first, part.page, part.length or 0) < 0:
            raise ValueError("a negative number in TiffData")
        parts.append(part)
    channels, _ = int(pixels.attrib["SizeC"]), (int(pixels.attrib["SizeZ"]), int(pixels.attrib["SizeT"]))
    return _Image(pixels.attrib, channels // max([1, *samples[:1]]), tuple(parts), uuids)


def _under_new_name(image: _Image, name: str, uuid: str) -> _Image:
    """The image with the name that one of its files, known by its identifier or in other letters, has now."""
    olds = [old for old, known in image.uuids.items() if (uuid and known == uuid) or old.lower() == name.lower()]
    return _renamed(image, name, olds[0]) if olds else image


def _renamed(image: _Image, name: str, old: str | None = None) -> _Image:
    """The image with another name for one of its files, or for all."""
    parts = tuple(part._replace(file=name) if old in (None, part.file) else part for part in image.parts)
    uuids = {name if old in (None, file) else file: uuid for file, uuid in image.uuids.items()}
    return image._replace(parts=parts, uuids=uuids)


def _plain(path: Path, name: str) -> str:
    """A file name that leads nowhere else."""
    if not name or name in (".", "..") or any(char in name for char in "/\\\0"):
        raise StackError(
            f"{path}: its OME-XML names the file {name!r}; expected a name without a folder: all files of a set have "
            "to lie in one folder"
        )
    return name


def _opened(path: Path, name: str, reach: Reach) -> BinaryIO:
    """A file of the set of `path`."""
    member = path.with_name(name)
    try:
        return reach.open(member)
    except FileNotFoundError as error:
        raise StackError(
            f"{member}: it is missing; it belongs to {path.name}, as the OME-XML of that says: copy all files of the "
            "set into one folder"
        ) from error
    except OSError as error:
        raise StackError(
            f"{member}: it cannot be read ({error.strerror or error}); it belongs to {path.name}; expected a file: put "
            "a copy in place of it"
        ) from error


def _tag(element: ET.Element) -> str:
    """The name of an element without its namespace; "" for comments."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
