"""The JSON record of a run on one stack: what went in, what was asked, what came out. It is written last; a stack is
done when its report is there and matches.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from densecell_batch._version import __version__
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import read_json

__all__ = [
    "SCHEMA_VERSION",
    "has_labels",
    "is_same_work",
    "read_report",
    "versions",
    "work_of",
    "write_report",
]

SCHEMA_VERSION = 1

# Of the input and the options, what says where a stack was, or where it was computed, and shapes nothing. A preview is
# drawn of labels that are there.
_INPUT = ("sha256", "shape", "dtype", "voxel_size_um")
_NOT_OF_THE_WORK = ("device", "preview")


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


def work_of(values: Any) -> dict[str, Any]:
    """What decides a result, of a report or of what is to be one: the same under any path, at any time, on any device.

    Returns
    -------
    dict
        JSON values: content, shape, dtype and voxel size of the stack; model; options that shape the result; the first
        macro. What is not there is None.
    """
    # Through JSON and back, as the written one went: tuples are lists there.
    values = json.loads(json.dumps(values)) if isinstance(values, dict) else {}
    stack, options = values.get("input"), values.get("options")
    if isinstance(stack, dict):
        stack = {key: stack.get(key) for key in _INPUT}
    if isinstance(options, dict):
        options = {key: value for key, value in options.items() if key not in _NOT_OF_THE_WORK}
    return {"input": stack, "model": values.get("model"), "options": options, "pre_macro": values.get("pre_macro")}


def is_same_work(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether a report is of the same content, model and options as `wanted`."""
    if found is None or found.get("schema_version") != wanted.get("schema_version"):
        return False
    return work_of(found) == work_of(wanted)


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
