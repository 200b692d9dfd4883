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
from densecell_batch.opening import read_json

__all__ = [
    "SCHEMA_VERSION",
    "has_labels",
    "is_same_work",
    "read_report",
    "same_value",
    "versions",
    "write_report",
]

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


def write_report(path: Path, report: dict[str, Any], *, mtime_ns: int | None = None) -> None:
    """Write a report so that it is there whole or not at all.

    Parameters
    ----------
    path, report
        Its name and its values.
    mtime_ns
        Time of change to give it: that of the report that it adds to, since its time says when the outputs were made.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode(), mtime_ns=mtime_ns)


def read_report(path: Path) -> dict[str, Any] | None:
    """The report at `path`; None where there is none, or none that can be read: the stack is then not done."""
    try:
        report = read_json(path)
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def is_same_work(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether a report is of the same input, nets and options as `wanted`."""
    if found is None:
        return False
    # Through JSON and back, as the written one went: tuples are lists there.
    wanted = json.loads(json.dumps(wanted))
    return all(same_value(key, found.get(key), wanted.get(key)) for key in _IDENTITY)


def same_value(key: str, found: Any, wanted: Any) -> bool:
    """Whether two values of an entry of a report mean the same result: a preview is drawn of it, and shapes nothing."""
    if key == "options" and isinstance(found, dict) and isinstance(wanted, dict):
        return {**found, "preview": None} == {**wanted, "preview": None}
    return bool(found == wanted)


def has_labels(path: Path, found: dict[str, Any] | None) -> bool:
    """Whether the outputs that the report `found` at `path` speaks of are all there, labels among them; a preview can
    be drawn again. Whether somebody changed them is another question: see `ownership.compare`.
    """
    outputs = (found or {}).get("outputs")
    if not isinstance(outputs, dict) or "labels" not in outputs:
        return False
    try:
        files = [path.with_name(output["file"]) for kind, output in outputs.items() if kind != "preview"]
        return all(file.is_file() for file in files)
    except (OSError, KeyError, TypeError, ValueError):
        return False
