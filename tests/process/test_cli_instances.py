"""`densecell-batch instances`, and the tables of a run: of labels as they are made, corrected, and from elsewhere."""

import csv
import hashlib
import json
import shutil
import signal
from functools import partial

import kills
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from densecell_batch.calibration import VoxelSize
from densecell_batch.cli import cli
from densecell_batch.data import SAMPLE
from densecell_batch.errors import OptionError
from densecell_batch.io.writing import StackWriter
from densecell_batch.labels import OUTSIDE
from densecell_batch.measure.objects import ObjectSums
from densecell_batch.runs import measured, objects

SIZE = VoxelSize(0.05, 0.01, 0.01)
NAMES = ["rest", "=thing", "wall"]


def run(*words):
    """Verdict lines of a command that must not end in a traceback, and its exit code."""
    found = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    return [line.split("\t")[1:] for line in found.stdout.splitlines()], found.exit_code


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(path, volume, *, names=NAMES, voxel_size=SIZE):
    with StackWriter(path, volume.shape, "uint8", voxel_size=voxel_size, class_names=names) as writer:
        for z, plane in enumerate(volume):
            writer.write(z, plane)
        writer.commit()
    return path


def balls():
    """Two touching balls and one alone, in a box of walls with an outside."""
    z, y, x = np.indices((12, 60, 120))
    volume = np.zeros(z.shape, np.uint8)
    for centre in (30, 56, 95):
        volume[(5 * (z - 6)) ** 2 + (y - 30) ** 2 + (x - centre) ** 2 <= 15**2] = 1
    volume[:, :4] = 2
    volume[:, :, 118:] = OUTSIDE
    return volume


@pytest.fixture
def labels(tmp_path):
    return write(tmp_path / "cells.tif", balls())


def test_objects_of_labels_from_elsewhere(labels, tmp_path):
    out = tmp_path / "out"
    lines, code = run("instances", labels, "-o", out, "--class", "=thing", "--split", "--rois")
    assert (lines, code) == ([["ok", str(out / "cells_objects.csv"), str(out / "cells_objects.json")]], 0)
    rows = table(out / "cells_objects.csv")
    numbers = tifffile.imread(out / "cells_-thing_instances.tif")
    sums = ObjectSums(3, NAMES, SIZE)
    for found, plane in zip(numbers, balls(), strict=True):
        sums.add(found, plane)
    assert len(rows) == numbers.max() == 3
    for name, column in sums.columns().items():
        assert [row[name] for row in rows] == ["" if np.isnan(v) else f"{v:.6g}" for v in column.tolist()]
    assert {(row["stack"], row["labels"], row["class"]) for row in rows} == {("cells", "given", "'=thing")}
    (thing,) = [row for row in table(out / "cells_classes.csv") if row["class"] == "'=thing"]
    assert thing["objects"] == "3"
    assert int(thing["voxels"]) == (balls() == 1).sum()
    tissue = (balls() != OUTSIDE).sum()
    assert float(thing["volume_fraction"]) == pytest.approx((balls() == 1).sum() / tissue, rel=1e-5)
    assert table(out / "objects-given.csv") == rows
    assert not (out / "objects.csv").exists()
    names = sorted(path.name for path in out.iterdir())
    assert {"cells_-thing_rois.zip", "cells_-thing_objects.png"} < set(names)
    assert run("instances", labels, "-o", tmp_path / "whole", "--class", "=thing")[1] == 0
    assert len(table(tmp_path / "whole/cells_objects.csv")) == 2


def test_results_of_other_labels_are_not_replaced(labels, tmp_path):
    (tmp_path / "b").mkdir()
    other = write(tmp_path / "b/cells.tif", np.flip(balls(), 2).copy())
    with pytest.raises(OptionError, match="would both be written to"):
        run("instances", labels, other, "-o", tmp_path / "out", "--class", "=thing")
    assert run("instances", labels, "-o", tmp_path / "out", "--class", "=thing")[1] == 0
    lines, code = run("instances", other, "-o", tmp_path / "out", "--class", "=thing")
    assert (lines[0][0], code) == ("failed", 1)
    assert "the results of other labels of this name" in lines[0][2]


@pytest.mark.parametrize(("names", "words"), [
    ("a,b,b", ()), ("bg,a b,a-b", ()), ("bg,=#ff0000,x", ("--class", "x")),
])  # fmt: skip
def test_names_that_would_be_one(labels, tmp_path, names, words):
    assert run("instances", labels, "-o", tmp_path / "out", "--classes", names, *words)[1] == 1
    assert not list(tmp_path.glob("out/*.tif"))


def test_nothing_but_the_first_class(tmp_path):
    path = write(tmp_path / "cells.tif", np.zeros((3, 20, 20), np.uint8), names=())
    out = tmp_path / "out"
    out.mkdir()
    (out / "cells_objects.csv").write_text("mine")
    assert run("instances", path, "-o", out, "--split", "--rois")[1] == 1
    assert (out / "cells_objects.csv").read_text() == "mine"
    (out / "cells_objects.csv").unlink()
    assert run("instances", path, "-o", out, "--split", "--rois")[1] == 0
    assert table(out / "cells_objects.csv") == []
    assert (out / "cells_objects.csv").read_text().startswith("stack,labels,class,object,voxels,")


def test_a_mask_of_0_and_255_is_told_why_it_has_no_objects(tmp_path, caplog):
    path = write(tmp_path / "cells.tif", np.where(balls() == 1, OUTSIDE, 0).astype(np.uint8), names=())
    assert run("instances", path, "-o", tmp_path / "out")[1] == 0
    assert "in a mask of 0 and 255, make the 255 a 1" in caplog.text


def test_labels_without_a_name_are_asked_for_where_they_occur(tmp_path):
    path = write(tmp_path / "cells.tif", np.where(balls() == 1, 77, 0).astype(np.uint8), names=())
    assert run("instances", path, "-o", tmp_path / "out", "--no-preview")[1] == 0
    assert [file.name for file in tmp_path.glob("out/*.tif")] == ["cells_class-77_instances.tif"]
    assert len(table(tmp_path / "out/cells_classes.csv")) == 78


def test_names_that_are_too_long(labels, tmp_path):
    lines, code = run("instances", labels, "-o", tmp_path / "out", "--classes", f"rest,{'x' * 250},wall")
    assert code == 1
    assert "the name is too long" in lines[0][2]
    long = write(tmp_path / f"{'y' * 185}.tif", balls())
    lines, code = run("instances", long, "-o", tmp_path / "out", "--class", "wall", "--rois")
    assert code == 1
    assert "the name is too long" in lines[0][2]
    assert not list(tmp_path.glob("out/*.csv"))


def test_labels_that_change_meanwhile_are_not_measured(labels, tmp_path, monkeypatch):
    def make(*words):
        labels.write_bytes(labels.read_bytes() + b"\0")
        return make_objects(*words)

    make_objects = objects.make_objects
    monkeypatch.setattr(measured, "make_objects", make)
    lines, code = run("instances", labels, "-o", tmp_path / "out", "--class", "=thing")
    assert (lines[0][0], code) == ("failed", 1)
    assert "it was changed while it was measured" in lines[0][2]
    assert not list((tmp_path / "out").glob("*.csv"))


def test_records_and_tables_of_a_stranger(labels, tmp_path):
    out = tmp_path / "a/b/out"
    command = "instances", labels, "-o", out, "--class", "=thing"
    assert run(*command)[1] == 0
    record = json.loads((out / "cells_objects.json").read_text())
    (out / "evil_objects.json").write_text(json.dumps(record | {"state": "../../evil"}))
    bad = b"stack,labels\na,b,c,d\n"
    (out / "bad_objects.csv").write_bytes(bad)
    entry = {"file": "bad_objects.csv", "bytes": len(bad), "sha256": hashlib.sha256(bad).hexdigest()}
    (out / "bad_objects.json").write_text(json.dumps(record | {"outputs": {"objects": entry}}))
    before = sorted(path for path in tmp_path.rglob("*") if out not in path.parents)
    assert run(*command, "--overwrite")[1] == 0
    assert sorted(path for path in tmp_path.rglob("*") if out not in path.parents) == before
    assert table(out / "objects-given.csv") == table(out / "cells_objects.csv")


def test_thick_slices_of_a_small_stack_and_a_tolerance_near_nothing(labels, tmp_path):
    small = write(tmp_path / "small.tif", balls()[:, 25:35, :70].copy())
    for voxel_size in ("270,10,10", "400,10,10"):
        command = "instances", small, "-o", tmp_path / voxel_size, "--class", "=thing", "--split"
        assert run(*command, "--voxel-size", voxel_size)[1] == 0
    for number, tolerance in enumerate(("1e-20", "1e6")):
        command = "instances", labels, "-o", tmp_path / str(number), "--class", "=thing", "--split"
        assert run(*command, "--split-tolerance", tolerance)[1] == 0
    lines, code = run("instances", labels, "-o", tmp_path / "x", "--split", "--voxel-size", "1,1,1e6")
    assert (lines[0][0], code) == ("failed", 1)
    with pytest.raises(OptionError, match="min_volume is nan; expected"):
        run("instances", labels, "-o", tmp_path / "x", "--min-volume", "nan")


def test_objects_are_no_labels(labels, tmp_path):
    assert run("instances", labels, "-o", tmp_path / "out", "--class", "=thing")[1] == 0
    lines, code = run("instances", tmp_path / "out/cells_-thing_instances.tif", "-o", tmp_path / "again")
    assert code == 1
    assert "these are objects; expected labels" in lines[0][2]


def test_more_regions_than_imagej_opens_are_left_out(labels, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(objects, "write_rois", partial(objects.write_rois, most=3))
    assert run("instances", labels, "-o", tmp_path / "out", "--class", "=thing", "--rois")[1] == 0
    assert "more than 3 regions" in caplog.text
    assert not (tmp_path / "out/cells_-thing_rois.zip").exists()
    assert (tmp_path / "out/cells_objects.csv").exists()


def test_cells_lie_between_walls(tmp_path):
    volume = np.zeros((3, 20, 31), np.uint8)
    volume[:, :, 15] = 2
    volume[:, 5:8, 5:8] = 1  # within the first cell
    volume[:, 18:] = OUTSIDE
    path = write(tmp_path / "cells.tif", volume)
    assert run("instances", path, "-o", tmp_path / "out", "--cells-from", "wall", "--class", "=thing")[1] == 0
    rows = table(tmp_path / "out/cells_objects.csv")
    assert [(row["class"], int(row["voxels"])) for row in rows] == [
        ("'=thing", 27), ("cells", 3 * 18 * 15), ("cells", 3 * 18 * 15),
    ]  # fmt: skip
    assert [row["touches_outside"] for row in rows] == ["0", "1", "1"]


def test_what_is_done_is_skipped_and_what_is_changed_is_left_alone(labels, tmp_path, caplog):
    out = tmp_path / "out"
    command = "instances", labels, "-o", out, "--class", "=thing"
    assert run(*command)[1] == 0
    stamp = (out / "cells_objects.csv").stat().st_mtime_ns
    assert run(*command)[1] == 0
    assert (out / "cells_objects.csv").stat().st_mtime_ns == stamp
    assert run(*command, "--min-volume", "0.0001")[1] == 0  # other work takes the place of ours
    (out / "cells_objects.csv").write_text("mine\n")
    lines, code = run(*command)
    assert code == 1
    assert "cells_objects.csv: a file of that name is there that this command did not write" in lines[0][2]
    assert (out / "cells_objects.csv").read_text() == "mine\n"
    (out / "classes-given.csv").write_text("mine, too\n")
    assert run(*command, "--overwrite")[1] == 0
    assert len(table(out / "cells_objects.csv")) == 2
    assert (out / "classes-given.csv").read_text() == "mine, too\n"
    assert "classes-given.csv: a file of that name is there" in caplog.text


def test_what_is_not_asked_any_more_is_kept_under_another_name(labels, tmp_path):
    out = tmp_path / "out"
    assert run("instances", labels, "-o", out, "--class", "=thing", "--rois")[1] == 0
    before = (out / "cells_-thing_rois.zip").read_bytes()
    assert run("instances", labels, "-o", out, "--class", "=thing")[1] == 0
    assert not (out / "cells_-thing_rois.zip").exists()
    (kept,) = out.glob("cells.old-*_-thing_rois.zip")
    assert kept.read_bytes() == before


@pytest.mark.parametrize(("change", "words", "reason"), [
    (lambda v: v.__setitem__((3, 5, 5), 7), (), "slice 4 has the label 7; expected 0 to 2 for the classes"),
    (lambda v: None, ("--class", "x"), "there is no class 'x'; the classes are rest, =thing, wall"),
    (lambda v: None, ("--split-tolerance", "0.1"), "give --split as well"),
    (lambda v: None, ("--images", SAMPLE), "the labels"),
])  # fmt: skip
def test_what_cannot_be_measured(tmp_path, change, words, reason):
    volume = balls()
    change(volume)
    path = write(tmp_path / "cells.tif", volume)
    good = write(tmp_path / "good.tif", balls())
    more = ("--classes", "rest,thing,wall") if "label 7" in reason else ()
    if "--images" in words:
        words = (*words, "--images", SAMPLE)
    lines, code = run("instances", path, good, "-o", tmp_path / "out", *words, *more)
    assert code == 1
    assert lines[0][0] == "failed"
    assert reason in lines[0][2]
    if "label 7" in reason:
        assert lines[1][0] == "ok"  # one bad stack stops no other


def test_without_calibration(tmp_path):
    path = write(tmp_path / "cells.tif", balls(), voxel_size=None)
    lines, code = run("instances", path, "-o", tmp_path / "out", "--split")
    assert code == 1
    assert "it has no voxel size, so --split cannot be applied; give --voxel-size as well" in lines[0][2]
    assert run("instances", path, "-o", tmp_path / "out", "--class", "=thing")[1] == 0
    rows = table(tmp_path / "out/cells_objects.csv")
    assert {(row["volume_um3"], row["surface_um2"], row["contact_wall_um2"]) for row in rows} == {("", "", "")}
    assert all(int(row["voxels"]) > 0 for row in rows)
    assert run("instances", path, "-o", tmp_path / "nm", "--split", "--voxel-size", "50,10,10")[1] == 0
    assert table(tmp_path / "nm/cells_objects.csv")[0]["volume_um3"]


def test_a_class_without_a_voxel_and_one_that_fills_the_stack(tmp_path, caplog):
    path = write(tmp_path / "cells.tif", np.ones((4, 20, 20), np.uint8))
    assert run("instances", path, "-o", tmp_path / "out", "--split", "--rois")[1] == 0
    (row,) = table(tmp_path / "out/cells_objects.csv")
    assert (row["class"], row["voxels"], row["surface_um2"], row["sphericity"]) == ("'=thing", "1600", "0", "")
    assert "there are no objects of wall" in caplog.text
    told = json.loads((tmp_path / "out/cells_objects.json").read_text())["objects"]
    assert (told["wall"]["count"], told["=thing"]["count"]) == (0, 1)
    assert not (tmp_path / "out/cells_wall_rois.zip").exists()


def test_more_objects_than_16_bits(tmp_path):
    volume = np.zeros((3, 600, 540), np.uint8)
    volume[:, ::2, ::2] = 1
    volume[1] = 0  # 2 x 81,000 objects
    path = write(tmp_path / "cells.tif", volume)
    assert run("instances", path, "-o", tmp_path / "out", "--class", "=thing", "--split")[1] == 0
    assert len(table(tmp_path / "out/cells_objects.csv")) == 162_000
    told = json.loads((tmp_path / "out/cells_objects.json").read_text())["objects"]["=thing"]
    assert told["note"] == "more than 65,535 instances: written as OME-TIFF uint32"
    numbers = tifffile.imread(tmp_path / "out/cells_-thing_instances.tif")
    assert (numbers.dtype, numbers.max()) == (np.uint32, 162_000)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, data):
    """Two stacks, segmented with objects."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("a", "b"):
        shutil.copy(SAMPLE, folder / f"{name}.tif")
    lines, code = run(
        "segment", folder / "a.tif", folder / "b.tif", "-o", folder / "out", "--model", data / "fly-vnc-small.zip",
        "--instances", "mitochondrion", "--split", "--uncertainty", "--fit", "off",
    )  # fmt: skip
    assert code == 0, lines
    return folder / "out"


def test_a_run_has_one_table_of_all_stacks(segmented):
    rows = table(segmented / "objects.csv")
    assert rows == [row for name in "ab" for row in table(segmented / f"{name}_objects.csv")]
    assert {row["stack"] for row in rows} == {"a", "b"}
    assert all(row["mean_confidence"] and row["mean_uncertainty_bits"] and row["mean_grey"] for row in rows)
    report = json.loads((segmented / "a_report.json").read_text())
    assert report["instances"]["mitochondrion"]["count"] == sum(row["stack"] == "a" for row in rows)
    assert report["instances"]["mitochondrion"]["split_tolerance_um"] == 0.0235
    (row,) = [row for row in table(segmented / "a_classes.csv") if row["class"] == "mitochondrion"]
    (told,) = [entry for entry in report["classes"] if entry["name"] == "mitochondrion"]
    assert (int(row["voxels"]), float(row["volume_um3"])) == (told["voxels"], told["volume_um3"])
    assert float(row["mean_confidence"]) == pytest.approx(told["mean_confidence"], abs=0.002)
    assert float(row["mean_uncertainty_bits"]) == pytest.approx(told["mean_disagreement_bits"], abs=1e-5)


def test_the_last_shard_makes_the_table_of_all_stacks(segmented, tmp_path, data):
    shutil.copy(SAMPLE, tmp_path / "a.tif")
    words = ("segment", tmp_path / "a.tif", "-o", tmp_path / "out", "--model", data / "fly-vnc-small.zip",
             "--instances", "mitochondrion", "--split", "--uncertainty", "--fit", "off")  # fmt: skip
    assert run(*words, "--shard", "1/2")[1] == 0
    assert not (tmp_path / "out/objects.csv").exists()
    assert run(*words, "--shard", "2/2")[1] == 0
    assert table(tmp_path / "out/objects.csv") == table(segmented / "a_objects.csv")


def test_the_same_objects_without_nets(segmented, tmp_path):
    words = "instances", segmented / "a_labels.tif", "-o", tmp_path, "--class", "mitochondrion", "--split"
    assert run(*words)[1] == 0
    instances = "a_mitochondrion_instances.tif"
    assert (tmp_path / instances).read_bytes() == (segmented / instances).read_bytes()
    mine, theirs = table(tmp_path / "a_objects.csv"), table(segmented / "a_objects.csv")
    for row in theirs:
        row["mean_confidence"] = ""  # is written nowhere
    assert mine == theirs


def test_corrected_labels_are_measured_anew_and_say_so(segmented, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(segmented, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    volume = tifffile.imread(out / "a_labels.tif")
    volume[:, :30, :30] = 2
    tifffile.imwrite(out / "a_labels.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    words = "instances", out / "a_labels.tif", out / "b_labels.tif", "--class", "mitochondrion"
    lines, code = run(*words, "-o", out)
    assert [line[0] for line in lines] == ["ok", "failed"]  # those of b are there already, of the run
    rows = table(out / "a_corrected_objects.csv")
    assert {row["labels"] for row in rows} == {"corrected"}
    assert rows[0]["volume_um3"]  # the file has no voxel size any more, but the report has
    assert table(out / "objects-corrected.csv") == rows
    del before["a_labels.tif"], before[".densecell-tables.json"]
    assert {name: (out / name).read_bytes() for name in before} == before
    assert {row["labels"] for row in table(out / "objects.csv")} == {"nets"}
    assert code == 1


@pytest.mark.parametrize(("module", "name", "after"), [
    ("runs.measured", "write_file", 0),  # of the announcement
    ("runs.objects", "place", 0),
    ("runs.objects", "place", 1),
    ("io.writing", "place", 0),
    ("runs.measured", "write_file", 1),  # of the record
])  # fmt: skip
def test_killed_while_files_get_their_names(labels, tmp_path, module, name, after):
    out = tmp_path / "out"
    words = ["instances", labels, "-o", out, "--class", "=thing"]
    assert run(*words)[1] == 0  # what is replaced
    process = kills.start(
        [str(word) for word in (*words, "--split")], tmp_path / "said", partial(kills.kill_at, module, name, after)
    )
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    assert run(*words, "--split")[1] == 0
    assert run(*words, "--split", "-o", tmp_path / "whole")[1] == 0
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for file in names - {".densecell-tables.json"}:
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
