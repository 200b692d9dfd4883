"""The macros in real ImageJ where something is wrong or missing: bad input, the tool, a shell. They say what."""

import numpy as np
import pytest
from fiji_folder import install, make_imagej, run_script
from imagej_app import MISSING
from macro_input import options, save

pytestmark = [pytest.mark.fiji, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

FAILURES = [
    ("Segment", "stack=[{T}none.tif]", "none.tif: no such file or folder"),
    ("Segment", "", "no image is open"),  # in batch mode, without options
    ("Segment", "stack=[{T}x.tif] modle=a", "there is no option 'modle'; expected one of stack out model"),
    ("Segment", "stack=[{T}x.tif", "the bracket after 'stack=' is not closed"),
    ("Segment", "anything", "'anything' is no option; expected key=value"),
    ("Segment", "stack=[{T}x.tif] out=[{T}x.tif/out]", "cannot be made: choose another output folder"),
    ("Segment", "stack=[{T}x.tif] out=[{T}out] model=no-such-model show=no", "no-such-model"),
    ("Segment", "stack=[{T}x.tif] out=[{T}out] options=--no-such-option", "No such option"),
    ("Segment", "stack=[{T}constant.tif] out=[{T}out] model=[{M}]", "constant.tif"),
    ("Batch", "folder=[{T}none]", "is no folder; expected one with TIFF stacks"),
    ("Batch", "folder=[{T}empty]", "no .tif or .tiff file in"),
    ("Batch", "folder=[{T}one] model=no-such-model", "1 of 1 stacks were not segmented: the tool gave no verdict"),
    ("Load_Labels", "labels=[{T}none.tif]", "none.tif: no such file"),
    ("Load_Labels", "image=none", "no labels: give the file NAME_labels.tif as 'labels'"),
    ("Load_Labels", "labels=[{T}empty]", "empty is a folder; expected a TIFF that densecell-batch wrote"),
    ("Load_Labels", "labels=[{T}broken.tif]", "broken.tif: ImageJ cannot open this file"),
    ("Load_Labels", "labels=[{T}x.tif] image=[none such]", "no image 'none such' is open"),
    ("Load_Labels", "labels=[{T}x.tif] opacity=dark", "opacity is 'dark'; expected 0 to 100"),
    ("Labels_To_ROIs", "instances=[{T}x.tif]", "x.tif is no file of instances; expected NAME_CLASS_instances.tif"),
    ("Labels_To_ROIs", "", "no instances: give NAME_CLASS_instances.tif"),
    ("Measure", "labels=[{T}none.tif]", "none.tif: no such file"),
    ("Measure", "", "no image is open: open labels"),
    ("Measure", "labels=[{T}x.tif]", "x.tif bears no names of classes, so it may be the stack itself"),
    ("Measure", "labels=[{T}x.tif] csv=[relative.csv]", "the labels have no folder of their own: give a file as 'csv'"),
    ("Measure", "labels=[{T}x_labels.tif] csv=[{T}none/x.csv]", "none/x.csv cannot be written"),
    ("Labels_To_ROIs", "instances=[{T}x_a_instances.tif] zip=[{T}none/x.zip]", "none/x.zip cannot be written"),
    ("Labels_To_ROIs", "instances=[{T}x_a_instances.tif] zip=[{T}x.roi]", "x.roi: expected the name of a .zip file"),
]


@pytest.fixture(scope="module")
def failures(imagej, model, volume, tmp_path_factory):
    """The answer of each macro to bad input, in one ImageJ in which no window may wait for a click."""
    folder = tmp_path_factory.mktemp("failures")
    save(folder / "x.tif", volume)
    save(folder / "constant.tif", np.zeros_like(volume))
    for name in ("x_labels.tif", "x_a_instances.tif"):
        (folder / name).symlink_to("x.tif")
    (folder / "broken.tif").write_bytes(b"II*\0broken")
    (folder / "empty").mkdir()
    (folder / "one").mkdir()
    (folder / "one" / "x.tif").symlink_to("../x.tif")
    (folder / "args.txt").write_text(
        "\n".join(f"{name}\t{args} " for name, args, _ in FAILURES)
        .replace("{T}", f"{folder}/")
        .replace("{M}", str(model))
    )
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
setBatchMode(true);
for (i = 0; i < args.length; i++) {
  at = indexOf(args[i], "\t");
  answer = runMacro(D + "DenseCell_" + substring(args[i], 0, at) + ".ijm", String.trim(substring(args[i], at + 1)));
  say(answer);
  if (nImages > 0) say("left open: " + getTitle());
}
"""
    return run_script(imagej, script, folder)


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=[f"{n} {a}" for n, a, _ in FAILURES])
def test_failures_say_what_is_wrong(failures, number):
    assert len(failures) == len(FAILURES), failures
    assert failures[number].startswith("failed\t")
    assert FAILURES[number][2] in failures[number]


def test_a_missing_tool_is_named(tmp_path, volume):
    """It was there when the macros were installed."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    folder = make_imagej(tmp_path / "ij")
    assert install(folder, "--command", tool).returncode == 0
    tool.unlink()
    stack = save(tmp_path / "x.tif", volume)
    (answer,) = run_script(folder, f'say(runMacro(D + "DenseCell_Segment.ijm", "stack=[{stack}]"));', tmp_path / "talk")
    assert answer.startswith(f"failed\tthere is no program {tool}: install the tool there")


def test_without_a_shell(imagej, model, volume, tmp_path):
    """As on Windows, where the tool itself sends what it says to the log; Java says that this is
    Windows. Its own quoting of arguments there is not tested.
    """
    stack, out = save(tmp_path / "a b, é.tif", volume), tmp_path / "o u t"
    talk = tmp_path / "talk"
    talk.mkdir()
    rows = [options(stack=stack, out=out, model=name, show="no") for name in (model, "no-such-model")]
    (talk / "args.txt").write_text("\n".join(rows), encoding="utf-8")
    script = r"""
said = exec("/bin/true"); // Java looks once which system it is on, to start programs
before = call("java.lang.System.setProperty", "os.name", "Windows 11");
say(getInfo("os.name"));
args = split(File.openAsString(T + "args.txt"), "\n");
say(runMacro(D + "DenseCell_Segment.ijm", args[0]));
say(runMacro(D + "DenseCell_Segment.ijm", args[1]));
"""
    system, good, bad = run_script(imagej, script, talk)
    assert system == "Windows 11"
    assert good == f"ok\t{out}/a b, é_labels.tif"
    assert bad.startswith("failed\tthe tool gave no verdict")
    assert "no-such-model" in bad
