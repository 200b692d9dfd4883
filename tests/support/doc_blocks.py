"""The code blocks of the documentation, and the commands in them.

A block says its language: what is behind the three backticks. Blocks in `bash` and `python` are run by
`tests/process/test_docs_run.py`, but for those with a comment in the line above:

    <!-- not run: why not -->
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from images import ROOT

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->\n *\Z")
_VARIABLE = re.compile(r"\$\{?\w+\}?")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of its first line, from 1
    language: str
    text: str
    not_run: str | None  # why not

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page of the documentation, also of that which lies beside the code."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "models/README.md"]
    return sorted(page for page in found if page.name != "CHANGELOG.md")


def blocks_of(page: Path, text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in _BLOCK.finditer(text):
        before = _NOT_RUN.search(text[: match.start()])
        yield Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"].strip(),
            textwrap.dedent(match["text"]),
            before and before[1],
        )


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages that are in one of these languages; without any, all."""
    found = [block for page in pages() for block in blocks_of(page, page.read_text(encoding="utf-8"))]
    return [block for block in found if not languages or block.language in languages]


def inline(text: str) -> Iterator[str]:
    """What stands between single backticks in a page, outside of its blocks."""
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _BLOCK.sub("", text))


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in lines for a shell.

    Raises
    ------
    ValueError
        If a shell could not take them apart.
    """
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(_VARIABLE.sub("1", line), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set("&|;"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def ours(words: list[str]) -> list[str] | None:
    """The arguments of `densecell-batch` in a command, however it is started; None if it is another program."""
    words = list(words)
    if "/" in words[0] and words[0].startswith("*"):  # five fields of cron
        words = words[5:]
    while words and (words[0] in ("exec", "time") or re.match(r"\w+=", words[0])):
        words.pop(0)
    if not words:
        return None
    program, rest = Path(words[0]).name, words[1:]
    match program:
        case "densecell-batch":
            return rest
        case "densecell":  # the launcher: its options stand first
            while rest and rest[0].startswith("--"):
                rest = rest[1 if rest[0] == "--show" else 2 :]
            return rest
        case "apptainer" if rest[0] == "run":
            return _after(rest, r".*\.sif")
        case "docker" | "podman" if rest[0] == "run":
            return _after(rest, r"densecell-batch(:.*)?")
    return None


def _after(words: list[str], image: str) -> list[str]:
    """What follows the name of an image.

    Raises
    ------
    ValueError
        If there is none.
    """
    for i, word in enumerate(words):
        if re.fullmatch(image, word):
            return words[i + 1 :]
    raise ValueError(f"no image like {image} among {words}")
