"""One file from the net: over https alone, no larger than it may be, there whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from densecell_batch.errors import FetchError
from densecell_batch.printable import printable
from densecell_batch.storage.atomic import open_new, temporary_name

__all__ = ["download"]

_TIMEOUT = 60  # seconds without a byte
_MAX_REDIRECTS = 10
_CHUNK = 2**16


def download(url: str, target: Path, max_bytes: int, magic: bytes, check: Callable[[Path], None]) -> None:
    """Download a file to a temporary one beside its place, and move it there when it is whole.

    Parameters
    ----------
    url
        Of scheme https, as is every address that it leads on to: a redirect to http would let everybody on the way put
        in a file of his own.
    target
        Its place; the folder is there.
    max_bytes
        Where to break off.
    magic
        What it begins with: a page that says sorry is known by it at once.
    check
        Looks at the temporary file; raises FetchError for what is not wanted.

    Raises
    ------
    FetchError
        If it cannot be had, or `check` raises; with the reason alone.
    OSError
        If the folder cannot be written.
    """
    import requests  # takes 0.1 s, and only a download needs it
    import urllib3

    temporary = temporary_name(target)
    try:
        with open_new(temporary) as file:
            try:
                with requests.Session() as session:
                    _copy(session, url, file, max_bytes, magic)
            except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
                raise FetchError(printable(error)) from error
        check(temporary)
        temporary.chmod(0o644)  # a cache may be shared
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(session: Any, url: str, file: IO[bytes], max_bytes: int, magic: bytes) -> None:
    """Write what an address delivers."""
    from tqdm import tqdm

    with _response(session, url) as response:
        said = response.headers.get("Content-Length", "")
        expected = int(said) if said.isdecimal() and len(said) < 20 else None
        if (expected or 0) > max_bytes:
            raise FetchError(f"it has {expected:,} bytes; expected at most {max_bytes:,}")
        held, start = 0, b""
        bar = tqdm(total=expected, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
        with bar:
            for chunk in response.iter_content(_CHUNK):
                if held < len(magic):
                    start += chunk[:20]
                    if not start.startswith(magic[: len(start)]):
                        raise FetchError(f"what came does not begin as a file of its kind does, but with {start!r}")
                held += len(chunk)
                if held > max_bytes:
                    raise FetchError(f"it has more than {max_bytes:,} bytes, of which no more were read")
                file.write(chunk)
                bar.update(len(chunk))
        if expected is not None and held != expected:
            raise FetchError(f"it broke off after {held:,} of {expected:,} bytes")


def _response(session: Any, url: str) -> Any:
    """The answer at the end of all redirects, each of which is held to https."""
    for _ in range(_MAX_REDIRECTS + 1):
        if urlsplit(url).scheme != "https":
            raise FetchError(f"it leads to {printable(url)}; expected an address with https")
        # Not compressed on the way: a zip gains nothing by it, and the sizes are those of the file.
        response = session.get(
            url, stream=True, timeout=_TIMEOUT, allow_redirects=False, headers={"Accept-Encoding": "identity"}
        )
        if response.ok and not response.is_redirect:
            return response
        response.close()
        response.raise_for_status()
        url = urljoin(url, response.headers["Location"])
    raise FetchError(f"it leads on more than {_MAX_REDIRECTS} times")
