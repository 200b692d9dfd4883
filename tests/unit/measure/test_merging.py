"""Parts found slice by slice are those of the whole graph of basins, and little is kept of slices that are behind."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from densecell_batch.measure.merging import Merging


def random_slice(rng, before, n, heights):
    """Peaks (n,), pairs (2, k) and saddles (k,) of a slice behind one of so many basins; heights of few values are
    often equal.
    """
    peaks = rng.integers(heights // 2, 2 * heights, n)
    a, b = rng.integers(0, before + n, (2, 4 * n)) if n else np.zeros((2, 0), np.int64)
    pairs = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)]), axis=1)
    pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs[1] >= before)]
    lower = np.minimum(*np.concatenate([np.full(before, 2 * heights), peaks])[pairs])
    return peaks.astype(np.float32), pairs, (rng.random(pairs.shape[1]) * lower).astype(np.int64).astype(np.float32)


def random_slices(rng, depth, most, heights):
    counts = rng.integers(0, most + 1, depth).tolist()
    return [random_slice(rng, *before_and_here, heights) for before_and_here in pairwise([0, *counts])]


def parts_of_whole(slices, tolerance):
    """From the highest saddle of all down; each part by the first of its basins."""
    peaks = np.concatenate([peaks for peaks, _, _ in slices])
    starts = np.cumsum([0, *(len(peaks) for peaks, _, _ in slices)])
    saddles = [
        (height, int(a) + first, int(b) + first)
        for z, (_, pairs, heights) in enumerate(slices)
        for (a, b), height, first in zip(pairs.T, heights, [starts[z - 1] if z else 0] * len(heights), strict=True)
    ]
    part, highest = np.arange(len(peaks)), peaks.copy()
    for height, a, b in sorted(saddles, key=lambda saddle: -saddle[0]):
        one, other = part[a], part[b]
        if one != other and min(highest[one], highest[other]) - height < tolerance:
            highest[one] = max(highest[one], highest[other])
            part[part == other] = one
    return first_of_each(part)


def parts_of_slices(slices, tolerance):
    merging = Merging(tolerance)
    numbers = [merging.add(*one) for one in [*slices, (np.zeros(0), np.zeros((2, 0), np.int64), np.zeros(0))]]
    return first_of_each(merging.parts()[np.concatenate(numbers)])


def first_of_each(parts):
    _, first, inverse = np.unique(parts, return_index=True, return_inverse=True)
    return first[inverse]


@pytest.mark.parametrize("heights", [3, 12, 1000])
@pytest.mark.parametrize("depth", [1, 2, 9])
def test_parts_are_those_of_the_whole_graph(depth, heights):
    counts = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        slices = random_slices(rng, depth, int(rng.integers(1, 20)), heights)
        tolerance = heights * rng.choice([0.3, 0.7, 1.1])
        found, expected = parts_of_slices(slices, tolerance), parts_of_whole(slices, tolerance)
        np.testing.assert_array_equal(found, expected)
        counts.append(len(np.unique(expected)) / max(1, len(expected)))
    assert 0.05 < np.mean(counts) < 0.95


def test_what_is_kept_does_not_grow_with_the_slices():
    def kept(depth):
        rng, merging = np.random.default_rng(0), Merging(40.0)
        tracemalloc.start()
        for z in range(depth):
            merging.add(*random_slice(rng, 300 if z else 0, 300, 100))
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return found, len(np.unique(merging.parts()))

    kept(1)
    (few, parts), (many, more_parts) = kept(20), kept(80)
    assert more_parts > 3 * parts > 60  # each is a number in the end
    assert many - few < 20 * (more_parts - parts)


def test_of_parts_that_stay_those_behind_are_forgotten():
    """A thin thing through all slices, which in each touches another that is thick, ever less."""

    def kept(depth):
        merging = Merging(20.0)
        tracemalloc.start()
        for z in range(depth):
            pairs = [[0, 2], [2, 3]] if z else [[0, 1]]
            saddles = [9.0, 8 - z / depth] if z else [8.0]
            merging.add(np.array([10.0, 100.0]), np.array(pairs).T, np.array(saddles))
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        merging.add(np.zeros(0), np.zeros((2, 0), np.int64), np.zeros(0))
        assert len(np.unique(merging.parts())) == depth  # the thin one is of the first thick one
        return found

    kept(1)
    assert kept(400) - kept(100) < 20 * 300
