"""What pyproject.toml cannot say; pip and `build` run this by themselves.

All is built in a temporary folder: from `build/` in the clone, a module that was deleted comes back in the next wheel.
On a package index the README's links and pictures lead to the repository, if pyproject.toml names its address; if it
does not, links are plain text, and there are no pictures: there the files are not beside it.
"""

import re
import tempfile
import tomllib
import warnings
from pathlib import Path

from setuptools import setup

# Every editable installation says so at length; `make demo` is the first thing that a new user sees.
warnings.filterwarnings("ignore", message="(?s)Editable installation")

here = Path(__file__).parent
repository = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"].get("Repository")
link = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1"
picture = rf"![\1]({repository}/raw/main/\2)" if repository else ""
readme = (here / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"!\[([^]]+)\]\((?!https:)([^)]+)\)", picture, readme)
readme = re.sub(r"\[([^]]+)\]\((?!https:)([^)]+)\)", link, readme)
with tempfile.TemporaryDirectory() as folder:
    setup(
        long_description=readme,
        long_description_content_type="text/markdown",
        options={"build": {"build_base": folder}, "egg_info": {"egg_base": folder}},
    )
