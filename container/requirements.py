"""Print what the package needs, a requirement a line, as pyproject.toml says it for one variant of the image.

    python3 container/requirements.py cpu|gpu [EXTRA...]

`cpu` takes TensorFlow without the code for GPUs where there is such a wheel: 600 MB less. It is the same package to
Python, under another name to pip.
"""

import platform
import re
import sys
import tomllib
from pathlib import Path

variant, *extras = sys.argv[1:]
if variant not in ("cpu", "gpu"):
    sys.exit(f"variant is {variant!r}; expected cpu or gpu")
project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = list(project["dependencies"])
for extra in [*(["gpu"] if variant == "gpu" else []), *extras]:
    wanted += project["optional-dependencies"][extra]
slim = variant == "cpu" and platform.machine() == "x86_64"
for requirement in wanted:
    print(re.sub(r"^tensorflow(?=[<>=~! ])", "tensorflow-cpu", requirement) if slim else requirement)
