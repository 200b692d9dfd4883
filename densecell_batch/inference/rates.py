"""How fast a net computes on this machine, measured on the net itself and remembered."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from math import prod, sqrt
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from densecell_batch.errors import OutputError
from densecell_batch.identity import digest
from densecell_batch.inference.device import DeviceInfo
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.registry import cache_dir
from densecell_batch.nets.architecture import Architecture, architecture_to_dict, flop_per_voxel, forward_bytes
from densecell_batch.nets.predictor import Predictor
from densecell_batch.nets.quantization import with_ranges
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.opening import read_small

__all__ = ["net_rates"]

_GFLOP = 15  # of a tile that is timed: some tenths of a second
_SIDES = 64, 256  # of what comes out of it, at least and at most
_TURNS = 3
_LARGEST = 4 * 2**30  # bytes that a net may take for it
_FORMAT = 1  # of what is remembered

Rate = Annotated[float, Meta(ge=1, le=1e12)]

_log = logging.getLogger(__name__)


def net_rates(bundle: ModelBundle, engine: str, device: DeviceInfo, precisions: Sequence[str]) -> dict[str, float]:
    """Voxels that a member of a model computes in a second, in each of some precisions.

    It is measured, in a few seconds, when it is asked for the first time on this machine, for this architecture and
    this version of the engine; a file in the cache says it from then on, if the cache can be written.
    """
    key = {
        "format": _FORMAT,
        "architecture": architecture_to_dict(bundle.architecture),
        "window": list(bundle.window),
        "engine": [engine, _version(engine)],
        "device": str(device),
    }
    path = cache_dir() / "rates" / f"{digest(key)}.json"
    known = _read(path)
    if not {*precisions} <= {*known}:
        known |= _measured(bundle, engine, precisions)  # all at once: what else the machine does may change
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, msgspec.json.encode(known))
        except (OSError, OutputError) as error:  # a cache that is read-only
            _log.debug("%s", error)
    return {precision: known[precision] for precision in precisions}


def _version(engine: str) -> str:
    try:
        return version(engine)
    except PackageNotFoundError:  # such as tensorflow-cpu
        return ""


def _read(path: Path) -> dict[str, float]:
    try:
        return msgspec.json.decode(read_small(path), type=dict[str, Rate])
    except (OSError, ValueError):  # not there, or not ours
        return {}


def _measured(bundle: ModelBundle, engine: str, precisions: Sequence[str]) -> dict[str, float]:
    """The precisions take turns and the best time counts, so that other work on the machine tells on none."""
    architecture, weights = bundle.architecture, bundle.weights(0)
    shape = _timed_shape(architecture, bundle.window[0])
    if forward_bytes(architecture, shape) > _LARGEST:
        return dict.fromkeys(precisions, 1.0)  # whoever plans the tiles will say what is needed
    tile = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    voxels = prod(architecture.output_shape(shape))
    best = dict.fromkeys(precisions, float("inf"))
    rounded = weights if bundle.quantization is None else with_ranges(weights, bundle.quantization.ranges[0])
    predictors = {p: Predictor(architecture, [rounded], p, engine=engine) for p in precisions}
    for predictor in predictors.values():
        predictor.together(tile)  # compiles
    for precision, predictor in [*predictors.items()] * _TURNS:
        start = time.perf_counter()
        predictor.together(tile)
        best[precision] = min(best[precision], time.perf_counter() - start)
    rates = {precision: max(1.0, voxels / seconds) for precision, seconds in best.items()}
    told = ", ".join(f"{rate:,.0f} voxels/s in {precision}" for precision, rate in rates.items())
    _log.info("measured how fast a net of this model is with %s: %s", engine, told)
    return rates


def _timed_shape(architecture: Architecture, depth: int) -> tuple[int, int, int]:
    """Input (z, y, x) of a tile that takes some tenths of a second, without loss to pooling."""
    slices = depth - 2 * architecture.context
    side = int(sqrt(_GFLOP * 1e9 / flop_per_voxel(architecture) / slices))
    lossless = architecture.residue + 2 * architecture.margin
    side = min(max(side, _SIDES[0]), _SIDES[1]) + 2 * architecture.margin
    side += (lossless - side) % architecture.alignment
    return depth, side, side
