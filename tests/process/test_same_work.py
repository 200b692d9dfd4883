"""The same work is the same content, model and options: under any path, at any time, on any device."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tifffile
import watched

from densecell_batch.errors import OptionError
from densecell_batch.models.bundle import load_bundle
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.pipeline import segment_stack
from densecell_batch.runs.report import read_report, write_report
from densecell_batch.watch.place import Place


@pytest.fixture(scope="module")
def loaded(data):
    segmenter = RunSegmenter(load_bundle(data / "fly-vnc-small.zip"), RunOptions(precision="float32", device="cpu"))
    segmenter.load()
    return segmenter


@pytest.fixture
def asked(loaded):
    def ask(**options):
        other = RunSegmenter(loaded.bundle, RunOptions(**{"precision": "float32", "device": "cpu"} | options))
        other.__dict__ |= {name: getattr(loaded, name) for name in ("device", "precision", "predictor")}
        return other

    return ask


@pytest.fixture
def stack(tmp_path):
    return watched.save(tmp_path / "in" / "cells.tif", 1, (7, 40, 44))


def elsewhere(stack: Path) -> Path:
    """The same under another mount."""
    return Path(shutil.copytree(stack.parent, stack.parent.with_name("other mount"))) / stack.name


def touched(stack: Path) -> Path:
    os.utime(stack, (1e9, 1e9))
    return stack


def behind_a_link(stack: Path) -> Path:
    (stack.parent.with_name("link")).symlink_to(stack.parent)
    return stack.parent.with_name("link") / stack.name


WAYS = [elsewhere, touched, behind_a_link]


@pytest.mark.parametrize("way", WAYS)
def test_a_stack_that_was_moved_copied_or_touched_is_done(asked, stack, tmp_path, way):
    assert not segment_stack(stack, tmp_path / "out", asked()).skipped
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = way(stack)
    assert segment_stack(again, tmp_path / "out", asked()).skipped
    assert segment_stack(again, tmp_path / "out", asked(device="auto", memory=2**31)).skipped
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("change", ["content", "stitch", "voxel size", "model", "version", "an unknown option"])
def test_other_work_is_not(asked, stack, tmp_path, change):
    segment_stack(stack, tmp_path / "out", asked())
    path = tmp_path / "out" / "cells_report.json"
    other = json.loads(path.read_text())
    match change:
        case "content":
            other["input"]["sha256"] = "0" * 64
        case "stitch":
            other["options"]["stitch"] = "blend"
        case "voxel size":
            other["input"]["voxel_size_um"] = [1, 1, 1]
        case "model":
            other["model"]["members"][0] = "0" * 64
        case "version":
            other["versions"]["densecell-batch"] = "0.0.1"
        case "an unknown option":
            other["options"]["contrast"] = "match"
    found = read_report(path)
    path.write_text(json.dumps(other))
    assert not Identity.of(found).is_same(Identity.of(read_report(path)))
    write_report(path, found)
    assert Identity.of(found).is_same(Identity.of(read_report(path)))


@pytest.mark.parametrize("way", WAYS)
def test_a_late_shard_on_another_mount_goes_on(asked, stack, tmp_path, way):
    tile = (2, 24, 24)
    reference = segment_stack(stack, tmp_path / "reference", asked(tile=tile))
    first = segment_stack(stack, tmp_path / "out", asked(shard=(1, 2), tile=tile))
    assert first.missing
    folders = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    last = segment_stack(way(stack), tmp_path / "out", asked(shard=(2, 2), tile=tile, device="auto"))
    assert folders
    assert not last.missing
    assert tifffile.imread(last.labels).tobytes() == tifffile.imread(reference.labels).tobytes()
    assert not any(path.is_dir() for path in (tmp_path / "out").iterdir())


def test_a_watcher_takes_them_for_the_same(asked, stack, tmp_path):
    place = Place(tmp_path / "out", Identity.of_any_stack(asked()))
    other = Place(tmp_path / "out", Identity.of_any_stack(asked(device="auto", preview=False)))
    assert other.identity == place.identity
    with pytest.raises(OptionError, match="options stitch"):
        Place(tmp_path / "out", Identity.of_any_stack(asked(stitch="blend")))
    setup = tmp_path / "out" / ".densecell-watch" / "setup.json"
    values = json.loads(setup.read_text())
    values["options"] |= {"device": "cpu", "preview": True}  # as watchers of old wrote them
    setup.write_text(json.dumps({"input": None, "pre_macro": None, **values}))
    Place(tmp_path / "out", Identity.of_any_stack(asked(device="auto")))


def test_a_watcher_goes_on_with_the_next_version(asked, stack, tmp_path):
    segment_stack(stack, tmp_path / "out", asked())
    report = read_report(tmp_path / "out" / "cells_report.json")
    older = report.with_fields(versions=report.versions | {"densecell-batch": "0.0.1"})
    assert not Identity.of(older).is_same(Identity.of(report))
    assert Identity.of(older).on_any_stack().is_same(Identity.of_any_stack(asked()))
