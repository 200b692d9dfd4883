"""Fixtures that several tests share."""

from pathlib import Path

import numpy as np
import pytest
import tifffile


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the test data; terms beside the files."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def published_input(data) -> np.ndarray:
    """The reference input (9, 130, 110) float32, normalized as published."""
    volume = tifffile.imread(data / "genenet/input.tif").astype(np.float64)
    return ((volume - volume.mean()) / volume.std()).astype(np.float32)
