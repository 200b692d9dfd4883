"""The user's macros in a watched folder, in real ImageJ."""

import json

import forked
import pytest
import tifffile
from imagej_app import MISSING_PYTHON
from watched import rows, save
from watched import words as words_of

pytestmark = [
    pytest.mark.fiji,
    pytest.mark.skipif(bool(MISSING_PYTHON), reason=f"not installed: {', '.join(MISSING_PYTHON)}"),
]

COUNT = 'setResult("slices", 0, nSlices); updateResults();'


@pytest.fixture
def watch(tmp_path):
    """Drain the folder with these macros; exit code, and verdicts."""

    def run(*words: object, pre: str | None = None, post: str | None = None) -> tuple[int, list[list[str]]]:
        for name, text in (("pre", pre), ("post", post)):
            if text is not None:
                (tmp_path / f"{name}.ijm").write_text(f'File.append("{name}", "{tmp_path}/ran");\n{text}')
                words += (f"--{name}-macro", tmp_path / f"{name}.ijm")
        line = words_of(tmp_path / "in", tmp_path / "out", "--once", "--quiet", "0.2", "--no-preview", *words)
        done = forked.run(*line)
        print(done.stderr)
        return done.returncode, [verdict.split("\t") for verdict in done.stdout.splitlines()]

    return run


def names(folder):
    ours = {".densecell-tables.json", "status.html", "summary.csv", "summary.html"}  # of all stacks
    return {path.name for path in folder.iterdir() if path.is_file()} - ours


def ran(folder):
    """Which macros ran since the last time."""
    file = folder / "ran"
    found = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return found


def test_macros_before_and_after(watch, tmp_path):
    """Each once for each stack; another macro after it runs on the labels that are there."""
    out = tmp_path / "out"
    for i in range(2):
        save(tmp_path / "in" / f"{i} é.tif", i)
    code, verdicts = watch(pre='run("Invert", "stack");', post=COUNT)
    assert (code, [v[1] for v in verdicts]) == (0, ["ok", "ok"])
    assert ran(tmp_path) == ["pre", "post"] * 2
    assert names(out) == {f"{i} é_{n}" for i in range(2) for n in ("labels.tif", "report.json", "macro_results.csv")}
    assert (out / "1 é_macro_results.csv").read_text() == "slices\n3\n"
    labels = (out / "1 é_labels.tif").read_bytes()

    assert watch(pre='run("Invert", "stack");', post=COUNT) == (0, [])
    assert ran(tmp_path) == []

    code, verdicts = watch(pre='run("Invert", "stack");', post=COUNT.replace("slices", "n"))
    assert (code, [v[1] for v in verdicts]) == (0, ["ok", "ok"])
    assert ran(tmp_path) == ["post", "post"]
    assert (out / "1 é_macro_results.csv").read_text() == "n\n3\n"
    assert (out / "1 é_labels.tif").read_bytes() == labels


def test_another_macro_before_makes_other_results(watch, tmp_path):
    out = tmp_path / "out"
    save(tmp_path / "in/a.tif")
    assert watch(post=COUNT)[0] == 0
    first = (out / "a_labels.tif").read_bytes()
    assert watch(pre='run("Invert", "stack");', post=COUNT)[0] == 2  # not without being told to
    code, verdicts = watch("--redo", pre='run("Invert", "stack");', post=COUNT)
    assert (code, [v[1] for v in verdicts]) == (0, ["ok"])
    assert (out / "a_labels.tif").read_bytes() != first
    (earlier,) = out.glob("a.old-*_report.json")
    content = json.loads(earlier.read_text())
    assert (out / content["outputs"]["labels"]["file"]).read_bytes() == first
    (table,) = content["post_macro"]["tables"]
    assert table["file"].startswith("a.old-")
    assert (out / table["file"]).read_text() == (out / "a_macro_results.csv").read_text() == "slices\n3\n"


def test_a_macro_that_fails(watch, tmp_path):
    """The labels stay, the error text quotes the macro, and once it is mended only it runs."""
    out = tmp_path / "out"
    save(tmp_path / "in/a.tif")
    code, verdicts = watch("--attempts", 2, "--backoff", "0.1", post='exit("no cells in here");')
    assert (code, [v[1] for v in verdicts]) == (1, ["failed"])
    assert ran(tmp_path) == ["post", "post"]
    assert "no cells in here" in (out / "a.error.txt").read_text()
    assert tifffile.imread(out / "a_labels.tif").shape == (3, 40, 44)
    made = (out / "a_labels.tif").stat().st_mtime_ns

    code, verdicts = watch("--retry", post=COUNT)
    assert (code, [v[1] for v in verdicts]) == (0, ["ok"])
    assert ran(tmp_path) == ["post"]
    assert names(out) == {"a_labels.tif", "a_report.json", "a_macro_results.csv"}
    assert (out / "a_labels.tif").stat().st_mtime_ns == made
    assert [row["state"] for row in rows(out).values()] == ["done"]
