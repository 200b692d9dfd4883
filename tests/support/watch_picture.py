"""Make the picture of docs/watch.md: the status page of a real watcher at work, in Chromium.

python tests/support/watch_picture.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from browser import browse
from PIL import Image
from watched import save

PICTURE = Path(__file__).parents[2] / "docs/pictures/watch-status.png"
PLACE = Path("/tmp/microscope")  # it is to be read in the picture
NAMES = ("monday/larva 1", "monday/larva 2", "monday/larva 3", "tuesday/larva 4", "tuesday/larva 5", "tuesday/larva 6")
WANTED = {"done": 2, "failed": 1, "running": 1, "queued": 2}
SIZE = (1000, 900)


def numbers(page: Path) -> dict[str, int]:
    """How many stacks are in which state, as the page says."""
    text = re.sub(r"<[^>]+>", " ", page.read_text()) if page.exists() else ""
    return {state: int(number) for number, state in re.findall(rf"(\d+)\s+({'|'.join(WANTED)})", text)}


def main() -> None:
    """Drop stacks, watch, and take the picture when each state is there."""
    inbox, out = PLACE / "in", PLACE / "out"
    for i, name in enumerate(NAMES):
        save(inbox / f"{name}.tif", 37 * i, (20, 512, 512))
    (inbox / "monday/notes.tif").write_text("larva 2 again?")
    words = [sys.executable, "-m", "densecell_batch", "watch", inbox, "-o", out, "--model", "fly-vnc-fast"]
    words += ["--quiet", 1, "--interval", 1, "--attempts", 1]
    watcher = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL)
    try:
        while any(numbers(out / "status.html").get(state, 0) < least for state, least in WANTED.items()):
            if watcher.poll() is not None:
                raise SystemExit("the watcher ended before each state was seen")
            time.sleep(0.05)
        shutil.copy(out / "status.html", out / "seen.html")  # beside the previews, but written no more
    finally:
        watcher.terminate()
        watcher.wait()
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch) / "shot.png"
        browse(Path(scratch), out / "seen.html", f"--screenshot={shot}", f"--window-size={SIZE[0]},{SIZE[1]}")
        image = Image.open(shot).convert("RGB")
        image.quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
