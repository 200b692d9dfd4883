"""What 0.1.0 wrote before its report was a typed record, is read: results, the setup of a watcher, bundles."""

import json
import shutil

import pytest

from densecell_batch import OptionError, RunOptions, RunSegmenter, segment_stack
from densecell_batch.runs.identity import Identity
from densecell_batch.watch.place import Place


def segmenter(data, **options):
    return RunSegmenter(data / "fly-vnc-small.zip", RunOptions(**{"precision": "float32", "preview": False} | options))


# What was done to a stack before there was a choice.
OF_OLD = {"outside": "off", "contrast": "stack", "scale": "off", "fit": "off", "defects": "off"}


def test_results_are_done(data, tmp_path):
    shutil.copytree(data / "before", tmp_path / "before")
    out = tmp_path / "before" / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert segment_stack(tmp_path / "before" / "cells.tif", out, segmenter(data, **OF_OLD)).skipped
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_results_are_ours_to_replace(data, tmp_path):
    shutil.copytree(data / "before", tmp_path / "before")
    out = tmp_path / "before" / "out"
    done = segment_stack(tmp_path / "before" / "cells.tif", out, segmenter(data, stitch="blend"))
    assert not done.skipped
    assert json.loads(done.report.read_text())["options"]["stitch"] == "blend"
    assert sorted(path.name for path in out.iterdir()) == ["cells_labels.tif", "cells_report.json"]


@pytest.mark.keras
def test_a_report_has_the_keys_that_it_had(data, tmp_path):
    """Scripts read them (contract)."""

    def keys(values, where=""):
        if isinstance(values, dict):
            return {k for key, value in values.items() for k in {f"{where}{key}", *keys(value, f"{where}{key}.")}}
        return {k for value in values for k in keys(value, where)} if isinstance(values, list) else set()

    done = segment_stack(data / "before" / "cells.tif", tmp_path, segmenter(data))
    old = json.loads((data / "before" / "out" / "cells_report.json").read_text())
    new = json.loads(done.report.read_text())
    assert keys(old) <= keys(new)
    assert [key for key in new if key in old] == list(old)


def test_a_watcher_goes_on(data, tmp_path):
    place = Place(tmp_path, Identity.of_any_stack(segmenter(data, **OF_OLD)))
    (place.folder / "setup.json").write_bytes((data / "before" / "setup.json").read_bytes())
    assert Place(tmp_path, Identity.of_any_stack(segmenter(data, **OF_OLD))).identity == place.identity
    with pytest.raises(OptionError, match='options outside was "off", is "auto"'):
        Place(tmp_path, Identity.of_any_stack(segmenter(data)))
