"""The macros, which know no Python, and the program have the same defaults."""

import re

from images import ROOT

from densecell_batch.models.registry import DEFAULT_MODEL


def test_the_default_model_of_the_macros():
    said = "".join(path.read_text() for path in (ROOT / "macros").glob("*.ijm"))
    assert set(re.findall(r'\("model", "([^"]+)"\)', said)) == {DEFAULT_MODEL}
