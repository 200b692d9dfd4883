"""Which models can be had by name, and where they are kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from densecell_batch.calibration import VoxelSize
from densecell_batch.data import BUNDLED
from densecell_batch.models.names import MANIFEST

__all__ = [
    "DEFAULT_MODEL",
    "REGISTRY",
    "RegistryEntry",
    "RemoteFile",
    "bundled",
    "bundled_names",
    "cache_dir",
    "fetched",
]

DEFAULT_MODEL = "fly-vnc"  # lies in the package


@dataclass(frozen=True)
class RemoteFile:
    """A zip on the net."""

    name: str  # in the cache
    url: str
    md5: str | None = None  # as published; None where its authors published no hash: the first fetch records SHA-256
    max_bytes: int = 2**28  # where a download breaks off; the published nets have 0.5 GB together


@dataclass(frozen=True)
class RegistryEntry:
    """A model or a data set that its authors published."""

    kind: Literal["model", "data set"]
    about: str  # one line
    files: tuple[RemoteFile, ...]  # of a model, one zip a member
    citation: str
    licence: str = "not stated"
    voxel_size: VoxelSize | None = None
    contents: Mapping[str, str] = field(default_factory=dict)  # of a data set: path in the zip and MD5 of each file


_GUAY = (
    "Guay et al. 2021, Dense cellular segmentation for EM using 2D-3D neural network ensembles, Sci Rep 11:2561, "
    "doi 10.1038/s41598-021-81590-0"
)

_DROPBOX = "https://www.dropbox.com/s"

REGISTRY: Mapping[str, RegistryEntry] = MappingProxyType({
    "platelet-2d3d": RegistryEntry(
        kind="model",
        about="the published ensemble of four 2D-3D+3x3x3 nets: human platelets, SBF-SEM, 7 classes",
        files=tuple(
            RemoteFile(f"2d3d-3x3x3_{i}.zip", f"{_DROPBOX}/{key}/2d3d-3x3x3_{i}.zip?dl=1")
            for i, key in enumerate(("peroaqonnq1chtv", "seqjvr7ulx9j8cp", "p536tuy8hgz2gmb", "uwhfq3jsijlfv9j"))
        ),
        citation=_GUAY,
        voxel_size=VoxelSize.of(40, 10, 10, unit="nm"),
    ),
    "platelet-data": RegistryEntry(
        kind="data set",
        about="the published training, evaluation and test stacks of human platelets with their labels",
        files=(
            RemoteFile(
                "platelet_data_1219.zip",
                f"{_DROPBOX}/68yclbraqq1diza/platelet_data_1219.zip?dl=1",
                md5="253310093ee2c00304fbabdb0c7e3a4a",
                max_bytes=2**29,
            ),
        ),
        citation=_GUAY,
        licence="cleared for public release by NIBIB",
        voxel_size=VoxelSize.of(40, 10, 10, unit="nm"),
        contents={
            "platelet_data/train-images.tif": "940ffa25038e9e9ca0ae86bc7e75553c",
            "platelet_data/train-labels.tif": "dc72be0033f8ce409cac0202928873ba",
            "platelet_data/train-error-weights.tif": "dd30e90f77b2141dd01ab7b76e238163",
            "platelet_data/eval-images.tif": "0fd6642cd7cf0a1e758d7d48b3ac5b57",
            "platelet_data/eval-labels.tif": "abec7b896c2b57ebfc6bccac77cdcd2f",
            "platelet_data/test-images.tif": "d3f296cbedb7c3240e6be0e9e7217f3a",
            "platelet_data/test-labels.tif": "dd21ca5031d74b6f8be9f954e8fe7eac",
        },
    ),
})  # fmt: skip


def cache_dir() -> Path:
    """The cache: `DENSECELL_CACHE`, else the platform's cache folder. It need not exist."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress")  # tqdm, which comes with it, wants widgets in notebooks
        import pooch  # imports its hash and download machinery: not for --help

    given = os.environ.get("DENSECELL_CACHE")
    return Path(given).expanduser() if given else Path(pooch.os_cache("densecell-batch"))


def bundled() -> list[Path]:
    """The bundles that came with the package, by name."""
    return sorted(manifest.parent for manifest in BUNDLED.glob(f"*/{MANIFEST}"))


def bundled_names() -> list[str]:
    """Their names."""
    return [path.name for path in bundled()]


def fetched(name: str) -> Path | None:
    """Where the cache holds a model (its bundle) or a data set (its folder) of the registry; None when it does not."""
    place = cache_dir() / ("models" if REGISTRY[name].kind == "model" else "data") / name
    # Both appear under their name only when whole.
    return place if place.is_dir() else None
