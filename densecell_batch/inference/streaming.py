"""A volume through the nets, slice after slice, in the memory of a row of tiles.

::

    tiles of a row -> members predict each tile -> combine -> canvas -> finished slices
    reader thread     net thread                   finisher thread

Reading ahead, stitching and writing run beside the nets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from densecell_batch.inference.planning import Plan
from densecell_batch.inference.stitch import Canvas, FinishedSlice
from densecell_batch.inference.tiling import Tile, TileGrid, gather
from densecell_batch.nets.ensemble import Answer

__all__ = ["Look", "Slices", "segment_slices"]

Slices = Callable[[int, tuple[int, int]], np.ndarray]  # (slice, rows [start, stop)) -> (y, x) float32, normalized
Region = tuple[slice, slice, slice]
Look = Callable[[np.ndarray, bool], Answer]  # (tile, whether with probabilities) -> what the ensemble says


def segment_slices(
    read: Slices,
    plan: Plan,
    look: Look,
    n_classes: int,
    finish: Callable[[FinishedSlice], None],
    *,
    slices: tuple[int, int] | None = None,
    band: tuple[int, int] | None = None,
    keep_probabilities: bool = False,
    keep_disagreement: bool = False,
    is_empty: Callable[[Region], bool] = lambda region: False,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Run the nets over the tiles that decide the slices [start, stop) of a volume, or a band of rows [start, stop) of
    them, and hand each slice to `finish` as soon as no later tile touches it. The one loop over tiles that there is.

    Parameters
    ----------
    read
        Called in another thread, with slices in ascending z, each once for a row of tiles.
    plan
        The tiles.
    look
        What the ensemble says of a tile (z, y, x).
    n_classes
        Classes of the nets.
    finish
        Called in another thread, with slices in ascending z; what it gets is overwritten after it returns. It gets
        slices outside of `slices`, too, those that the tiles touch: they are not right.
    slices, band
        What is to be decided; None for all.
    keep_probabilities, keep_disagreement
        Whether finished slices have them.
    is_empty
        Whether nobody wants to know what a region of the volume is: tiles that decide about no other are not computed.
    progress
        Gets the share of the tiles that is done.
    """
    grid = plan.grid
    slices, band = slices or (0, grid.z.length), band or (0, grid.y.length)
    rows, ys = grid.z.touching(plan.rule, *slices), grid.y.touching(plan.rule, *band)
    canvas = Canvas(
        grid,
        plan.rule,
        n_classes,
        keep_probabilities=keep_probabilities,
        keep_disagreement=keep_disagreement,
        first_row=rows[0],
        band=band,
    )

    def paint(tile: Tile, answer: Answer | None, last: bool) -> None:
        if answer is not None:
            canvas.paint(tile, answer)
        if last:
            for finished in canvas.finished(tile.index[0]):
                finish(finished)

    def wanted(tile: Tile) -> bool:
        return not is_empty({"crop": tile.owned, "latest": tile.latest}.get(plan.rule, tile.inside))

    per_row = len(ys) * len(grid.x.corners)
    n_tiles = len(rows) * per_row
    progress(0)
    with ExitStack() as threads:
        reader, finisher = threads.enter_context(_Thread("reader")), threads.enter_context(_Thread("finisher"))
        net = threads.enter_context(_Thread("net", patient=False))
        painting: deque[Future[None]] = deque()
        for n, (tile, voxels) in enumerate(_read_ahead(read, grid, rows, ys, wanted, reader), start=1):
            # The main thread only waits, so that a signal is answered at once.
            answer = None if voxels is None else net.submit(look, voxels, canvas.needs_probabilities).result()
            painting.append(finisher.submit(paint, tile, answer, n % per_row == 0))
            while len(painting) > 1:
                painting.popleft().result()
            progress(n / n_tiles)
        while painting:
            painting.popleft().result()


class _Thread(ThreadPoolExecutor):
    """One worker. Leaving the context by an exception drops what has not begun, and waits for what has only if
    `patient`: a tile can take a minute, and a net writes nowhere.
    """

    def __init__(self, name: str, patient: bool = True) -> None:
        super().__init__(max_workers=1, thread_name_prefix=f"densecell-{name}")
        self._patient = patient

    def __exit__(self, kind: Any, *details: Any) -> None:
        self.shutdown(wait=kind is None or self._patient, cancel_futures=kind is not None)


def _read_ahead(
    read: Slices, grid: TileGrid, rows: range, ys: range, wanted: Callable[[Tile], bool], reader: ThreadPoolExecutor
) -> Iterator[tuple[Tile, np.ndarray | None]]:
    """The tiles and their normalized input regions (z, y, x) float32, the next one being read while one is in use; None
    for a tile that is not wanted.
    """
    voxels = _input_regions(read, grid, rows, ys, wanted)
    upcoming = reader.submit(next, voxels, None)
    while True:
        current = upcoming.result()
        if current is None:
            return
        upcoming = reader.submit(next, voxels, None)
        yield current


def _input_regions(
    read: Slices, grid: TileGrid, rows: range, ys: range, wanted: Callable[[Tile], bool]
) -> Iterator[tuple[Tile, np.ndarray | None]]:
    """Read each slice once: a row keeps the normalized slices that the next one shares."""
    slices: dict[int, np.ndarray] = {}
    top, bottom = grid.y.read_by(ys)
    for row in rows:
        needed = grid.z.input_indices(row).tolist()
        slices = {z: plane for z, plane in slices.items() if z in needed}
        for tile in grid.row(row, ys):
            if not wanted(tile):
                yield tile, None
                continue
            for z in sorted({*needed} - {*slices}):
                slices[z] = read(z, (top, bottom))
            y, x = grid.y.input_indices(tile.index[1]) - top, grid.x.input_indices(tile.index[2])
            voxels = np.empty((len(needed), len(y), len(x)), np.float32)
            for z, plane in zip(needed, voxels, strict=True):
                gather(slices[z], y, x, plane)
            yield tile, voxels
