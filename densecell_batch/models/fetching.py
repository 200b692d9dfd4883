"""Where models come from: the bundles in the package, the cache, and the published files on the net.

The cache is a folder::

    downloads/NAME/FILE.zip       as published; files put here by hand are taken, if their hash is known
    downloads/sha256.json         SHA-256 of each download whose authors published none, recorded at its first fetch
    models/NAME/                  the bundle made of the downloads
    data/NAME/                    an unpacked data set

A cache that holds a model or data set is only read, so it may be read-only and shared (`cache_owner` says with whom).
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from densecell_batch.errors import FetchError, ModelError, OptionError, OutputError
from densecell_batch.models import registry
from densecell_batch.models.bundle import ModelBundle, load_bundle
from densecell_batch.models.cache_owner import distrusted
from densecell_batch.models.download import download
from densecell_batch.models.download_record import add_to_record, read_record
from densecell_batch.models.registry import (
    RegistryEntry,
    RemoteFile,
    bundled,
    cache_dir,
    fetched,
)
from densecell_batch.storage.atomic import replacing
from densecell_batch.storage.opening import exists
from densecell_batch.storage.zips import open_archive

__all__ = ["distrusted_cache", "fetch", "find_bundle"]

_ZIP = b"PK\x03\x04"  # what a zip begins with
_log = logging.getLogger(__name__)


def distrusted_cache(name: str) -> str:
    """Why what the cache holds of a model or data set is not to be trusted, and what to do; empty if it is."""
    place = fetched(name)
    return "" if place is None else distrusted(place, cache_dir())


def find_bundle(name_or_path: str) -> ModelBundle:
    """Find a model: by the name of a bundle in the package, by a name of the registry, or by the path of a bundle.

    A name goes before a path of the same spelling; `./NAME` is always a path. A model of the registry that the cache
    does not hold is fetched.

    Raises
    ------
    ModelError
        If there is no such model; the message lists the known names.
    BundleError
        If the bundle is not usable.
    FetchError
        If a model of the registry cannot be fetched.
    """
    here = {path.name: path for path in bundled()}
    if name_or_path in here:
        return load_bundle(here[name_or_path])
    models = [name for name, entry in registry.REGISTRY.items() if entry.kind == "model"]
    if name_or_path in models:
        return load_bundle(fetch(name_or_path))
    path = Path(name_or_path)
    if exists(path):
        return load_bundle(path)
    if name_or_path in registry.REGISTRY:
        raise ModelError(
            f"{name_or_path} is a {registry.REGISTRY[name_or_path].kind}, not a model; models: {', '.join(models)}"
        )
    known = [*here, *models]
    close = difflib.get_close_matches(name_or_path, known, 1)
    raise ModelError(
        f"no model {name_or_path!r}: neither a file or folder of that name nor one of {', '.join(known)}"
        + (f"; did you mean {close[0]}?" if close else "")
    )


def fetch(name: str, sha256: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Fetch a model or a data set of the registry into the cache, unless the cache holds it.

    A file without a published hash is trusted on first use: its SHA-256 is recorded when it is downloaded for the first
    time, and from then on it has to be that. One that lies there before, whoever put it there, is not.

    Parameters
    ----------
    name
        As the registry has it.
    sha256
        Hashes that the caller holds files to, by file; they go before recorded ones.

    Returns
    -------
    Path
        The folder of the bundle, or of the data set's files.

    Raises
    ------
    ModelError
        If the registry has no such name.
    OptionError
        If a hash is given for no file of it.
    FetchError
        If a file cannot be downloaded, is not what it was, belongs to another account, or the cache cannot be written;
        the message says which file, from where, and where to put it by hand.
    PublishedModelError
        If a download is what it was but holds no model.
    """
    if name not in registry.REGISTRY:
        raise ModelError(f"nothing named {name!r} can be fetched; expected one of {', '.join(registry.REGISTRY)}")
    entry = registry.REGISTRY[name]
    strange = sorted(set(sha256) - {file.name for file in entry.files})
    if strange:
        names = ", ".join(file.name for file in entry.files)
        raise OptionError(f"{name} has no file {strange[0]!r}; its files are {names}")
    present = fetched(name)
    if present is not None:
        _check_owner(present)
        _check_pins(name, sha256, present)
        return present
    place = cache_dir() / ("models" if entry.kind == "model" else "data") / name
    downloads = cache_dir() / "downloads" / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from error
    _check_owner(place.parent)
    _check_owner(downloads)
    _check_owner(_record_file())
    known = read_record(_record_file(), name) | dict(sha256)
    _check_known(entry, downloads, known)
    zips = [_obtain(file, downloads / file.name, known.get(file.name), entry) for file in entry.files]
    try:
        if entry.kind == "model":
            _import(name, zips, place)
        else:
            _unpack(entry, zips, place)
    except OutputError as error:
        # Another process may have been faster: what it made is as good.
        if not place.is_dir():
            raise _unwritable(error) from error
    return place


def _check_owner(place: Path) -> None:
    problem = distrusted(place, cache_dir())
    if problem:
        raise FetchError(problem)


def _check_pins(name: str, sha256: Mapping[str, str], place: Path) -> None:
    """Hold what the cache holds to the hashes that the caller knows."""
    recorded = read_record(_record_file(), name) if sha256 else {}
    for file, expected in sha256.items():
        if recorded.get(file) != expected:
            raise FetchError(
                f"{place} was made of another {file}: its SHA-256 was {recorded.get(file, 'not recorded')}, expected "
                f"{expected}; delete {place} and {cache_dir() / 'downloads' / name}, and fetch it again"
            )


def _check_known(entry: RegistryEntry, downloads: Path, known: Mapping[str, str]) -> None:
    """Refuse files that were put into the cache without their hash: nobody can say what they are."""
    there = [file for file in entry.files if file.md5 is None and (downloads / file.name).exists()]
    for file in there:
        # A hash once recorded is hard to get rid of.
        if not zipfile.is_zipfile(downloads / file.name):
            raise FetchError(
                f"{downloads / file.name}: not a zip, or not a whole one; delete it and get it again from {file.url}"
            )
    unknown = [file for file in there if file.name not in known]
    if unknown:
        pins = " ".join(f"--sha256 {file.name}={_hash(downloads / file.name, 'sha256')}" for file in unknown)
        raise FetchError(
            f"{downloads / unknown[0].name} lies in the cache, but it was not downloaded by this program and nobody "
            "published its hash; if it is you who put it there, say so, best after a look at the hashes that others "
            f"have:\n  densecell-batch models fetch {downloads.name} {pins}\nelse delete {downloads}"
        )


def _import(name: str, zips: list[Path], place: Path) -> None:
    """Make the bundle of a model of the registry."""
    from densecell_batch.models.published import import_published

    entry = registry.REGISTRY[name]
    import_published(zips, place, name, licence=entry.licence, citation=entry.citation, voxel_size=entry.voxel_size)


def _unpack(entry: RegistryEntry, zips: list[Path], place: Path) -> None:
    """Unpack the files of a data set, each checked against its published MD5."""
    with replacing(place) as folder:
        for file in zips:
            with open_archive(file, FetchError) as archive:
                for inside in entry.contents.keys() & set(archive.names):
                    archive.extract(inside, folder / inside)
        for inside, md5 in entry.contents.items():
            target = folder / inside
            found = _hash(target, "md5") if target.is_file() else "no such file"
            if found != md5:
                raise FetchError(
                    f"{inside} in {', '.join(map(str, zips))}: MD5 is {found}, published is {md5}; delete the zip and "
                    "fetch it again"
                )


def _obtain(file: RemoteFile, target: Path, sha256: str | None, entry: RegistryEntry) -> Path:
    """The zip, from the cache or the net, held to its published MD5 and to the SHA-256 that is known of it."""
    expected = {"md5": file.md5, "sha256": sha256}

    def check(path: Path) -> None:
        # A file server that has moved or limits downloads answers with a page and status 200.
        if not zipfile.is_zipfile(path):
            raise FetchError("what came is not a zip, or not a whole one")
        for algorithm, known in expected.items():
            if known is not None and (found := _hash(path, algorithm)) != known:
                raise _ChangedError(f"{algorithm.upper()} is {found}, expected {known}")

    if target.is_file():
        try:
            check(target)
        except FetchError as error:
            raise FetchError(
                f"{target}: {error}; the file was changed or damaged: delete it and run the same command again to "
                f"download it from {file.url}"
            ) from error
    else:
        _download(file, target, check, entry)
    if file.md5 is not None and sha256 is None:
        return target
    found = _hash(target, "sha256")
    if sha256 is None:
        _log.info(
            "%s is trusted on first use: no hash of it was ever published. Its SHA-256 %s is recorded in %s",
            file.name, found, _record_file(),
        )  # fmt: skip
    try:
        add_to_record(_record_file(), target.parent.name, {file.name: found})
    except OutputError as error:
        raise _unwritable(error) from error
    return target


class _ChangedError(FetchError):
    """A file is not the one that its hash says."""


def _download(file: RemoteFile, target: Path, check: Callable[[Path], None], entry: RegistryEntry) -> None:
    """Download one zip, and say what to do where that is not possible."""
    _log.info("downloading %s from %s", file.name, file.url)
    try:
        download(file.url, target, file.max_bytes, _ZIP, check)
    except _ChangedError as error:
        raise FetchError(
            f"{file.url} does not deliver the file that was published, that it delivered when it was first fetched, or "
            f"that --sha256 asks for ({error}). If you trust the new file: densecell-batch models fetch "
            f"{target.parent.name} --sha256 {file.name}=SHA256"
        ) from error
    except FetchError as error:
        missing = [f for f in entry.files if not (target.parent / f.name).is_file()]
        by_hand = "".join(f"\n  {f.url}\n    -> {target.parent / f.name}" for f in missing)
        raise FetchError(
            f"{file.name} cannot be downloaded from {file.url} ({error}). Where there is internet, download by hand, "
            f"put each file at the place named here, and run the same command again, which then says how to go "
            f"on:{by_hand}"
        ) from error
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: Exception) -> FetchError:
    return FetchError(
        f"the cache {cache_dir()} lacks what was asked for and cannot be written ({error}); fetch where it can be, or "
        "set DENSECELL_CACHE to a folder of yours"
    )


def _record_file() -> Path:
    return cache_dir() / "downloads" / "sha256.json"


def _hash(file: Path, algorithm: str) -> str:
    """Hexadecimal hash of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, algorithm).hexdigest()
