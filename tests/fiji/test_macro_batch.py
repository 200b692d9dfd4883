"""*DenseCell Batch* for users of macros, in real ImageJ: one table, where it stops, options in quotes and brackets."""

import csv
import shutil

import numpy as np
import pytest
from fiji_folder import run_script
from imagej_app import MISSING
from macro_input import ODD, options, save

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

NEEDS_CLICKS = pytest.mark.skipif(shutil.which("xdotool") is None, reason="not installed: xdotool")
RUN = 'say(runMacro(D + "DenseCell_Batch.ijm", replace(File.openAsString(T + "args.txt"), "\\n", "")));'


@pytest.fixture
def stacks(volume, tmp_path):
    """Three stacks, of which the second fails, in a folder whose name is hard on macros."""
    folder = tmp_path / ODD
    folder.mkdir()
    save(folder / "1 =good.tif", volume)
    save(folder / "2, constant.tif", np.zeros_like(volume))
    shutil.copy(folder / "1 =good.tif", folder / "3.tif")
    return folder


def rows_of(folder):
    with (folder / "densecell_batch.csv").open(newline="", encoding="utf-8") as stream:
        return [*csv.DictReader(stream, strict=True)]


def test_batch_goes_on_after_a_failure(imagej, model, volume, tmp_path):
    stacks = tmp_path / "stacks, é"
    stacks.mkdir()
    save(stacks / "1 good.tif", volume)
    save(stacks / "2 constant.tif", np.zeros_like(volume))
    shutil.copy(stacks / "1 good.tif", stacks / "3 good too.TIFF")
    (stacks / "notes.txt").write_text("no stack")
    (tmp_path / "args.txt").write_text(options(folder=stacks, model=model), encoding="utf-8")
    script = r"""
say(runMacro(D + "DenseCell_Batch.ijm", replace(File.openAsString(T + "args.txt"), "\n", "")));
say(getInfo("log"));
"""
    answer, log = run_script(imagej, script, tmp_path)
    assert answer.startswith("failed\t1 of 3 stacks failed:|2 constant.tif: ")
    assert log.count("ok: ") == 2
    assert log.count("failed: ") == 1
    made = sorted(path.name for path in (stacks / "densecell").glob("*_labels.tif"))
    assert made == ["1 good_labels.tif", "3 good too_labels.tif"]
    (stacks / "2 constant.tif").unlink()
    corrected = stacks / "densecell/1 good_labels.tif"
    corrected.write_bytes(corrected.read_bytes() + b"mine")
    answer, log = run_script(imagej, script, tmp_path)  # done before; a warning is no verdict
    assert answer == "ok\t2"
    assert "1 good_labels.tif: changed since the results were made" in log
    assert corrected.read_bytes().endswith(b"mine")


def test_one_table_for_all(imagej, model, stacks, tmp_path):
    """With what the tool warned of, and why one failed; all options in brackets, names with brackets and quotes."""
    out = stacks / 'out [1] "b"'
    out.mkdir()
    (out / "densecell_batch.csv").write_text("mine")
    words = options(
        options="--no-preview", folder=stacks, out=out, model=model, instances="mitochondrion, membrane",
        voxel_size="470,184,184", onerror="continue",
    )  # fmt: skip
    (tmp_path / "args.txt").write_text(words, encoding="utf-8")
    (answer,) = run_script(imagej, RUN, tmp_path, timeout=60)
    assert answer.startswith("failed\t1 of 3 stacks failed:|2, constant.tif: ")
    rows = rows_of(out)
    assert [row["Stack"] for row in rows] == [f"{stacks}/{name}.tif" for name in ("1 =good", "2, constant", "3")]
    assert [row["Result"] for row in rows] == ["ok", "failed", "ok"]
    assert [row["Labels"] for row in rows] == ["1 =good_labels.tif", "", "3_labels.tif"]
    assert "the slices are 470 nm thick" in rows[0]["Remarks"]
    assert "constant" in rows[1]["Remarks"]
    assert (out / "3_membrane_instances.tif").exists()
    (kept,) = out.glob("densecell_batch.old-*.csv")
    assert kept.read_text() == "mine"
    (answer,) = run_script(imagej, RUN, tmp_path, timeout=60)  # done before
    assert rows_of(out) == rows
    assert len([*out.glob("densecell_batch*.csv")]) == 2


def test_it_stops_at_the_first_failure(imagej, model, stacks, tmp_path):
    (tmp_path / "args.txt").write_text(options(folder=stacks, model=model, onerror="stop"), encoding="utf-8")
    (answer,) = run_script(imagej, RUN, tmp_path, timeout=60)
    assert answer.startswith("failed\tstopped at the first failure, after 2 of 3 stacks:|2, constant.tif: ")
    assert [row["Result"] for row in rows_of(stacks / "densecell")] == ["ok", "failed", "not done"]
    assert not (stacks / "densecell" / "3_labels.tif").exists()
    (tmp_path / "args.txt").write_text(options(folder=stacks, onerror="never"), encoding="utf-8")
    (answer,) = run_script(imagej, RUN, tmp_path, timeout=60)
    assert answer == "failed\tonerror is 'never'; expected continue or stop"


@NEEDS_CLICKS
def test_what_is_recorded_runs_again(imagej, model, volume, tmp_path):
    """OK in the dialog of every command; the lines of the recorder, as they are, do the same without a dialog."""
    folder = tmp_path / 'a "b" [c]'
    folder.mkdir()
    save(folder / "x.tif", volume)
    (tmp_path / "args.txt").write_text(f"{folder}\n{model}", encoding="utf-8")
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
call("ij.Prefs.set", "densecell.batch.folder", args[0]);
call("ij.Prefs.set", "densecell.model", args[1]);
call("ij.Prefs.set", "densecell.labels", args[0] + "/densecell/x_labels.tif");
call("ij.Prefs.set", "densecell.instances.file", args[0] + "/densecell/x_mitochondrion_instances.tif");
run("Record...");
run("DenseCell Batch");
run("DenseCell Load Labels");
close("*");
run("DenseCell Labels To ROIs");
run("DenseCell Measure");
wait(2000);
geometry = exec("xdotool", "search", "--name", "DenseCell measurements", "getwindowgeometry");
width = replace(geometry, "(?s).* (\\d+)x.*", "$1");
run("DenseCell Objects");
selectWindow("Recorder");
recorded = getInfo("window.contents");
run("Close");
say(recorded);
regions = roiManager("count");
roiManager("reset");
close("x_objects.csv");
close("DenseCell measurements of x");
File.delete(args[0] + "/densecell/densecell_batch.csv");
File.delete(args[0] + "/densecell/x_measurements.csv");
lines = split(recorded, "\n");
for (i = 0; i < lines.length; i++)
  if (startsWith(lines[i], "run(\"DenseCell")) answer = call("ij.IJ.runMacro", lines[i], "");
say("" + isOpen("x_labels.tif") + " " + isOpen("x_objects.csv") + " " + isOpen("DenseCell measurements of x"));
say("" + regions + " " + roiManager("count"));
made = args[0] + "/densecell/";
say("" + File.exists(made + "densecell_batch.csv") + File.exists(made + "x_measurements.csv"));
say(width);
say(call("ij.Prefs.get", "densecell.split", "") + " " + call("ij.Prefs.get", "densecell.min_volume", ""));
"""
    names = ("Batch", "Load Labels", "Labels To ROIs", "Measure", "Objects")
    clicks = tuple((f"DenseCell {name}", "right") for name in names)
    recorded, windows, regions, files, width, remembered = run_script(
        imagej, script, tmp_path, clicks=clicks, timeout=90
    )
    for name in names:
        assert f'run("DenseCell {name}", "' in recorded
    assert (windows, files) == ("1 1 1", "11")
    assert int(width) >= 600  # of the measurements: all columns are seen
    assert remembered == "no 0"  # as Segment does: both dialogs begin with what was chosen last
    before, after = map(int, regions.split())
    assert before == 2 * after > 20  # regions of the same names are replaced by those of the table
    assert recorded.count("roiManager(") == recorded.count("|// roiManager(") == 2
    assert "Link" not in recorded
