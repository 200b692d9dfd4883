"""How long one waits in ImageJ for the sample: from the start of *DenseCell Segment* until the labels are shown.

    python benchmarks/imagej_waiting.py [--times 5]

Real ImageJ, on a screen that is not there (Xvfb), segments the stack in the package into a new folder, and then once
more, where it is done already. Prints the seconds of each, and the median; the machine should have nothing else to do.
Install a window manager (openbox), as every desktop has one: without, ImageJ waits a second for each window that it
brings to the front.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

import fiji_folder
from fiji_folder import install, make_imagej, run_script
from imagej_app import display

from densecell_batch import SAMPLE

SCRIPT = r"""
open(T + "cells.tif");
for (i = 0; i < %d; i++) for (k = 0; k < 2; k++) {
  selectImage("cells.tif");
  begun = getTime();
  run("DenseCell Segment", "out=[" + T + "out" + i + "/]");
  what = "new"; if (k == 1) what = "done before";
  say(what + "\t" + (getTime() - begun) / 1000);
}
"""


@contextmanager
def desktop() -> Iterator[str]:
    """A virtual screen with a window manager, if there is one."""
    with display() as screen:
        managers = [subprocess.Popen(["openbox"], env={"DISPLAY": screen})] if shutil.which("openbox") else []
        try:
            yield screen
        finally:
            for manager in managers:
                manager.terminate()
                manager.wait(10)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    asked = parser.parse_args()
    fiji_folder.display = desktop
    with tempfile.TemporaryDirectory() as place:
        imagej, folder = make_imagej(Path(place) / "ImageJ"), Path(place) / "stacks"
        folder.mkdir()
        install(imagej)
        shutil.copy(SAMPLE, folder / "cells.tif")
        said = run_script(imagej, SCRIPT % asked.times, folder, timeout=60 * asked.times)
    for what in ("new", "done before"):
        seconds = [float(line.split("\t")[1]) for line in said if line.startswith(what + "\t")]
        print(f"{what}: {', '.join(f'{s:.2f}' for s in seconds)}; median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
