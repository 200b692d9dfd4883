"""The page of a batch, made of reports."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import struct
import zlib
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs
from PIL import Image

from densecell_batch.cli.segment import _sum_up
from densecell_batch.cli.summary import summary
from densecell_batch.errors import OccupiedError, OptionError, OutputError
from densecell_batch.measure.tally import ClassRow
from densecell_batch.plots.overlay import render_preview
from densecell_batch.plots.png import as_png
from densecell_batch.plots.thumbnails import thumbnail
from densecell_batch.prepare.defects import Defect
from densecell_batch.prepare.normalize import Statistics
from densecell_batch.runs import at_work
from densecell_batch.runs.found import FitRecord, Found, Outside
from densecell_batch.runs.joint_files import write_joint
from densecell_batch.runs.report import Input, Instances, Model, Report, write_report
from densecell_batch.runs.summary import SUMMARY, write_summary
from densecell_batch.storage.claims import claimed
from densecell_batch.storage.records import FileRecord, described

SHAPE = (6, 30, 40)
CLASSES = [("background", (0, 0, 127)), ("cell", (200, 0, 0))]
PREVIEW = as_png(
    render_preview(
        [(z, np.full(SHAPE[1:], 100, np.uint8)) for z in (1, 3, 5)],
        [np.full(SHAPE[1:], z % 2, np.uint8) for z in (0, 1, 0)],
        CLASSES, None, "cells",
    )
)  # fmt: skip


def done(folder: Path, name: str, **changes) -> Path:
    """The results of a stack, as far as a page needs them; its report."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"labels": f"{name}_labels.tif", "preview": f"{name}_preview.png"}
    contents = {"labels": b"labels of " + os.fsencode(name), "preview": PREVIEW}
    for kind, file in files.items():
        (folder / file).write_bytes(contents[kind])
    report = Report(
        input=Input(sha256="ab", shape=SHAPE, dtype="uint8", voxel_size_um=None),
        model=Model(name="tiny", version="1", licence="CC0", members=("cd",)),
        options={},
        classes=tuple(
            ClassRow(index=i, name=class_name, colour="#c80000", voxels=3600, volume_um3=0.5, mean_confidence=0.9,
                     mean_disagreement_bits=None)
            for i, (class_name, _) in enumerate(CLASSES)
        ),
        mean_confidence=0.9,
        outputs={kind: described(file, contents[kind]) for kind, file in files.items()},
    )  # fmt: skip
    path = folder / f"{name}_report.json"
    write_report(path, report.with_fields(**changes))
    return path


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def made(folder: Path, **more) -> str:
    assert write_summary([folder], folder / SUMMARY, **more) == [folder / SUMMARY, folder / "summary.csv"]
    return (folder / SUMMARY).read_text(encoding="utf-8")


def test_worst_first_with_all_that_reports_say(tmp_path):
    done(tmp_path, "a 2")
    done(tmp_path, "a 10", outside=Outside(voxels=2400, volume_um3=None))
    done(
        tmp_path,
        "b",
        warnings=("look at it",),
        preparation=Found(seen=((0, 6), (0, 30), (0, 40)), damaged_slices=(Defect(2, "torn", "it is"),)),
        fit=FitRecord(alike=False, score=2.5, measured={"disagreement": 0.3, "power_5px": 1.0},
                      expected={"disagreement": (0.0, 0.2)}, worst=("power_5px",), remedy="", taken=False),
    )  # fmt: skip
    text = made(tmp_path, failed={tmp_path / "c": "no TIFF"})
    rows = table(tmp_path)
    assert [row["stack"] for row in rows] == ["c", "b", "a 2", "a 10"]
    assert [row["look_at_this"] for row in rows] == ["yes", "yes", "no", "no"]
    worst = rows[1]
    assert worst["reasons"].startswith("unlike the model's own data (its sharpness, noise or pixel size); damaged")
    assert (worst["damaged_slices"], worst["warnings"], worst["alike"]) == ("1", "look at it", "no")
    assert (worst["disagreement_bits"], worst["own_disagreement_bits"]) == ("0.3", "0.2")
    assert float(rows[3]["outside_share"]) == 0.25
    assert (rows[2]["cell voxels"], rows[2]["cell um3"]) == ("3600", "0.5")
    assert text.count("data:image/jpeg;base64,") == 3
    assert './a%2010_preview.png"' in text
    assert "nets disagree 1.5 times" in text


def test_what_became_of_the_results(tmp_path):
    done(tmp_path, "gone")
    (tmp_path / "gone_labels.tif").unlink()
    done(tmp_path, "mended")
    (tmp_path / "mended_labels.tif").write_bytes(b"by hand")
    (tmp_path / "odd_report.json").write_text("{}")
    text = made(tmp_path)
    rows = {row["stack"]: row for row in table(tmp_path)}
    assert rows.keys() == {"gone", "mended"}
    assert rows["gone"]["reasons"] == "its labels are gone"
    assert rows["mended"]["corrected"] == "yes"
    assert "gone_labels.tif" not in text
    assert text.count(">corrected<") == 1


NAMES = ["<script>alert(1)<|script>", "a'b\"c", "=1+1", "x\u202egpj", "%41#?&", "javascript:alert(1)"]


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path, name):
    done(tmp_path, name)
    text = made(tmp_path)
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert 'href="javascript' not in text
    assert table(tmp_path)[0]["stack"][:1] != "="
    (link,) = re.findall(r'href="\./([^"]*_labels\.tif)"', text)
    assert (tmp_path / os.fsdecode(unquote_to_bytes(link))).exists()


def test_numbers_that_no_run_writes(tmp_path):
    """Whoever can write to the folder may spoil a row, not the page."""
    huge, fit = 2**62, {"measured": {"disagreement": -1e308, "power_5px": 1e308}, "worst": ("x" * 999,), "remedy": ""}
    for i in range(9):
        done(
            tmp_path, f"a{i}", mean_confidence=1e308 * (-1) ** i,
            input=Input(sha256="ab", shape=(0, 0, 0), dtype="uint8", voxel_size_um=None),
            outside=Outside(voxels=-huge, volume_um3=None),
            instances={"cell": Instances(count=huge, dropped=0, voxels=-huge)},
            fit=FitRecord(alike=False, score=1e308, expected={"disagreement": (0.0, -1e-308)}, taken=False, **fit),
            classes=(ClassRow(index=0, name="cell", colour="url(//x)", voxels=huge * (i % 2), volume_um3=-1e308,
                              mean_confidence=None, mean_disagreement_bits=None),),
        )  # fmt: skip
    assert "url(" not in made(tmp_path)
    assert len(table(tmp_path)) == 9


def test_folders_below(tmp_path):
    done(tmp_path / "out/b", "x")
    done(tmp_path / "out/a", "x")
    done(tmp_path / "out/.hidden", "x")
    (tmp_path / "out/link").symlink_to(tmp_path / "out/a")
    write_summary([tmp_path / "out"], tmp_path / "p.html")
    assert not re.findall("_labels", (tmp_path / "p.html").read_text())
    write_summary([tmp_path / "out"], tmp_path / "p.html", below=True)
    assert re.findall(r'"\./(out/./x)_labels', (tmp_path / "p.html").read_text()) == ["out/a/x", "out/b/x"]


def test_a_page_of_the_user_stays(tmp_path, caplog):
    done(tmp_path, "a")
    made(tmp_path)
    assert write_summary([tmp_path], tmp_path / SUMMARY)  # ours may be replaced
    done(tmp_path, "b")
    made(tmp_path)
    (tmp_path / SUMMARY).write_text("my notes")
    assert write_summary([tmp_path], tmp_path / SUMMARY) == [tmp_path / "summary.csv"]
    assert (tmp_path / SUMMARY).read_text() == "my notes"
    assert "left as it is" in caplog.text


def test_same_results_same_bytes(tmp_path):
    done(tmp_path, "a")
    assert made(tmp_path) == made(tmp_path)


def run(*words):
    result = CliRunner().invoke(summary, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command(tmp_path):
    done(tmp_path / "out/mouse 1", "a")
    (tmp_path / "out/d.error.txt").write_text("x\n\nWhy: no TIFF\n[1 file, 2 bytes, changed 3, d.tif]\n")
    page = tmp_path / "page.html"
    done_ = run(tmp_path / "out", "-o", page, "--expect", "/data/a.tif", "--expect", "/data/e.tif")
    assert done_.stdout.splitlines() == [str(page), str(tmp_path / "page.csv")]
    text = page.read_text()
    assert "failed: no TIFF" in text
    assert text.count("failed: it has no results") == 2  # none of those in the folder itself
    assert "in <bdi>out/mouse 1</bdi>" in text
    page.write_text("mine")
    with pytest.raises(OccupiedError, match="choose another name"):
        run(tmp_path / "out", "-o", page)
    assert run(tmp_path / "out").stdout.splitlines()[0] == str(tmp_path / "out/summary.html")
    with pytest.raises(OptionError, match="no such folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(OptionError, match=r"ends in \.html"):
        run(tmp_path / "out", "-o", tmp_path / "page.csv")


def test_three_hundred_stacks_are_a_small_page(tmp_path):
    for i in range(300):
        done(tmp_path, f"cells {i}")
    assert len(made(tmp_path)) < 30e6
    assert len(table(tmp_path)) == 300


@pytest.mark.parametrize("content", [b"", b"no picture", PREVIEW[:-200], as_png(np.zeros((50, 60, 3), np.uint8))])
def test_no_thumbnail_of_what_is_no_preview(tmp_path, content):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    assert thumbnail(path, SHAPE[1:], 3) == b""
    assert thumbnail(tmp_path / "nowhere", SHAPE[1:], 3) == b""


def test_the_thumbnail_is_the_middle_slice_with_its_labels(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(PREVIEW)
    with Image.open(io.BytesIO(thumbnail(path, SHAPE[1:], 3))) as picture:
        assert picture.size == (176, 132)
        shown = np.asarray(picture)
    assert shown[..., 0].min() > shown[..., 1].max() + 30  # red all over: the label of the middle slice


def test_a_record_is_enough(tmp_path):
    """Outputs of reports of old have no hash."""
    path = done(tmp_path, "a")
    size = (tmp_path / "a_labels.tif").stat().st_size
    report = Report(
        input=Input(sha256="ab", shape=SHAPE, dtype="uint8", voxel_size_um=None),
        model=Model(name="tiny", version="1", licence="CC0", members=("cd",)), options={},
        outputs={"labels": FileRecord(file="a_labels.tif", bytes=size)},
    )  # fmt: skip
    write_report(path, report)
    made(tmp_path)
    assert (
        hashlib.sha256((tmp_path / SUMMARY).read_bytes()).hexdigest()
        in (tmp_path / ".densecell-tables.json").read_text()
    )


def test_numbers_that_others_are_divided_by(tmp_path):
    doubt = {"alike": True, "score": 0.5, "worst": (), "remedy": "", "taken": False}
    for i in range(9):
        done(
            tmp_path, f"a{i}",
            statistics=Statistics(mean=1.0, std=(-5.0, 5e-324, 1e-35)[i % 3], minimum=0.0, maximum=2.0),
            fit=FitRecord(measured={"disagreement": 0.1 * i}, expected={"disagreement": (0.0, 5e-324)}, **doubt),
        )  # fmt: skip
    made(tmp_path)
    assert len(table(tmp_path)) == 9


def test_more_classes_than_there_can_be(tmp_path):
    """A page of some megabytes, not of gigabytes, whatever one report says."""
    row = ClassRow(index=0, name="", colour="#000000", voxels=1, volume_um3=1.0, mean_confidence=None,
                   mean_disagreement_bits=None)  # fmt: skip
    many = [structs.replace(row, name=f"class {i}") for i in range(3000)]
    objects = {f"class {i}": Instances(count=1, dropped=0, voxels=1) for i in range(3000)}
    for i in range(3):
        done(tmp_path, f"a{i}")
    done(tmp_path, "b", classes=(structs.replace(row, name="x" * 10_000), *many), instances=objects)
    done(tmp_path, "c", classes=tuple(structs.replace(one, name=f"more {one.name}") for one in many))
    done(tmp_path, "d", classes=tuple(structs.replace(one, name=f"most {one.name}") for one in many))
    text = made(tmp_path)
    assert "x" * 100 not in text
    assert text.count("<th scope=") < 700
    assert "class 7 voxels" in table(tmp_path)[0]


def test_a_report_that_cannot_be_read(tmp_path):
    done(tmp_path, "good")
    for name, content in (("cut", "{"), ("deep", "[" * 100_000), ("new", '{"schema_version": 99}')):
        done(tmp_path, name).write_text(content)
    (tmp_path / "of_others_report.json").write_text("{}")
    made(tmp_path, failed={tmp_path / "cut": "the disk was full"})
    reasons = {row["stack"]: row["reasons"] for row in table(tmp_path)}
    assert reasons.keys() == {"cut", "deep", "new", "good"}
    assert reasons["cut"] == "failed: the disk was full"
    assert reasons["new"].startswith("failed: its report cannot be read")


def test_an_expected_stack_with_a_report_that_cannot_be_read(tmp_path):
    (tmp_path / "a_report.json").write_text("{")
    CliRunner().invoke(summary, [str(tmp_path), "--expect", "a.tif"], standalone_mode=False)
    assert [row["reasons"] for row in table(tmp_path)] == ["failed: it has no results"]


def test_a_picture_that_is_spoilt_after_its_pixels(tmp_path):
    end = PREVIEW.rindex(b"IEND") - 4
    chunk = struct.pack(">I", 0) + b"iCCP" + struct.pack(">I", zlib.crc32(b"iCCP"))
    (tmp_path / "a.png").write_bytes(PREVIEW[:end] + chunk + PREVIEW[end:])
    thumbnail(tmp_path / "a.png", SHAPE[1:], 3)  # whatever it is, no exception


def test_no_page_takes_the_table_of_all_objects(tmp_path):
    done(tmp_path, "a")
    write_joint(tmp_path / "objects.csv", lambda: [b"of all stacks\n"])
    result = CliRunner().invoke(summary, [str(tmp_path), "-o", str(tmp_path / "objects.html")])
    assert isinstance(result.exception, OptionError)
    assert (tmp_path / "objects.csv").read_bytes() == b"of all stacks\n"


@pytest.mark.parametrize("length", [245, 300])
def test_a_name_that_is_too_long(tmp_path, length):
    done(tmp_path, "a")
    result = CliRunner().invoke(summary, [str(tmp_path), "-o", str(tmp_path / ("n" * length + ".html"))])
    assert isinstance(result.exception, OutputError)
    assert "too long" in str(result.exception)


def test_a_page_that_another_process_is_at(tmp_path, monkeypatch, caplog):
    done(tmp_path, "a")
    monkeypatch.setattr(at_work, "_PATIENCE", 0.1)
    with claimed(tmp_path / ".densecell-tables.json.entering") as ours:
        assert ours
        _sum_up(tmp_path, {})
    assert "another process holds" in caplog.text
    assert "internal error" not in caplog.text
