"""Print what the package needs, and what builds it, a requirement a line, for one variant of the image.

    python3 container/requirements.py cpu|gpu [EXTRA...]

`cpu` goes without TensorFlow and Keras, which are for GPUs and to train: OpenVINO computes nets on processors.
"""

import re
import sys
import tomllib
from pathlib import Path

FOR_GPUS = ("tensorflow", "keras")

variant, *extras = sys.argv[1:] or [""]
if variant not in ("cpu", "gpu"):
    sys.exit(f"variant is {variant!r}; expected cpu or gpu")
described = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
project = described["project"]
wanted = [*described["build-system"]["requires"], *project["dependencies"]]
for extra in [*(["gpu"] if variant == "gpu" else []), *extras]:
    wanted += project["optional-dependencies"][extra]
for requirement in wanted:
    if variant == "gpu" or re.split(r"\W", requirement, maxsplit=1)[0] not in FOR_GPUS:
        print(requirement)
