"""One stack divided, interrupted, shared by several processes: always the same bytes."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import kills
import numpy as np
import pytest
import tifffile
from bundles import fields
from forked import Command, run
from limits import memory_limit, peak, run_in

from densecell_batch.calibration import VoxelSize
from densecell_batch.data import SAMPLE
from densecell_batch.errors import BusyError, OptionError, OutputError, StackError, Stopped
from densecell_batch.identity import differences, digest
from densecell_batch.inference import segmenter as segmenting
from densecell_batch.io import stack as reading
from densecell_batch.models.bundle import load_bundle, write_bundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.models.published import import_published
from densecell_batch.nets.architecture import Hybrid2D3D, tensor_shapes
from densecell_batch.runs.journal import shard_of
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import segment_stack
from densecell_batch.storage import claims

# Dividing


@pytest.mark.parametrize(("n", "count"), [(10, 3), (2, 5), (7, 7), (1, 1), (0, 2)])
def test_shards_are_a_partition_of_neighbours(n, count):
    parts = [shard_of(n, i, count) for i in range(1, count + 1)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_differences_in_words():
    found = {"options": {"tile": None, "stitch": "crop"}, "model": {"name": "a"}}
    wanted = {"options": {"tile": [5, 64, 64], "stitch": "crop"}, "model": {"name": "b"}}
    assert differences(found, wanted) == ['model name was "a", is "b"', "options tile was null, is [5, 64, 64]"]
    assert digest(found) != digest(wanted)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


# A stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("stack") / "cells.tif"
    tifffile.imwrite(
        path, np.concatenate([tifffile.imread(SAMPLE)[:, :90, :100]] * 2)[:14], imagej=True, metadata={"axes": "ZYX"}
    )
    return path


@pytest.fixture(scope="module", params=["crop", "blend", "deepest"])
def segmenter(request, data, tmp_path_factory):
    """A 2D-3D ensemble of two, with all that a piece can hold."""
    folders = [data / "published/2d3d-small_A", data / "published/2d3d-small_B"]
    bundle = import_published(folders, tmp_path_factory.mktemp("bundle") / "ab", "ab")
    tile = None if request.param == "deepest" else (5, 64, 64)
    options = RunOptions(
        stitch=request.param, probabilities=True, uncertainty=True, precision="float32", tile=tile,
        instances=(bundle.classes[1].name,), split=True, rois=True, voxel_size=VoxelSize(0.05, 0.01, 0.01),
    )  # fmt: skip
    return RunSegmenter(bundle, options)


def asked(segmenter, **changes):
    """The same nets, loaded once, with other options."""
    other = RunSegmenter(segmenter.bundle, replace(segmenter.options, **changes))
    other.__dict__ |= {name: getattr(segmenter, name) for name in ("device", "precision", "predictor")}
    return other


@pytest.fixture
def command(stack, data, tmp_path):
    """The words of a command that writes into tmp_path / "out"."""
    return [
        "segment", stack, "-o", tmp_path / "out", "--precision", "float32", "--no-preview", "--model",
        data / "fly-vnc-small.zip",
    ]  # fmt: skip


def files(folder):
    """Outputs of a folder: name -> bytes; the report without what depends on the run."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    for path in folder.glob("*.json"):
        report = json.loads(path.read_text())
        del report["timings"], report["input"]
        found[path.name] = report
    return found


@pytest.fixture(scope="module")
def whole(stack, segmenter, tmp_path_factory):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole")
    segment_stack(stack, folder, segmenter)
    found = files(folder)
    assert len(found) == 10
    return found


def parts(folder):
    """The pieces in an output folder."""
    return sorted(folder.glob(".cells.parts-*/piece-*.npz"))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_make_the_same_bytes(stack, segmenter, whole, tmp_path, order):
    for i in order:
        result = segment_stack(stack, tmp_path, asked(segmenter, shard=(i, 3)))
        assert bool(result.missing) == (i != order[-1])
        assert result.labels.exists() == (i == order[-1])
    assert files(tmp_path) == whole


def counted(folder):
    """Each reading of the stack is counted, and waits for a file."""

    def patched(function):
        def call(*arguments, **more):
            with (folder / "calls").open("a") as stream:
                stream.write(function.__name__ + " ")
            while not (folder / function.__name__).exists():
                time.sleep(0.01)
            return function(*arguments, **more)

        return call

    reading.content_sha256 = patched(reading.content_sha256)
    segmenting.examine = patched(segmenting.examine)


def test_shards_read_the_stack_once_for_its_hash_and_once_for_its_statistics(command, tmp_path):
    """Also those that start at once, as the tasks of an array do."""
    shards = [Command(*command, "--shard", f"{i}/3", prepare=partial(counted, tmp_path)) for i in (1, 2, 3)]
    for what, waiting in (("content_sha256", "computes its hash"), ("examine", "looks at the stack")):
        until = time.monotonic() + 120
        while sum(waiting in shard.heard()[1] for shard in shards) < 2:  # the others wait for one
            assert time.monotonic() < until, [shard.heard() for shard in shards]
            assert not any(shard.poll() for shard in shards), [shard.heard() for shard in shards]
            time.sleep(0.02)
        (tmp_path / what).touch()
    assert [shard.wait(300) for shard in shards] == [0, 0, 0]
    assert sorted((tmp_path / "calls").read_text().split()) == ["content_sha256", "examine"]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".tif", ".json"}


def test_a_shard_that_fails_leaves_nothing(small, tmp_path):
    volume = tifffile.imread(SAMPLE).astype(np.float32)
    volume[3, 5, 7] = np.nan
    tifffile.imwrite(tmp_path / "cells.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(StackError, match="NaN"):
        segment_stack(tmp_path / "cells.tif", tmp_path / "out", asked(small, shard=(1, 3)))
    assert list((tmp_path / "out").iterdir()) == []


def change_a_voxel(path):
    volume = tifffile.imread(path)
    volume[0, 0, 0] += 1
    tifffile.imwrite(path, volume, imagej=True, metadata={"axes": "ZYX"})


def test_a_stack_that_changes_between_shards_is_hashed_again(stack, small, tmp_path, caplog):
    own = tmp_path / "cells.tif"
    shutil.copy(stack, own)
    segment_stack(own, tmp_path / "out", asked(small, shard=(1, 2)))
    change_a_voxel(own)
    for i in (1, 2):
        result = segment_stack(own, tmp_path / "out", asked(small, shard=(i, 2)))
    assert "input sha256 was" in caplog.text
    assert result.labels.exists()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_shard_of_more_than_there_are_pieces_computes_nothing(stack, small, tmp_path):
    assert segment_stack(stack, tmp_path, asked(small, shard=(1, 99))).missing
    assert not parts(tmp_path)


@pytest.mark.parametrize("lost", [[0], [1], [0, 2], [-1]])
def test_lost_pieces_are_made_again(stack, segmenter, whole, tmp_path, lost):
    for i in (1, 2, 3):
        segment_stack(stack, tmp_path, asked(segmenter, shard=(i, 4)))
    there = parts(tmp_path)
    assert there
    for i in lost:
        there[min(i, len(there) - 1)].unlink(missing_ok=True)
    segment_stack(stack, tmp_path, segmenter)
    assert files(tmp_path) == whole


def test_stopped_after_each_piece(stack, segmenter, whole, tmp_path):
    """Stop after every single piece, start again, until it is done."""
    starts = 0
    while True:
        starts += 1
        before = len(parts(tmp_path))

        def stop(what, done, total, before=before):
            if len(parts(tmp_path)) > before:
                raise Stopped("now")

        try:
            segment_stack(stack, tmp_path, segmenter, stop)
        except Stopped:
            continue
        break
    assert starts > 1  # a fast net finishes several pieces before it is told
    assert files(tmp_path) == whole


def test_bands_of_slices_make_the_same_bytes(segmenter, tmp_path):
    """Slices that do not fit the memory are computed in bands of their rows."""
    stack = tmp_path / "cells.tif"  # so high that tiles with their context are less than all of it
    tifffile.imwrite(stack, tifffile.imread(SAMPLE)[:6, :300, :60], imagej=True, metadata={"axes": "ZYX"})
    undivided = asked(segmenter, tile=segmenter.options.tile and (5, 24, 64))
    banded = asked(undivided, memory=1)
    assert len(banded.plan((6, 300, 60)).bands) > 1
    segment_stack(stack, tmp_path / "undivided", undivided)
    undivided = files(tmp_path / "undivided")
    for i in (2, 1):
        segment_stack(stack, tmp_path / "banded", asked(banded, shard=(i, 2)))
    found = files(tmp_path / "banded")
    for report in (name for name in found if name.endswith(".json")):
        bands = found[report].pop("tiles").pop("bands")
        assert bands > 1
        undivided = {**undivided, report: {k: v for k, v in undivided[report].items() if k != "tiles"}}
        for key in ("mean_confidence", "mean_disagreement_bits", "classes"):  # sums in another order
            mine, theirs = found[report].pop(key), undivided[report].pop(key)
            rows = zip(mine, theirs, strict=True) if key == "classes" else [({"all": mine}, {"all": theirs})]
            for a, b in rows:
                assert a == {k: pytest.approx(v, abs=2e-6) if isinstance(v, float) else v for k, v in b.items()}
    assert found == undivided


def test_assemble_says_what_is_missing_and_computes_nothing(stack, segmenter, whole, tmp_path):
    segment_stack(stack, tmp_path, asked(segmenter, shard=(1, 2)))
    assembler = RunSegmenter(segmenter.bundle, replace(segmenter.options, assemble=True))
    result = segment_stack(stack, tmp_path, assembler)
    assert result.missing > 0
    (job,) = tmp_path.glob(".cells.parts-*")
    with claims.claimed(job / "assembling"):  # the second shard finds somebody else assembling
        assert segment_stack(stack, tmp_path, asked(segmenter, shard=(2, 2))).left_to_another
        with pytest.raises(BusyError, match="another process is writing it"):  # who waits for nobody
            segment_stack(stack, tmp_path, RunSegmenter(segmenter.bundle, replace(assembler.options, unattended=True)))
    assert not segment_stack(stack, tmp_path, assembler).missing
    assert "predictor" not in assembler.__dict__
    assert files(tmp_path) == whole


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:2000] + b"?" * 9 + b[2009:]])
def test_damaged_pieces_are_found_and_made_again(stack, segmenter, whole, tmp_path, damage):
    segment_stack(stack, tmp_path, asked(segmenter, shard=(1, 2)))
    victim = parts(tmp_path)[0]
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(OutputError, match=r"piece-00000.npz: this piece .* damaged .* run the command again"):
        segment_stack(stack, tmp_path, segmenter)
    assert not list(tmp_path.glob("*.tif"))
    segment_stack(stack, tmp_path, segmenter)
    assert files(tmp_path) == whole


# What the pieces are of


@pytest.fixture(scope="module")
def small(data):
    return RunSegmenter(load_bundle(data / "fly-vnc-small.zip"), RunOptions(precision="float32", preview=False))


def test_other_options_begin_anew_and_say_so(stack, small, tmp_path, caplog):
    segment_stack(stack, tmp_path, asked(small, shard=(1, 2)))
    old = parts(tmp_path)
    segment_stack(stack, tmp_path, asked(small, uncertainty=True))
    assert "begun anew, for what differs: options uncertainty was false, is true" in caplog.text
    assert old
    assert not any(path.exists() for path in old)
    assert not list(tmp_path.glob(".*"))


def test_a_changed_stack_begins_anew(stack, small, tmp_path, caplog):
    own = tmp_path / "cells.tif"
    shutil.copy(stack, own)
    segment_stack(own, tmp_path / "out", asked(small, shard=(1, 2)))
    change_a_voxel(own)
    segment_stack(own, tmp_path / "out", small)
    assert "input sha256 was" in caplog.text


@pytest.mark.parametrize("way", ["appended", "replaced", "slice added"])
def test_a_stack_that_changes_while_it_is_read_gives_nothing(stack, small, tmp_path, way):
    """Neither results of two versions, nor pieces of the wrong one."""
    path, out = tmp_path / "cells.tif", tmp_path / "out"
    shutil.copy(stack, path)
    if way == "slice added":
        path.unlink()
        path.mkdir()
        for z, plane in enumerate(tifffile.imread(stack)):
            tifffile.imwrite(path / f"{z}.tif", plane)
    changed = []

    def change(what, done, total):
        if what == "segmenting" and done and not changed:
            changed.append(done)
            if way == "appended":
                with path.open("ab") as stream:
                    stream.write(b"x")
            elif way == "replaced":
                shutil.copy(stack, tmp_path / "other.tif")
                (tmp_path / "other.tif").replace(path)
            else:
                shutil.copy(path / "0.tif", path / "99.tif")

    with pytest.raises(StackError, match="it was changed while it was segmented"):
        segment_stack(path, out, small, change)
    assert changed
    assert list(out.iterdir()) == []


def test_a_file_that_is_deleted_while_it_is_read_gives_its_results(stack, small, tmp_path):
    path, out = tmp_path / "cells.tif", tmp_path / "out"
    shutil.copy(stack, path)
    result = segment_stack(path, out, small, lambda what, done, total: path.unlink(missing_ok=True))
    assert result.labels.exists()


def test_pieces_of_another_precision_are_not_mixed(stack, small, tmp_path):
    """With --precision auto, a node without fast bfloat16 must not go on with what another one began."""
    segment_stack(stack, tmp_path, asked(small, shard=(1, 2)))
    other = asked(small)
    other.__dict__["precision"] = replace(small.precision, name="bfloat16")
    with pytest.raises(
        OptionError, match="begun in float32, here it would go on in bfloat16; give --precision float32"
    ):
        segment_stack(stack, tmp_path, other)
    assert parts(tmp_path)


def test_later_processes_take_over_the_tiles_of_the_first(stack, small, tmp_path):
    segment_stack(stack, tmp_path / "a", asked(small, shard=(1, 2), memory=2**30))
    segment_stack(stack, tmp_path / "a", asked(small, shard=(2, 2), memory=8 * 2**30))
    segment_stack(stack, tmp_path / "b", asked(small, memory=2**30))
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_remains_of_a_run_that_died_before_it_cleaned_up(stack, small, tmp_path):
    segment_stack(stack, tmp_path, asked(small, shard=(1, 2)))
    (folder,) = tmp_path.glob(".cells.parts-*")
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    segment_stack(stack, tmp_path, small)
    kept.rename(folder)
    assert segment_stack(stack, tmp_path, small).skipped
    assert not folder.exists()


def test_several_processes_may_begin_at_once(command, stack, small, tmp_path):
    shards = [Command(*command, "--shard", f"{i}/3") for i in (1, 2, 3)]
    said = [process.communicate(timeout=300) for process in shards]
    assert [process.returncode for process in shards] == [0, 0, 0], said
    verdicts = sorted(out.splitlines()[-1].split("\t")[1] for out, _ in said)
    assert verdicts in (["ok", "part", "part"], ["part", "part", "part"])
    done = run(*command, "--assemble")
    assert done.returncode == 0, done.stderr
    assert "DENSECELL\tok\t" in done.stdout
    segment_stack(stack, tmp_path / "alone", small)
    assert files(tmp_path / "out") == files(tmp_path / "alone")


@pytest.fixture
def working(command):
    """It with two workers."""
    return [sys.executable, "-m", "densecell_batch", *command, "--workers", "2"]


def test_workers(working, stack, small, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no TIFF")
    done = subprocess.run([*working, bad, "--no-summary"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    ok, failed = (line for line in done.stdout.splitlines() if "\twarning\t" not in line)
    assert ok.split("\t")[:2] == ["DENSECELL", "ok"]
    assert failed.split("\t")[1:3] == ["failed", str(bad)]
    assert "not a TIFF" in failed
    segment_stack(stack, tmp_path / "alone", small)
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_workers_stop_with_their_parent(working, tmp_path):
    process = subprocess.Popen(working, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not parts(tmp_path / "out") if (tmp_path / "out").exists() else True:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == ""
    running = subprocess.run(["pgrep", "-f", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert running.stdout == ""
    assert subprocess.run(working, capture_output=True, timeout=300, check=False).returncode == 0


@pytest.mark.parametrize("count", ["0", "two", "-1", "99999"])
def test_no_number_of_workers(command, count):
    done = run(*command, "--workers", count)
    assert done.returncode == 2
    assert "expected a number from 1 on, or auto" in done.stderr


def test_no_room(stack, small, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("", (), {"free": 1000})())
    with pytest.raises(OutputError, match="0 MiB are free"):
        segment_stack(stack, tmp_path, small)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(tmp_path):
    """A disk of 5 MiB."""
    with kills.small_disk(tmp_path / "disk", 5) as folder:
        if folder is None:
            pytest.skip("no tmpfs can be mounted here: that takes root, outside of a container")
        yield folder


def test_a_disk_that_fills_up(disk, small, tmp_path, monkeypatch):
    """While it runs, somebody else takes the room: a clear error, what is done stays, and it goes on later."""
    volume = np.tile(tifffile.imread(SAMPLE), (2, 1, 1))[:18]
    tifffile.imwrite(tmp_path / "cells.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    hog = disk / "hog"

    def take(what, done, total):
        if parts(disk) and not hog.exists():
            with suppress(OSError):  # a piece may be written at this moment: then it is full already
                hog.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - 100_000))

    with pytest.raises(OutputError, match="the disk is full: make room, then run the same command again"):
        segment_stack(tmp_path / "cells.tif", disk, small, take)
    there = parts(disk)
    assert there
    assert not list(disk.glob("*.tif"))
    assert not list(disk.rglob("*.tmp"))
    hog.unlink()
    times = [path.stat().st_mtime_ns for path in there]
    seen = []

    def watch(what, done, total):
        seen.append([path.stat().st_mtime_ns for path in there if path.exists()])

    segment_stack(tmp_path / "cells.tif", disk, small, watch)
    assert times in seen  # they were not made again
    segment_stack(tmp_path / "cells.tif", tmp_path / "whole", small)
    assert files(disk) == files(tmp_path / "whole")


# Killed, for real


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return kills.Job(tmp_path_factory.mktemp("kills"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "term", "disk"])
def test_interrupted_at_random_times(job, how):
    """The same bytes in the end, no leftovers, run after run; `python tests/support/kills.py` does it 200 times."""
    places = kills.runs_of(job, how, 15)
    if places is None:
        pytest.skip("no tmpfs can be mounted here: that takes root, outside of a container")
    print(how, dict(places))
    assert places.total() - places["had ended"] > 5


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_stack_four_times_larger_than_the_memory(tmp_path):
    """The kernel kills what takes more than 704 MiB; the stack has 2.8 GiB.

    `--memory` is more than that, for it counts the libraries' files as well, which the kernel can drop.
    """
    side, slices, limit = 1024, 710, 704 * 2**20
    path, out = tmp_path / "large.tif", tmp_path / "out"
    net = Hybrid2D3D(n_classes=7, n_kernels=4, pyramid_kernels=4)
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape, np.float32) for name, shape in tensor_shapes(net).items()}
    bundle = write_bundle(
        tmp_path / "bundle",
        **fields(
            architecture=net,
            classes=tuple(ClassInfo(f"class {i}", (i, i, i)) for i in range(7)),
            members=[tensors],
            golden=(np.zeros((5, 8, 8), np.float32), np.zeros((5, 8, 8, 7), np.float32)),
        ),
    )
    with memory_limit(limit) as group:
        if group is None:
            pytest.skip("no cgroup can be made here: that takes root, outside of a container")
        volume = tifffile.memmap(path, shape=(slices, side, side), dtype="float32", metadata={"axes": "ZYX"})
        block = random.standard_normal((side, side), np.float32)
        for z in range(slices):
            volume[z] = np.roll(block, z)
        del volume
        assert path.stat().st_size > 4 * limit
        command = [sys.executable, "-m", "densecell_batch", "segment", path, "-o", out, "--model", bundle.path,
                   "--no-preview", "--memory", "1100M"]  # fmt: skip
        done = run_in(group, command)
        print(f"{peak(group) / 2**20:.0f} MiB at most, files in the cache included")
    path.unlink()
    assert done.returncode == 0, done.stderr
    with tifffile.TiffFile(out / "large_labels.tif") as labels:
        assert labels.series[0].shape == (slices, side, side)
        assert all(len(np.unique(labels.pages[z].asarray())) > 1 for z in range(0, slices, 50))
