"""What the presets `published` and `improved` reach in the same time, three seeds each.

    python benchmarks/presets.py DATA [--minutes 3.5] [--out presets]

DATA is a folder with train-images.tif, train-labels.tif, eval-images.tif and eval-labels.tif. The runs go one after the
other; give them the machine for themselves, since the minutes become steps by measuring. They can be resumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SEEDS = (0, 1, 2)
PRESETS = ("published", "improved")


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", default="3.5")
    parser.add_argument("--classes", default="glia and extracellular,intracellular,mitochondrion,synapse,membrane")
    parser.add_argument("--out", type=Path, default=Path("presets"))
    options = parser.parse_args()
    files = [
        word
        for kind in ("train", "eval")
        for what in ("images", "labels")
        for word in (f"--{'eval-' * (kind == 'eval')}{what}", str(options.data / f"{kind}-{what}.tif"))
    ]
    print(f"{'preset':<12}{'seed':>6}{'steps':>8}{'mean IoU':>10}   IoU of each class")
    reached: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for seed in SEEDS:
        for preset in PRESETS:
            run = options.out / f"cmp-{preset}-{seed}"
            command = [
                sys.executable, "-m", "densecell_batch", "-q", "train", *files, "-o", str(run), "--floor", "0",
                "--classes", options.classes, "--minutes", options.minutes, "--seed", str(seed), "--preset", preset,
                "--net", "2d3d", "--scale", "off",
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            scores = json.loads((run / f"member-{seed}.json").read_text())
            steps = json.loads((run / "run.json").read_text())["recipe"]["steps"]
            reached[preset].append(scores["mean_iou"])
            classes = " ".join(f"{v or 0:.3f}" for v in scores["iou"].values())
            print(f"{preset:<12}{seed:>6}{steps:>8}{scores['mean_iou']:>10.3f}   {classes}", flush=True)
    for preset, found in reached.items():
        print(f"{preset:<12}  mean {statistics.mean(found):.3f}, from {min(found):.3f} to {max(found):.3f}")


if __name__ == "__main__":
    main()
