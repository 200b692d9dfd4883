"""Print the pins of an image's packages, from pip's reports of what it would install.

    python3 container/pins.py versions REPORT.json|CONSTRAINTS.txt
    python3 container/pins.py pins PLAIN.json WITH-IMAGEJ.json [OTHER-PROCESSOR.json]

`versions` prints name==version, a line a package. `pins` adds the SHA-256 of the file for each kind of processor,
in the form of `pip install --require-hashes`; what only ImageJ needs comes last, below a line that says so.
"""

import json
import re
import sys
from pathlib import Path

IMAGEJ = "# For ImageJ alone (FIJI=1)"


def files(report: str) -> dict[str, tuple[str, str]]:
    """Name -> version and SHA-256 of the packages of a report."""
    found = {}
    for package in json.loads(Path(report).read_text(encoding="utf-8"))["install"]:
        name = re.sub("[-_.]+", "-", package["metadata"]["name"]).lower()
        found[name] = package["metadata"]["version"], package["download_info"]["archive_info"]["hashes"]["sha256"]
    return found


def versions(path: str) -> list[str]:
    """Lines name==version."""
    if path.endswith(".json"):
        return [f"{name}=={version}" for name, (version, _) in sorted(files(path).items())]
    return re.findall(r"^[\w.-]+==[^\s;\\]+", Path(path).read_text(encoding="utf-8"), re.M)


def pins(plain: str, imagej: str, other: str | None = None) -> list[str]:
    """The lines of a file of constraints."""
    first, here = files(plain), files(imagej)
    there = here if other is None else files(other)
    lines: dict[bool, list[str]] = {True: [], False: []}
    for name, (version, _) in sorted(here.items()):
        hashes = sorted({found[name][1] for found in (here, there)})
        lines[name in first].append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{h}" for h in hashes)]))
    return [*lines[True], IMAGEJ, *lines[False]]


if __name__ == "__main__":
    print(*{"versions": versions, "pins": pins}[sys.argv[1]](*sys.argv[2:]), sep="\n")
