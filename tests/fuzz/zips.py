"""Damage inside zips: their checksums are made anew, so that it meets what reads the files, not the zip's own check."""

from __future__ import annotations

import io
import random
import zipfile

__all__ = ["pack", "unpack"]


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def pack(rng: random.Random, files: dict[str, bytes]) -> bytes:
    """A zip of the files, deflated or not."""
    content = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(content, "w", method, compresslevel=1) as file:
        for name, inside in files.items():
            file.writestr(name, inside)
    return content.getvalue()
