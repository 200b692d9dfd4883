"""What was downloaded, by SHA-256: the memory of a cache for files whose authors published no hash.

The file may be written by everybody who may write to the cache, so it is read with care, and it is only as good as the
cache: `--sha256` goes before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from densecell_batch.errors import FetchError
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import read_small
from densecell_batch.storage.strict_json import parse_json

__all__ = ["add_to_record", "read_record"]

_MAX_BYTES = 2**20


def read_record(file: Path, name: str) -> dict[str, str]:
    """SHA-256 by file of what was downloaded for a model or data set; empty where there is no record.

    Raises
    ------
    FetchError
        If the record is no JSON object of hashes.
    """
    return {key.removeprefix(f"{name}/"): value for key, value in _read(file).items() if key.startswith(f"{name}/")}


def add_to_record(file: Path, name: str, sha256: Mapping[str, str]) -> None:
    """Add hashes by file to the record, which is replaced in one step.

    Raises
    ------
    FetchError
        As `read_record` does.
    OutputError
        If it cannot be written.
    """
    recorded = _read(file)
    wanted = recorded | {f"{name}/{downloaded}": value for downloaded, value in sha256.items()}
    if wanted != recorded:
        write_file(file, f"{json.dumps(wanted, indent=2, sort_keys=True)}\n".encode())


def _read(file: Path) -> dict[str, str]:
    """SHA-256 by "NAME/FILE"."""
    try:
        recorded = parse_json(read_small(file, _MAX_BYTES))
        if not isinstance(recorded, dict) or not all(
            isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) for value in recorded.values()
        ):
            raise ValueError("it is no JSON object of hashes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"{file} cannot be read ({reason}); repair it, or delete it to trust the files anew"
        raise FetchError(problem) from error
    return recorded
