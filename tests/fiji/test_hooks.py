"""The user's macros before and after the segmentation, in real ImageJ: what they get, leave, and what is kept."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from forked import Command, run
from imagej_app import MISSING_PYTHON

from densecell_batch.errors import BusyError, MacroError, OccupiedError, OptionError, StackError
from densecell_batch.identity import digest
from densecell_batch.imagej.macro import Macro, MacroHooks, Table, read_hooks
from densecell_batch.io.reading import open_stack
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.hooks import _csv, prepared
from densecell_batch.runs.identity import Content, Identity
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.pipeline import segment_stack
from densecell_batch.runs.report import Model, Preprocessing

needs_imagej = [
    pytest.mark.fiji,
    pytest.mark.skipif(bool(MISSING_PYTHON), reason=f"not installed: {', '.join(MISSING_PYTHON)}"),
]
pytestmark = needs_imagej

INVERT = 'run("Invert", "stack");\n'
COUNT = """
List.setList(getArgument());
getVoxelSize(w, h, d, unit);
for (z = 1; z <= nSlices; z++) {
  setSlice(z);
  getHistogram(values, counts, 256);
  for (c = 0; c < 5; c++) setResult(List.get("class_" + c), z - 1, counts[c] * w * h * d);
}
updateResults();
return unit;
"""


def counting(text: str, path) -> str:
    """A macro that also notes in a file that it ran."""
    return f'File.append("ran", "{path}");\n{text}'


@pytest.fixture(scope="module")
def segmenter(data):
    options = RunOptions(precision="float32", preview=False)
    found = RunSegmenter(load_bundle(data / "fly-vnc-small.zip"), options)
    found.load()
    return found


@pytest.fixture
def asked(segmenter, tmp_path):
    """The nets, loaded once, with macros and other options."""

    def ask(pre: str | None = None, post: str | None = None, time_limit: float = 60.0, **changes) -> RunSegmenter:
        macros = []
        for name, text in (("before é.ijm", pre), ("after.ijm", post)):
            path = tmp_path / name
            if text is not None:
                path.write_text(text)
            macros.append(None if text is None else Macro.read(path))
        hooks = MacroHooks(*macros, time_limit)
        other = RunSegmenter(segmenter.bundle, replace(segmenter.options, hooks=hooks, **changes))
        other.__dict__ |= {name: getattr(segmenter, name) for name in ("device", "precision", "predictor")}
        return other

    return ask


@pytest.fixture
def stack(data, tmp_path):
    folder = tmp_path / "in, é"
    folder.mkdir()
    return shutil.copy(data / "vnc-crop.tif", folder / "my cells.tif")


def report(out) -> dict:
    return json.loads((out / "my cells_report.json").read_text())


def names(out) -> set[str]:
    return {path.name for path in out.iterdir()}


# Both macros


def test_from_stack_to_tables(data, stack, tmp_path):
    """As a user starts it."""
    (tmp_path / "invert é.ijm").write_text(INVERT)
    (tmp_path / "count.ijm").write_text(COUNT)
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "densecell_batch", "segment", stack, "-o", out, "--model", data / "fly-vnc-small.zip",
        "--precision", "float32", "--pre-macro", tmp_path / "invert é.ijm", "--post-macro", tmp_path / "count.ijm",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"DENSECELL\tok\t{out}/my cells_labels.tif\t{out}/my cells_report.json\n"
    assert names(out) == {f"my cells_{n}" for n in ("labels.tif", "preview.png", "report.json", "macro_results.csv")}
    labels = tifffile.imread(out / "my cells_labels.tif")
    with (out / "my cells_macro_results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    record = report(out)
    assert list(rows[0]) == [c["name"] for c in record["classes"]]
    found = [[float(value) for value in row.values()] for row in rows]
    wanted = [np.bincount(plane.ravel(), minlength=5) * 0.047 * 0.0092**2 for plane in labels]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert all(table.pop("sha256") for table in record["post_macro"]["tables"])
    assert record["post_macro"]["tables"] == [
        {
            "title": "Results",
            "file": "my cells_macro_results.csv",
            "bytes": (out / "my cells_macro_results.csv").stat().st_size,
            "rows": len(labels),
        }
    ]
    assert record["post_macro"]["value"] in ("um", "µm", "micron")
    assert record["preprocessing"]["macro"] == "invert é.ijm"
    assert "ImageJ 1.5" in record["preprocessing"]["imagej"]
    assert record["warnings"] == []


def test_the_nets_see_what_the_macro_left(stack, asked, tmp_path):
    segment_stack(stack, tmp_path / "a", asked(INVERT))
    with tifffile.TiffFile(stack) as tiff:
        volume = tiff.asarray()
    by_hand = tmp_path / "my cells.tif"
    metadata = {"axes": "ZYX", "spacing": 0.047, "unit": "um"}
    tifffile.imwrite(by_hand, 255 - volume, imagej=True, resolution=(1 / 0.0092, 1 / 0.0092), metadata=metadata)
    segment_stack(by_hand, tmp_path / "b", asked())
    segment_stack(stack, tmp_path / "c", asked())
    labels = [tifffile.imread(tmp_path / f"{out}/my cells_labels.tif") for out in "abc"]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).any()
    assert report(tmp_path / "a")["input"]["sha256"] == report(tmp_path / "c")["input"]["sha256"]


def test_what_the_macros_are_told(stack, asked, tmp_path):
    """The argument, the image, and names that Java's properties would misread."""
    tell = f"""
List.setList(getArgument());
keys = split("stage stack name out labels report uncertainty instances_mitochondrion class_2", " ");
for (i = 0; i < keys.length; i++) File.append(keys[i] + "=" + List.get(keys[i]), "{tmp_path}/" + List.get("stage"));
getVoxelSize(w, h, d, unit);
File.append(getTitle() + " " + nSlices + " " + bitDepth() + " " + d + " " + unit, "{tmp_path}/" + List.get("stage"));
File.append(getDirectory("image"), "{tmp_path}/" + List.get("stage"));
File.append(getMetadata("Info"), "{tmp_path}/" + List.get("stage"));
"""
    out = tmp_path / "out = \\ é"
    segment_stack(stack, out, asked(tell, tell, uncertainty=True, instances=("mitochondrion",)))
    before = (tmp_path / "pre").read_text().splitlines()
    assert before[:5] == ["stage=pre", f"stack={stack}", "name=my cells", f"out={out}", "labels="]
    assert before[9].startswith("my cells.tif 4 8 0.047 ")
    assert before[10] == f"{stack.parent}/"
    after = (tmp_path / "post").read_text().splitlines()
    files = [f"{key}={out}/my cells_{rest}" for key, rest in (
        ("labels", "labels.tif"), ("report", "report.json"), ("uncertainty", "uncertainty.tif"),
        ("instances_mitochondrion", "mitochondrion_instances.tif"),
    )]  # fmt: skip
    assert after[:8] == ["stage=post", f"stack={stack}", "name=my cells", f"out={out}", *files]
    assert after[8] == "class_2=mitochondrion"
    assert after[9].startswith("my cells_labels.tif 4 8 0.047 ")
    assert after[10] == f"{out}/"
    assert any(line.startswith("class 2 = mitochondrion #") for line in after[11:])


# Cells that a spreadsheet would take for formulas: names of stacks and classes may be a stranger's.


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\tx", '"\'\tx"'),
        ("\r=x", '"\'\r=x"'),
        ("\n=x", '"\'\n=x"'),
        ("\uff1d1+1", "'\uff1d1+1"),
        ('=HYPERLINK("x","y")', '"\'=HYPERLINK(""x"",""y"")"'),
        ("-", "'-"),
        ("-3.5 um", "'-3.5 um"),
        ("-3.5\n", '"\'-3.5\n"'),
        # Others stay as they are.
        ("-3.5", "-3.5"),
        ("+.5e-3", "+.5e-3"),
        (-3.5, "-3.5"),
        (1 / 3, "0.333333333333"),
        (None, ""),
        ("a=b", "a=b"),
        ("a,b", '"a,b"'),
        ("a;=1", '"a;=1"'),
        ('say "a"', '"say ""a"""'),
        ("two\nlines", '"two\nlines"'),
    ],
)
def test_cells_of_text_are_no_formulas(cell, written):
    content = _csv(Table("t", ["a", "=b"], [[cell, 1.0]])).decode()
    assert content == f"a,'=b\n{written},1\n"
    (_, row) = csv.reader(io.StringIO(content, newline=""), strict=True)
    assert len(row) == 2


def test_a_row_of_nothing_is_a_row():
    assert list(csv.reader(io.StringIO(_csv(Table("t", ["a"], [[None], [2.0]])).decode()))) == [["a"], [""], ["2"]]


# Not twice


def test_a_stack_that_was_copied_or_touched_needs_no_macro_again(stack, asked, tmp_path):
    out, ran = tmp_path / "out", tmp_path / "ran"

    def run(path, pre=INVERT) -> bool:
        """Whether anything was made, by the nets or by a macro."""
        ran.unlink(missing_ok=True)
        done = segment_stack(Path(path), out, asked(counting(pre, ran), counting(COUNT, ran)))
        assert done.skipped is not ran.exists()
        return not done.skipped

    assert run(stack)
    copied = Path(shutil.copytree(Path(stack).parent, tmp_path / "other mount")) / Path(stack).name
    os.utime(copied, (1e9, 1e9))
    assert not run(copied)
    assert not run(stack)
    assert run(copied, INVERT + INVERT)


def test_what_is_done_is_not_done_twice(stack, asked, tmp_path):
    out, ran = tmp_path / "out", {name: tmp_path / f"ran-{name}" for name in ("pre", "post")}

    def again(pre: str = INVERT, post: str = COUNT) -> set[str]:
        """Run it; which macros ran, and whether the nets did."""
        labels = out / "my cells_labels.tif"
        before = labels.stat().st_mtime_ns if labels.exists() else None
        for path in ran.values():
            path.unlink(missing_ok=True)
        segment_stack(stack, out, asked(counting(pre, ran["pre"]), counting(post, ran["post"])))
        assert names(out) == {f"my cells_{n}" for n in ("labels.tif", "report.json", "macro_results.csv")}
        nets = {"nets"} if labels.stat().st_mtime_ns != before else set()
        return nets | {name for name, path in ran.items() if path.exists()}

    assert again() == {"pre", "nets", "post"}
    assert again() == set()
    more = COUNT + "\n// more"
    assert again(post=more) == {"post"}
    assert again(post=more) == set()
    (out / "my cells_macro_results.csv").unlink()
    assert again(post=more) == {"post"}
    assert again(pre=INVERT + INVERT, post=more) == {"pre", "nets", "post"}
    segment_stack(stack, out, asked())  # other labels: tables of the old ones do not stay beside them
    assert names(out) == {"my cells_labels.tif", "my cells_report.json"}
    assert not {"post_macro", "pre_macro", "preprocessing"} & set(report(out))


# Macros that fail

BAD = {
    "error": ("x = 1;\nfoo(3);", "line 2: Undefined identifier: foo"),
    "message": ('exit("too dark");', "line 1: it stopped: too dark"),
    "hangs": ("while (true) {\n  wait(50);\n}", "line [123]: still running after its limit of 1 s"),
    "dialog": ('Dialog.create("Cells");\nDialog.addMessage("How many?");\nDialog.show();',
               r"line 3: it opened a dialog, and nobody is there to answer: Cells \| How many\?"),
}  # fmt: skip
LIMIT = {"hangs": 1.0}  # else they have the time that a busy machine takes


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_macro_before(stack, asked, tmp_path, bad):
    text, message = BAD[bad]
    with pytest.raises(MacroError, match=f"before é.ijm: {message}"):
        segment_stack(stack, tmp_path / "out", asked(text, time_limit=LIMIT.get(bad, 60)))
    assert names(tmp_path / "out") == set()


@pytest.mark.parametrize(
    "bad", ["error", *(pytest.param(bad, marks=pytest.mark.slow) for bad in BAD if bad != "error")]
)
def test_a_bad_macro_after(stack, asked, tmp_path, bad):
    """The labels stay, and only the macro is run again once it is mended."""
    out, (text, message) = tmp_path / "out", BAD[bad]
    half = 'setResult("half", 0, 1);\nupdateResults();\n'
    message = (
        message.replace("line 3", "line 5")
        .replace("line 2", "line 4")
        .replace("line 1", "line 3")
        .replace("[123]", "[345]")
    )
    with pytest.raises(MacroError, match=f"after.ijm: {message}.*the labels are done .*my cells_labels.tif"):
        segment_stack(stack, out, asked(post=half + text, time_limit=LIMIT.get(bad, 60)))
    assert names(out) == {"my cells_labels.tif", "my cells_report.json"}
    assert "post_macro" not in report(out)
    before = (out / "my cells_labels.tif").stat()
    with open_stack(out / "my cells_labels.tif") as labels:
        assert labels.info.shape == (4, 96, 96)
    segment_stack(stack, out, asked(post=COUNT))
    assert (out / "my cells_labels.tif").stat().st_mtime_ns == before.st_mtime_ns
    assert report(out)["post_macro"]["tables"][0]["rows"] == 4


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("close();", MacroError, "before é.ijm: it left no image open; expected the image to segment"),
        ('run("RGB Color");', MacroError, "'my cells.tif' is RGB; expected grey values"),
        ('run("Duplicate...", "title=b duplicate"); run("Merge Channels...", "c1=b c2=b create");', MacroError,
         "'Composite' has 2 channels, 4 slices and 1 frames; expected slices only"),
        ('newImage("flat", "8-bit black", 40, 40, 3);', StackError, "every voxel is 0"),
    ],
    ids=["none", "RGB", "channels", "constant"],
)  # fmt: skip
def test_no_image_to_segment(stack, asked, tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        segment_stack(stack, tmp_path / "out", asked(text))
    assert names(tmp_path / "out") == set()


# What the stack becomes


@pytest.mark.parametrize(
    ("text", "shape", "voxel", "warning"),
    [
        ('run("Properties...", "pixel_width=9 pixel_height=9 voxel_depth=50 unit=nm");', (4, 96, 96),
         (0.05, 0.009, 0.009), ""),
        ('run("Properties...", "pixel_width=1 pixel_height=1 voxel_depth=1 unit=pixel");', (4, 96, 96),
         (0.047, 0.0092, 0.0092), ""),
        ('run("Size...", "width=48 height=48 depth=4 constrain average interpolation=Bilinear");', (4, 48, 48),
         (0.047, 0.0184, 0.0184), "changed the shape from 4 x 96 x 96 to 4 x 48 x 48"),
        pytest.param('makeRectangle(8, 0, 64, 80); run("Crop");', (4, 80, 64), (0.047, 0.0092, 0.0092),
                     "changed the shape", marks=pytest.mark.slow),
        pytest.param('run("32-bit");', (4, 96, 96), (0.047, 0.0092, 0.0092), "", marks=pytest.mark.slow),
    ],
    ids=["calibrated", "calibration lost", "scaled", "cropped", "32-bit"],
)  # fmt: skip
def test_shape_and_calibration_are_carried_on(stack, asked, tmp_path, text, shape, voxel, warning):
    segment_stack(stack, tmp_path / "out", asked(text))
    with open_stack(tmp_path / "out/my cells_labels.tif") as labels:
        assert labels.info.shape == shape
        assert labels.info.voxel_size.edges == pytest.approx(voxel, rel=1e-4)
    found = report(tmp_path / "out")
    assert tuple(found["preprocessing"]["shape"]) == shape
    assert any(warning in text for text in [*found["warnings"], ""])
    assert bool(warning) == any("changed the shape" in text for text in found["warnings"])


def test_voxel_size_of_the_user_is_what_the_macro_sees(stack, asked, segmenter, tmp_path):
    from densecell_batch.calibration import VoxelSize

    see = f'getVoxelSize(w, h, d, unit); File.append(d + " " + unit, "{tmp_path}/seen");'
    segment_stack(stack, tmp_path / "out", asked(see, voxel_size=VoxelSize(0.04, 0.01, 0.01)))
    assert (tmp_path / "seen").read_text().startswith("0.04 ")
    with open_stack(tmp_path / "out/my cells_labels.tif") as labels:
        assert labels.info.voxel_size.edges == pytest.approx((0.04, 0.01, 0.01))


@pytest.mark.parametrize(
    "kind", ["folder", "int16", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ome", "zstd", "big endian"))]
)
def test_stacks_that_imagej_itself_would_not_open(stack, asked, tmp_path, kind):
    volume, path = tifffile.imread(stack), tmp_path / "my cells.tif"
    if kind == "folder":
        path = tmp_path / "my cells"
        path.mkdir()
        for z, plane in enumerate(volume):
            tifffile.imwrite(path / f"{z}.tif", plane)
    elif kind == "ome":
        tifffile.imwrite(path, volume, ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    elif kind == "int16":
        tifffile.imwrite(path, volume.astype(np.int16) - 128, photometric="minisblack")
    elif kind == "zstd":
        tifffile.imwrite(path, volume, compression="zstd", photometric="minisblack")
    else:
        tifffile.imwrite(path, volume.astype(">u2"), byteorder=">", photometric="minisblack")
    segment_stack(path, tmp_path / "a", asked("// as it is\nx = 1;"))
    segment_stack(path, tmp_path / "b", asked())
    a, b = (tifffile.imread(tmp_path / f"{out}/my cells_labels.tif") for out in "ab")
    np.testing.assert_array_equal(a, b)


def test_ome_labels_have_their_colours_and_names(stack, asked, tmp_path):
    see = f"""getLut(r, g, b); getVoxelSize(w, h, d, unit);
File.append("" + r[2] + " " + g[2] + " " + b[2] + " " + d, "{tmp_path}/seen");
File.append(getMetadata("Info"), "{tmp_path}/seen");"""
    segment_stack(stack, tmp_path / "out", asked(post=see, file_format="ome-tiff"))
    first, *info = (tmp_path / "seen").read_text().splitlines()
    colour = report(tmp_path / "out")["classes"]
    assert first.split()[:3] != ["2", "2", "2"]
    assert float(first.split()[3]) == pytest.approx(0.047)
    assert any(colour[2]["name"] in line for line in info)


def test_several_tables(stack, asked, tmp_path):
    make = """
setResult("n", 0, 1/3); setResult("Label", 0, "a, b"); updateResults();
Table.create("By class: all"); Table.set("name", 0, "é"); Table.set("n", 0, 0.1 + 0.2); Table.update;
Table.create("Results "); Table.set("x", 0, 7); Table.update;
"""
    segment_stack(stack, tmp_path / "out", asked(post=make))
    tables = {t["title"]: (tmp_path / "out" / t["file"]) for t in report(tmp_path / "out")["post_macro"]["tables"]}
    assert {title: path.name for title, path in tables.items()} == {
        "Results": "my cells_macro_results.csv", "By class: all": "my cells_macro_by-class-all.csv",
        "Results ": "my cells_macro_results-3.csv",
    }  # fmt: skip
    assert tables["Results"].read_text() == 'Label,n\n"a, b",0.333333333333\n'
    assert tables["By class: all"].read_text() == "name,n\né,0.3\n"


# Stopped, killed, shared


def command(data, stack, out, pre, *more) -> list[str]:
    return [
        "segment", str(stack), "-o", str(out), "--precision", "float32",
        "--no-preview", "--model", str(data / "fly-vnc-small.zip"), "--tile", "2,32,32", "--pre-macro", str(pre), *more,
    ]  # fmt: skip


def until(there, process, seconds=120):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_killed_between_the_macro_and_the_segmentation(data, stack, asked, tmp_path, number):
    out, pre = tmp_path / "out", tmp_path / "before.ijm"
    pre.write_text(counting(INVERT, tmp_path / "ran"))
    tifffile.imwrite(stack, np.tile(tifffile.imread(stack), (4, 1, 1)))  # so that it is not done before it is killed
    words = command(data, stack, out, pre)
    process = Command(*words)
    until(lambda: list(out.glob(".my cells.pre-*/record.json")), process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 75)
    assert not list(out.glob(".my cells.parts-*/piece-*.npz"))
    done = run(*words)
    assert done.stdout.splitlines()[-1].startswith("DENSECELL\tok\t")
    assert (tmp_path / "ran").read_text().split() == ["ran"]  # once
    assert names(out) == {"my cells_labels.tif", "my cells_report.json"}
    segment_stack(stack, tmp_path / "whole", asked(INVERT, tile=(2, 32, 32)))
    assert (out / "my cells_labels.tif").read_bytes() == (tmp_path / "whole/my cells_labels.tif").read_bytes()


@pytest.mark.slow
def test_killed_while_the_macro_runs(data, stack, tmp_path):
    out, pre = tmp_path / "out", tmp_path / "before.ijm"
    slow = f'if (!File.exists("{tmp_path}/go")) {{ File.append("begun", "{tmp_path}/begun"); while (true) wait(20); }}'
    pre.write_text(counting(slow, tmp_path / "ran"))
    words = command(data, stack, out, pre)
    process = Command(*words)
    until((tmp_path / "begun").exists, process)
    process.kill()
    process.communicate()
    (tmp_path / "go").touch()
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert names(out) == {"my cells_labels.tif", "my cells_report.json"}


@pytest.mark.slow
def test_shards_share_what_the_macro_made(data, stack, asked, tmp_path):
    out, pre, post = tmp_path / "out", tmp_path / "before.ijm", tmp_path / "after.ijm"
    pre.write_text(counting(INVERT, tmp_path / "ran"))
    post.write_text(counting(COUNT, tmp_path / "ran after"))
    words = command(data, stack, out, pre, "--post-macro", str(post))
    shards = [Command(*words, "--shard", f"{i}/2") for i in (1, 2)]
    said = [process.communicate(timeout=300) for process in shards]
    assert [process.returncode for process in shards] == [0, 0], said
    assert (tmp_path / "ran").read_text().split() == ["ran"]
    done = run(*words, "--assemble")
    assert done.stdout.startswith("DENSECELL\tok\t")
    assert (tmp_path / "ran after").read_text().split() == ["ran"]
    assert names(out) == {"my cells_labels.tif", "my cells_report.json", "my cells_macro_results.csv"}
    segment_stack(stack, tmp_path / "whole", asked(INVERT, tile=(2, 32, 32)))
    assert (out / "my cells_labels.tif").read_bytes() == (tmp_path / "whole/my cells_labels.tif").read_bytes()


@pytest.mark.slow
def test_overwrite_runs_the_macro_again(stack, asked, tmp_path):
    text = counting(INVERT, tmp_path / "ran")
    segment_stack(stack, tmp_path / "out", asked(text))
    segment_stack(stack, tmp_path / "out", asked(text, overwrite=True))
    assert (tmp_path / "ran").read_text().split() == ["ran", "ran"]


def test_another_process_is_at_the_labels(stack, asked, tmp_path):
    segment_stack(stack, tmp_path / "out", asked())
    (tmp_path / "out/.my cells.post").write_text("elsewhere 1\n")
    with pytest.raises(BusyError, match=r"another process runs after.ijm on it"):
        segment_stack(stack, tmp_path / "out", asked(post=COUNT, unattended=True))
    assert segment_stack(stack, tmp_path / "out", asked(post=COUNT, shard=(1, 2))).left_to_another


def test_tables_that_were_changed_stay(stack, asked, tmp_path):
    out = tmp_path / "out"
    table = out / "my cells_macro_results.csv"
    segment_stack(stack, out, asked(post=COUNT))
    table.write_text("mine\n")
    segment_stack(stack, out, asked(post=COUNT))  # the same macro: done
    with pytest.raises(OccupiedError, match=r"my cells_macro_results\.csv"):
        segment_stack(stack, out, asked(post=COUNT + "// more"))
    assert table.read_text() == "mine\n"
    segment_stack(stack, out, asked(post=COUNT + "// more", unattended=True))
    assert table.read_text() != "mine\n"
    assert [path.read_text() for path in out.glob("my cells.old-*")] == ["mine\n"]


# What is wrong before it begins


def test_macros_are_read_before_anything_is_done(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match=r"none.ijm: the macro cannot be read"):
        read_hooks(tmp_path / "none.ijm", None, 1.0, None)
    assert read_hooks(None, None, 1.0, "/nowhere") == MacroHooks(time_limit=1.0, imagej="/nowhere")


@pytest.mark.parametrize(
    ("words", "environment", "code", "message"),
    [
        (["--pre-macro", "none.ijm"], {}, 2, "none.ijm: the macro cannot be read: No such file"),
        (["--post-macro", "a.py"], {}, 2, "a.py: expected an ImageJ macro"),
        (["--post-macro", "a.ijm", "--macro-timeout", "0"], {}, 2, "not in the range x>0"),
        (["--post-macro", "a.ijm", "--imagej", "/nowhere"], {}, 3, "/nowhere: no such file or folder"),
        (["--pre-macro", "a.ijm"], {"JAVA_HOME": "/nowhere"}, 3, "JAVA_HOME is /nowhere, where there is no bin/java"),
    ],
)
def test_misuse(stack, tmp_path, monkeypatch, words, environment, code, message):
    (tmp_path / "a.ijm").write_text("x = 1;")
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run("segment", stack, "-o", "out", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


# The examples of the documentation


def test_the_worked_example(stack, asked, tmp_path):
    text = (Path(__file__).parents[2] / "docs/fiji-headless.md").read_text()
    clean, count = (
        re.search(r"```ijm\n(.*?)```", text.split(f"## {title}")[1], re.S)[1]
        for title in ("Before: clean.ijm", "After: count.ijm")
    )
    save = re.search(r"```ijm\n([^`]*roiManager[^`]*)```", text)[1]
    regions = 'makeRectangle(1, 2, 5, 6);\nroiManager("add");\n' + save
    segment_stack(stack, tmp_path / "out", asked(clean, count + regions))
    with (tmp_path / "out/my cells_macro_results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    labels = tifffile.imread(tmp_path / "out/my cells_labels.tif")
    names_of_classes = [c["name"] for c in report(tmp_path / "out")["classes"]]
    assert list(rows[0]) == names_of_classes
    found = [[float(value) for value in row.values()] for row in rows]
    wanted = [np.bincount(plane.ravel(), minlength=5) * 0.0092**2 for plane in labels]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert (tmp_path / "out/my cells_rois.zip").stat().st_size > 0


def test_memory_that_runs_out(stack, asked, tmp_path):
    fill = 'for (i = 0; i < 100; i++) newImage("large", "32-bit ramp", 4000, 4000, 4);'
    with pytest.raises(MacroError, match=r"before é.ijm: .*[mM]emory"):
        segment_stack(stack, tmp_path / "out", asked(fill, memory=2**28))
    assert names(tmp_path / "out") == set()


def test_what_is_odd_about_a_folder_is_known_of_what_the_macro_made_of_it(tmp_path):
    """What it made lies there from an earlier run, so that no ImageJ has to start."""
    (tmp_path / "s").mkdir()
    (tmp_path / "m.ijm").write_text(INVERT)
    for z in (1, 2, 4):
        tifffile.imwrite(tmp_path / f"s/{z}.tif", np.zeros((9, 9), np.uint8))
    model = Model(name="m", version="1", licence="CC0", members=())
    identity = Identity(Content("ab", (3, 9, 9), "uint8", None), model, {})
    place = tmp_path / f"out/.s.pre-{digest(identity.before_the_nets().as_json())}"
    place.mkdir(parents=True)
    record = Preprocessing(
        macro="m.ijm", imagej="1", seconds=1, shape=(3, 9, 9), dtype="uint8", voxel_size_um=None, notes=("the macro's",)
    )
    (place / "record.json").write_bytes(msgspec.json.encode(record))
    tifffile.imwrite(place / "stack.tif", np.zeros((3, 9, 9), np.uint8), photometric="minisblack")
    hooks = MacroHooks(pre=Macro.read(tmp_path / "m.ijm"))
    paths = StackPaths(tmp_path / "out", tmp_path / "s")
    with open_stack(tmp_path / "s") as given, prepared(given, paths, hooks, identity, None) as (made, _):
        gap, note = made.notes
    assert "after 2.tif comes 4.tif" in gap
    assert note == "the macro's"


@pytest.mark.slow
def test_a_macro_that_inverts_the_look_up_table_inverts_what_is_seen(stack, asked, tmp_path):
    segment_stack(stack, tmp_path / "a", asked('run("Invert LUT");'))
    segment_stack(stack, tmp_path / "b", asked('run("Invert", "stack");'))
    a, b = (tifffile.imread(tmp_path / f"{out}/my cells_labels.tif") for out in "ab")
    np.testing.assert_array_equal(a, b)
