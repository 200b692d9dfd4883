"""Python started again, for a part of this package: the working folder is no source of its code.

`python -m` puts the working folder first among the places that modules come from, and empty and relative entries of
PYTHONPATH and CLASSPATH mean it, too. A `json.py` in a folder that somebody handed over would be run.
"""

from __future__ import annotations

import os
import sys

__all__ = ["python_command", "python_environment"]

_SEARCHED = ("PYTHONPATH", "CLASSPATH")  # by Python, and by the Java that runs in it


def python_command(module: str, *words: str) -> list[str]:
    """The command that runs a module with this very Python; to be started with `python_environment`."""
    return [sys.executable, "-P", "-m", module, *words]


def python_environment(**more: str) -> dict[str, str]:
    """The environment of this process, in which only absolute folders are searched for code.

    Parameters
    ----------
    **more
        Variables to set besides.
    """
    environment = {**os.environ, **more}
    for name in _SEARCHED:
        if name in environment:
            entries = [entry for entry in environment.pop(name).split(os.pathsep) if os.path.isabs(entry)]  # noqa: PTH117
            if entries:  # an empty variable is an empty entry to Java
                environment[name] = os.pathsep.join(entries)
    return environment
