"""Bundles: bytes of the zip; values of the manifest; bytes of weights, under a hash that is right; the golden pair."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.architecture import Hybrid2D3D, tensor_shapes
from densecell_batch.bundle import ClassInfo, load_bundle, write_bundle
from densecell_batch.volume import VoxelSize

from .driver import Target, mutated
from .zips import pack, unpack

_DATA = Path(__file__).parents[1] / "data"

# What a manifest of a stranger might say anywhere, as JSON.
_VALUES = (
    "null", "true", "-1", "0", "1e400", "1e-400", "NaN", "-Infinity", "9" * 30, "9" * 5000, "2147483648", '""', '"a"',
    '"a\\nb"', '"\\u001b[2J"', '"\\u202e"', '"\\ud800"', '"' + "x" * 10_000 + '"', '"../../x"', "[]", "{}", "[[]]",
    '[{"name": "a", "colour": [1, 2, 3]}]', "[1, 1, 1]", "[5, 100000, 100000]", "[16384, 20, 20]",
    "[" * 200 + "]" * 200, "[" * 20_000, '{"family": "unet2d", "n_classes": 5}', '{"a": {"b": [1, {}]}}', "4096", "256",
)  # fmt: skip


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
        files[name] = _manifest(rng, files[name])
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


def _manifest(rng: random.Random, content: bytes) -> bytes:
    """A manifest with another value, or another key, somewhere."""
    manifest = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        inside: Any = manifest
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(inside[key], dict | list) and inside[key] and rng.random() < 0.7:
                inside = inside[key]
                continue
            if isinstance(inside, dict) and rng.random() < 0.1:
                inside[rng.choice(("new", "\x1b]0;x\x07", "a\nb", "\u202e", "\ud800"))] = inside.pop(key)
            else:
                inside[key] = f"<{rng.randrange(len(_VALUES))}>"
            break
    text = json.dumps(manifest)
    for i, value in enumerate(_VALUES):
        text = text.replace(f'"<{i}>"', value)
    return text.encode()


TARGET = Target(_seeds, _read, ".zip", _mutate)
