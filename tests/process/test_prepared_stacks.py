"""Stacks with fill, masks, other pixel sizes and regions, as files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from densecell_batch import DensecellError, RunOptions, RunSegmenter, StackError, VoxelSize, segment_stack
from densecell_batch.api import write_stack
from densecell_batch.cli import cli
from densecell_batch.labels import OUTSIDE
from densecell_batch.models.bundle import load_bundle, write_bundle
from densecell_batch.nets.predictor import Predictor
from densecell_batch.training.own_data import own_records
from densecell_batch.training.volumes import LabelledVolume

pytestmark = pytest.mark.keras

TRAINED = VoxelSize.of(47, 9.2, 9.2, unit="nm")


@pytest.fixture(scope="module")
def crop(data: Path) -> np.ndarray:
    return tifffile.imread(data / "vnc-crop.tif")


@pytest.fixture(scope="module")
def knowing(data: Path, crop: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows its own data: the crop, in pieces."""
    small = load_bundle(data / "fly-vnc-small.zip")
    weights = [small.weights(i) for i in range(len(small.members))]
    normalized = ((crop - crop.mean()) / crop.std()).astype(np.float32)
    predictor, window = Predictor(small.architecture, weights, "float32"), (4, 64, 64)
    turned = (normalized, normalized[:, ::-1].copy(), normalized.swapaxes(1, 2).copy())
    *train, other = (LabelledVolume(image, np.zeros(image.shape, np.uint8), TRAINED, ()) for image in turned)
    own = own_records(train, [other], predictor, window)
    bundle = write_bundle(
        tmp_path_factory.mktemp("knowing") / "knowing.zip", name="knowing", version="1", licence="CC BY-NC-SA 3.0",
        citation="as the small one", architecture=small.architecture, classes=small.classes, voxel_size=TRAINED,
        window=window, members=weights, golden=small.golden(), scores={}, provenance={}, own_data=own,
    )  # fmt: skip
    assert load_bundle(bundle.path).own_data == own
    return bundle.path


@pytest.fixture(scope="module")
def ragged(crop: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fill of another shape in each slice, one of them blank, and pixels of another size."""
    y, x = np.indices(crop.shape[1:])
    volume = np.pad(crop, ((1, 0), (0, 0), (0, 0)))
    for z in range(1, 5):
        volume[z, (x + z * y < 40 + 10 * z) | (x > 92 - z)] = 0
    volume[3] = 0
    return write_stack(
        tmp_path_factory.mktemp("ragged") / "cells.tif", volume, voxel_size=VoxelSize.of(47, 7, 8, unit="nm")
    )


def segmenter(model: Path, **options) -> RunSegmenter:
    return RunSegmenter(model, RunOptions(**{"precision": "float32", "device": "cpu", "preview": False} | options))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tif")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (5, 40, 40)},
        {"scale": (1.4, 0.8, 1.0), "stitch": "blend"},
        {"roi": ((0, 4), (30, 90), (10, 96)), "stitch": "deepest", "outside": "off"},
    ],
    ids=str,
)
def test_shards_give_the_very_bytes_of_one_run(knowing: Path, ragged: Path, tmp_path: Path, options) -> None:
    everything = {"probabilities": True, "uncertainty": True, "instances": ("mitochondrion",)} | options
    whole = segment_stack(ragged, tmp_path / "whole", segmenter(knowing, **everything))
    for i in (2, 3, 1):
        segment_stack(ragged, tmp_path / "shards", segmenter(knowing, shard=(i, 3), **everything))
    assert files(tmp_path / "shards") == files(tmp_path / "whole")
    labels = tifffile.imread(whole.labels)
    region = options.get("roi", ((0, 5), (0, 96), (0, 96)))
    assert labels.shape == tuple(stop - start for start, stop in region)
    assert bool((labels == OUTSIDE).any()) == ("outside" not in options)


def test_what_the_report_says(knowing: Path, ragged: Path, tmp_path: Path) -> None:
    done = segment_stack(ragged, tmp_path, segmenter(knowing))
    report, labels = json.loads(done.report.read_text()), tifffile.imread(done.labels)
    n_outside = int((labels == OUTSIDE).sum())
    assert report["outside"]["voxels"] == n_outside > 2 * 96 * 96
    assert report["outside"]["volume_um3"] == pytest.approx(n_outside * 0.047 * 0.007 * 0.008, rel=1e-4)
    assert sum(row["voxels"] for row in report["classes"]) == labels.size - n_outside
    found = report["preparation"]
    assert found["blank_slices"] == [0, 3]
    assert found["seen"][0] == [1, 5]
    assert found["resampled"] == [4, 73, round(0.8 / 0.92 * (found["seen"][2][1] - found["seen"][2][0]))]
    assert [defect["kind"] for defect in found["damaged_slices"]] == ["blank", "blank"]
    assert any("slices 1, 4 (from 1): blank" in warning for warning in report["warnings"])
    assert set(report["fit"]) == {"alike", "score", "measured", "expected", "worst", "remedy", "taken"}


def test_objects_that_a_blank_slice_cuts_in_two(knowing: Path, ragged: Path, tmp_path: Path, caplog) -> None:
    """The first slice is blank, too, but cuts nothing; nor does a slice that is beyond the region."""
    told = "an object that passes through slice 4 (from 1), where no tissue is, counts as two"
    asked = {"instances": ("mitochondrion",)}
    done = segment_stack(ragged, tmp_path / "whole", segmenter(knowing, **asked))
    assert [told in warning for warning in done.warnings].count(True) == 1
    assert told in caplog.text
    assert any(told in warning for warning in json.loads(done.report.read_text())["warnings"])
    for name, options in {"none": {}, "before": asked | {"roi": ((0, 3), (0, 96), (0, 96))}}.items():
        done = segment_stack(ragged, tmp_path / name, segmenter(knowing, **options))
        assert not any("counts as two" in warning for warning in done.warnings)


def test_other_contrast_gives_the_labels_of_the_model_s_own(knowing: Path, crop: np.ndarray, tmp_path: Path) -> None:
    dark = (255 * (crop / 255) ** 2).astype(np.uint8)
    for name, volume in (("plain", crop), ("dark", dark)):
        write_stack(tmp_path / f"{name}.tif", volume, voxel_size=TRAINED)
    found = {}
    for contrast in ("auto", "stack"):
        for name in ("plain", "dark"):
            done = segment_stack(tmp_path / f"{name}.tif", tmp_path / contrast, segmenter(knowing, contrast=contrast))
            found[contrast, name] = tifffile.imread(done.labels)
    alike = {kind: (found[kind, "plain"] == found[kind, "dark"]).mean() for kind in ("auto", "stack")}
    assert alike["auto"] > 0.95
    assert alike["stack"] < alike["auto"] - 0.05


def test_an_inverted_stack_is_told_of_and_mended_on_request(knowing: Path, crop: np.ndarray, tmp_path: Path) -> None:
    write_stack(tmp_path / "plain.tif", crop, voxel_size=TRAINED)
    write_stack(tmp_path / "inverted.tif", 255 - crop, voxel_size=TRAINED)
    plain = segment_stack(tmp_path / "plain.tif", tmp_path / "out", segmenter(knowing))
    assert json.loads(plain.report.read_text())["fit"]["alike"]
    warned = segment_stack(tmp_path / "inverted.tif", tmp_path / "warned", segmenter(knowing))
    report = json.loads(warned.report.read_text())
    assert (report["fit"]["alike"], report["fit"]["remedy"], report["fit"]["taken"]) == (False, "inverted", False)
    assert any("it would if it were taken as inverted: --fit auto does that" in text for text in report["warnings"])
    mended = segment_stack(tmp_path / "inverted.tif", tmp_path / "mended", segmenter(knowing, fit="auto"))
    assert json.loads(mended.report.read_text())["fit"]["taken"]
    assert (tifffile.imread(mended.labels) == tifffile.imread(plain.labels)).mean() > 0.97


def test_a_mask_is_what_it_holds(data: Path, crop: np.ndarray, tmp_path: Path) -> None:
    model = data / "fly-vnc-small.zip"
    path = write_stack(tmp_path / "cells.tif", crop, voxel_size=TRAINED)
    mask = np.full((1, 96, 96), 255, np.uint8)
    mask[:, :30] = 0
    first = write_stack(tmp_path / "mask.tif", mask)
    done = segment_stack(path, tmp_path / "out", segmenter(model, mask=first))
    assert np.array_equal(tifffile.imread(done.labels) == OUTSIDE, np.broadcast_to(mask == 0, crop.shape))
    shutil.move(first, tmp_path / "elsewhere.tif")
    assert segment_stack(path, tmp_path / "out", segmenter(model, mask=tmp_path / "elsewhere.tif")).skipped
    mask[:, :40] = 0
    write_stack(first, mask)
    assert not segment_stack(path, tmp_path / "out", segmenter(model, mask=first)).skipped
    with pytest.raises(StackError, match="no such file"):
        segmenter(model, mask=tmp_path / "none.tif")


def test_a_region_says_where_it_lies(data: Path, crop: np.ndarray, tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", crop, voxel_size=TRAINED)
    region = ((1, 3), (20, 60), (8, 90))
    for file_format in ("imagej", "ome-tiff"):
        options = {"roi": region, "file_format": file_format, "preview": True}
        done = segment_stack(path, tmp_path / file_format, segmenter(data / "fly-vnc-small.zip", **options))
        report = json.loads(done.report.read_text())
        assert report["region"] == {"offset": [1, 20, 8], "shape": [2, 40, 82]}
        assert report["input"]["shape"] == [4, 96, 96]
        with tifffile.TiffFile(done.labels) as file:
            assert file.series[0].shape == (2, 40, 82)
            if file_format == "imagej":
                origin = [file.imagej_metadata[f"{axis}origin"] for axis in "zyx"]
                assert origin == [-1, -20, -8]
            else:
                assert 'PositionX="0.0736"' in file.ome_metadata
                assert 'PositionZ="0.047"' in file.ome_metadata
                assert 'PositionZ="0.094"' in file.ome_metadata
        assert segment_stack(path, tmp_path / file_format, segmenter(data / "fly-vnc-small.zip", **options)).skipped


@pytest.fixture
def command(data: Path, crop: np.ndarray, tmp_path: Path):
    path = write_stack(tmp_path / "cells.tif", crop, voxel_size=TRAINED)

    def run(*words: object, stack: Path = path) -> tuple[int, str, str]:
        model = ["--model", data / "fly-vnc-small.zip", "--no-preview", "--device", "cpu"]
        done = CliRunner().invoke(cli, [str(w) for w in ("segment", stack, "-o", tmp_path / "out", *model, *words)])
        if isinstance(done.exception, DensecellError):  # `main` says it, and ends so
            return done.exception.exit_code, str(done.exception), ""
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--roi", "0:9,0:50,0:50"], 1, "--roi asks for z from 0 to 9, the stack has 0 to 4"),
        (["--roi", "2:1,0:50,0:50"], 2, "is not a region Z0:Z1,Y0:Y1,X0:X1"),
        (["--scale", "0.2"], 1, "its 96 voxels along y are 19, fewer than the 32 that the nets need"),
        (["--scale", "nothing"], 2, "is none of auto, off, a factor from 0.01 to 100"),
        (["--contrast", "match"], 1, "the model does not say which grey values it was trained on"),
        (["--as-published", "--contrast", "match"], 2, "--as-published means --contrast stack, not match"),
        (["--mask", "none.tif"], 1, "none.tif: no such file"),
    ],
)
def test_what_cannot_be_done_is_said(command, words: list[str], code: int, message: str) -> None:
    exit_code, stdout, stderr = command(*words)
    assert exit_code == code
    assert message in " ".join((stdout + stderr).split())
    assert "Traceback" not in stderr


def test_as_published_is_all_of_it(command, tmp_path: Path) -> None:
    assert command("--as-published", "--probabilities")[0] == 0
    options = json.loads((tmp_path / "out" / "cells_report.json").read_text())["options"]
    meant = {
        "stitch": "deepest", "precision": "float32", "outside": "off", "contrast": "stack", "scale": "off",
        "fit": "off", "defects": "off",
    }  # fmt: skip
    assert {name: options[name] for name in meant} == meant
    words = ["--stitch", "deepest", "--precision", "float32", "--outside", "off", "--contrast", "stack", "--scale",
             "off", "--fit", "off", "--defects", "off", "--probabilities"]  # fmt: skip
    before = files(tmp_path / "out")
    assert command(*words)[0] == 0
    assert files(tmp_path / "out") == before


def test_to_assemble_what_nobody_began_computes_nothing(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunSegmenter, "examine", None)
    code, stdout, _ = command("--assemble")
    assert code == 1
    assert "pieces are missing: run the shards" in stdout
