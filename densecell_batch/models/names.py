"""Names of files: that of a bundle, for those who only look whether there is one, and those of a class."""

from __future__ import annotations

import re

__all__ = ["MANIFEST", "file_word"]

MANIFEST = "bundle.json"


def file_word(class_name: str) -> str:
    """What the files of a class are named after: what a file name cannot hold becomes "-"."""
    return re.sub(r"[^0-9A-Za-z._-]+", "-", class_name)
