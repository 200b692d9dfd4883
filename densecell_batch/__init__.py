"""Dense segmentation of electron-microscopy stacks with ensembles of 2D-3D nets (Guay et al. 2021, Sci Rep 11:2561).

The names below are all that is public; importing the package is cheap, and each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from densecell_batch._version import __version__

if TYPE_CHECKING:
    from densecell_batch.api import (
        evaluate,
        load_model,
        segment,
        segment_batch,
        segment_stack,
        train,
        write_stack,
    )
    from densecell_batch.calibration import VoxelSize
    from densecell_batch.data import FLY_LABELLED, PLATELET_SLICES, SAMPLE
    from densecell_batch.errors import (
        BundleError,
        BusyError,
        ClusterError,
        DensecellError,
        DeviceError,
        DiskFullError,
        FetchError,
        ImageJError,
        MacroError,
        ModelError,
        OccupiedError,
        OptionError,
        OutputError,
        PublishedModelError,
        StackError,
        Stopped,
    )
    from densecell_batch.inference.segmenter import Segmenter
    from densecell_batch.inference.volume import Segmentation
    from densecell_batch.io.reading import open_stack
    from densecell_batch.io.stack import Stack, StackInfo
    from densecell_batch.measure.compare import Comparison
    from densecell_batch.measure.volumes import find_instances, measure_objects
    from densecell_batch.models.bundle import ModelBundle
    from densecell_batch.models.classes import ClassInfo
    from densecell_batch.models.fetching import fetch
    from densecell_batch.runs.batch import Verdict
    from densecell_batch.runs.options import RunOptions, RunSegmenter
    from densecell_batch.runs.pipeline import SegmentedStack
    from densecell_batch.training.options import TrainingOptions

__all__ = [
    "FLY_LABELLED",
    "PLATELET_SLICES",
    "SAMPLE",
    "BundleError",
    "BusyError",
    "ClassInfo",
    "ClusterError",
    "Comparison",
    "DensecellError",
    "DeviceError",
    "DiskFullError",
    "FetchError",
    "ImageJError",
    "MacroError",
    "ModelBundle",
    "ModelError",
    "OccupiedError",
    "OptionError",
    "OutputError",
    "PublishedModelError",
    "RunOptions",
    "RunSegmenter",
    "Segmentation",
    "SegmentedStack",
    "Segmenter",
    "Stack",
    "StackError",
    "StackInfo",
    "Stopped",
    "TrainingOptions",
    "Verdict",
    "VoxelSize",
    "__version__",
    "evaluate",
    "fetch",
    "find_instances",
    "load_model",
    "measure_objects",
    "open_stack",
    "segment",
    "segment_batch",
    "segment_stack",
    "train",
    "write_stack",
]

# Public name -> module that defines it, for all but the errors and the verbs.
_PLACES = {
    "FLY_LABELLED": "data",
    "PLATELET_SLICES": "data",
    "SAMPLE": "data",
    "ClassInfo": "models.classes",
    "Comparison": "measure.compare",
    "ModelBundle": "models.bundle",
    "RunOptions": "runs.options",
    "RunSegmenter": "runs.options",
    "SegmentedStack": "runs.pipeline",
    "Segmentation": "inference.volume",
    "Segmenter": "inference.segmenter",
    "Stack": "io.stack",
    "StackInfo": "io.stack",
    "TrainingOptions": "training.options",
    "Verdict": "runs.batch",
    "VoxelSize": "calibration",
    "fetch": "models.fetching",
    "find_instances": "measure.volumes",
    "measure_objects": "measure.volumes",
    "open_stack": "io.reading",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES.get(name, "errors" if name.endswith("Error") or name == "Stopped" else "api")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{place}"), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
