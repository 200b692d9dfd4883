"""The image files, read by the tests, and the engines that run an image."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGE = "densecell-batch"

# Sections of a definition file, as its manual lists them. A parser may ignore an unknown one without a word.
SECTIONS = (
    "arguments", "setup", "files", "post", "environment", "runscript", "startscript", "test", "labels", "help", "pre",
)  # fmt: skip


def definition(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Header and sections of a definition file; each section once, of a known name, with its arguments filled in.

    Raises
    ------
    ValueError
        If it is not such a file.
    """
    header, sections, name = {}, {}, None
    for line in text.splitlines():
        if match := re.match(r"%(\S*)(.*)", line):
            name = match[1]
            if name not in SECTIONS or match[2].strip():
                raise ValueError(f"unknown section: {line}")
            if name in sections:
                raise ValueError(f"second section: {line}")
            sections[name] = ""
        elif name is not None:
            sections[name] += line + "\n"
        elif line.strip() and not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"neither header nor section: {line}")
            header[key.strip().lower()] = value.strip()
    values = dict(line.strip().split("=", 1) for line in sections.get("arguments", "").splitlines() if line.strip())

    def fill(body: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise ValueError(f"{match[0]} is not among the arguments")
            return values[match[1]]

        return re.sub(r"\{\{\s*(\w+)\s*\}\}", value, body)

    return {k: fill(v) for k, v in header.items()}, {k: fill(v) for k, v in sections.items()}


def find_engine() -> str | None:
    """The engine that has the image."""
    for engine in ("docker", "podman"):
        if shutil.which(engine) and has_image(engine, IMAGE):
            return engine
    return None


def has_image(engine: str, name: str) -> bool:
    """Whether an engine has an image."""
    return subprocess.run([engine, "image", "inspect", name], capture_output=True, check=False).returncode == 0
