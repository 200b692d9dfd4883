"""A volume in memory through a model."""

from __future__ import annotations

import numpy as np

from densecell_batch.nets.predictor import Predictor

__all__ = ["predict_labels"]


def predict_labels(image: np.ndarray, predictor: Predictor, window: tuple[int, int, int]) -> np.ndarray:
    """Class map (z, y, x) uint8 of a normalized volume (z, y, x), with the tiles and the stitch of `segment`."""
    from densecell_batch.inference.planning import plan_tiles
    from densecell_batch.inference.stitch import Canvas
    from densecell_batch.nets.ensemble import combine

    shape, net = (image.shape[0], image.shape[1], image.shape[2]), predictor.architecture
    plan = plan_tiles(shape, net, window, precision=predictor.precision, members=len(predictor))
    canvas, labels = Canvas(plan.grid, plan.rule, net.n_classes), np.empty(shape, np.uint8)
    for row in range(len(plan.grid.z.corners)):
        for tile in plan.grid.row(row):
            indices = (axis.input_indices(i) for axis, i in zip(plan.grid.axes, tile.index, strict=True))
            canvas.paint(tile, *combine(predictor(image[np.ix_(*indices)])))
        for finished in canvas.finished(row):
            labels[finished.z] = finished.labels
    return labels
