"""Fixtures that several tests share, and how long a run may take."""

import logging
import os
import time
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import tifffile

from densecell_batch.nets.backend import choose_kernels

_OF_KERAS = (
    "nets/test_nets", "training/test_distil", "training/test_labelled_volumes", "training/test_labels",
    "training/test_members", "training/test_plans", "training/test_run_folders", "training/test_steps",
    "training/test_training_published",
)  # fmt: skip

if "PYTEST_XDIST_WORKER" in os.environ:  # as many tests at once as there are processors: a thread each, with children
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

choose_kernels()  # before any test imports TensorFlow

# Where Keras is not installed, what is not marked as its has to pass: `make test-processor`.
HAS_KERAS = find_spec("keras") is not None and find_spec("tensorflow") is not None
collect_ignore = [] if HAS_KERAS else [f"unit/{name}.py" for name in _OF_KERAS]

# Property tests: no limits of time, for machines are slow and shared; the same examples in each run of continuous
# integration, where a failure is to come from the change that is tested, and others elsewhere.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize="CI" in os.environ, database=None, max_examples=400, print_blob=True
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def logger() -> Generator[None]:
    """The logger is as before when a test is over: commands that run in this process, or are only read, set it."""
    ours = logging.getLogger("densecell_batch")
    handlers, level, propagate = ours.handlers, ours.level, ours.propagate
    yield
    ours.handlers, ours.propagate = handlers, propagate
    ours.setLevel(level)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the test data; terms beside the files."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def imagej(tmp_path_factory) -> Path:
    """A folder of ImageJ with our macros in its menu."""
    from fiji_folder import install, make_imagej

    folder = make_imagej(tmp_path_factory.mktemp("ij"))
    done = install(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def published_input(data) -> np.ndarray:
    """The reference input (9, 130, 110) float32, normalized as published."""
    volume = tifffile.imread(data / "genenet/input.tif").astype(np.float64)
    return ((volume - volume.mean()) / volume.std()).astype(np.float32)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not HAS_KERAS and item.get_closest_marker("keras"):
            item.add_marker(pytest.mark.skip(reason="not installed: keras, tensorflow"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--within", type=float, metavar="MINUTES", help="begin no test after so long: those are skipped, and counted"
    )


_BEGUN = time.monotonic()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Each process of pytest-xdist, also one that takes the place of another, counts from the beginning of them all."""
    node.workerinput["begun"] = _BEGUN


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Names of files that are no text may stand in what a test logged; pytest-xdist ends all of the run at one."""
    return _as_text((yield))


def _as_text(found: Any) -> Any:
    """The same of text that can be encoded."""
    match found:
        case str():
            return found.encode(errors="backslashreplace").decode()
        case dict():
            return {_as_text(key): _as_text(value) for key, value in found.items()}
        case list() | tuple():
            return type(found)(map(_as_text, found))
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    """An old processor takes three times as long as a new one; continuous integration has to end all the same."""
    minutes = item.config.getoption("--within")
    begun = getattr(item.config, "workerinput", {}).get("begun", _BEGUN)
    if minutes is not None and time.monotonic() - begun > 60 * minutes:
        pytest.skip(f"not begun: {minutes:g} minutes were over")
