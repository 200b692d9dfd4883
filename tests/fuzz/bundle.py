"""Bundles: bytes of the zip; values of the manifest; bytes of weights, under a hash that is right; the golden pair."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.models.bundle import load_bundle, write_bundle
from densecell_batch.models.classes import ClassInfo
from densecell_batch.nets.architecture import Hybrid2D3D, tensor_shapes

from .driver import Target, mutated, mutated_json
from .zips import pack, unpack

_DATA = Path(__file__).parents[1] / "data"


def _seeds() -> Sequence[bytes]:
    """A bundle of the smallest net, mostly: it is read a hundred times a second."""
    net = Hybrid2D3D(n_classes=2, n_kernels=2, n_blocks=1, n_convs=1, pyramid_convs=(1, 1), pyramid_kernels=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.zip"
        write_bundle(
            path,
            name="tiny",
            version="1",
            licence="CC0-1.0",
            citation="nobody",
            architecture=net,
            classes=(ClassInfo("background", (0, 0, 127)), ClassInfo("cell", (127, 0, 0))),
            voxel_size=VoxelSize(0.04, 0.01, 0.01),
            window=(5, 16, 16),
            members=[{name: np.ones(shape, np.float32) for name, shape in tensor_shapes(net).items()}],
            golden=(np.zeros((5, 8, 8), np.float32), np.full((5, 8, 8, 2), 0.5, np.float32)),
            scores={"mean_iou": 0.5, "members": [{"accuracy": 1}]},
            provenance={"made by": "nobody"},
        )
        tiny = path.read_bytes()
    return [tiny] * 9 + [(_DATA / "fly-vnc-small.zip").read_bytes()]


def _read(path: Path) -> None:
    bundle = load_bundle(path)
    bundle.golden()
    for i in range(len(bundle.members)):
        bundle.weights(i)


def _mutate(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.2:
        return mutated(rng, content)
    files = unpack(content)
    name = rng.choice(("bundle.json", "bundle.json", "golden.npz", "golden", "weights"))
    if name == "bundle.json" and rng.random() < 0.8:
        files[name] = mutated_json(rng, files[name])
    elif name == "golden":  # below the checksums of the .npz
        arrays = unpack(files["golden.npz"])
        inside = rng.choice(sorted(arrays))
        head = rng.choice((128, len(arrays[inside])))  # most of what can be wrong stands in the header
        arrays[inside] = mutated(rng, arrays[inside][:head]) + arrays[inside][head:]
        files["golden.npz"] = pack(rng, arrays)
    elif name == "weights":
        manifest = json.loads(files["bundle.json"])
        inside = manifest["members"][0]["file"]
        head = rng.choice((8, 2000, len(files[inside])))
        files[inside] = mutated(rng, files[inside][:head]) + files[inside][head:]
        manifest["members"][0]["sha256"] = hashlib.sha256(files[inside]).hexdigest()
        files["bundle.json"] = json.dumps(manifest).encode()
    else:
        files[name] = mutated(rng, files[name])
    return pack(rng, files)


TARGET = Target(_seeds, _read, ".zip", _mutate)
