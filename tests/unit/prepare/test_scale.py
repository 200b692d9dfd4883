"""Resampling along an axis: exact where it can be, the same in parts, and blind to what the grid cannot hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecell_batch.prepare.scale import Resampler, cubic, triangle

KERNELS = pytest.mark.parametrize("kernel", [cubic, triangle], ids=["cubic", "triangle"])


@KERNELS
@pytest.mark.parametrize(("n_in", "n_out"), [(40, 80), (80, 40), (50, 71), (71, 50), (1, 5), (5, 1), (3, 100)])
def test_a_constant_stays_and_a_ramp_stays_a_ramp(kernel, n_in: int, n_out: int) -> None:
    way = Resampler.of(n_in, n_out, kernel)
    assert len(way) == n_out
    assert np.allclose(way(np.full(n_in, 7, np.float32), 0, n_out, 0), 7, atol=1e-5)
    places = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    inner = (places > 2 * max(1, n_in / n_out)) & (places < n_in - 1 - 2 * max(1, n_in / n_out))
    found = way(np.arange(n_in, dtype=np.float32), 0, n_out, 0)
    assert np.allclose(found[inner], places[inner], atol=0.05)  # a widened kernel is sampled a little unevenly


@KERNELS
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_part_is_the_very_numbers_of_the_whole(kernel, n_in: int, n_out: int, draw) -> None:
    way = Resampler.of(n_in, n_out, kernel)
    start = draw.draw(st.integers(0, n_out - 1))
    stop = draw.draw(st.integers(start + 1, n_out))
    values = np.random.default_rng(n_in).standard_normal((3, n_in), np.float32)
    low, high = way.reach(start, stop)
    assert 0 <= low < high <= n_in
    whole = way(values, 0, n_out, 1)
    assert np.array_equal(way(values[:, low:high], start, stop, 1), whole[:, start:stop])


def test_what_the_coarser_grid_cannot_hold_is_gone() -> None:
    fine = np.sin(np.arange(400) * np.pi * 0.9).astype(np.float32)  # nearly the finest that 400 samples can hold
    assert np.abs(Resampler.of(400, 100)(fine, 0, 100, 0)[5:-5]).max() < 0.02
    assert np.abs(fine[::4]).max() > 0.5


def test_finer_and_back_is_nearly_what_it_was() -> None:
    wave = np.sin(np.arange(200) / 6).astype(np.float32)
    finer = Resampler.of(200, 460)(wave, 0, 460, 0)
    assert np.abs(Resampler.of(460, 200)(finer, 0, 200, 0) - wave)[4:-4].max() < 0.01


def test_probabilities_stay_probabilities() -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(4), 50).astype(np.float32)
    for n in (23, 50, 131):
        found = Resampler.of(50, n, triangle)(chances, 0, n, 0)
        assert found.min() >= 0
        assert np.allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_the_same_number_of_samples_is_left_alone() -> None:
    way, values = Resampler.of(9, 9), np.arange(9)
    assert way.does_nothing
    assert way(values, 0, 9, 0) is values
