"""Training windows: where they lie and how they are varied.

Everything follows from (seed, step): a run that is resumed draws what it would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from densecell_batch.inference.tiling import mirror
from densecell_batch.training.volumes import LabelledVolume

__all__ = ["Augmentation", "Batch", "Sampler", "flattened"]

# Images (n, z, y, x, 1); labels (n, z, y, x), or shares of the classes (n, z, y, x, class); error weights (n, z, y, x)
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


_IN_STEP = 16  # columns that places of windows may lie apart, next to nothing beside what windows are shifted by


@dataclass(frozen=True)
class Augmentation:
    """How far windows are varied.

    Sections of EM volumes have no direction within the plane, nor along z: windows are turned about z and
    mirrored in both. A turn about y or x would mix axes of different scale.
    """

    bent: float = 0.5  # share of windows turned by any angle, scaled and bent; interpolation blurs them
    scale: float = 0.15  # in y and x; 0.15: by 0.85 to 1.15
    elastic: float = 4.0  # voxels, standard deviation of the displacement
    elastic_sigma: float = 16.0  # voxels over which the displacement is smooth
    brightness: float = 0.2  # standard deviations of the stack, of the whole window
    slice_brightness: float = 0.15  # of each slice for itself: sections are stained and imaged one by one
    contrast: float = 0.2
    gamma: float = 0.1  # largest exponent of e
    noise: float = 0.05  # largest standard deviation, of every window
    harsh: float = 0.25  # share of windows that are blurred, that are noisy, and that lack a slice
    harsh_blur: float = 2.0  # voxels, largest standard deviation
    harsh_noise: float = 0.8  # largest standard deviation


class Sampler:
    """Draws batches of augmented windows from labelled volumes.

    Parameters
    ----------
    volumes
        To draw from, each with the probability of its share of all voxels that count. A window lies about one of
        those: where little is labelled, none is drawn in vain.
    window
        Input window (z, y, x).
    batch
        Windows a batch.
    n_classes
        Number of classes.
    augmentation
        How far windows are varied; None for windows as they are.
    rare
        Share of windows that are centred on a voxel of a class that is drawn first, so that rare ones are met.
    context
        Slices at each end of a window that only serve the others; beyond the volume they are mirrored.
    seed
        Of all random numbers.
    """

    def __init__(
        self,
        volumes: list[LabelledVolume],
        window: tuple[int, int, int],
        batch: int,
        n_classes: int,
        *,
        augmentation: Augmentation | None,
        rare: float = 0.5,
        context: int = 0,
        seed: int = 0,
    ) -> None:
        self._context = context
        self._volumes, self._window, self._batch = volumes, window, batch
        self._augmentation, self._rare, self._seed = augmentation, rare, seed
        counted = [volume.counted for volume in volumes]
        sizes = np.array(
            [v.labels.size if c is None else np.count_nonzero(c) for v, c in zip(volumes, counted, strict=True)], float
        )
        self._share = sizes / sizes.sum()
        # Flat indices of each class, thinned out: any of some hundred thousand places will do.
        self._places = [
            [_thinned(v.labels == i if c is None else (v.labels == i) & c) for i in range(n_classes)]
            for v, c in zip(volumes, counted, strict=True)
        ]
        self._counted = [None if c is None else _thinned(c) for c in counted]

    @property
    def epoch(self) -> int:
        """Steps in which as many voxels are drawn as there are."""
        voxels = sum(volume.labels.size for volume in self._volumes)
        depth, height, width = self._window
        return -(-voxels // (self._batch * (depth - 2 * self._context) * height * width))

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Returns
        -------
        images : numpy.ndarray
            (batch, z, y, x, 1) float32.
        labels : numpy.ndarray
            (batch, z, y, x) int32, or (batch, z, y, x, class) float32 where the volumes have shares.
        weights : numpy.ndarray
            (batch, z, y, x) float32.
        """
        rng = np.random.default_rng((self._seed, step))
        images, labels, weights = map(np.stack, zip(*(self._window_at(rng) for _ in range(self._batch)), strict=True))
        return images[..., None], labels, weights

    def _window_at(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        which = int(rng.choice(len(self._volumes), p=self._share))
        volume = self._volumes[which]
        z, y, x = self._centre(rng, which)
        depth, height, width = self._window
        scored, there = depth - 2 * self._context, volume.labels.shape[0]
        first = int(np.clip(z - int(rng.integers(scored)), 0, there - scored)) - self._context
        slices = mirror(np.arange(first, first + depth), there)
        if self._augmentation is None:
            corner = [
                # About the voxel; where any will do, without crowding at the edges.
                int(np.clip(c - side // 2, 0, length - side) if self._rare else rng.integers(length - side + 1))
                for c, side, length in zip((y, x), (height, width), volume.labels.shape[1:], strict=True)
            ]
            region = (slices, slice(corner[0], corner[0] + height), slice(corner[1], corner[1] + width))
            weights = np.ones(self._window, np.float32) if volume.weights is None else volume.weights[region]
            return volume.image[region], _learned(volume, [v[region] for v in _taught(volume)]), weights
        rows, columns = _deformed_grid((height, width), (y, x), self._augmentation, rng)
        image = np.stack([_at(volume.image[z], rows, columns, order=1) for z in slices])
        labels = [np.stack([_at(v[z], rows, columns, order=0) for z in slices]) for v in _taught(volume)]
        weights = np.ones(image.shape, np.float32)
        if volume.weights is not None:
            weights = np.stack([_at(volume.weights[z], rows, columns, order=0) for z in slices])
        if rng.random() < 0.5:
            image, labels, weights = image[::-1], [v[::-1] for v in labels], weights[::-1]
        return _regraded(image, self._augmentation, rng, self._context), _learned(volume, labels), weights

    def _centre(self, rng: np.random.Generator, which: int) -> tuple[int, int, int]:
        """A voxel near the middle of the window."""
        shape, places, counted = self._volumes[which].labels.shape, self._places[which], self._counted[which]
        filled = [c for c, there in enumerate(places) if len(there)]
        if rng.random() < self._rare:
            index = int(rng.choice(places[rng.choice(filled)]))
        elif counted is not None:
            index = int(rng.choice(counted))
        else:
            index = int(rng.integers(np.prod(shape)))
        z, y, x = np.unravel_index(index, shape)
        return int(z), int(y), int(x)


def flattened(batch: Batch) -> Batch:
    """The slices of a batch of windows as windows of their own, for a 2D net: (n, z, y, x, ...) -> (n z, y, x, ...)."""
    images, labels, weights = (array.reshape(-1, *array.shape[2:]) for array in batch)
    return images, labels, weights


def _taught(volume: LabelledVolume) -> list[np.ndarray]:
    """What is to be learned of a volume: its labels, or the share of each class (z, y, x)."""
    return [volume.labels] if volume.shares is None else list(np.moveaxis(volume.shares, -1, 0))


def _learned(volume: LabelledVolume, parts: list[np.ndarray]) -> np.ndarray:
    """Of a window of `_taught`: labels (z, y, x) int32, or the share of each class (z, y, x, class) float32."""
    return parts[0].astype(np.int32) if volume.shares is None else np.stack(parts, -1) / np.float32(255)


def _thinned(there: np.ndarray, most: int = 200_000) -> np.ndarray:
    """Flat indices of some of the voxels (z, y, x) that are there, less than two times `most`."""
    indices = np.flatnonzero(there)
    step = max(1, len(indices) // most)
    while gcd(step, there.shape[-1]) > _IN_STEP:  # where all are there, few columns would be met
        step += 1
    return indices[::step].copy()  # a view would hold all of them


def _deformed_grid(
    sides: tuple[int, int], centre: tuple[int, int], by: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Source row and column of each pixel of a window: flipped, turned, scaled and bent, the same for all slices."""
    grid = np.stack(np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in sides), indexing="ij"))
    bent = rng.random() < by.bent
    angle = rng.uniform(0, 2 * np.pi) if bent else 0.5 * np.pi * rng.integers(4)
    zoom = 1 + rng.uniform(-by.scale, by.scale) if bent else 1.0
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    grid = np.einsum("ij,jyx->iyx", turn, grid)
    if bent and by.elastic:
        bend = np.stack([gaussian_filter(rng.standard_normal(sides), by.elastic_sigma, mode="wrap") for _ in sides])
        grid += bend * (by.elastic / bend.std())
    shift = rng.uniform(-0.25, 0.25, 2) * np.array(sides)
    rows, columns = grid + (np.array(centre) + shift)[:, None, None]
    return (rows, columns) if bent else (np.rint(rows - 0.25), np.rint(columns - 0.25))  # no tie at halves


def _at(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, order: int) -> np.ndarray:
    """Values at fractional places, mirrored beyond the edge; of the same dtype."""
    values: np.ndarray = map_coordinates(plane, [rows, columns], order=order, mode="mirror", prefilter=False)
    return values


def _regraded(image: np.ndarray, by: Augmentation, rng: np.random.Generator, context: int = 0) -> np.ndarray:
    """Other contrast, brightness, gamma and noise; (z, y, x) float32."""
    contrast = 1 + rng.uniform(-by.contrast, by.contrast)
    brightness = rng.uniform(-by.brightness, by.brightness)
    each = rng.uniform(-by.slice_brightness, by.slice_brightness, (len(image), 1, 1))
    image = image * contrast + brightness + each
    if by.gamma:
        low, high = float(image.min()), float(image.max())
        share = (image - low) / max(high - low, 1e-6)
        image = low + (high - low) * share ** np.exp(rng.uniform(-by.gamma, by.gamma))
    if by.noise:
        image = image + rng.uniform(0, by.noise) * rng.standard_normal(image.shape)
    return (_spoilt(image, by, rng, context) if by.harsh else image).astype(np.float32)


def _spoilt(image: np.ndarray, by: Augmentation, rng: np.random.Generator, context: int) -> np.ndarray:
    """Sometimes out of focus, noisy, or with a slice in the place of its neighbour, as prepared stacks have where one
    is blank; (z, y, x). Where there are slices that only serve others as context, it is one of them: of the others
    nobody could tell what was there.
    """
    blurred, noisy, missing = rng.random(3) < by.harsh
    mean, std = float(image.mean()), float(image.std())
    if blurred:
        image = gaussian_filter(image, (0, *[rng.uniform(0.3, by.harsh_blur)] * 2))
    if noisy:
        image = image + rng.uniform(0, by.harsh_noise) * rng.standard_normal(image.shape)
    if blurred or noisy:  # a whole stack that is so is normalized as it is
        image = mean + (image - mean) * (std / max(float(image.std()), 1e-6))
    if missing and len(image) > 1:
        z = int(rng.integers(-context, context) % len(image) if context else rng.integers(len(image)))
        image = np.concatenate([image[:z], image[[z - 1 if z else 1]], image[z + 1 :]])
    return image
