"""What several benchmarks need: a measurement in a process of its own, and the package's sample in any size."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np


def measured_in_child(script: str, *words: object) -> dict[str, float]:
    """Run a script with these words in a fresh process, so that its peak of memory is its own; the JSON of its last
    line.
    """
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def of_shape(volume: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The first voxels of a volume (z, y, x), or the volume mirrored where it is smaller."""
    pads = [(0, max(0, side - have)) for side, have in zip(shape, volume.shape, strict=True)]
    z, y, x = shape
    return np.pad(volume, pads, "symmetric")[:z, :y, :x]
