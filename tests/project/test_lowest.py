"""The lower bounds of pyproject.toml are those that `make test-lowest` tries."""

import re
import tomllib

from images import ROOT


def test_each_lower_bound_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["export"]]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", text).groups() for text in needed)
    lines = (ROOT / "tests/lowest-versions.txt").read_text(encoding="utf-8").split()
    tried = dict(line.split("==") for line in lines)
    assert len(bounds) > 10
    for name, bound in bounds.items():
        assert tried[name].removesuffix(".0").startswith(bound.removesuffix(".0")), name
