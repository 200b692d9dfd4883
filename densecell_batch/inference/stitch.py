"""How tiles become a volume, a row of tiles at a time.

A `Canvas` is the slab of slices, or of a band of their rows, that tiles of the current row touch. Tiles are painted
into it; when a row is done, the slices that no later row touches leave it. Memory is that of a few slices, whatever the
depth of the stack.

=========  ===========================================================================================================
crop       each voxel from the tile in which it is deepest along each axis: no voxel is stitched twice
deepest    the published rule for 2D-3D nets: the tile in which min(4 dz, dy, dx) is largest, the earlier one on a tie
latest     the published rule for 2D nets: the last tile that covers the voxel (under the name `deepest` for the user)
blend      the mean over all tiles, weighted by a Gaussian about the tile's centre, sigma 1/8 of its side (ref. 1)
=========  ===========================================================================================================

References
----------
.. [1] Isensee et al. 2021, "nnU-Net", Nat Methods 18:203, Methods, "Inference".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from densecell_batch.inference.tiling import Axis, Tile, TileGrid
from densecell_batch.nets.ensemble import Answer, decide

__all__ = ["Canvas", "FinishedSlice"]

Region = tuple[slice, slice, slice]


@dataclass(frozen=True)
class FinishedSlice:
    """One slice that no later tile touches."""

    z: int
    labels: np.ndarray  # (y, x) uint8
    confidence: np.ndarray  # (y, x) float32, probability of the label
    probabilities: np.ndarray | None  # (y, x, class) float32, where kept
    disagreement: np.ndarray | None  # (y, x) float32, bits, where computed


class Canvas:
    """The slab of slices that the current row of tiles touches.

    Parameters
    ----------
    grid
        The tiles.
    rule
        "crop", "deepest", "latest" or "blend".
    n_classes
        Classes of the nets.
    keep_probabilities, keep_disagreement
        What finished slices carry beside labels and confidence.
    first_row
        Row of tiles that is painted first. Slices that an earlier row touches will not be right.
    band
        Rows [start, stop) of the slices along y; what tiles paint beside it is passed over. None for all.
    """

    def __init__(
        self,
        grid: TileGrid,
        rule: str,
        n_classes: int,
        *,
        keep_probabilities: bool = False,
        keep_disagreement: bool = False,
        first_row: int = 0,
        band: tuple[int, int] | None = None,
    ) -> None:
        self._grid, self._rule = grid, rule
        self._first = grid.z.inside[first_row][0]  # volume index of the lowest slice on the canvas
        self._band = band or (0, grid.y.length)
        slab = (min(grid.z.output, grid.z.length), self._band[1] - self._band[0], grid.x.length)
        self._probabilities = (
            np.zeros((*slab, n_classes), np.float32) if keep_probabilities or rule == "blend" else None
        )
        self._disagreement = np.zeros(slab, np.float32) if keep_disagreement else None
        self._labels = np.zeros(slab, np.uint8) if rule != "blend" else None
        self._confidence = np.zeros(slab, np.float32) if rule != "blend" else None
        self._depth = np.zeros(slab, np.int32) if rule == "deepest" else None
        self._weights = [_gaussian_weights(axis) for axis in grid.axes] if rule == "blend" else []
        self._keep_probabilities = keep_probabilities

    @property
    def needs_probabilities(self) -> bool:
        """Whether it paints with probabilities."""
        return self._probabilities is not None

    def paint(self, tile: Tile, answer: Answer) -> None:
        """Paint what the nets say of a tile of the current row."""
        if self._rule == "blend":
            self._blend(tile, answer)
            return
        region = self._within_band({"crop": tile.owned, "deepest": tile.inside, "latest": tile.latest}[self._rule])
        part = tile.within(region)
        where: np.ndarray | bool = True
        if self._depth is not None:
            depth, best = _published_depth(tile, region), self._depth[self._on_canvas(region)]
            where = depth > best
            best[where] = depth[where]
        canvases = (self._labels, self._confidence, self._probabilities, self._disagreement)
        for canvas, values in zip(canvases, answer, strict=True):
            if canvas is not None and values is not None:
                mask = where if where is True or values.ndim == 3 else where[..., None]  # type: ignore[index]
                np.copyto(canvas[self._on_canvas(region)], values[part], where=mask)

    def _blend(self, tile: Tile, answer: Answer) -> None:
        region = self._within_band(tile.inside)
        part, there = tile.within(region), self._on_canvas(region)
        wz, wy, wx = (weights[i] for weights, i in zip(self._weights, tile.index, strict=True))
        first = region[1].start - tile.inside[1].start
        wy = wy[first : first + region[1].stop - region[1].start]
        weight = wz[:, None, None] * wy[:, None] * wx
        if self._probabilities is not None and answer.probabilities is not None:
            self._probabilities[there] += weight[..., None] * answer.probabilities[part]
        if self._disagreement is not None and answer.disagreement is not None:
            self._disagreement[there] += weight * answer.disagreement[part]

    def _on_canvas(self, region: Region) -> Region:
        z, y, x = region
        top = self._band[0]
        return slice(z.start - self._first, z.stop - self._first), slice(y.start - top, y.stop - top), x

    def _within_band(self, region: Region) -> Region:
        z, y, x = region
        start = min(max(y.start, self._band[0]), self._band[1])
        return z, slice(start, max(start, min(y.stop, self._band[1]))), x

    def finished(self, row: int) -> Iterator[FinishedSlice]:
        """The slices that no row after `row` touches, lowest first; they leave the canvas once the iterator is used
        up.
        """
        axis, after = self._grid.z, row + 1
        if after == len(axis.corners):
            stop = axis.length
        else:
            spans = {"crop": axis.deepest, "latest": axis.latest}.get(self._rule, axis.inside)
            stop = spans[after][0]  # of all that come after, the lowest one
        for z in range(self._first, stop):
            yield self._slice(z)
        self._advance(stop)

    def _slice(self, z: int) -> FinishedSlice:
        i = z - self._first
        probabilities = None if self._probabilities is None else self._probabilities[i]
        disagreement = None if self._disagreement is None else self._disagreement[i]
        if self._labels is None or self._confidence is None:
            labels, confidence = decide(probabilities)  # type: ignore[arg-type]
        else:
            labels, confidence = self._labels[i], self._confidence[i]
        return FinishedSlice(z, labels, confidence, probabilities if self._keep_probabilities else None, disagreement)

    def _advance(self, stop: int) -> None:
        gone = stop - self._first
        for canvas in (self._probabilities, self._disagreement, self._labels, self._confidence, self._depth):
            if canvas is not None and gone:
                keep = max(len(canvas) - gone, 0)
                canvas[:keep] = canvas[len(canvas) - keep :].copy()
                canvas[keep:] = 0
        self._first = stop


def _published_depth(tile: Tile, region: Region) -> np.ndarray:
    """min(4 dz, dy, dx) over a region of a tile, 1-based distances to the outside of its output region; int32."""
    z, y, x = (axis.depth(i)[s].astype(np.int32) for axis, i, s in zip(tile.grid.axes, tile.index, region, strict=True))
    return np.minimum(4 * z[:, None, None], np.minimum(y[:, None], x))


def _gaussian_weights(axis: Axis) -> list[np.ndarray]:
    """Weights of each tile along one axis over its inside, float32; those of all tiles sum to 1 at each voxel."""
    centre, sigma = (axis.output - 1) / 2, axis.output / 8
    total, weights = np.zeros(axis.length), []
    for corner, (start, stop) in zip(axis.corners, axis.inside, strict=True):
        weights.append(np.exp(-0.5 * ((np.arange(start, stop) - corner - centre) / sigma) ** 2))
        total[start:stop] += weights[-1]
    return [(w / total[start:stop]).astype(np.float32) for w, (start, stop) in zip(weights, axis.inside, strict=True)]
