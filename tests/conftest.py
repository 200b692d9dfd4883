"""Fixtures that several tests share, and how long a run may take."""

import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from densecell_batch.nets.backend import choose_kernels

choose_kernels()  # before any test imports TensorFlow


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--within", type=float, metavar="MINUTES", help="begin no test after so long: those are skipped, and counted"
    )


_BEGUN = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """An old processor takes three times as long as a new one; continuous integration has to end all the same."""
    minutes = item.config.getoption("--within")
    if minutes is not None and time.monotonic() - _BEGUN > 60 * minutes:
        pytest.skip(f"not begun: {minutes:g} minutes were over")
