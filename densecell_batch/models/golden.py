"""The golden pair of a bundle: a small input, and what the nets make of it. Whoever computes otherwise is told so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from densecell_batch.errors import BundleError
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.npz import check_golden
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.engines import for_processor
from densecell_batch.nets.predictor import Predictor, Triple

__all__ = ["GOLDEN_TOLERANCE", "golden_pair", "smooth_noise", "verify_bundle"]

GOLDEN_TOLERANCE = 1e-4  # probabilities; float32 kernels of different processors differ by about 1e-6


def golden_pair(
    architecture: Architecture,
    members: Sequence[Mapping[str, np.ndarray]],
    window: Triple,
    seed: int = 0,
    offsets: Sequence[float] | None = None,
    engine: str = "keras",
) -> tuple[np.ndarray, np.ndarray]:
    """A small input and what the ensemble (mean, float32) says of it, to be kept in a bundle.

    Parameters
    ----------
    architecture, members
        The nets.
    window
        Input window of the training (z, y, x); the golden input is at most this large.
    seed
        Of the random input.
    offsets
        Of the classes (`ModelBundle.class_offsets`); None for nothing.
    engine
        What computes it.

    Returns
    -------
    image : numpy.ndarray
        (z, y, x) float32: smoothed noise of mean 0 and standard deviation 1.
    probabilities : numpy.ndarray
        (z, y', x', class) float32.

    Raises
    ------
    BundleError
        If the window is so deep that even a small input needs gigabytes.
    """
    # The smallest sides that the net takes without loss and that leave a few voxels of output at every scale.
    sides = []
    for side in window[1:]:
        small = architecture.residue + 2 * architecture.margin + 4 * architecture.alignment
        sides.append(min(side, small))
    check_golden(architecture, (window[0], *sides), f"window {list(window)} (z, y, x)")
    image = smooth_noise((window[0], *sides), seed)
    predictor = Predictor(architecture, members, may_split=False, offsets=offsets, engine=engine)
    probabilities = predictor.together(image, with_probabilities=True).probabilities
    assert probabilities is not None
    return image, probabilities


def smooth_noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise (z, y, x) float32 of mean 0 and standard deviation 1, of structures that nets respond to."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    # A 5-voxel box along y and x: white noise they take for nothing.
    for axis in (1, 2):
        noise = np.sum([np.roll(noise, shift, axis) for shift in range(-2, 3)], axis=0)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def verify_bundle(bundle: ModelBundle) -> float:
    """Run the golden pair of a bundle in float32, by the engine for processors.

    Returns
    -------
    float
        Largest difference of a probability from the recorded one.

    Raises
    ------
    BundleError
        If it exceeds `GOLDEN_TOLERANCE`, or a member does not have the recorded hash.
    """
    image, expected = bundle.golden()
    weights = [bundle.weights(i) for i in range(len(bundle.members))]
    offsets, engine = bundle.class_offsets, for_processor()
    predictor = Predictor(bundle.architecture, weights, may_split=False, offsets=offsets, engine=engine)
    probabilities = predictor.together(image, with_probabilities=True).probabilities
    assert probabilities is not None
    if probabilities.shape != expected.shape:
        raise BundleError(
            f"{bundle.path}: the golden probabilities have shape {expected.shape}, the net gives "
            f"{probabilities.shape}; "
            "the bundle was put together wrongly: import or fetch it again"
        )
    difference = float(np.abs(probabilities - expected).max())
    if not difference <= GOLDEN_TOLERANCE:
        raise BundleError(
            f"{bundle.path}: the nets do not give the recorded probabilities (largest difference "
            f"{difference:.2g}, expected "
            f"at most {GOLDEN_TOLERANCE:g}); the bundle is damaged or this machine computes wrongly: fetch it "
            "again, or "
            "compare with --device cpu"
        )
    return difference
