"""What several tests of macros work on."""

import pytest
import tifffile


@pytest.fixture(scope="module")
def model(data):
    return data / "fly-vnc-small.zip"


@pytest.fixture(scope="module")
def volume(data):
    return tifffile.imread(data / "vnc-crop.tif")
