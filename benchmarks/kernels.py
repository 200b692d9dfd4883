"""TensorFlow's two kinds of kernels for processors: voxels/s of a member of `fly-vnc-2d3d` and of a full-size net.

    python benchmarks/kernels.py [--repeats 3]

Each figure is the median over processes that take turns; what the program sets by itself on x86 is "1".
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

TILE = (5, 296, 296)
ONE = f"""
import time
import numpy as np
from densecell_batch.nets.architecture import Hybrid2D3D
from densecell_batch.nets.build import build_net, compiled
net = build_net(Hybrid2D3D(7, KERNELS, pyramid_kernels=KERNELS), {TILE})
predict = compiled(lambda image: net(image, training=False))
image = np.zeros((1, *{TILE}, 1), np.float32)
np.asarray(predict(image)[0])
start = time.perf_counter()
np.asarray(predict(image)[0])
print({TILE[0] * TILE[1] * TILE[2]} / (time.perf_counter() - start))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'kernels':>8}{'TF_ENABLE_ONEDNN_OPTS=0':>26}{'=1':>12}{'ratio':>8}")
    for kernels in (16, 64):
        rates: dict[str, list[float]] = {"0": [], "1": []}
        for _ in range(options.repeats):
            for value, found in rates.items():
                found.append(rate(kernels, value))
        slow, fast = (statistics.median(found) for found in rates.values())
        print(f"{kernels:>8}{slow:>26,.0f}{fast:>12,.0f}{fast / slow:>8.2f}")


def rate(kernels: int, onednn: str) -> float:
    """Voxels/s of one tile, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", ONE.replace("KERNELS", str(kernels))],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


if __name__ == "__main__":
    main()
