"""What a new user gets: ten labelled slices of 512 x 512, the commands of the README with their defaults, half an hour.

    python benchmarks/first_model.py FOLDER... --out OUT [--minutes 30]

Each FOLDER is a tissue: train-images.tif, train-labels.tif, eval-images.tif and eval-labels.tif, and classes.txt with a
name in each line, if its classes have names. Of the training slices the first ten are taken, their first 512 rows and
columns. `train` holds some of them back to judge itself by; the evaluation slices are in no training, and are scored as
they are. Prints a line for each tissue, and writes OUT/TISSUE/picture.png: the middle one of the evaluation slices, its
true labels, and what the net makes of it. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from densecell_batch.io.reading import open_labels, open_stack
from densecell_batch.models.bundle import load_bundle
from densecell_batch.plots.overlay import side_by_side

SLICES, SIDE = 10, 512


def densecell(*words: object) -> None:
    """Run a command; what it says goes to the terminal."""
    subprocess.run([sys.executable, "-m", "densecell_batch", *map(str, words)], check=True, stdout=sys.stderr)


def cropped(path: Path, out: Path) -> Path:
    """A file of some slices, with the voxel size of the whole."""
    with open_stack(path) as stack:
        size = stack.info.voxel_size
        planes = np.stack([stack.read(z)[:SIDE, :SIDE] for z in range(SLICES)])
    calibration = {} if size is None else {"resolution": (1 / size.x, 1 / size.y)}
    metadata = {"axes": "ZYX"} | ({} if size is None else {"spacing": size.z, "unit": "um"})
    tifffile.imwrite(out, planes, imagej=True, metadata=metadata, **calibration)
    return out


def first_model(tissue: Path, out: Path, minutes: float) -> str:
    """Train and score as a user would; a line of the table."""
    out.mkdir(parents=True, exist_ok=True)
    images, labels = (cropped(tissue / f"train-{kind}.tif", out / f"{kind}.tif") for kind in ("images", "labels"))
    named = tissue / "classes.txt"
    names = (
        named.read_text().splitlines() if named.exists() else [f"class {i}" for i in range(np.max(read(labels)) + 1)]
    )
    densecell("train", "--images", images, "--labels", labels, "--classes", ",".join(names),
              "--minutes", minutes, "-o", out / "run")  # fmt: skip
    model = out / "run/mine.zip"
    densecell("segment", tissue / "eval-images.tif", "-o", out / "segmented", "--model", model, "--overwrite")
    truth, found = tissue / "eval-labels.tif", out / "segmented/eval-images_labels.tif"
    densecell("evaluate", found, "--labels", truth, "--json", out / "scores.json")
    draw(tissue / "eval-images.tif", truth, found, model, out / "picture.png")
    (scores,) = json.loads((out / "scores.json").read_text()).values()
    bundle, rows = load_bundle(model), (out / "run/log.jsonl").read_text().splitlines()
    own, steps = bundle.scores["evaluation"]["mean_iou"], json.loads(rows[-1])["step"]
    known = dict(enumerate(names))  # a class that the ten slices lack is not learned, and may be in the others
    classes = ", ".join(f"{known.get(i, f'class {i}')} {value:.3f}" for i, value in enumerate(scores["iou"]))
    return (
        f"| {tissue.name} | {steps:,} | {bundle.known.scale[1]:g} | {own:.3f} | {scores['mean_iou']:.3f} | {classes} |"
    )


def read(path: Path) -> np.ndarray:
    """Labels, whole (z, y, x)."""
    with open_labels(path) as stack:
        return np.stack([stack.read(z) for z in range(stack.info.shape[0])])


def draw(images: Path, truth: Path, found: Path, model: Path, out: Path) -> None:
    """Image, truth over it, and result over it, side by side."""
    z = len(read(truth)) // 2
    with open_stack(images) as stack:
        image = stack.read(z)
    classes = [(c.name, c.colour) for c in load_bundle(model).classes]
    rows = [side_by_side([image], [read(path)[z]], classes)[0] for path in (truth, found)]
    shown = [np.asarray(picture) for picture in (*rows[0], rows[1][1])]
    Image.fromarray(np.concatenate(shown, axis=1)).save(out)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    asked = parser.parse_args()
    print("| tissue | steps | scale | mean IoU of its own slices | mean IoU | classes |\n|---|---|---|---|---|---|")
    for tissue in asked.folders:
        print(first_model(tissue.resolve(), asked.out.resolve() / tissue.resolve().name, asked.minutes), flush=True)


if __name__ == "__main__":
    main()
