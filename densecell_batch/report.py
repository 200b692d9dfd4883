"""The JSON record of a run on one stack: what went in, what was asked, what came out. It is written last; a stack is
done when its report is there and matches.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from densecell_batch import __version__
from densecell_batch.atomic import write_file

__all__ = ["SCHEMA_VERSION", "is_done", "is_whole", "read_report", "versions", "write_report"]

SCHEMA_VERSION = 1

# What has to be the same for a result to stand.
_IDENTITY = ("schema_version", "input", "model", "options", "pre_macro")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that compute."""
    libraries = ("tensorflow", "tensorflow-cpu", "jax", "keras", "numpy", "scikit-image", "tifffile")
    found = {"densecell-batch": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:  # one backend is enough
            continue
    return found


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report so that it is there whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode())


def read_report(path: Path) -> dict[str, Any] | None:
    """The report at `path`; None where there is none, or none that can be read: the stack is then not done."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def is_done(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether the report at `path` is of the same input, nets and options as `wanted`, and its files are all there."""
    found = read_report(path)
    # Through JSON and back, as the written one went: tuples are lists there.
    wanted = json.loads(json.dumps(wanted))
    if found is None or any(found.get(key) != wanted.get(key) for key in _IDENTITY):
        return False
    return is_whole(path, found)


def is_whole(path: Path, found: dict[str, Any]) -> bool:
    """Whether all files that the report `found` at `path` speaks of are there."""
    outputs = found.get("outputs")
    if not isinstance(outputs, dict):
        return False
    for output in outputs.values():
        try:
            if (path.parent / output["file"]).stat().st_size != output["bytes"]:
                return False
        except (OSError, KeyError, TypeError):
            return False
    return True
