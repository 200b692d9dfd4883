"""What an attacker of jobs, reports and identities found: each here as it was shown."""

import json
import os
import zipfile

import numpy as np
import pytest
import tifffile
import watched

from densecell_batch import OptionError, OutputError, RunOptions, RunSegmenter, VoxelSize, load_model, segment_stack
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.report import read_report

OPTIONS = {"precision": "float32", "device": "cpu", "preview": False}
TILE = {"tile": (2, 24, 24)}


@pytest.fixture(scope="module")
def loaded(data):
    segmenter = RunSegmenter(data / "fly-vnc-small.zip", RunOptions(**OPTIONS))
    segmenter.load()
    return segmenter


@pytest.fixture
def asked(loaded):
    def ask(**options):
        other = RunSegmenter(loaded.bundle, RunOptions(**OPTIONS | options))
        other.__dict__ |= {name: getattr(loaded, name) for name in ("device", "precision", "predictor")}
        return other

    return ask


@pytest.fixture
def stack(tmp_path):
    return watched.save(tmp_path / "in" / "a.tif", 1, (7, 40, 44))


@pytest.fixture
def edited(data, tmp_path):
    """The bundle with another manifest."""

    def edit(**changes):
        folder = tmp_path / "bundle"
        with zipfile.ZipFile(data / "fly-vnc-small.zip") as archive:
            archive.extractall(folder)
        (path,) = folder.rglob("bundle.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return RunSegmenter(path.parent, RunOptions(**OPTIONS))

    return edit


def test_another_window_or_class_is_another_model(stack, tmp_path, asked, edited):
    segment_stack(stack, tmp_path / "out", asked())
    classes = [{"name": f"renamed {i}", "colour": list(c.colour)} for i, c in enumerate(asked().bundle.classes)]
    for changes in ({"window": [3, 40, 40]}, {"classes": classes}):
        assert not segment_stack(stack, tmp_path / "out", edited(**changes)).skipped, changes


def test_how_a_model_is_called_is_told_and_no_more(stack, tmp_path, asked, edited):
    segment_stack(stack, tmp_path / "out", asked())
    assert segment_stack(stack, tmp_path / "out", edited(licence="CC0", name="other", version="2")).skipped


def test_shards_of_another_window_are_not_mixed(stack, tmp_path, asked, edited):
    assert segment_stack(stack, tmp_path / "out", asked(shard=(1, 2), **TILE)).missing
    other = edited(window=[3, 40, 40])
    mixed = RunSegmenter(other.bundle, RunOptions(**OPTIONS, shard=(2, 2), **TILE))
    assert segment_stack(stack, tmp_path / "out", mixed).missing


def test_numbers_that_are_equal_are_the_same(stack, tmp_path, asked):
    assert segment_stack(stack, tmp_path / "out", asked(shard=(1, 2), min_volume=0, **TILE)).missing
    assert not segment_stack(stack, tmp_path / "out", asked(shard=(2, 2), **TILE)).missing
    assert Identity.of(read_report(tmp_path / "out" / "a_report.json")).digest()
    assert repr(VoxelSize(1, 1, 1)) == repr(VoxelSize(1.0, 1.0, 1.0))


def test_what_others_wrote_stays_at_any_depth(stack, tmp_path, asked):
    out = tmp_path / "out"
    segment_stack(stack, out, asked())
    path = out / "a_report.json"
    values = json.loads(path.read_text())
    values["input"]["note"] = values["outputs"]["labels"]["note"] = values["classes"][0]["note"] = values["note"] = "n"
    path.write_text(json.dumps(values))
    assert segment_stack(stack, out, asked(preview=True)).skipped
    found = json.loads(path.read_text())
    assert "preview" in found["outputs"]
    notes = [found, found["input"], found["outputs"]["labels"], found["classes"][0]]
    assert [where["note"] for where in notes] == ["n"] * 4


def test_the_report_of_another_stack_vouches_for_nothing(stack, tmp_path, asked):
    twin = stack.with_name("b.tif")
    twin.write_bytes(stack.read_bytes())
    out = tmp_path / "out"
    done = segment_stack(twin, out, asked())
    (out / "a_report.json").write_bytes(done.report.read_bytes())
    again = segment_stack(stack, out, asked())
    assert not again.skipped
    assert again.labels.exists()


def forged(kind):
    def forge(path):
        with np.load(path) as arrays:
            values = dict(arrays)
        (z, *_) = (name.rpartition("-")[2] for name in values if name.startswith("labels"))
        match kind:
            case "empty":
                path.write_bytes(b"")
                return
            case "class":
                values[f"labels-{z}"][:] = 200
            case "outside":
                values[f"labels-{z}"][:] = 255
            case "shape":
                values[f"labels-{z}"] = values[f"labels-{z}"][:-1]
            case "missing":
                del values[f"sums-{z}"]
        with path.open("wb") as stream:
            np.savez(stream, **values)

    return forge


@pytest.mark.parametrize("kind", ["empty", "class", "outside", "shape", "missing"])
def test_a_piece_that_is_none_is_made_anew(stack, tmp_path, asked, kind):
    out = tmp_path / "out"
    reference = segment_stack(stack, tmp_path / "reference", asked(**TILE))
    segment_stack(stack, out, asked(shard=(1, 2), **TILE))
    forged(kind)(next(out.rglob("piece-00000.npz")))
    with pytest.raises(OutputError, match="damaged on disk"):
        segment_stack(stack, out, asked(**TILE))
    done = segment_stack(stack, out, asked(**TILE))
    assert tifffile.imread(done.labels).tobytes() == tifffile.imread(reference.labels).tobytes()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("job.json", {"bands": []}),
        ("job.json", {"bands": [[0, 20]]}),
        ("job.json", {"bands": [[-5, 40]]}),
        ("job.json", {"rule": "foo"}),
        ("job.json", {"precision": "foo"}),
        ("job.json", {"grid.z.length": 3}),
        ("job.json", {"grid.x.margin": -3}),
        ("job.json", {"grid.y.output": 2**40}),
        ("preparation.json", {"statistics.std": 0}),
        ("preparation.json", {"statistics.std": -1.0}),
        ("preparation.json", {"statistics.mean": 1e9}),
    ],
)
def test_a_job_that_does_not_fit_is_begun_anew(stack, tmp_path, asked, file, change):
    out = tmp_path / "out"
    reference = segment_stack(stack, tmp_path / "reference", asked(**TILE))
    segment_stack(stack, out, asked(shard=(1, 2), **TILE))
    path = next(out.rglob(file))
    values = json.loads(path.read_text())
    for key, value in change.items():
        where = values["plan"] if file == "job.json" else values
        *folders, name = key.split(".")
        for folder in folders:
            where = where[folder]
        where[name] = value
    path.write_text(json.dumps(values))
    done = segment_stack(stack, out, asked(**TILE))
    assert tifffile.imread(done.labels).tobytes() == tifffile.imread(reference.labels).tobytes()


def test_a_correction_is_seen_without_a_hash(stack, tmp_path, asked):
    """Of the same size, as in an uncompressed class map; reports of old have no hash."""
    out = tmp_path / "out"
    done = segment_stack(stack, out, asked())
    values = json.loads(done.report.read_text())
    del values["outputs"]["labels"]["sha256"], values["timings"]["named_ns"]
    done.report.write_text(json.dumps(values))
    content = bytearray(done.labels.read_bytes())
    content[-1] ^= 1
    done.labels.write_bytes(content)
    os.utime(done.labels, ns=(done.report.stat().st_mtime_ns + 10**9,) * 2)
    assert segment_stack(stack, out, asked()).warnings
    with pytest.raises(Exception, match="a file of that name is there"):
        segment_stack(stack, out, asked(stitch="blend"))
    assert done.labels.read_bytes() == content


def test_ome_tiffs_are_the_same_bytes(stack, tmp_path, asked):
    files = [segment_stack(stack, tmp_path / name, asked(file_format="ome-tiff")).labels for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "options", [{"shard": (3, 2)}, {"shard": (0, 0)}, {"min_volume": float("nan")}, {"hooks": None}, {"memory": 0}]
)
def test_options_that_cannot_be(data, options):
    with pytest.raises(OptionError):
        RunOptions(**options)
    with pytest.raises(OptionError):
        RunSegmenter(load_model(data / "fly-vnc-small.zip"), {})
