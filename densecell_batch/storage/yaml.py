"""YAML as this program writes it: nothing is read, and a few lines need no package for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["as_yaml"]


def as_yaml(value: Mapping[str, Any]) -> str:
    """JSON values as YAML of one entry a line. Texts are quoted as in JSON, which YAML understands."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> list[str]:
    """An object or a list that is not empty."""
    found: list[str] = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not _is_nested(inner):
                found.append(f"{key}: {_scalar(inner)}")
                continue
            found += [f"{key}:", *(f"  {line}" for line in _lines(inner))]
        return found
    for inner in value:
        first, *rest = _lines(inner) if _is_nested(inner) else [_scalar(inner)]
        found += [f"- {first}", *(f"  {line}" for line in rest)]
    return found


def _is_nested(value: Any) -> bool:
    """Whether it stands on lines of its own: no list of numbers or texts does."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value)


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
