"""Names of the files of a bundle, for those who only look whether there is one."""

from __future__ import annotations

__all__ = ["MANIFEST"]

MANIFEST = "bundle.json"
