"""Volumes with fill, of another pixel size, and parts of volumes, through the nets and back."""

from pathlib import Path

import numpy as np
import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.inference.segmenter import Segmenter
from densecell_batch.inference.volume import Segmentation, segment_volume
from densecell_batch.io.stack import Stack
from densecell_batch.labels import OUTSIDE
from densecell_batch.models.bundle import load_bundle


@pytest.fixture(scope="module")
def volume(data: Path) -> np.ndarray:
    from densecell_batch.io.reading import open_stack

    with open_stack(data / "vnc-crop.tif") as stack:
        return np.asarray(stack)[:, :72, :88]


@pytest.fixture(scope="module")
def segmenters(data: Path):
    bundle = load_bundle(data / "fly-vnc-small.zip")
    kept: dict[str, Segmenter] = {}

    def make(**options) -> Segmenter:
        key = repr(options)
        if key not in kept:
            everything = {"precision": "float32", "device": "cpu", "probabilities": True, "uncertainty": True}
            kept[key] = Segmenter(bundle, **everything | options)
        return kept[key]

    return make


def same(one: Segmentation, other: Segmentation) -> bool:
    pairs = zip(
        (one.labels, one.confidence, one.probabilities, one.uncertainty),
        (other.labels, other.confidence, other.probabilities, other.uncertainty),
        strict=True,
    )
    return all(np.array_equal(a, b) for a, b in pairs)


def part(found: Segmentation, box: tuple[slice, slice, slice]) -> Segmentation:
    return Segmentation(
        found.labels[box], found.confidence[box], found.probabilities[box], found.uncertainty[box], found.classes, None
    )


def holds_nothing_outside(found: Segmentation) -> bool:
    where = found.labels == OUTSIDE
    return not (found.probabilities[where].any() or found.confidence[where].any() or found.uncertainty[where].any())


@pytest.mark.parametrize("value", [0, 255])
def test_a_rim_changes_nothing_within_it(segmenters, volume: np.ndarray, value: int) -> None:
    bare, around = segmenters()(volume), ((1, 0), (9, 30), (17, 3))
    found = segmenters()(np.pad(volume, around, constant_values=value))
    inside = (slice(1, None), slice(9, -30), slice(17, -3))
    assert same(part(found, inside), bare)
    assert np.array_equal(np.pad(bare.labels, around, constant_values=OUTSIDE), found.labels)
    assert holds_nothing_outside(found)


def ragged(volume: np.ndarray) -> np.ndarray:
    """Another shape of fill in each slice, and one that is blank."""
    y, x = np.indices(volume.shape[1:])
    spoilt = volume.copy()
    for z in range(len(spoilt)):
        spoilt[z, (x + (2 + z) * y < 60 + 20 * z) | (x > 80 - 3 * z)] = 0
    spoilt[2] = 0
    return spoilt


@pytest.mark.parametrize("scale", ["off", 1.3, (1.0, 0.8, 1.2), (1.4, 1.0, 1.0), (0.7, 1.2, 1.2)], ids=str)
@pytest.mark.parametrize("stitch", ["crop", "blend", "deepest"])
def test_bands_give_the_very_bytes_of_the_whole(segmenters, volume: np.ndarray, stitch: str, scale) -> None:
    from dataclasses import replace

    segmenter = segmenters(stitch=stitch, scale=scale, tile=(5, 44, 48) if stitch != "deepest" else None)
    stack = Stack.of_array(ragged(volume))
    prepared = segmenter.prepared(stack, segmenter.examine(stack))
    plan = segmenter.plan_of(prepared)
    keep = {"keep_probabilities": True, "keep_disagreement": True}
    whole = segment_volume(prepared, plan, segmenter.look, segmenter.bundle.classes, **keep)
    assert whole.labels.shape == volume.shape
    assert (whole.labels[2] == OUTSIDE).all()
    assert np.count_nonzero((whole.labels == OUTSIDE) != (ragged(volume) == 0)) < 3  # tissue can be 0, too
    assert holds_nothing_outside(whole)
    inside = whole.labels != OUTSIDE
    assert np.allclose(whole.probabilities[inside].sum(axis=-1), 1, atol=1e-4)
    height = prepared.shape[1]
    bands = ((0, height // 3), (height // 3, height // 2), (height // 2, height))
    banded = segment_volume(prepared, replace(plan, bands=bands), segmenter.look, segmenter.bundle.classes, **keep)
    assert same(banded, whole)


def test_another_pixel_size_gives_labels_of_the_same_shape(segmenters, volume: np.ndarray) -> None:
    trained = segmenters().bundle.voxel_size
    fine = np.repeat(np.repeat(volume, 2, axis=1), 2, axis=2)
    size = VoxelSize(trained.z, trained.y / 2, trained.x / 2)
    found, plain = segmenters()(fine, size), segmenters()(volume, trained)
    assert found.labels.shape == fine.shape
    alike = (found.labels[:, ::2, ::2] == plain.labels).mean()
    assert alike > 0.95
    assert (segmenters(scale="off")(fine, size).labels[:, ::2, ::2] == plain.labels).mean() < alike - 0.05


def test_a_region_is_that_part_of_the_whole(segmenters, volume: np.ndarray) -> None:
    region = ((1, 3), (20, 50), (30, 80))
    whole = segmenters()(volume)
    found = segmenters(roi=region)(volume)
    assert found.labels.shape == (2, 30, 50)
    inside = tuple(slice(*span) for span in region)
    assert (found.labels == whole.labels[inside]).mean() > 0.98
    assert np.abs(found.probabilities - whole.probabilities[inside]).mean() < 0.02


def test_tiles_without_tissue_are_not_computed(segmenters, volume: np.ndarray) -> None:
    wide = np.zeros((4, 72, 400), np.uint8)
    wide[:, :, :80], wide[0, :, 320:] = volume[:, :, :80], volume[0, :, :80]  # the box is as wide as the slice
    segmenter = segmenters(tile=(5, 44, 48))
    stack, looked = Stack.of_array(wide), []
    prepared = segmenter.prepared(stack, segmenter.examine(stack))
    plan = segmenter.plan_of(prepared)

    def look(tile: np.ndarray, with_probabilities: bool):
        looked.append(tile.shape)
        return segmenter.look(tile, with_probabilities)

    found = segment_volume(prepared, plan, look, segmenter.bundle.classes)
    assert len(looked) < 0.8 * plan.grid.n_tiles
    assert np.array_equal(found.labels, segmenter(wide).labels)


def test_a_mask_is_given_with_the_volume(segmenters, volume: np.ndarray) -> None:
    mask = np.ones(volume.shape, np.uint8)
    mask[:, 30:40, 30:40] = 0
    found = segmenters()(volume, mask=mask)
    assert np.array_equal(found.labels == OUTSIDE, mask == 0)
