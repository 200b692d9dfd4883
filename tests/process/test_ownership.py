"""What is the user's is never replaced: files of others, corrected labels, results of another stack."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import kills
import pytest
import tifffile
import watched
from forked import run

from densecell_batch.errors import OccupiedError
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs import outputs, pipeline
from densecell_batch.runs.batch import segment_batch
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.ownership import announce, compare, foreign, make_room, set_aside
from densecell_batch.runs.pipeline import segment_stack
from densecell_batch.runs.report import Input, Model, Report, read_report, write_report
from densecell_batch.storage.records import described

NAMES = (
    "labels.tif", "probabilities.tif", "uncertainty.tif", "mitochondrion_instances.tif", "mitochondrion_objects.png",
    "objects.csv", "classes.csv", "preview.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded(data):
    segmenter = RunSegmenter(load_bundle(data / "fly-vnc-small.zip"), RunOptions(precision="float32"))
    segmenter.load()
    return segmenter


@pytest.fixture
def asked(loaded):
    """The nets, loaded once, with some options."""

    def ask(**options):
        other = RunSegmenter(loaded.bundle, RunOptions(precision="float32", **options))
        other.__dict__ |= {name: getattr(loaded, name) for name in ("device", "precision", "predictor")}
        return other

    return ask


@pytest.fixture
def stack(tmp_path):
    return watched.save(tmp_path / "in" / "cells.tif")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def correct(path: Path, same_size_and_time: bool = False) -> bytes:
    """As a user who mends labels and saves them under their name; the new bytes."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if not same_size_and_time:
        content += b"\0\0"
    path.write_bytes(content)
    if same_size_and_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return bytes(content)


ALL = {"probabilities": True, "uncertainty": True, "instances": ("mitochondrion",)}


# Files that we did not make


@pytest.mark.parametrize("name", [*NAMES, "report.json"])
def test_a_file_of_the_user_is_not_replaced(asked, stack, out, name, monkeypatch):
    out.mkdir()
    (out / f"cells_{name}").write_bytes(b"the user's own")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "segment_prepared", None)  # nothing is computed
        with pytest.raises(OccupiedError, match=rf"cells_{name}.*--overwrite"):
            segment_stack(stack, out, asked(**ALL))
    assert everything(out) == {f"cells_{name}": b"the user's own"}
    segment_stack(stack, out, asked(**ALL, overwrite=True))
    assert {f"cells_{kind}" for kind in (*NAMES, "report.json")} == everything(out).keys()
    assert (out / f"cells_{name}").read_bytes() != b"the user's own"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "link"])
def test_what_is_no_file_is_not_replaced_either(asked, stack, out, make):
    out.mkdir()
    make(out / "cells_labels.tif")
    with pytest.raises(OccupiedError):
        segment_stack(stack, out, asked())
    assert [path.name for path in out.iterdir()] == ["cells_labels.tif"]
    if (out / "cells_labels.tif").is_dir():
        with pytest.raises(OccupiedError, match="a folder is called so"):
            segment_stack(stack, out, asked(overwrite=True))
        assert [path.name for path in out.iterdir()] == ["cells_labels.tif"]


def test_one_in_the_way_does_not_stop_the_batch(tmp_path, out, data):
    for number, name in enumerate("abc"):
        watched.save(tmp_path / "in" / f"{name}.tif", number)
    out.mkdir()
    (out / "b_labels.tif").write_bytes(b"mine")
    words = [
        "segment",
        tmp_path / "in/*.tif",
        "-o",
        out,
        "--model",
        data / "fly-vnc-small.zip",
        "--precision",
        "float32",
    ]
    done = run(*words)
    verdicts = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert (done.returncode, verdicts) == (1, ["ok", "failed", "ok"])
    assert (out / "b_labels.tif").read_bytes() == b"mine"


def test_a_file_that_comes_while_it_is_computed(asked, stack, out, monkeypatch):
    """It is not replaced, and the work is not lost."""
    make_pieces = pipeline._make_pieces

    def meanwhile(*arguments):
        (out / "cells_labels.tif").write_bytes(b"mine")
        return make_pieces(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "_make_pieces", meanwhile)
        with pytest.raises(OccupiedError):
            segment_stack(stack, out, asked())
    assert (out / "cells_labels.tif").read_bytes() == b"mine"
    (out / "cells_labels.tif").rename(out / "mine.tif")
    monkeypatch.setattr(pipeline, "segment_prepared", None)  # nothing is computed again
    segment_stack(stack, out, asked())
    assert not list(out.glob(".*"))


def test_a_file_that_comes_in_the_last_moment(asked, stack, out, monkeypatch):
    forget = outputs.StackOutputs._forget_earlier_run

    def meanwhile(self):
        forget(self)
        (out / "cells_labels.tif").write_bytes(b"mine")

    monkeypatch.setattr(outputs.StackOutputs, "_forget_earlier_run", meanwhile)
    with pytest.raises(OccupiedError, match="came while"):
        segment_stack(stack, out, asked())
    assert (out / "cells_labels.tif").read_bytes() == b"mine"


# Results that the user changed


@pytest.mark.parametrize("sly", [False, True], ids=["changed", "same size and time"])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_corrected_stays(asked, stack, out, name, sly):
    segment_stack(stack, out, asked(**ALL))
    mine = correct(out / f"cells_{name}", sly)
    before = everything(out)
    result = segment_stack(stack, out, asked(**ALL))
    assert result.skipped
    assert f"cells_{name}" in result.warnings[0]
    assert everything(out) == before
    assert (out / f"cells_{name}").read_bytes() == mine
    segment_stack(stack, out, asked(**ALL, overwrite=True))
    assert (out / f"cells_{name}").read_bytes() != mine


@pytest.mark.parametrize("how", ["report saved", "folder copied"])
def test_a_report_that_is_newer_than_a_correction_tells_nothing_of_it(asked, stack, out, tmp_path, how):
    segment_stack(stack, out, asked())
    mine = correct(out / "cells_labels.tif", same_size_and_time=True)
    if how == "report saved":
        os.utime(out / "cells_report.json")
    else:
        copied = tmp_path / "copied"
        copied.mkdir()
        for path in sorted(out.iterdir()):  # labels first, as cp and scp do
            shutil.copyfile(path, copied / path.name)
        out = copied
    assert "cells_labels.tif" in segment_stack(stack, out, asked()).warnings[0]
    with pytest.raises(OccupiedError, match=r"cells_labels\.tif"):
        segment_stack(stack, out, asked(stitch="blend"))
    assert (out / "cells_labels.tif").read_bytes() == mine


def test_what_nobody_touched_is_not_read_again(asked, stack, out, monkeypatch):
    segment_stack(stack, out, asked(**ALL))
    monkeypatch.setattr("densecell_batch.runs.ownership.sha256_of", None)
    assert segment_stack(stack, out, asked(**ALL)).skipped


def test_other_options_do_not_replace_what_was_corrected(asked, stack, out):
    segment_stack(stack, out, asked())
    mine = correct(out / "cells_labels.tif")
    with pytest.raises(OccupiedError, match=r"cells_labels\.tif"):
        segment_stack(stack, out, asked(stitch="blend"))
    assert (out / "cells_labels.tif").read_bytes() == mine


def test_other_options_replace_what_is_ours(asked, stack, out):
    segment_stack(stack, out, asked(uncertainty=True))
    segment_stack(stack, out, asked(stitch="blend"))
    report = json.loads((out / "cells_report.json").read_text())
    assert report["options"]["stitch"] == "blend"
    assert not (out / "cells_uncertainty.tif").exists()  # of other labels
    assert len(list(out.glob("cells.old-*_uncertainty.tif"))) == 1
    segment_stack(stack, out, asked(uncertainty=True))


def test_labels_that_were_cut_are_no_correction(asked, stack, out):
    segment_stack(stack, out, asked())
    content = (out / "cells_labels.tif").read_bytes()
    (out / "cells_labels.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(OccupiedError, match="cannot be read"):
        segment_stack(stack, out, asked())
    (out / "cells_labels.tif").unlink()
    segment_stack(stack, out, asked())
    assert (out / "cells_labels.tif").read_bytes() == content


def test_a_copy_of_the_output_folder_is_as_good(asked, stack, out, tmp_path):
    """Other times, the same bytes: nothing was changed."""
    segment_stack(stack, out, asked())
    shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copyfile)
    result = segment_stack(stack, tmp_path / "copy", asked())
    assert (result.skipped, result.warnings) == (True, ())


def test_a_report_of_old_vouches_by_size(asked, stack, out):
    segment_stack(stack, out, asked())
    path = out / "cells_report.json"
    report = json.loads(path.read_text())
    for entry in report["outputs"].values():
        del entry["sha256"]
    path.write_text(json.dumps(report))
    before = everything(out)
    result = segment_stack(stack, out, asked())
    assert (result.skipped, result.warnings) == (True, ())
    assert everything(out) == before
    mine = correct(out / "cells_labels.tif")
    assert segment_stack(stack, out, asked()).warnings
    assert (out / "cells_labels.tif").read_bytes() == mine
    with pytest.raises(OccupiedError):
        segment_stack(stack, out, asked(stitch="blend"))


# Another stack of the same name


def test_another_stack_of_the_name_does_not_replace_results(asked, stack, out, tmp_path):
    segment_stack(stack, out, asked())
    before = everything(out)
    other = watched.save(tmp_path / "elsewhere" / "cells.tif", 7)
    with pytest.raises(OccupiedError, match=r"another stack of this name, .*in/cells\.tif"):
        segment_stack(other, out, asked())
    assert everything(out) == before
    segment_stack(other, out, asked(overwrite=True))
    assert everything(out) != before


def test_a_new_version_of_a_stack_replaces_results(asked, stack, out):
    segment_stack(stack, out, asked())
    before = everything(out)
    watched.save(stack, 7)
    assert not segment_stack(stack, out, asked()).skipped
    assert everything(out) != before


# Killed while files get their names


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        ("runs.outputs", "announce", 0),
        ("io.writing", "place", 0),
        ("io.writing", "place", 1),
        ("runs.objects", "place", 0),  # of the preview
        ("runs.pipeline", "write_report", 0),
        ("runs.pipeline", "forget_announced", 0),
    ],
)
def test_our_own_files_are_known_after_a_kill(asked, stack, out, tmp_path, data, module, name, after):
    words = ["segment", stack, "-o", out, "--model", data / "fly-vnc-small.zip", "--precision", "float32",
             "--uncertainty"]  # fmt: skip
    process = kills.start([str(word) for word in words], tmp_path / "said", partial(kills.kill_at, module, name, after))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    shutil.copytree(out, tmp_path / "again")
    for folder, options in ((out, {}), (tmp_path / "again", {"stitch": "blend"})):
        (verdict,) = segment_batch([stack], folder, asked(uncertainty=True, **options))
        assert verdict.ok, verdict
        assert {path.name.removeprefix("cells_") for path in folder.iterdir()} == {
            "labels.tif", "uncertainty.tif", "preview.png", "report.json"
        }  # fmt: skip


# A preview is drawn of results, and shapes nothing


def test_a_preview_that_was_not_wanted_at_first(asked, stack, out, monkeypatch):
    segment_stack(stack, out, asked(preview=False))
    labels = (out / "cells_labels.tif").read_bytes()
    monkeypatch.setattr(pipeline, "segment_prepared", None)  # nothing is computed
    assert segment_stack(stack, out, asked()).skipped
    assert (out / "cells_labels.tif").read_bytes() == labels
    report = json.loads((out / "cells_report.json").read_text())
    assert report["outputs"]["preview"]["bytes"] == (out / "cells_preview.png").stat().st_size
    assert report["options"]["preview"] is True
    drawn = (out / "cells_preview.png").read_bytes()
    (out / "cells_preview.png").unlink()
    result = segment_stack(stack, out, asked())
    assert (result.skipped, result.warnings) == (True, ())
    assert (out / "cells_preview.png").read_bytes() == drawn
    assert segment_stack(stack, out, asked(preview=False)).skipped
    assert (out / "cells_preview.png").exists()


def test_the_preview_drawn_later_is_the_same(asked, stack, out, tmp_path):
    segment_stack(stack, out, asked(preview=False))
    segment_stack(stack, out, asked())
    segment_stack(stack, tmp_path / "at once", asked())
    assert (out / "cells_preview.png").read_bytes() == (tmp_path / "at once/cells_preview.png").read_bytes()


# The watched folder


def watch(inbox: Path, out: Path, *more: object) -> list[str]:
    done = run(*watched.words(inbox, out, "--once", "--quiet", "0", "--poll", "--attempts", "1", *more))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_watcher_leaves_what_was_corrected_and_keeps_what_was_there(stack, out):
    out.mkdir()
    for name in ("labels.tif", "preview.png", "report.json"):
        (out / f"cells_{name}").write_bytes(b'{"mine":  "' + name.encode() + b'"}')
    (out / "cells.error.txt").write_text("my notes")
    (out / "status.html").write_text("my page")
    assert len(watch(stack.parent, out)) == 1
    kept = {path.read_bytes() for path in out.glob("*.old-*")}
    theirs = {b'{"mine":  "%s"}' % name for name in (b"labels.tif", b"preview.png", b"report.json")}
    assert kept == {*theirs, b"my page"}
    assert (out / "cells.error.txt").read_text() == "my notes"
    mine = correct(out / "cells_labels.tif")
    assert watch(stack.parent, out) == []  # as cron does, every ten minutes
    assert (out / "cells_labels.tif").read_bytes() == mine
    watched.save(stack, 5)  # a new version: its results take the names, what was there is kept
    assert len(watch(stack.parent, out)) == 1
    assert mine in {path.read_bytes() for path in out.glob("cells.old-*_labels.tif")}


# Functions


def report_of(folder: Path, **files: bytes) -> Path:
    """A report that records these files, written after them."""
    entries = {}
    for kind, content in files.items():
        (folder / f"cells_{kind}.tif").write_bytes(content)
        entries[kind] = described(f"cells_{kind}.tif", content)
    path = folder / "cells_report.json"
    given = Input(sha256="ab", shape=(3, 4, 5), dtype="uint8", voxel_size_um=None)
    model = Model(name="tiny", version="1", licence="CC0", members=("cd",))
    write_report(path, Report(input=given, model=model, options={}, outputs=entries))
    return path


def test_what_became_of_the_outputs(tmp_path):
    report = report_of(tmp_path, labels=b"labels", a=b"a", b=b"b", c=b"c")
    correct(tmp_path / "cells_a.tif")
    correct(tmp_path / "cells_b.tif", same_size_and_time=True)
    (tmp_path / "cells_c.tif").unlink()
    missing, changed = compare(report, read_report(report))
    assert [path.name for path in missing] == ["cells_c.tif"]
    assert [path.name for path in changed] == ["cells_a.tif", "cells_b.tif"]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "7", '{"outputs": 5}', '{"outputs": {"labels": {"file": "../x"}}}', "[" * 100_000]
)
def test_a_report_of_a_stranger_vouches_for_nothing(tmp_path, text):
    report = tmp_path / "cells_report.json"
    report.write_text(text)
    (tmp_path / "cells_labels.tif").write_bytes(b"mine")
    assert foreign(report, [report, tmp_path / "cells_labels.tif"]) == [report, tmp_path / "cells_labels.tif"]
    assert read_report(report) is None


def test_what_is_announced_is_ours(tmp_path):
    report = report_of(tmp_path, labels=b"labels")
    path = tmp_path / "cells_new.tif"
    announce(report, [described(path.name, b"old")])
    path.write_bytes(b"new")
    assert foreign(report, [path]) == [path]  # another content
    announce(report, [described(path.name, b"new")])
    report.unlink()
    assert foreign(report, [path, tmp_path / "cells_labels.tif"]) == []


def test_names_of_what_is_kept_are_free(tmp_path):
    report = tmp_path / "cells_report.json"
    for number in range(3):
        path = tmp_path / "cells_labels.tif"
        path.write_text(str(number))
        os.utime(path, (0, 0))
        make_room(report, [path], keep=True)
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == [
        "cells.old-19700101T000000Z-2_labels.tif",
        "cells.old-19700101T000000Z-3_labels.tif",
        "cells.old-19700101T000000Z_labels.tif",
    ]
    assert sorted(path.read_text() for path in kept) == ["0", "1", "2"]
    assert set_aside(kept[0], report).exists()


def test_hashes_in_the_report_are_those_of_the_files(asked, stack, out):
    import hashlib

    segment_stack(stack, out, asked(**ALL, file_format="ome-tiff"))
    outputs_said = json.loads((out / "cells_report.json").read_text())["outputs"]
    assert len(outputs_said) == 8
    for entry in outputs_said.values():
        content = (out / entry["file"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert tifffile.imread(out / "cells_labels.tif").shape == (3, 40, 44)
