"""The notebooks: stored without outputs, on the public face alone; what executes them tells of failures."""

import json
import re
import subprocess
import sys

import pytest
from images import ROOT

import densecell_batch

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
ASSUMED = {"numpy", "time", "pictures", "matplotlib", "IPython", "collections", "__future__", "densecell_batch"}


def code(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook of some cells, the first one of parameters."""
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[examples]'")

    def write(*sources):
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
        return tmp_path / "a.ipynb"

    return write


def execute(path, *words):
    command = [sys.executable, ROOT / "examples/execute.py", path, "--out", path.parent / "out", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    for cell in found["cells"]:
        assert not cell.get("outputs"), cell["source"]
        assert cell.get("execution_count") is None, cell["source"]
    assert set(found["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "examples/pictures.py"], ids=lambda path: path.stem)
def test_they_use_the_public_face_alone(path):
    text = "\n".join(code(path)) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    assert "import densecell_batch as dc" in text
    assert set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.M)) <= ASSUMED
    assert not re.search(r"densecell_batch\.|from densecell_batch", text)
    assert set(re.findall(r"\bdc\.(\w+)", text)) <= set(densecell_batch.__all__)


def test_the_documentation_names_each_notebook():
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3
    assert set(re.findall(r"[\w-]+\.ipynb", page)) == {path.name for path in NOTEBOOKS}


def test_parameters_are_set_where_the_notebook_has_them(notebook):
    draw = "import matplotlib.pyplot as plt\n_ = plt.plot([A, 0])\nprint('A is', A, 'B is', B)"
    path = notebook("A = 3  # words\nB = A", draw)
    before = path.read_bytes()
    done = execute(path, "--set", "A=70", "--set", "C=1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "A is 70 B is 70" in (path.parent / "out/a.ipynb").read_text()
    assert (path.parent / "out/a-1.png").read_bytes().startswith(b"\x89PNG")
    assert path.read_bytes() == before


def test_a_cell_that_fails_is_told_of(notebook):
    path = notebook("A = 3", "print('before')", "A / 0", "print('after')")
    done = execute(path)
    assert done.returncode == 1
    assert "a.ipynb" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    text = (path.parent / "out/a.ipynb").read_text()
    assert '"before\\n"' in text
    assert '"after\\n"' not in text


def test_what_is_asked_for_wrongly(notebook):
    path = notebook("A = 1", "print(A)")
    before = path.read_bytes()
    for words, problem in (
        ((path, "--set", "A"), "expected NAME=VALUE"),
        ((path, "--out", path.parent), "itself lies there"),
        ((path.with_name("none.ipynb"),), "no such notebook"),
    ):
        done = execute(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert problem in done.stderr
    assert path.read_bytes() == before


def test_a_value_is_set_as_it_is(notebook):
    path = notebook("A = 1  # a number", "print(A)")
    assert execute(path, "--set", r"A=r'\1 \g<0> \n'").returncode == 0
    assert r"\\1 \\g<0> \\n" in (path.parent / "out/a.ipynb").read_text(encoding="utf-8")
