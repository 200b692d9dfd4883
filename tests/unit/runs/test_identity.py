"""What of a model decides a result."""

from dataclasses import replace

import pytest
from bundles import fields

from densecell_batch import RunSegmenter
from densecell_batch.models.bundle import write_bundle
from densecell_batch.models.manifest import Quantization
from densecell_batch.nets.quantization import quantized_layers
from densecell_batch.runs.identity import Identity


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b.zip", **fields())


def of(bundle):
    return Identity.of_any_stack(RunSegmenter(bundle))


@pytest.mark.parametrize("changes", [{"class_offsets": (0.0, 0.5)}, {"window": (5, 20, 16)}])
def test_other_work(bundle, changes):
    other = of(replace(bundle, **changes))
    assert not of(bundle).is_same(other)
    assert of(bundle).digest() != other.digest()


@pytest.mark.parametrize("changes", [{"name": "b", "version": "2", "licence": "MIT"}, {"scores": {}, "provenance": {}}])
def test_the_same_work(bundle, changes):
    same = of(replace(bundle, **changes))
    assert of(bundle).is_same(same)
    assert of(bundle).digest() == same.digest()


def test_other_offsets_are_other_work(bundle):
    one, other = (of(replace(bundle, class_offsets=(0.0, x))) for x in (0.5, 0.6))
    assert not one.is_same(other)


def test_other_ranges_of_int8_are_other_work(bundle):
    ranges = [(dict.fromkeys(quantized_layers(bundle.architecture), (0.0, top)),) for top in (1.0, 2.0)]
    one, other = (of(replace(bundle, quantization=Quantization(ranges=r, agreement=1.0))) for r in ranges)
    assert not one.is_same(other)
    assert not one.is_same(of(bundle))
