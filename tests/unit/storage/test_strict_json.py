"""JSON of others holds what JSON can hold, and nothing that surprises later."""

from typing import Any

import pytest

from densecell_batch.storage.strict_json import MAX_DEPTH, parse_json


def nested(depth: int) -> list[Any]:
    """Lists in lists; the innermost is empty."""
    return [nested(depth - 1)] if depth > 1 else []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true, "µ\\ud83e\\uddec"]}', {"a": [1, 2.5, None, True, "µ🧬"]}),
        (b"-9223372036854775808", -(2**63)),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, nested(MAX_DEPTH)),
        ('"[[[[[[[[[["', "[[[[[[[[[["),
    ],
)
def test_what_json_can_say(text: str | bytes, value: Any) -> None:
    assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is no number of JSON"),
        ('{"a": [-Infinity]}', "-Infinity is no number"),
        ("[1e999]", "1e999 is too large"),
        ("9223372036854775808", "is too large"),
        ("9" * 5000, "is too large"),
        ("-" + "9" * 50, "is too large"),
        ("[" * 100_000, "nested deeper than 50"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper than 50"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested deeper than 50"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        (b"\xff\xfe\xfd", "can't decode byte"),
        ("", "Expecting value"),
        ('"a\nb"', "Invalid control character"),
    ],
)
def test_what_it_cannot(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
