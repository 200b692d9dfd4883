"""`densecell-batch segment` as users and scripts start it: verdicts, exit codes, files, stops and crashes."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import tifffile
from forked import Command, run
from timing import children_seconds, least, work_until

import densecell_batch
from densecell_batch.cli import cli
from densecell_batch.cli.progress import ProgressBar
from densecell_batch.data import SAMPLE
from densecell_batch.io.reading import open_stack
from densecell_batch.runs import pipeline
from densecell_batch.runs.options import RunSegmenter

SHAPE = (6, 64, 56)


@pytest.fixture(scope="module")
def bundle(data):
    return data / "fly-vnc-small.zip"


@pytest.fixture(scope="module")
def volume():
    return tifffile.imread(SAMPLE)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


@pytest.fixture
def stack(tmp_path, volume):
    return save(tmp_path / "cells.tif", volume)


def save(path: Path, volume) -> Path:
    metadata = {"axes": "ZYX", "spacing": 0.047, "unit": "um"}
    tifffile.imwrite(path, volume, imagej=True, resolution=(1 / 0.0092, 1 / 0.0092), metadata=metadata)
    return path


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "densecell_batch", *map(str, arguments)]


def densecell(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, **options)


def segment(*arguments) -> tuple[int, list[list[str]]]:
    """In this process, quicker: exit code and verdict lines."""
    from click.testing import CliRunner

    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        result = CliRunner().invoke(cli, ["segment", *map(str, arguments)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, [line.split("\t") for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def everything(bundle, volume, tmp_path_factory):
    """All outputs of one stack: the process that ended, the output folder, the report."""
    place = tmp_path_factory.mktemp("all")
    stack, out = save(place / "cells.tif", volume), place / "out"
    done = densecell(
        "segment", stack, "-o", out, "--model", bundle, "--probabilities", "--uncertainty",
        "--instances", "mitochondrion", "--instances", "membrane", "--precision", "float32",
    )  # fmt: skip
    return done, out, json.loads((out / "cells_report.json").read_text())


def test_streams_and_exit_code(everything):
    done, out, _ = everything
    assert done.returncode == 0
    assert done.stdout == f"DENSECELL\tok\t{out}/cells_labels.tif\t{out}/cells_report.json\n"
    lines = done.stderr.splitlines()
    assert all(line.startswith("densecell-batch: ") for line in lines), done.stderr
    assert 0 < len(lines) < 20


def test_files(everything):
    _, out, report = everything
    names = {
        "cells_labels.tif", "cells_probabilities.tif", "cells_uncertainty.tif", "cells_mitochondrion_instances.tif",
        "cells_membrane_instances.tif", "cells_preview.png", "cells_report.json",
        "cells_objects.csv", "cells_classes.csv", "objects.csv", "classes.csv",
        "cells_mitochondrion_objects.png", "cells_membrane_objects.png",
    }  # fmt: skip
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == names
    for described in report["outputs"].values():
        assert (out / described["file"]).stat().st_size == described["bytes"]


def test_outputs_agree_with_each_other(everything):
    _, out, report = everything
    labels = tifffile.imread(out / "cells_labels.tif")
    probabilities = tifffile.imread(out / "cells_probabilities.tif")
    uncertainty = tifffile.imread(out / "cells_uncertainty.tif")
    assert labels.shape == uncertainty.shape == SHAPE
    assert probabilities.shape == (SHAPE[0], 5, *SHAPE[1:])
    np.testing.assert_array_equal(labels, probabilities.argmax(1))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    entropy = scipy.stats.entropy(probabilities.astype(np.float64), base=2, axis=1)  # of one member
    np.testing.assert_allclose(uncertainty, entropy, atol=1e-5)
    assert report["mean_disagreement_bits"] == pytest.approx(entropy.mean(), abs=1e-5)
    rows = report["classes"]
    assert [row["voxels"] for row in rows] == np.bincount(labels.ravel(), minlength=5).tolist()
    assert sum(row["voxels"] > 0 for row in rows) > 2
    edges = 0.047 * 0.0092**2
    assert [row["volume_um3"] for row in rows] == pytest.approx([row["voxels"] * edges for row in rows], rel=1e-5)
    for row in rows:
        if row["voxels"]:
            assert row["mean_confidence"] == pytest.approx(
                probabilities.max(1)[labels == row["index"]].mean(), abs=1e-5
            )
    assert report["mean_confidence"] == pytest.approx(probabilities.max(1).mean(), abs=1e-5)


@pytest.mark.parametrize(("name", "index"), [("mitochondrion", 2), ("membrane", 4)])
def test_instances_cover_their_class(everything, name, index):
    from scipy.ndimage import label

    _, out, report = everything
    labels = tifffile.imread(out / "cells_labels.tif") == index
    instances = tifffile.imread(out / f"cells_{name}_instances.tif")
    np.testing.assert_array_equal(instances > 0, labels)
    assert report["instances"][name]["count"] == instances.max() == label(labels)[1]


def test_report_says_what_was_done(everything, bundle):
    _, _, report = everything
    assert report["input"]["shape"] == list(SHAPE)
    assert report["input"]["voxel_size_um"] == pytest.approx([0.047, 0.0092, 0.0092])
    assert len(report["input"]["sha256"]) == 64
    assert report["model"]["name"] == "fly-vnc-small"
    assert report["precision"]["name"] == "float32"
    assert report["options"]["instances"] == ["mitochondrion", "membrane"]
    assert report["warnings"] == []
    assert report["timings"]["voxels_per_second"] > 0


def test_calibration_is_carried_over(everything):
    _, out, _ = everything
    for name in ("labels", "probabilities", "uncertainty", "membrane_instances"):
        with tifffile.TiffFile(out / f"cells_{name}.tif") as tiff:
            assert tiff.imagej_metadata["unit"] == "um"
            assert tiff.imagej_metadata["spacing"] == pytest.approx(0.047)
            pixels, units = tiff.pages[0].tags["XResolution"].value
            assert units / pixels == pytest.approx(0.0092)


def test_a_single_good_look_at_help():
    assert least(lambda: densecell("--help"), children_seconds, times=3) < 1
    done = densecell("--help")
    assert done.returncode == 0
    assert "segment" in done.stdout


# Done or not done


@pytest.fixture
def done_once(stack, bundle, tmp_path):
    """A stack that was segmented; how to ask for it again, and whether that did it again."""
    arguments = [stack, "-o", tmp_path / "out", "--model", bundle, "--no-preview", "--precision", "float32"]
    assert segment(*arguments)[0] == 0
    report = tmp_path / "out/cells_report.json"

    def again(*more) -> bool:
        before = report.stat().st_mtime_ns if report.exists() else None
        code, lines = segment(*arguments, *more)
        assert code == 0
        assert lines[-1] == ["DENSECELL", "ok", str(tmp_path / "out/cells_labels.tif"), str(report)]
        return report.stat().st_mtime_ns != before

    return again


def test_done_work_is_skipped(done_once, stack):
    assert not done_once()
    assert not done_once("--memory", "3G")  # shapes nothing


def cut_labels(out: Path) -> None:
    labels = out / "cells_labels.tif"
    labels.write_bytes(labels.read_bytes()[: labels.stat().st_size // 2])


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out / "cells_labels.tif").unlink(),
        lambda out: save(out.parent / "cells.tif", np.random.default_rng(1).integers(0, 99, SHAPE).astype(np.uint8)),
    ],
    ids=["labels deleted", "input changed"],
)
def test_what_is_not_whole_is_done_again(done_once, change, tmp_path):
    change(tmp_path / "out")
    assert done_once()
    assert not done_once()


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out / "cells_report.json").unlink(),
        lambda out: (out / "cells_report.json").write_text("{"),
        cut_labels,
    ],
    ids=["report deleted", "report damaged", "labels cut"],
)
def test_what_nothing_vouches_for_is_not_replaced(done_once, change, stack, bundle, tmp_path):
    out = tmp_path / "out"
    change(out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    arguments = [stack, "-o", out, "--model", bundle, "--no-preview", "--precision", "float32"]
    code, (line,) = segment(*arguments)
    assert (code, line[1]) == (1, "failed")
    assert "cells_labels.tif" in line[3] or "cells_report.json" in line[3]
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert done_once("--overwrite")
    assert not done_once()


def test_no_report_vouches_for_files_of_a_run_that_died(done_once, monkeypatch, stack, bundle, tmp_path):
    """Another run got as far as new labels, of the same size, but not to its report."""
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, "write_report", lambda path, report, **more: 1 / 0)
        assert segment(stack, "-o", tmp_path / "out", "--model", bundle, "--stitch", "blend")[0] == 1
    assert done_once()


@pytest.mark.parametrize(
    "more",
    [
        ["--overwrite"],
        ["--stitch", "blend"],
        ["--uncertainty"],
        ["--precision", "bfloat16"],
        ["--voxel-size", "40,10,10"],
        ["--model", "fly-vnc-2d3d"],
        ["--format", "ome-tiff"],
    ],
    ids=" ".join,
)
def test_what_is_asked_otherwise_is_done_again(done_once, more):
    assert done_once(*more)


# Kinds of input and output


def test_folder_file_and_glob_give_the_same_labels(volume, bundle, tmp_path):
    save(tmp_path / "whole.tif", volume)
    (tmp_path / "slices").mkdir()
    for z, plane in enumerate(volume):
        tifffile.imwrite(tmp_path / f"slices/s{z + 5}.tif", plane)  # s5 ... s10: natural order counts
    code, lines = segment(tmp_path / "slices", tmp_path / "wh*.tif", "-o", tmp_path / "out", "--model", bundle)
    assert code == 0
    assert [line[1] for line in lines] == ["warning", "ok", "ok"]  # the slices have no voxel size
    a, b = (tifffile.imread(line[2]) for line in lines if line[1] == "ok")
    np.testing.assert_array_equal(a, b)
    report = json.loads((tmp_path / "out/slices_report.json").read_text())
    assert any("no voxel size" in warning for warning in report["warnings"])


def test_ome_tiff_holds_the_same(stack, bundle, tmp_path):
    options = ["--model", bundle, "--uncertainty", "--probabilities", "--instances", "membrane", "--no-preview"]
    _, (first,) = segment(stack, "-o", tmp_path / "a", *options)
    code, (second,) = segment(stack, "-o", tmp_path / "b", *options, "--format", "ome-tiff")
    assert code == 0
    for name in ("labels", "probabilities", "uncertainty", "membrane_instances"):
        with tifffile.TiffFile(tmp_path / f"b/cells_{name}.tif") as tiff:
            assert tiff.is_ome
            np.testing.assert_array_equal(tiff.asarray(), tifffile.imread(tmp_path / f"a/cells_{name}.tif"))
    with open_stack(Path(second[2])) as labels:
        assert labels.info.voxel_size.edges == pytest.approx((0.047, 0.0092, 0.0092))
    assert first[1] == second[1] == "ok"


def test_an_array_gives_the_very_labels_of_the_command(bundle, tmp_path):
    """Array in, labels and probabilities out: byte for byte what is in the files."""
    with densecell_batch.open_stack(densecell_batch.SAMPLE) as opened:
        volume = np.asarray(opened)[:5, :50, :60]
    model = densecell_batch.load_model(bundle)
    options = {"precision": "float32", "tile": (2, 24, 24), "probabilities": True, "uncertainty": True}
    found = densecell_batch.segment(volume, model, **options)
    path = densecell_batch.write_stack(tmp_path / "cells.tif", volume, voxel_size=model.voxel_size)
    words = ["--precision", "float32", "--tile", "2,24,24", "--probabilities", "--uncertainty"]
    done = run("-q", "segment", path, "-o", tmp_path / "out", "--model", bundle, *words)
    assert (done.returncode, done.stderr) == (0, "")
    files = {kind: tifffile.imread(tmp_path / "out" / f"cells_{kind}.tif") for kind in
             ("labels", "probabilities", "uncertainty")}  # fmt: skip
    assert found.labels.tobytes() == files["labels"].tobytes()
    assert np.ascontiguousarray(np.moveaxis(found.probabilities, -1, 1)).tobytes() == files["probabilities"].tobytes()
    assert found.uncertainty.tobytes() == files["uncertainty"].tobytes()
    assert np.array_equal(found.confidence, found.probabilities.max(-1))
    assert found.classes == model.classes


def test_small_instances_are_left_out(stack, bundle, tmp_path):
    options = ["--model", bundle, "--instances", "membrane", "--no-preview"]
    segment(stack, "-o", tmp_path / "all", *options)
    segment(stack, "-o", tmp_path / "large", *options, "--min-volume", str(50 * 0.047 * 0.0092**2))
    every, large = (tifffile.imread(tmp_path / f"{out}/cells_membrane_instances.tif") for out in ("all", "large"))
    sizes = np.bincount(every.ravel())[1:]
    assert np.bincount(large.ravel())[1:].tolist() == sizes[sizes >= 50].tolist()
    assert (sizes < 50).any()


def test_outputs_are_no_inputs_of_the_next_run(stack, bundle, tmp_path):
    """`*.tif` in a folder that is also the output folder."""
    for _ in range(2):
        code, lines = segment(tmp_path / "*.tif", "-o", tmp_path, "--model", bundle, "--uncertainty")
        assert code == 0
        assert [line[2] for line in lines] == [str(tmp_path / "cells_labels.tif")]


def test_scale_unlike_that_of_the_training_is_a_warning(stack, bundle, tmp_path):
    """Where it is to be left so; else the stack is resampled."""
    size = ("--voxel-size", "47,4,4")
    for _ in range(2):  # the second time it was done before
        code, (told, line) = segment(stack, "-o", tmp_path / "out", "--model", bundle, *size, "--scale", "off")
        assert code == 0
        (warning,) = json.loads(Path(line[3]).read_text())["warnings"]
        assert "differ by a factor of 2.30" in warning
        assert told == ["DENSECELL", "warning", str(stack), warning]
    code, (line,) = segment(stack, "-o", tmp_path / "out", "--model", bundle, *size)
    assert (code, line[1]) == (1, "failed")
    assert "its 64 voxels along y are 28, fewer than the 32 that the nets need" in line[3]


def test_dry_run_writes_nothing(stack, bundle, tmp_path):
    code, lines = segment(stack, tmp_path / "none.tif", "-o", tmp_path / "out", "--model", bundle, "--dry-run")
    assert code == 1
    assert [line[1] for line in lines] == ["plan", "failed"]
    assert "6 x 64 x 56 uint8" in lines[0][3]
    assert "tiles of" in lines[0][3]
    assert not (tmp_path / "out").exists()


def test_a_defect_of_ours_ends_one_stack_only(stack, volume, bundle, tmp_path, monkeypatch):
    save(tmp_path / "later.tif", volume)
    real = RunSegmenter.examine

    def broken(segmenter, opened, *rest):
        if opened.info.path.name == "cells.tif":
            raise ZeroDivisionError("a defect")
        return real(segmenter, opened, *rest)

    monkeypatch.setattr(RunSegmenter, "examine", broken)
    code, lines = segment(stack, tmp_path / "later.tif", "-o", tmp_path / "out", "--model", bundle)
    assert code == 1
    assert [line[1] for line in lines] == ["failed", "ok"]
    assert "internal error" in lines[0][3]
    assert "ZeroDivisionError: a defect" in lines[0][3]


@pytest.mark.parametrize(("flag", "said"), [("-q", False), ("-v", True)])
@pytest.mark.parametrize("where", ["before", "after"])
def test_quiet_and_verbose(flag, said, where, stack, bundle, tmp_path):
    """In a new process, what libraries say while they are imported counts, too."""
    words = ["segment", stack, "-o", tmp_path / "out", "--model", bundle]
    done = densecell(flag, *words) if where == "before" else run(*words, flag)
    assert done.returncode == 0
    assert bool(done.stderr) is said


# Rate and time left


@pytest.fixture
def said(monkeypatch):
    """What the progress bar says where there is no terminal, and its clock."""
    lines, clock = [], [0.0]
    monkeypatch.setattr("densecell_batch.cli.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("densecell_batch.cli.progress._log.info", lambda text, *values: lines.append(text % values))
    return lines, clock


def test_what_was_there_before_does_not_count_for_the_rate(said):
    lines, clock = said
    with ProgressBar() as bar:
        for clock[0], done in ((0, 9000), (10, 9400), (20, 9800), (25, 10000)):
            bar("segmenting", done, 10000)
    assert lines == ["segmenting: 100 %, 40 voxels/s, 0 min 0 s left"]


def test_the_rate_of_another_attempt_begins_anew(said):
    lines, clock = said
    with ProgressBar() as bar:
        for clock[0], done in ((0, 0), (1, 5000), (100, 4000), (110, 6000)):
            bar("segmenting", done, 10000)
    assert lines == [
        "segmenting: 50 %, 5e+03 voxels/s, 0 min 1 s left",
        "segmenting: 60 %, 200 voxels/s, 0 min 20 s left",
    ]


def test_something_is_said_each_ten_minutes(said):
    """Whatever is done: who hears nothing takes the tool for dead."""
    lines, clock = said
    with ProgressBar() as bar:
        for clock[0], done in ((0, 0), (601, 50), (700, 60), (1300, 70)):
            bar("measuring", done, 1000)
    assert lines == ["measuring: 5 %", "measuring: 7 %"]


def test_nor_for_that_of_the_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with ProgressBar() as bar:
        bar("segmenting", 9000, 10000)
        assert (bar._bar.initial, bar._bar.n) == (9000, 9000)
        bar("segmenting", 9400, 10000)
        assert (bar._bar.initial, bar._bar.n) == (9000, 9400)


# Stopped and killed


@pytest.fixture
def long_run(tmp_path, volume, bundle):
    """Start a run of some seconds on a larger stack; yields (arguments, process, folder) once a piece is there."""
    large = np.tile(volume, (4, 3, 3))  # half a minute on an old processor, seconds on a new one
    save(tmp_path / "large.tif", large)
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["segment", tmp_path / "large.tif", "-o", out, "--model", bundle, "--tile", "5,150,150", "--no-preview"]
    process = Command(*arguments)
    try:
        stop = time.monotonic() + 60
        while process.poll() is None and not list(out.glob(".large.parts-*/piece-*.npz")):
            assert time.monotonic() < stop
            time.sleep(0.02)
        yield arguments, process, out
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(long_run, number):
    arguments, process, out = long_run
    assert process.poll() is None
    process.send_signal(number)
    assert work_until(lambda: process.poll() is not None, process.pid) < 5
    stdout, stderr = process.communicate()
    assert process.returncode == 75
    assert stdout == ""
    assert "run the same command again to continue" in stderr
    assert "Traceback" not in stderr
    (parts,) = out.iterdir()  # nothing under a final name
    assert not list(parts.glob("*.tmp"))  # and in the pieces nothing half
    done = run(*arguments)
    assert done.returncode == 0
    assert re.search("large.tif: [1-9][0-9]* of [0-9]+ pieces are there already", done.stderr)
    assert {path.name for path in out.iterdir()} == {"large_labels.tif", "large_report.json"}


def stopped_after(owner: str, name: str) -> None:
    """This process gets SIGTERM when a function has ended."""
    place = pkgutil.resolve_name(owner)
    function = getattr(place, name)

    def then_stopped(*arguments, **more):
        try:
            return function(*arguments, **more)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    setattr(place, name, then_stopped)


@pytest.mark.parametrize("last", [("densecell_batch.cli:cli", "main"), ("densecell_batch.streams:Outlet", "unwritten")])
def test_stopped_when_all_is_done(stack, bundle, tmp_path, last):
    """A signal may come at the very end of a process: a clear code and no traceback, as at any other moment."""
    arguments = ["segment", stack, "-o", tmp_path / "out", "--model", bundle, "--no-preview"]
    process = Command(*arguments, prepare=partial(stopped_after, *last))
    stdout, stderr = process.communicate(60)
    assert process.returncode == 75, stderr
    assert "DENSECELL\tok\t" in stdout
    assert stderr.count("run the same command again to continue") == 1
    assert "Traceback" not in stderr
    assert (tmp_path / "out/cells_labels.tif").exists()


def test_killed_and_started_again(long_run):
    arguments, process, out = long_run
    assert process.poll() is None
    process.kill()
    process.communicate()
    left = [path.name for path in out.iterdir()]
    assert left
    assert all(name.startswith(".") for name in left), left
    done = run(*arguments)
    assert done.returncode == 0
    assert {path.name for path in out.iterdir()} == {
        "large_labels.tif",
        "large_report.json",
    }  # the remains are gone, too
