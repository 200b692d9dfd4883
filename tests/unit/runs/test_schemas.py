"""The published JSON schemas are those of the code, and what is written fits them."""

import json
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import watched

from densecell_batch import RunOptions, RunSegmenter, segment_stack
from densecell_batch.data import BUNDLED
from densecell_batch.schemas import schemas

PUBLISHED = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.skipif(version("msgspec") < "0.22", reason="older versions word schemas otherwise")
def test_what_is_published_is_what_is_written():
    """`python -m densecell_batch.schemas docs/schemas` makes them anew; those of earlier schemas stay as they were."""
    published = {path.name: path.read_text() for path in PUBLISHED.iterdir()}
    assert published.pop("bundle-1.schema.json")
    assert published == schemas()


@pytest.mark.parametrize("options", [{}, {"probabilities": True, "uncertainty": True, "instances": ("mitochondrion",)}])
def test_reports_fit_their_schema(data, tmp_path, options):
    segmenter = RunSegmenter(data / "fly-vnc-small.zip", RunOptions(precision="float32", **options))
    done = segment_stack(watched.save(tmp_path / "in" / "cells.tif", 1, (7, 40, 44)), tmp_path / "out", segmenter)
    report, schema = json.loads(done.report.read_text()), json.loads(schemas()["report-1.schema.json"])
    jsonschema.validate(report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report | {"outputs": {"labels": "cells_labels.tif"}}, schema)


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*/bundle.json")), ids=lambda path: path.parent.name)
def test_bundles_fit_their_schema(path):
    manifest = json.loads(path.read_text())
    schema = json.loads((PUBLISHED / f"bundle-{manifest['schema_version']}.schema.json").read_text())
    jsonschema.validate(manifest, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest | {"window": [5, 160]}, schema)
