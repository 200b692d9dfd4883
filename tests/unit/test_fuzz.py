"""The fuzz driver finds what is wrong, and a few hundred inputs of each target show nothing; more: `make fuzz`."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from densecell_batch.errors import BundleError
from tests.fuzz import driver
from tests.fuzz.driver import TARGETS, Target, mutated, run_once, target


def _fail(path: Path) -> None:
    raise KeyError(path.name)


def _forge(path: Path) -> None:
    raise BundleError("a\nDENSECELL\tok")


@pytest.mark.parametrize(("read", "problem"), [(_fail, "KeyError"), (_forge, "control characters"), (len, "TypeError")])
def test_what_is_wrong_is_said(tmp_path: Path, read: object, problem: str) -> None:
    assert problem in run_once(Target(list, read), tmp_path)  # type: ignore[arg-type]


def test_errors_of_the_tools_own_are_right(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise BundleError(f"{path}: no")

    assert run_once(Target(list, refuse), tmp_path) == ""


def test_mutations_change_and_repeat() -> None:
    content = bytes(range(256))
    changed = [mutated(random.Random(i), content) for i in range(50)]
    assert sum(c != content for c in changed) > 40
    assert changed == [mutated(random.Random(i), content) for i in range(50)]
    assert mutated(random.Random(0), b"") == b""


@pytest.mark.parametrize("name", TARGETS)
def test_targets(tmp_path: Path, name: str) -> None:
    found, rng = target(name), random.Random(0)
    seeds = found.seeds()
    path = tmp_path / f"input{found.suffix}"
    path.write_bytes(seeds[0])
    found.read(path)
    for i in range(60):
        path.write_bytes(found.mutate(rng, rng.choice(seeds)))
        assert run_once(found, path) == "", f"input {i}"


def test_an_input_that_ends_the_process_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a crash of a library does: here in the process that the driver starts."""
    (tmp_path / "crashing").mkdir()
    (tmp_path / "crashing" / "__init__.py").touch()
    for module in ("driver", "__main__"):
        source = Path(driver.__file__).with_name(f"{module}.py").read_text()
        source = source.replace('TARGETS = ("bundle", "published", "tiff", "report", "ledger")', 'TARGETS = ("crash",)')
        (tmp_path / "crashing" / f"{module}.py").write_text(source)
    (tmp_path / "crashing" / "crash.py").write_text(
        "import os\n"
        "from .driver import Target\n"
        "def read(path):\n"
        "    if path.read_bytes() != b'good': os.abort()\n"
        "TARGET = Target(lambda: [b'good'], read)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    from crashing import driver as crashing  # type: ignore[import-not-found]

    [kept] = crashing.fuzz("crash", 2, 0, tmp_path / "found")
    assert kept.read_bytes() != b"good"
    assert f"ended with -{int(signal.SIGABRT)}" in kept.with_suffix(".txt").read_text()
