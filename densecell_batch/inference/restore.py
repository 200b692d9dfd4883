"""What the nets said, back on the grid of the stack: probabilities are resampled, and what is outside is said to be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from densecell_batch.inference.stitch import FinishedSlice
from densecell_batch.labels import OUTSIDE
from densecell_batch.nets.ensemble import decide
from densecell_batch.prepare.preparation import Span
from densecell_batch.prepare.prepared import Prepared, SeenArray

__all__ = ["Restorer"]


class Restorer:
    """Takes finished slices of the nets' grid, in ascending z, and hands on those of the result.

    Parameters
    ----------
    prepared
        What the nets see.
    finish
        Called with each slice of the result, in ascending z; what it gets is overwritten after it returns.
    slices, rows
        Of the result [start, stop): those that are wanted.
    n_classes
        Classes of the nets.
    keep_probabilities, keep_disagreement
        Whether finished slices have them.

    Attributes
    ----------
    slices, band
        Slices and rows of the nets' grid that it takes.
    needs_probabilities
        Whether finished slices of the nets' grid have to have them.
    """

    def __init__(
        self,
        prepared: Prepared | SeenArray,
        finish: Callable[[FinishedSlice], None],
        slices: Span,
        rows: Span,
        n_classes: int,
        *,
        keep_probabilities: bool = False,
        keep_disagreement: bool = False,
    ) -> None:
        self._prepared, self._finish, self._rows = prepared, finish, rows
        self._n_classes, self._kept = n_classes, (keep_probabilities, keep_disagreement)
        self._z, self._y, self._x = prepared.axes
        self.slices, self.band = self._z.needed(*slices), self._y.needed(*rows)
        self.needs_probabilities = keep_probabilities or prepared.is_resampled
        self._seen = (self._y.seen(*rows), self._x.seen(0, self._x.length))
        self._pending = deque(range(*slices))
        self._window: deque[FinishedSlice] = deque()  # of the nets' grid along z, of the result's along y and x

    def __call__(self, finished: FinishedSlice) -> None:
        """Take a slice of the rows `band`; others than `slices` are passed over."""
        if not self.slices[0] <= finished.z < self.slices[1]:
            return
        within = self._within_the_slice(finished)
        if self._z.back.does_nothing:
            self._emit_until(finished.z, lambda z: within)
            return
        self._window.append(within)
        self._emit_until(finished.z, self._between)
        while self._pending and self._window and self._window[0].z < self._reach(self._pending[0])[0]:
            self._window.popleft()

    def _reach(self, z: int) -> Span:
        return self._z.needed(z, z + 1)

    def _emit_until(self, there: int, at: Callable[[int], FinishedSlice]) -> None:
        """Hand on the slices that need no later one of the nets' grid than `there`."""
        while self._pending and self._reach(self._pending[0])[1] <= there + 1:
            z = self._pending.popleft()
            start, stop = self._z.seen(z, z + 1)
            self._finish(self._framed(z, at(z) if start < stop else None))

    def _within_the_slice(self, finished: FinishedSlice) -> FinishedSlice:
        """On the result's grid along y and x; the arrays are copies where they are kept."""
        if self._y.back.does_nothing and self._x.back.does_nothing:
            if self._z.back.does_nothing:
                return finished
            probabilities, disagreement = finished.probabilities, finished.disagreement
            return FinishedSlice(
                finished.z, finished.labels, finished.confidence,
                None if probabilities is None else probabilities.copy(),
                None if disagreement is None else disagreement.copy(),
            )  # fmt: skip
        assert finished.probabilities is not None
        probabilities = self._resampled(finished.probabilities)
        disagreement = None if finished.disagreement is None else self._resampled(finished.disagreement)
        return FinishedSlice(finished.z, *decide(probabilities), probabilities, disagreement)

    def _resampled(self, values: np.ndarray) -> np.ndarray:
        start, stop = (row - self._y.offset for row in self._seen[0])
        if start >= stop:
            return np.zeros((0, len(self._x.back), *values.shape[2:]), np.float32)
        low, high = self._y.back.reach(start, stop)
        part = values[low - self.band[0] : high - self.band[0]]
        return self._x.back(self._y.back(part, start, stop, 0), 0, len(self._x.back), 1)

    def _between(self, z: int) -> FinishedSlice:
        """A slice of the result of those of the nets' grid that it lies between."""
        place = z - self._z.offset
        low, high = self._z.back.reach(place, place + 1)
        around = [finished for finished in self._window if low <= finished.z < high]

        def blended(values: list[np.ndarray]) -> np.ndarray:
            return self._z.back(np.stack(values), place, place + 1, 0)[0]

        probabilities = blended([f.probabilities for f in around if f.probabilities is not None])
        unsure = [f.disagreement for f in around if f.disagreement is not None]
        return FinishedSlice(z, *decide(probabilities), probabilities, blended(unsure) if unsure else None)

    def _framed(self, z: int, found: FinishedSlice | None) -> FinishedSlice:
        """A slice of the result with all its rows and columns: outside where the nets saw nothing, or mirrored tissue.

        `found` holds the rows and columns that the nets saw; None where they saw none of the slice.
        """
        where, sides = self._prepared.outside(z, self._rows), (self._rows[1] - self._rows[0], self._x.length)
        all_seen = self._seen == (self._rows, (0, self._x.length))
        columns = slice(self._seen[1][0] - self._x.offset, self._seen[1][1] - self._x.offset)
        there = slice(self._seen[0][0] - self._rows[0], self._seen[0][1] - self._rows[0]), slice(*self._seen[1])

        def framed(values: np.ndarray | None, empty: np.ndarray) -> np.ndarray:
            if values is not None:
                seen = values[: there[0].stop - there[0].start, columns]
                if all_seen and where is None:
                    return seen
                empty[there] = seen
            if where is not None:
                empty[where] = OUTSIDE if empty.dtype == np.uint8 else 0
            return empty

        labels, confidence, probable, unsure = (
            (None,) * 4 if found is None else (found.labels, found.confidence, found.probabilities, found.disagreement)
        )
        return FinishedSlice(
            z,
            framed(labels, np.full(sides, OUTSIDE, np.uint8)),
            framed(confidence, np.zeros(sides, np.float32)),
            framed(probable, np.zeros((*sides, self._n_classes), np.float32)) if self._kept[0] else None,
            framed(unsure, np.zeros(sides, np.float32)) if self._kept[1] else None,
        )
