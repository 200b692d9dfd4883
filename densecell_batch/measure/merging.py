"""Which basins of a volume are one part, found slice by slice in the memory of two slices.

Basins have a peak each, and saddles between them. From the highest saddle down, two parts become one if the lower of
their peaks is above the saddle by less than a tolerance [1]. The saddles of a basin lie in its own slice and in those
before and behind, so once the slice behind is known, the basin is *closed*: it has no other saddles. Those of the last
slice are *open*. What the highest saddle of a closed part says is final, whatever comes:

* its peak is above the saddle by the tolerance or more: it stays a part for ever, and can only be joined by others.
  Two such parts never become one, so a saddle between them is forgotten;
* else it is one with its neighbour from that saddle down, so all its lower saddles are the neighbour's. If the
  neighbour is open and has the lower peak, saddles of the neighbour that are not known yet may come first; then, of the
  closed part, its peak and this one saddle are kept.

Of an open basin's saddles to parts that stay, the highest is enough: below it, the basin is of one of these, or stays
itself. And where saddles make a circle, the lowest of them joins nothing. So what is kept goes with the open basins,
and of the parts behind them no more than a number is left.

References
----------
.. [1] Chazal, Guibas, Oudot, Skraba 2013, "Persistence-based clustering in Riemannian manifolds", J ACM 60:41.
"""

from __future__ import annotations

from math import inf

import numpy as np
import scipy  # its parts are loaded when they are first used

from densecell_batch.measure.instances import joined

__all__ = ["Merging"]

_NONE = np.iinfo(np.int64).max  # where there is no number of a part


class Merging:
    """The parts of a volume in the making.

    Parameters
    ----------
    tolerance
        How far both peaks have to be above a saddle for two parts to stay two.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        # Nodes: the open basins, then closed parts that open basins may still be joined to.
        self._n_open = 0
        self._peaks = np.zeros(0)  # infinite where a part stays
        self._numbers = np.zeros(0, np.int64)  # of their parts
        self._ends, self._saddles, self._arrived = np.zeros((2, 0), np.int64), np.zeros(0), np.zeros(0, np.int64)
        self._n_arrived = 0
        self._n_parts = 0
        self._same: list[np.ndarray] = []  # pairs (2, n) of numbers that turned out to be of one part

    def add(self, peaks: np.ndarray, pairs: np.ndarray, saddles: np.ndarray) -> np.ndarray:
        """Add the basins of the next slice, and close those of the slice before.

        Parameters
        ----------
        peaks
            (n,) of the basins; none of them to close the last slice.
        pairs
            (2, k), basins with a saddle in between: first those of the slice before, then those of this one are
            counted, from 0. Each pair once, at least one of it of this slice. Of equal saddles the first goes first.
        saddles
            (k,)

        Returns
        -------
        numpy.ndarray
            (m,) int64, numbers of the parts of the basins of the slice before, from 0; see `parts`.
        """
        n, before = len(peaks), self._n_open
        node_peaks = np.concatenate([peaks.astype(float), self._peaks])
        numbers = np.concatenate([np.full(n, _NONE), self._numbers])
        ends = np.concatenate([self._ends + n, np.where(pairs < before, pairs + n, pairs - before)], axis=1)
        saddles = np.concatenate([self._saddles, saddles.astype(float)])
        arrived = np.concatenate([self._arrived, self._n_arrived + np.arange(pairs.shape[1])])
        self._n_arrived += pairs.shape[1]
        used = _highest_tree(ends, saddles, arrived, len(node_peaks))
        roots, heights, kept, kept_ends = self._sink(node_peaks, ends[:, used], saddles[used], n)
        group = self._numbered(roots, numbers, slice(n, n + before))
        closed = np.unique(kept_ends[kept_ends >= n])
        place = np.arange(len(node_peaks))
        place[closed] = n + np.arange(len(closed))
        # A part whose peak alone is kept has no number: its basins have that of the open one that it belongs to.
        own = np.where(roots[closed] == closed, group[closed], _NONE)
        self._n_open = n
        self._peaks = np.concatenate([node_peaks[:n], heights[closed]])
        self._numbers = np.concatenate([group[:n], own])
        self._ends, self._saddles, self._arrived = place[kept_ends], saddles[used][kept], arrived[used][kept]
        return group[roots[n : n + before]]

    def parts(self) -> np.ndarray:
        """The part of each number that `add` returned, (n,) int64 from 0, once the last slice is closed."""
        return joined(self._n_parts, self._same)

    def _sink(
        self, peaks: np.ndarray, ends: np.ndarray, saddles: np.ndarray, n_open: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Join nodes (v,), the first of them open, from the highest saddle down, as if the water sank.

        Returns
        -------
        roots : numpy.ndarray
            (v,) int64, the node that stands for each.
        heights : numpy.ndarray
            (v,) float64, peaks after all that was joined.
        kept, ends : numpy.ndarray
            (k,) and (2, k) int64, the saddles that may still join something, and what they lead to.
        """
        tolerance = self._tolerance
        into, height = list(range(len(peaks))), peaks.tolist()
        kept: list[int] = []
        kept_ends: list[tuple[int, int]] = []
        for i, (high, low, saddle) in enumerate(zip(*ends.tolist(), saddles.tolist(), strict=True)):
            while into[high] != high:
                into[high] = high = into[into[high]]
            while into[low] != low:
                into[low] = low = into[into[low]]
            if height[high] < height[low]:
                high, low = low, high
            if height[high] - saddle >= tolerance:
                height[high] = inf  # from here down it is joined to nothing that is higher
                if height[low] - saddle >= tolerance:
                    height[low] = inf
                    continue
            if low >= n_open:
                into[low] = high
                continue
            kept.append(i)
            kept_ends.append((high, low))
            if high >= n_open and height[high] < inf:
                into[high] = low
            # Below this saddle the open one is at least as high; where the other stays, it stays, or is of the other.
            if high >= n_open or height[high] == inf:
                height[low] = height[high]
        roots = np.array(into, np.int64)
        while not np.array_equal(further := roots[roots], roots):
            roots = further
        return roots, np.array(height), np.array(kept, np.int64), np.array(kept_ends, np.int64).reshape(-1, 2).T

    def _numbered(self, roots: np.ndarray, numbers: np.ndarray, closed: slice) -> np.ndarray:
        """The number of the part of each node that stands for others, (v,) int64: one that is there, or, for the basins
        that are `closed` now, a new one.
        """
        found = np.full(len(roots), _NONE)
        known = np.flatnonzero(numbers != _NONE)
        np.minimum.at(found, roots[known], numbers[known])
        pairs = np.stack([numbers[known], found[roots[known]]])
        if (differ := pairs[0] != pairs[1]).any():
            self._same.append(pairs[:, differ])
        new = np.unique(roots[closed])
        new = new[found[new] == _NONE]
        found[new] = self._n_parts + np.arange(len(new))
        self._n_parts += len(new)
        return found


def _highest_tree(ends: np.ndarray, saddles: np.ndarray, arrived: np.ndarray, n: int) -> np.ndarray:
    """Which saddles between n nodes can join anything, (k,) int64, from the highest down, the first to arrive first:
    those that join what higher ones do not.
    """
    order = np.lexsort((arrived, -saddles))
    rank = np.empty(len(order))
    rank[order] = np.arange(1, len(order) + 1)
    first, second = ends.astype(np.int32)  # older versions of scipy take no other indices
    graph = scipy.sparse.coo_array((rank, (first, second)), shape=(n, n))
    tree = scipy.sparse.csgraph.minimum_spanning_tree(graph.tocsr())
    found: np.ndarray = order[np.sort(tree.data.astype(np.int64)) - 1]
    return found
