"""The example of docs/first-macro.md, taken from the page, run in real ImageJ, without a click."""

import csv
import re
from pathlib import Path

import pytest
from fiji_folder import run_script
from imagej_app import MISSING
from macro_input import save

PAGE = Path(__file__).parents[2] / "docs" / "first-macro.md"

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]


@pytest.mark.parametrize("batch_mode", [False, True])
def test_the_first_macro(imagej, volume, tmp_path, batch_mode):
    """As it stands there, with folders of one's own; with windows, and in batch mode."""
    (example,) = re.findall(r"```ijm\n(stacks = .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    stacks, out = tmp_path / "my stacks", tmp_path / "out"
    stacks.mkdir()
    for name in ("a", "b"):
        save(stacks / f"{name}.tif", volume)
    for written, folder in (("/data/stacks", stacks), ("/data/out", out)):
        assert example.count(f'"{written}"') == 1
        example = example.replace(f'"{written}"', f'"{folder}"')
    script = f"setBatchMode({str(batch_mode).lower()});\n{example}\nsay(getInfo('log'));"
    (log,) = run_script(imagej, script, tmp_path / "talk", timeout=150)
    lines = log.split("|")
    assert "ok\t2" in lines
    with (out / "densecell_batch.csv").open() as stream:
        assert [row["Result"] for row in csv.DictReader(stream)] == ["ok", "ok"]
    for name in ("a", "b"):
        table = out / "objects" / f"{name}_objects.csv"
        with table.open() as stream:
            count = len([*csv.DictReader(stream)])
        assert count > 0
        assert f"{name}_labels.tif: {count} objects in {table}" in lines
    assert (out / "objects" / "objects.csv").exists()
