"""The page of a batch of stacks, a few of them spoilt: where those stand, how large it is, how soon it opens.

    python benchmarks/summary.py OUT [--stacks 300] [--pictures docs/pictures]

Cuts crops of 8 x 192 x 192 from the stack in the package, mirrored and turned; twenty of them are spoilt in ways of
benchmarks/robustness.py. They are segmented with fly-vnc-fast into OUT/fly-vnc, as a user would; those that are there
are not computed again. Chromium opens the page, if it is installed, and takes the pictures of docs/summary.md.
"""

from __future__ import annotations

import argparse
import csv
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from browser import CHROMIUM, browse
from robustness import ROWS, UNTOUCHED, Row, rim

from densecell_batch import SAMPLE

DEPTH, SIDE = 8, 192
LEFT_OUT = (UNTOUCHED, "inverted, --fit auto", "black rim of 128", "black rim of 256", "white rim of 128")
SPOILT = {name: row for name, row in ROWS.items() if not name.endswith(" as large") and name not in LEFT_OUT}
SPOILT["white rim of 32"] = Row(rim(32, 255))
SIZES = {"summary": (1400, 1250), "summary-narrow": (400, 1600)}
WHEN_LOADED = """<script>addEventListener("load", () => {
document.body.getBoundingClientRect(); document.documentElement.dataset.loaded = performance.now(); });</script>"""


def make_stacks(folder: Path, n: int) -> dict[str, str]:
    """Write the stacks; how each of the spoilt ones is spoilt, by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    sample, rng, spoilt = tifffile.imread(SAMPLE), np.random.default_rng(0), {}
    every = n // len(SPOILT)
    for i in range(n):
        z, y, x = (rng.integers(side - part + 1) for side, part in zip(sample.shape, (DEPTH, SIDE, SIDE), strict=True))
        volume = np.rot90(sample[z : z + DEPTH, y : y + SIDE, x : x + SIDE], rng.integers(4), (1, 2))
        volume = np.ascontiguousarray(volume[:: rng.choice([-1, 1])])
        name, pixel = f"fly-{1 + i // 50}-section-{i % 50:02}", 0.0092
        if i % every == every // 2 and i // every < len(SPOILT):
            spoilt[name], row = list(SPOILT.items())[i // every]
            volume = row.change(volume, np.zeros_like(volume)).volume
            pixel *= 1 if row.pixel is None else row.pixel
        resolution = (1 / pixel, 1 / pixel)
        metadata = {"axes": "ZYX", "spacing": 0.047, "unit": "um"}
        tifffile.imwrite(folder / f"{name}.tif", volume, imagej=True, resolution=resolution, metadata=metadata)
    return spoilt


def densecell(*words: object) -> float:
    """Run a command; seconds of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "densecell_batch", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def opened(page: Path, *arguments: str) -> str:
    """What Chromium prints of a page."""
    with tempfile.TemporaryDirectory() as scratch:
        return browse(Path(scratch), page, *arguments).decode()


def seconds_to_open(page: Path) -> float:
    """From the start of the navigation until all of it is loaded and laid out."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    timed = page.with_name("timed.html")
    timed.write_text(text.replace("</body>", f"{WHEN_LOADED}</body>"))
    found = re.search(r'data-loaded="([0-9.]+)"', opened(timed, "--dump-dom"))
    timed.unlink()
    assert found is not None
    return float(found[1]) / 1000


def take_pictures(page: Path, folder: Path) -> None:
    """At two widths."""
    for name, (width, height) in SIZES.items():
        shot = folder / f"{name}.png"
        opened(page, f"--screenshot={shot}", f"--window-size={width},{height}")
        Image.open(shot).convert("RGB").save(shot, optimize=True)


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stacks", type=int, default=300)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    stacks, out = asked.out / "stacks", asked.out.resolve() / "fly-vnc"
    spoilt = make_stacks(stacks, asked.stacks)
    densecell("segment", *sorted(stacks.glob("*.tif")), "-o", out, "--model", "fly-vnc-fast", "--quiet",
              "--instances", "mitochondrion", "--uncertainty", "--no-summary")  # fmt: skip
    page = out / "summary.html"
    spent = densecell("summary", out, "-o", page)
    with page.with_suffix(".csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    places = {row["stack"]: place for place, row in enumerate(rows, 1)}
    for name, how in sorted(spoilt.items(), key=lambda item: places[item[0]]):
        print(f"{places[name]:4} {how}: {rows[places[name] - 1]['reasons'] or '-'}")
    marked = sum(bool(row["reasons"]) for row in rows if row["stack"] not in spoilt)
    print(
        f"{marked} of the others are marked; {page.stat().st_size / 1e6:.1f} MB, made in {spent:.1f} s of the processor"
    )
    if CHROMIUM:
        print("opened in", ", ".join(f"{seconds_to_open(page):.2f}" for _ in range(3)), "s")
        if asked.pictures is not None:
            take_pictures(page, asked.pictures.resolve())


if __name__ == "__main__":
    main()
