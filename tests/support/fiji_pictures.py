"""Make the pictures of docs/fiji.md: real ImageJ, the sample stack, the real command. Needs xdotool and ImageMagick.

python tests/support/fiji_pictures.py
"""

import shutil
import tempfile
from pathlib import Path

from fiji_folder import cut_out, install, make_imagej, run_script

from densecell_batch.data import SAMPLE

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"

SCRIPT = r"""
open(T + "cells.tif");
setLocation(10, 100);
run("DenseCell Segment");
selectImage("cells.tif"); setSlice(5);
selectImage("cells_labels.tif"); setSlice(5);
shoot("overlay");
selectImage("cells.tif");
run("DenseCell View", "style=outlines classes=mitochondrion");
setSlice(5);
shoot("view");
selectImage("Legend of cells_labels.tif"); close();
selectImage("cells_labels.tif"); close();
run("DenseCell Measure", "labels=[" + T + "densecell/cells_labels.tif]");
Table.setLocationAndSize(300, 100, 620, 170);
selectImage("cells.tif");
run("Remove Overlay");
run("DenseCell Labels To ROIs"); // what Segment made is in the dialog
selectWindow("ROI Manager"); setLocation(300, 280);
selectImage("cells.tif"); setSlice(5);
shoot("measured");
roiManager("reset");
run("Close All");
open(T + "cells.tif");
setLocation(10, 100);
run("DenseCell Objects", "labels=[" + T + "densecell/cells_labels.tif] classes=mitochondrion image=cells.tif");
Table.setLocationAndSize(300, 100, 640, 200, "cells_objects.csv");
selectWindow("ROI Manager"); setLocation(300, 310);
wait(1000);
Table.setSelection(2, 2, "cells_objects.csv"); // as a click on the row does
wait(1000);
shoot("objects");
"""

CLICKS = (("DenseCell Segment", "right"), ("DenseCell Labels To ROIs", "right"))


def main() -> None:
    """Run the script and cut out of the screen what is wanted."""
    with tempfile.TemporaryDirectory() as place:
        imagej, folder = make_imagej(Path(place) / "ImageJ"), Path("/tmp/em-data")  # it is to be read in a picture
        install(imagej)
        folder.mkdir()
        shutil.copy(SAMPLE, folder / "cells.tif")
        run_script(imagej, SCRIPT, folder, clicks=CLICKS, timeout=180)
        for name, made, region in (
            ("fiji-overlay", "overlay", "792x300+0+96"),
            ("fiji-view", "view", "792x300+0+96"),
            ("fiji-measured", "measured", "930x440+0+96"),
            ("fiji-objects", "objects", "950x470+0+96"),
        ):
            cut_out(folder / f"{made}.png", region, PICTURES / f"{name}.png")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
