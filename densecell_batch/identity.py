"""Whether two runs are the same one: a short name for JSON values, and what differs between them, in words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["differences", "digest"]


def digest(values: Any) -> str:
    """Twelve hexadecimal digits that two sets of JSON values share only if they are the same."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """What differs between JSON values, one text for each entry."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        return [text for key in keys for text in differences(found.get(key), wanted.get(key), f"{where} {key}".strip())]
    return [] if found == wanted else [f"{where} was {json.dumps(found)}, is {json.dumps(wanted)}"]
