"""Make the pictures of the dialog of Segment, its progress and its preview in docs/fiji.md, as `fiji_pictures` does.

python tests/support/fiji_segment_pictures.py
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from fiji_folder import TOOL, cut_out, install, make_imagej, run_script

from densecell_batch.data import SAMPLE

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"

SCRIPT = r"""
run("DenseCell Segment", "stack=[" + T + "large.tif] instances=[] show=no"); // the tool itself says when to shoot
open(T + "cells.tif"); setSlice(5); setLocation(10, 100);
setVoxelSize(4.6, 4.6, 47, "nm");
makeRectangle(60, 60, 150, 120);
run("DenseCell Segment");
selectImage("Preview of cells"); setLocation(300, 100);
shoot("preview");
"""

CLICKS = (("DenseCell Segment", "right", (42, -106), (270, -106)),)  # the boxes of the preview

# The real tool, which has a picture taken once it says that some of a large stack is done.
TOOL_THAT_SHOOTS = r"""#!/bin/sh
case "$*" in *large.tif*) (until grep -q 'segmenting: [2-9]' /proc/$$/fd/2; do sleep 0.2; done
sleep 0.5; echo progress >{folder}/shoot.txt) & ;; esac
"{tool}" "$@"
"""


def main() -> None:
    """Run the script and cut out of the screen what is wanted."""
    with tempfile.TemporaryDirectory() as place:
        imagej, folder = make_imagej(Path(place) / "ImageJ"), Path("/tmp/em-stacks")  # it is to be read in a picture
        folder.mkdir()
        tool = Path(place) / "tool"
        tool.write_text(TOOL_THAT_SHOOTS.format(folder=folder, tool=TOOL))
        tool.chmod(0o755)
        install(imagej, "--command", tool)
        shutil.copy(SAMPLE, folder / "cells.tif")
        large = np.tile(tifffile.imread(SAMPLE), (3, 3, 3))
        tifffile.imwrite(
            folder / "large.tif", large, imagej=True, resolution=(1 / 0.0092,) * 2,
            metadata={"axes": "ZYX", "spacing": 0.047, "unit": "um"},
        )  # fmt: skip
        run_script(imagej, SCRIPT, folder, clicks=CLICKS, timeout=300)
        for name, made, region in (
            ("fiji-dialog", "DenseCell Segment", None),
            ("fiji-progress", "progress", "612x76+622+0"),
            ("fiji-preview", "preview", "462x300+0+96"),
        ):
            cut_out(folder / f"{made}.png", region, PICTURES / f"{name}.png")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
