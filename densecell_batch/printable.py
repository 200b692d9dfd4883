"""Text from elsewhere, made safe to show: on a terminal, in a line of a log, in a cell of a table.

Names of files and strings of a bundle are a stranger's. A line break in one forges a line of the log, an escape
sequence rewrites what the terminal showed before, a mark for the direction of writing turns `exe.fit` into `tif.exe`.
What is shown to people or to programs that read lines goes through `printable`, once, where it leaves.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["printable", "printable_path"]

# Control characters; separators of lines and paragraphs; halves of surrogate pairs, which are bytes of a file name that
# are no UTF-8; and what is not seen, such as marks for the direction of writing.
_ESCAPED = {"Cc", "Zl", "Zp", "Cs", "Cf"}
_JOINERS = "\u200c\u200d"  # not seen either, but Persian, Hindi and many emoji are not written without them
_ENDS_LINES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SUSPECT = re.compile(r"[^ -~]")  # all but plain ASCII


def printable(text: object) -> str:
    r"""A text with everything that does not stay in its place, or is not seen, as visible escapes.

    Parameters
    ----------
    text
        A string, a path, an exception: what `str` makes of it is taken.

    Returns
    -------
    str
        One line. Letters, signs and emoji of any script stay; a line break becomes ``\n``, a tab ``\t``, an escape
        character ``\x1b``, a byte that is no text ``\xff``. It is for reading: backslashes of the text itself stay
        single, so the text cannot be told from its escapes for certain.
    """
    return _SUSPECT.sub(_shown, str(text))


def printable_path(path: object) -> str:
    """A path for a program that will open it: as it is, but for what could end a line or is no text; a path that has
    such is refused before there is anything to open.
    """
    return _ENDS_LINES.sub(_shown, str(path))


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that it cannot decode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
