"""Text from elsewhere stays in its line, and what is not seen is shown."""

from pathlib import Path

import pytest

from densecell_batch.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\nDENSECELL\tok", r"a\r\nDENSECELL\tok"),
        ("\x1b[2J\x1b]0;x\x07", r"\x1b[2J\x1b]0;x\x07"),
        ("\x00\x7f\x85\x9b", r"\x00\x7f\x85\x9b"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("exe\u202etif.\u2066x\u2069\u200f", r"exe\u202etif.\u2066x\u2069\u200f"),
        ("\ufeff\u200b\u00ad", r"\ufeff\u200b\xad"),
        ("tag\U000e0041", r"tag\U000e0041"),
        (b"x\xff\xfe.tif".decode("utf-8", "surrogateescape"), r"x\xff\xfe.tif"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_does_not_stay_in_its_place_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(printable(text)) == shown
    shown.encode("ascii")


@pytest.mark.parametrize(
    "text",
    ["", "plain (1) [x] 'y' \\n", "Zelle µm é", "細胞 背景", "клетка", "خلیه می‌شود", "👩‍👩‍👧 🧬", "a\u00a0b\u202fc"],
)
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


def test_anything_can_be_shown() -> None:
    assert printable(Path("a\nb")) == r"a\nb"
    assert printable(ValueError("bad\tthing")) == r"bad\tthing"
    assert printable(None) == "None"
