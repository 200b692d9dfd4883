"""What a net learns of scribbles, against what it learns of full labels, in as many steps.

    python benchmarks/sparse_labels.py DATA OUT [--share 0.1] [--steps 1200] [--seed 0] [--kernels N]

DATA is a folder with train-images.tif, train-labels.tif, eval-images.tif and eval-labels.tif. OUT gets the scribbles
and a run of each kind. Scribbles are strokes such as a hand draws: each begins at a random voxel, so that no class is
favoured, and wanders on within the object there, along it where it is thin, some voxels wide. Prints a line for each,
and the ratio.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile

import densecell_batch

UNLABELLED = 255
_WIDTH, _LENGTH, _TURN = 3, 40, 0.4  # voxels across a stroke; steps along it; radians by which it turns at each
_AROUND = [sign * turn for turn in np.linspace(0, 0.8 * np.pi, 9) for sign in (1, -1)]  # where else it may go on


def scribbles(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels (z, y, x) uint8 of which `share` of each slice is kept, in strokes; the others are `UNLABELLED`."""
    rng = np.random.default_rng(seed)
    found = np.full_like(labels, UNLABELLED)
    half = _WIDTH // 2
    for plane, drawn in zip(labels, found, strict=True):
        while np.mean(drawn != UNLABELLED) < share:
            y, x = rng.uniform(0, plane.shape[0] - 1), rng.uniform(0, plane.shape[1] - 1)
            c = plane[round(y), round(x)]
            angle = rng.uniform(0, 2 * np.pi)
            for _ in range(_LENGTH):
                row, column = round(y), round(x)
                near = (slice(max(0, row - half), row + half + 1), slice(max(0, column - half), column + half + 1))
                drawn[near][plane[near] == c] = c  # people stay within the lines
                angle += rng.normal(0, _TURN)
                for turn in _AROUND:  # and follow what is thin
                    next_y, next_x = y + np.sin(angle + turn), x + np.cos(angle + turn)
                    inside = 0 <= round(next_y) < plane.shape[0] and 0 <= round(next_x) < plane.shape[1]
                    if inside and plane[round(next_y), round(next_x)] == c:
                        y, x, angle = next_y, next_x, angle + turn
                        break
                else:
                    break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernels", type=int)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    full = asked.data / "train-labels.tif"
    sparse = asked.out / "scribbles.tif"
    labels = tifffile.imread(full)
    drawn = scribbles(labels, asked.share, asked.seed)
    tifffile.imwrite(sparse, drawn, imagej=True, metadata={"axes": "ZYX"})
    counted = drawn != UNLABELLED
    print(f"{counted.mean():.1%} of the voxels labelled; of each class: "
          + ", ".join(f"{c} {counted[labels == c].mean():.1%}" for c in np.unique(labels)))  # fmt: skip
    classes = [f"class {i}" for i in range(int(labels.max()) + 1)]
    reached = {}
    for name, path in (("full", full), ("scribbles", sparse)):
        bundle = densecell_batch.train(
            [asked.data / "train-images.tif"], [path],
            (asked.data / "eval-images.tif", asked.data / "eval-labels.tif"), asked.out / name, classes,
            steps=asked.steps, kernels=asked.kernels, seed=asked.seed, scale="off", floor=0.0,
            ignore_label=UNLABELLED,
        )  # fmt: skip
        reached[name] = bundle.scores["evaluation"]["mean_iou"]
        print(f"{name}: mean IoU {reached[name]:.4f}", flush=True)
    print(f"ratio {reached['scribbles'] / reached['full']:.3f}")


if __name__ == "__main__":
    main()
