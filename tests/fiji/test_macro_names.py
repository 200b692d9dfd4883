"""The macros and what strangers name: files, folders, images, classes, units. In real ImageJ, with its windows."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fiji_folder import run_script
from imagej_app import MISSING

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

MACROS = Path(__file__).parents[2] / "macros"


READS_ON = "it reads as if further options followed; rename it"
REACHING = "name files or macros: such options have to come first, before all names of files"

# Options as a macro of a user puts them together, "stack=[" + path + "] ...": {T} is the folder of files, of which some
# have names that add options. @ is a line break.
ROWS = [
    # A path that is there.
    ("Segment", "stack=[{T}x.tif] show=[no.tif] out=[{T}out]", f"as 'stack': {READS_ON}"),
    (
        "Segment",
        "stack=[{T}x.tif] options=[--post-macro {T}evil.ijm] show=[no.tif] out=[{T}out]",
        f"'stack': {READS_ON}",
    ),
    ("Segment", "show=no model=[{M}] out=[{T}out] stack=[{T}x.tif] voxel_size=[1.tif]", f"as 'stack': {READS_ON}"),
    ("Segment", "stack={T}x.tif show=no.tif", f"as 'stack': {READS_ON}"),
    ("Batch", "folder=[{T}one] model=[m] out=[{T}out]", f"as 'folder': {READS_ON}"),
    ("Load_Labels", "labels=[{T}x_labels.tif] image=[none.tif]", f"as 'labels': {READS_ON}"),
    ("Labels_To_ROIs", "instances=[{T}x_a_instances.tif] zip=[{T}no.tif]", f"as 'instances': {READS_ON}"),
    ("Measure", "labels=[{T}x_labels.tif] csv=[{T}no.tif]", f"as 'labels': {READS_ON}"),
    # The title of an open image.
    ("Load_Labels", "labels=[{T}x_labels.tif] image=[title] opacity=[7]", f"as 'image': {READS_ON}"),
    ("Labels_To_ROIs", "instances=[{T}x_a_instances.tif] image=[title] opacity=[7]", f"as 'image': {READS_ON}"),
    # A name that is not there, or that something was added to: a key again, or what reaches further than a stack.
    ("Segment", "out=[{T}a] out=[b/c] stack=[{T}x.tif]", "the option 'out' is given twice, as"),
    ("Measure", "csv=[{T}a.csv] csv=[b.csv] labels=[{T}x_labels.tif]", "the option 'csv' is given twice, as"),
    ("Segment", "out=[{T}a] options=[--post-macro evil.ijm] stack=[{T}x.tif]", f"--post-macro evil.ijm] {REACHING}"),
    ("Segment", "stack=[{T}x.tif] options=[--pre-macro=evil.ijm]", REACHING),
    ("Segment", "stack=[{T}x.tif] options=[--no-preview --imagej net.some:jar]", REACHING),
    ("Segment", "stack=[{T}x.tif] options=[--log mine]", REACHING),
    ("Segment", "stack=[{T}x.tif] options=[-oelsewhere]", REACHING),
    ("Segment", "stack=[{T}x.tif] options=[-qo elsewhere]", REACHING),
    ("Batch", "folder=[{T}one] options=[{T}x.tif]", REACHING),
    ("Batch", "folder=[{T}one] options=[..\\x.tif]", REACHING),
    # Line breaks.
    ("Segment", "stack=[{T}a@b.tif]", "the value of 'stack' has a line break, which no name may have"),
    ("Segment", "stack=[{T}a@b.tif] show=no", "the value of 'stack' has a line break"),
    ("Measure", "labels=[{T}a@b_labels.tif] csv=[{T}c.csv]", "the value of 'labels' has a line break"),
    # What is right: brackets that end nothing, options in their place.
    ("Segment", "stack=[{T}none [a] b] c.tif] show=no", "none [a] b] c.tif: no such file or folder"),
    ("Segment", "options=[--post-macro {T}none.ijm] stack=[{T}none.tif]", "none.tif: no such file or folder"),
    (
        "Segment",
        "stack=[{T}none.tif] options=[--precision float32 --no-preview --defects off]",
        "none.tif: no such file",
    ),
    ("Measure", "labels=[{T}good [1] = 2_labels.tif]", "ok\t"),
]


@pytest.fixture(scope="module")
def answers(imagej, data, tmp_path_factory):
    """The answer of each macro, and whether the stranger's macro ran."""
    folder = tmp_path_factory.mktemp("names")
    labels = np.ones((2, 8, 8), np.uint8)
    (folder / "evil.ijm").write_text(f"exec('touch', '{folder}/EVIL'); return '1';")
    plain = ["x.tif", "x_labels.tif", "x_a_instances.tif", "good [1] = 2_labels.tif", "title] opacity=[7"]
    hostile = [
        "x.tif] show=[no.tif", f"x.tif] options=[--post-macro {folder}/evil.ijm] show=[no.tif", "x.tif show=no.tif",
        "x.tif] voxel_size=[1.tif", "x_labels.tif] image=[none.tif", f"x_a_instances.tif] zip=[{folder}/no.tif",
        f"x_labels.tif] csv=[{folder}/no.tif", "a\nb.tif",
    ]  # fmt: skip
    for name in plain + hostile:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, labels, imagej=True, metadata={"axes": "ZYX"})
    (folder / "one] model=[m").mkdir()
    (folder / "args.txt").write_text(
        "\n".join(f"{name}\t{options}" for name, options, _ in ROWS)
        .replace("{T}", f"{folder}/")
        .replace("{M}", str(data / "fly-vnc-small.zip"))
    )
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
setBatchMode(true);
for (i = 0; i < args.length; i++) {
  if (indexOf(args[i], "image=[title]") > 0) { newImage("x", "8-bit", 9, 9, 1); rename("title] opacity=[7"); }
  at = indexOf(args[i], "\t");
  options = replace(substring(args[i], at + 1), "@", "\n");
  answer = runMacro(D + "DenseCell_" + substring(args[i], 0, at) + ".ijm", options);
  say(answer);
  while (nImages > 0) close();
}
say(File.exists(T + "EVIL"));
"""
    return run_script(imagej, script, folder)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{name} {options}" for name, options, _ in ROWS])
def test_names_add_no_options(answers, number):
    assert len(answers) == len(ROWS) + 1, answers
    assert ROWS[number][2] in answers[number]
    assert answers[number].startswith("ok\t" if ROWS[number][2] == "ok\t" else "failed\t")
    assert answers[-1] == "0"


# What the dialogs were answered is put together as options, too.
SETTINGS = [
    ("out", "/data/a] options=[--post-macro b", True),
    ("image", "cells]\tshow=[x", True),
    ("labels", "/data/a]\nb=c_labels.tif", True),
    ("model", "x]  y=", True),
    ("out", "/data/[a] b/c=d]", False),
    ("stack", "C:\\data\\a]b=c.tif", False),
    ("instances", "", False),
]


def test_answers_of_dialogs_add_no_options(imagej, tmp_path):
    """What is refused is said once the options are parsed; what is not is read as it was."""
    rows = [f"{key}|{value}".encode("unicode_escape").decode() for key, value, _ in SETTINGS]
    (tmp_path / "args.txt").write_text("\n".join(rows))
    script = (
        (MACROS / "shared.ijm").read_text()
        + r"""
args = split(File.openAsString(T + "args.txt"), "\n");
for (i = 0; i < args.length; i++) {
  refused = "";
  at = indexOf(args[i], "|");
  value = replace(replace(replace(substring(args[i], at + 1), "\\\\t", "\t"), "\\\\n", "\n"), "\\\\\\\\", "\\\\");
  text = "" + setting(substring(args[i], 0, at), value) + setting("show", "no");
  wrong = parse(text, "out image labels model stack instances show");
  got = option(substring(args[i], 0, at), "none");
  if (wrong != "") say("refused " + wrong);
  else if (got == value) {
    shown = option("show", "none");
    say(shown);
  } else say("read as " + got);
}
"""
    )
    said = run_script(imagej, script, tmp_path)
    assert len(said) == len(SETTINGS), said
    for (key, _, refused), line in zip(SETTINGS, said, strict=True):
        if refused:
            assert line.startswith("refused the name '"), line
            assert f"cannot be given as '{key}', for it holds ']' and then 'word=', as if further options" in line
        else:
            assert line == "no"


# Class names and a unit as labels of anybody may have them, and what the CSV says.
CELLS = {
    '=HYPERLINK("http:evil","x")': '\'=HYPERLINK("http:evil","x")',
    '@SUM(1),"x': "'@SUM(1),\"x",
    "+1": "'+1",
    "-cell": "'-cell",
    "\tcell": "'\tcell",
    "a;=1": "a;=1",
    'say "cell", twice': 'say "cell", twice',
    "mitochondrion": "mitochondrion",
}


def test_cells_are_no_formulas(imagej, tmp_path):
    """From the names that the labels bear, and numbers that are none of a class."""
    names = list(CELLS)
    info = "\n".join(f"class {i} = {name} #787878" for i, name in enumerate(names))
    info += "\nclass 300 = far #787878\nclass 99999999999 = further #787878"
    volume = np.arange(len(names) * 16, dtype=np.uint8).reshape(1, len(names), 16) // 16
    path = tmp_path / '=1+1,"x_labels.tif'
    metadata = {"axes": "ZYX", "Info": info, "unit": "=1+1", "spacing": 2.5}
    tifffile.imwrite(path, np.concatenate([volume, volume]), imagej=True, metadata=metadata)
    (tmp_path / "args.txt").write_text(f"labels=[{path}]")
    script = 'say(runMacro(D + "DenseCell_Measure.ijm", replace(File.openAsString(T + "args.txt"), "\\n", "")));'
    (answer,) = run_script(imagej, script, tmp_path)
    made = tmp_path / '=1+1,"x_measurements.csv'
    assert answer == f"ok\t{made}"
    with made.open(newline="", encoding="utf-8") as stream:
        head, *rows = list(csv.reader(stream, strict=True))
    assert head == ["Index", "Class", "Voxels", "Volume", "Surface", "Count", "Unit"]
    assert [row[1] for row in rows] == list(CELLS.values())
    assert {row[6] for row in rows} == {"'=1+1"}
    assert [row[2] for row in rows] == ["32"] * len(names)
    assert [float(row[3]) for row in rows] == [80.0] * len(names)
    assert 'a;=1"' in made.read_text(encoding="utf-8")  # in quotes: some spreadsheets divide at ";"


def test_a_line_break_in_a_name_fails_alone(imagej, data, tmp_path):
    stacks = tmp_path / "in"
    stacks.mkdir()
    shutil.copy(data / "vnc-crop.tif", stacks / "good.tif")
    for name in ("a\nb.tif", "x\nDENSECELL\tok\tx\ty.tif"):
        shutil.copy(data / "vnc-crop.tif", stacks / name)
    (tmp_path / "args.txt").write_text(f"folder=[{stacks}] model=[{data / 'fly-vnc-small.zip'}]")
    script = 'say(runMacro(D + "DenseCell_Batch.ijm", replace(File.openAsString(T + "args.txt"), "\\n", "")));'
    (answer,) = run_script(imagej, script, tmp_path)
    assert answer.startswith("failed\t2 of 3 stacks failed:|")
    assert "a?b.tif: a name with a line break cannot be given to the tool" in answer
    assert [path.name for path in (stacks / "densecell").glob("*_labels.tif")] == ["good_labels.tif"]
