"""What may be imported where (docs/design/0001); the order of the rooms is held by `lint-imports`, in `make check`."""

import ast
import subprocess
import sys
from functools import partial
from pathlib import Path

from timing import children_seconds, least

import densecell_batch

PACKAGE = Path(densecell_batch.__file__).parent


def modules() -> dict[str, list[Path]]:
    """Top-level module or subpackage -> its files."""
    found: dict[str, list[Path]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(file.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(file)
    del found["__init__"]
    return found


def imported(file: Path) -> set[str]:
    """Names of all modules that a file imports, at its top or inside functions; not those for type checkers alone."""
    names = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(child) for block in typing for child in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_tensorflow_and_keras_stay_in_their_modules():
    allowed = {"nets", "inference", "training"}
    for module, files in modules().items():
        for file in files:
            if module not in allowed:
                assert not {n.split(".")[0] for n in imported(file)} & {"tensorflow", "keras"}, file


def test_public_names_are_there():
    for files in modules().values():
        for file in files:
            body = ast.parse(file.read_text(encoding="utf-8")).body
            targets = {ast.unparse(t): n for n in body if isinstance(n, ast.Assign) for t in n.targets}
            targets |= {ast.unparse(n.target): n for n in body if isinstance(n, ast.AnnAssign)}
            defined = {getattr(n, "name", None) for n in body} | set(targets) | imported(file)
            defined |= {name.rpartition(".")[2] for name in imported(file)}
            if "__all__" in targets:
                names = ast.literal_eval(targets["__all__"].value)
                assert set(names) <= defined, file
                assert len(names) == len(set(names)), file


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, densecell_batch.cli as c\n"
        "try: c.cli.main(['--help'], standalone_mode=False)\n"
        "finally: print(sorted({'tensorflow', 'keras', 'jax', 'jpype', 'scyjava', 'numpy'} & set(sys.modules)))"
    )
    help_of = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert least(help_of, children_seconds, times=3) < 1
    done = help_of()
    assert done.stdout.splitlines()[-1] == "[]"
    assert "segment" in done.stdout


def test_modules_and_functions_are_short_enough_to_be_read():
    files = [file for found in modules().values() for file in found]
    assert len(files) > 100
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= 450, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{file}: {node.name}"
