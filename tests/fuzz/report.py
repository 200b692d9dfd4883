"""Reports in an output folder, beside files that are called like results of theirs and of other stacks; their page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from densecell_batch.runs.hooks import Macro, post_is_done
from densecell_batch.runs.identity import Identity
from densecell_batch.runs.options import RunOptions
from densecell_batch.runs.ownership import compare, foreign, make_room, set_aside, sha256_of
from densecell_batch.runs.paths import StackPaths
from densecell_batch.runs.report import has_labels, read_report
from densecell_batch.runs.summary import SUMMARY, write_summary
from densecell_batch.watch.place import Place
from densecell_batch.watch.results import Results

from .driver import Target, mutated, mutated_json

_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of an empty file
_MODEL = {"name": "tiny", "version": "1", "licence": "CC0", "members": [_SHA256]}
_IDENTITY = Identity.read({"input": None, "model": _MODEL, "options": {"stitch": "crop"}, "pre_macro": None})
_REPORT = {
    "schema_version": 1,
    "input": {"path": "/in/input.tif", "files": 1, "bytes": 5, "mtime_ns": 7, "sha256": _SHA256, "shape": [1, 2, 3],
              "dtype": "uint8", "voxel_size_um": [1, 2, 3]},
    "model": _MODEL,
    "options": {"stitch": "crop"},
    "versions": {"densecell-batch": "1"},
    "warnings": ["a warning"],
    "outputs": {
        "labels": {"file": "input_labels.tif", "bytes": 0, "sha256": _SHA256},
        "preview": {"file": "input_preview.png", "bytes": 0, "sha256": _SHA256},
    },
    "post_macro": {"macro": "m.ijm", "sha256": _SHA256, "tables": [
        {"title": "results", "rows": 0, "file": "input_macro_results.csv", "bytes": 0, "sha256": _SHA256},
    ]},
    "classes": [{"index": 0, "name": "cell", "colour": "#ff0000", "voxels": 5, "volume_um3": 0.5,
                 "mean_confidence": 0.9, "mean_disagreement_bits": 0.1}],
    "mean_confidence": 0.9,
    "outside": {"voxels": 1, "volume_um3": 0.1},
    "statistics": {"mean": 128.0, "std": 50.0, "minimum": 0.0, "maximum": 255.0},
    "instances": {"cell": {"count": 2, "dropped": 0, "voxels": 5}},
    "preparation": {"seen": [[0, 1], [0, 2], [0, 3]], "damaged_slices": [{"z": 0, "kind": "torn", "detail": "it is"}]},
    "fit": {"alike": False, "score": 1.5, "measured": {"disagreement": 0.1, "power_5px": 1.0},
            "expected": {"disagreement": [0.0, 0.2]}, "worst": ["power_5px"], "remedy": "", "taken": False},
    "timings": {"total": 1.5, "named_ns": {"input_labels.tif": 1}},
}  # fmt: skip


def _seeds() -> Sequence[bytes]:
    return [json.dumps(_REPORT).encode()]


def _read(path: Path) -> None:
    """As a run, a watcher and the second macro do; what is of others stays as it is."""
    folder = path.parent
    mine = ("input_labels.tif", "input_preview.png", "input_macro_results.csv")
    others = ("other_labels.tif", "other_report.json")
    for name in (*mine, *others):
        (folder / name).touch()
    stack = folder / "in" / "input.tif"
    paths = StackPaths(folder, stack)
    macro = Macro(folder / "macro.ijm", "return 1;", _SHA256)
    results = Results(Place(folder, _IDENTITY), folder / "in", macro)
    content = read_report(path)
    if content is not None:
        compare(path, content)
        has_labels(path, content)
        _ = Identity.of(content) == _IDENTITY
    post_is_done(path, content, macro)
    found = results.current(paths)
    results.made_from(paths)
    if found is not None:
        _ = found.sha256, found.content
    for page in write_summary([folder], folder / SUMMARY):
        page.unlink()
    foreign(path, paths.wanted(RunOptions()))
    before = path.read_bytes()
    results.keep_earlier(paths, "0" * 64)
    make_room(path, paths.wanted(RunOptions()), keep=True)
    for name in others:
        assert sha256_of(folder / name) == _SHA256, name
    for kept in folder.glob("*.old-*"):
        kept.unlink()
    path.write_bytes(before)
    set_aside(path, path).unlink()
    path.write_bytes(before)


TARGET = Target(
    _seeds,
    _read,
    "_report.json",
    lambda rng, content: mutated_json(rng, content) if rng.random() < 0.8 else mutated(rng, content),
)
