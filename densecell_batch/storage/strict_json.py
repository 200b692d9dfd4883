"""JSON written by others: what a parser takes for good nature, and what would surprise its reader later, is an error.

Python's parser takes NaN and Infinity, which are no JSON; reads `1e999` as infinity, and whole numbers of any length,
which overflow in the first computation; takes halves of surrogate pairs, which no file and no terminal takes; and ends
in a RecursionError where lists are nested deeply.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeAlias

__all__ = ["MAX_DEPTH", "JsonObject", "parse_json"]

MAX_DEPTH = 50
_LARGEST = 2**63

JsonObject: TypeAlias = dict[str, Any]  # what its writer put into it, whatever that is
Container: TypeAlias = JsonObject | list[Any]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Parameters
    ----------
    text
        Of a size that the caller has bounded: a byte of JSON can become 20 bytes of objects.

    Raises
    ------
    ValueError
        If it is no JSON, or holds what a JSON of ours never does: numbers that are not finite, whole numbers of more
        than 64 bits, texts that are no Unicode, lists and objects nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _containers(parent)]
        if not level:
            json.dumps(value, ensure_ascii=False).encode()  # raises for halves of surrogate pairs
            return value
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _containers(parent: Container) -> list[Container]:
    """The lists and objects right in one."""
    return [
        child for child in (parent.values() if isinstance(parent, dict) else parent) if isinstance(child, dict | list)
    ]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= (value := int(digits)) < _LARGEST:
        raise ValueError(f"the number {digits[:20]}... is too large")
    return value
