"""The JSON schemas of the files that others read: `python -m densecell_batch.schemas FOLDER` writes them."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from densecell_batch.models.manifest import SCHEMA_VERSION as OF_BUNDLES
from densecell_batch.models.manifest import Manifest
from densecell_batch.runs.report import SCHEMA_VERSION as OF_REPORTS
from densecell_batch.runs.report import Report

__all__ = ["schemas"]


def schemas() -> dict[str, str]:
    """File name -> JSON schema, as text."""
    kinds = {f"report-{OF_REPORTS}": Report, f"bundle-{OF_BUNDLES}": Manifest}
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        f"{name}.schema.json": json.dumps(draft | _unindented(msgspec.json.schema(kind)), indent=2) + "\n"
        for name, kind in kinds.items()
    }


def _unindented(part: Any) -> Any:
    """A schema whose descriptions are docstrings without the indentation of the code, as msgspec 0.23 writes them."""
    if isinstance(part, list):
        return [_unindented(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _unindented(value)
        for key, value in part.items()
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("python -m densecell_batch.schemas FOLDER")
    for file, text in schemas().items():
        (Path(sys.argv[1]) / file).write_text(text, encoding="utf-8")
