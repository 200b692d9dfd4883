"""An ensemble that does not fit into the memory is not loaded."""

from pathlib import Path

import pytest

from densecell_batch.errors import OptionError
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.options import RunOptions, RunSegmenter


@pytest.mark.parametrize("memory", [1, 2**20, 2 * 4 * 266_786 - 1])
def test_weights_that_the_memory_does_not_hold_are_not_read(
    data: Path, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(data / "fly-vnc-small.zip")
    assert bundle.weight_bytes == 4 * 266_786
    monkeypatch.setattr("densecell_batch.models.bundle._read", None)
    with pytest.raises(OptionError, match=r"fly-vnc-small\.zip: its nets need about 0\.00 GiB; give more --memory"):
        _ = RunSegmenter(bundle, RunOptions(memory=memory, precision="float32", device="cpu")).predictor
