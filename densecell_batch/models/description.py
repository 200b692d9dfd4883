"""What a package of bioimage.io says of a model: its description for programs, and the page for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from densecell_batch._version import __version__
from densecell_batch.models.bundle import ModelBundle
from densecell_batch.models.names import file_word
from densecell_batch.nets.architecture import Hybrid2D3D, ResidualUNet, UNet2D, n_parameters
from densecell_batch.nets.onnx_graph import INPUT, OPSET, OUTPUT, rim
from densecell_batch.nets.predictor import Triple
from densecell_batch.storage.strict_json import JsonObject

__all__ = ["Package", "description", "halo_for", "readme", "spdx"]

_FORMAT = "0.5.12"  # of the description
_SAME = 1e-4  # of a probability: how far others may be from the test output
_GUAY = (
    "Guay et al. 2021, Dense cellular segmentation for EM using 2D-3D neural network ensembles, Sci Rep 11:2561",
    "10.1038/s41598-021-81590-0",
)
_U_NET = (
    "Ronneberger, Fischer, Brox 2015, U-Net: convolutional networks for biomedical image segmentation, MICCAI",
    "10.1007/978-3-319-24574-4_28",
)
_PAPERS = {Hybrid2D3D.family: _GUAY, UNet2D.family: _U_NET, ResidualUNet.family: _U_NET}
_KINDS = {
    Hybrid2D3D.family: "2D-3D+3x3x3 net",
    UNet2D.family: "2D U-Net",
    ResidualUNet.family: "residual 2D U-Net over slices with their neighbours",
}
_DOI = re.compile(r"\b10\.[0-9]{4,9}/[^\s,;\"'<>]*[^\s,;.\"'<>)]")
_SPDX = frozenset({
    *("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only"),
    *("GPL-3.0-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MPL-2.0", "ODbL-1.0", "Unlicense"),
    *(
        f"CC-{kind}-{version}"
        for kind in ("BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND")
        for version in ("1.0", "2.0", "2.5", "3.0", "4.0")
    ),
})  # fmt: skip


@dataclass(frozen=True)
class Package:
    """What is described."""

    bundle: ModelBundle
    window: Triple  # (z, y, x) that goes in
    authors: tuple[str, ...]
    hashes: Mapping[str, str]  # SHA-256 of each file that the description names
    attached: str  # the file of the bundle
    halo: Triple  # voxels at each end of what comes out, along z, y and x, that are to be cropped; see `halo_for`


def halo_for(bundle: ModelBundle, window: Triple) -> Triple:
    """Voxels at each end of what comes out of a window, along z, y and x, that are to be cropped: those that the nets
    do not say, and in y and x those that do not have their whole context, but of these no more than leave half of a
    side.
    """
    z, y, x = rim(bundle.architecture)
    context = min(bundle.architecture.halo, min(window[1:]) // 4)
    return (z, max(y, context), max(x, context))


def spdx(licence: str) -> str | None:
    """The SPDX identifier of a licence, as "CC-BY-4.0" of "CC BY 4.0"; None if it is none of the usual ones."""
    word = re.sub(r"[\s_]+", "-", licence.strip()).casefold()
    word = {"cc0": "cc0-1.0"}.get(word, word)
    return next((name for name in _SPDX if name.casefold() == word), None)


def description(package: Package) -> JsonObject:
    """The content of rdf.yaml."""
    bundle, hashes = package.bundle, package.hashes
    shown = re.sub(r"[^A-Za-z0-9_ -]", "-", bundle.name)
    described: JsonObject = {
        "format_version": _FORMAT,
        "type": "model",
        "name": shown if len(shown) >= 5 else f"{shown} (densecell-batch)",
        "description": _summary(bundle)[:500],
        "authors": [{"name": re.sub(r"[/\\]", " ", name)} for name in package.authors],
        "cite": _citations(bundle),
        "documentation": _file("README.md", hashes),
        "covers": [_file("cover.png", hashes)],
        "tags": _tags(bundle),
        "attachments": [_file(package.attached, hashes)],
        "inputs": [_input(package)],
        "outputs": [_output(package)],
        "weights": {"onnx": _file("weights.onnx", hashes) | {"opset_version": OPSET}},
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [{"relative_tolerance": 0.0, "absolute_tolerance": _SAME}],
                "modality": "electron microscopy",
                "task": "semantic segmentation",
                "architecture_type": bundle.architecture.family,
                "architecture_description": _KINDS[bundle.architecture.family],
                "target_structure": [c.name for c in bundle.classes],
                "model_parameter_count": n_parameters(bundle.architecture) * len(bundle.members),
            },
            "densecell_batch": {"version": __version__, "bundle": package.attached, "licence": bundle.licence},
        },
    }
    if spdx(bundle.licence):
        described["license"] = spdx(bundle.licence)
    if re.fullmatch(r"[0-9]+(\.[0-9]+){0,3}", bundle.version):
        described["version"] = bundle.version
    return described


def _file(name: str, hashes: Mapping[str, str]) -> JsonObject:
    return {"source": name, "sha256": hashes[name]}


def _summary(bundle: ModelBundle) -> str:
    nets = f"an ensemble of {len(bundle.members)} nets" if len(bundle.members) > 1 else "one net"
    classes = ", ".join(c.name for c in bundle.classes)
    return f"Segmentation of electron-microscopy stacks by {nets} ({_KINDS[bundle.architecture.family]}): {classes}"


def _tags(bundle: ModelBundle) -> list[str]:
    words = {file_word(c.name).lower() for c in bundle.classes}
    return ["electron-microscopy", "semantic-segmentation", "3d", "densecell-batch", "onnx", *sorted(words)]


def _citations(bundle: ModelBundle) -> list[JsonObject]:
    """That of the bundle, where it has what a description needs, and the paper of its nets."""
    own = _DOI.search(bundle.citation)
    text, doi = _PAPERS[bundle.architecture.family]
    found = [{"text": bundle.citation, "doi": own[0]}] if own else []
    return found if own and own[0] == doi else [*found, {"text": text, "doi": doi}]


def _axes(package: Package) -> list[JsonObject]:
    """Name and edge of the voxels that the nets see, along z, y and x."""
    size, scale = package.bundle.voxel_size, package.bundle.known.scale
    axes: list[JsonObject] = [{"type": "space", "id": axis} for axis in "zyx"]
    if size is not None:
        for axis, edge, factor in zip(axes, size.nanometres, scale, strict=True):
            axis |= {"unit": "nanometer", "scale": float(f"{edge / factor:.6g}")}
    return axes


def _input(package: Package) -> JsonObject:
    spaces = zip(_axes(package), package.window, strict=True)
    return {
        "id": INPUT,
        "description": "grey values of a stack",
        "axes": [
            {"type": "batch", "size": 1},
            {"type": "channel", "channel_names": ["grey_value"]},
            *(axis | {"size": size} for axis, size in spaces),
        ],
        "data": {"type": "float32"},
        "test_tensor": _file("test_input.npy", package.hashes),
        "preprocessing": [
            {
                "id": "zero_mean_unit_variance",
                "kwargs": {"axes": ["channel", "z", "y", "x"], "eps": 1e-6},
            }
        ],
    }


def _output(package: Package) -> JsonObject:
    bundle = package.bundle
    names = [re.sub(r"\W", "_", file_word(c.name)) for c in bundle.classes]
    if len({*names}) < len(names) or not all(name.isidentifier() for name in names):
        names = [f"class_{i}" for i in range(len(names))]
    axes: list[JsonObject] = [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": names}]
    for axis, halo in zip(_axes(package), package.halo, strict=True):
        reference = {"tensor_id": INPUT, "axis_id": axis["id"], "offset": 0}
        axes.append(axis | {"size": reference} | ({"halo": halo} if halo else {}))
    return {
        "id": OUTPUT,
        "description": "probability of each class: the mean of the nets",
        "axes": axes,
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "test_tensor": _file("test_output.npy", package.hashes),
    }


def readme(bundle: ModelBundle, window: Triple, halo: Triple, *, is_noise: bool) -> str:
    """The content of README.md; `is_noise` says that the test input is no tissue."""
    paper, doi = _PAPERS[bundle.architecture.family]
    size = "not recorded" if bundle.voxel_size is None else str(bundle.voxel_size)
    classes = "\n".join(f"* {i}: {c.name} (#{bytes(c.colour).hex()})" for i, c in enumerate(bundle.classes))
    scores = json.dumps(dict(bundle.scores), indent=2, ensure_ascii=False)
    return f"""# {bundle.name}, version {bundle.version}

{_summary(bundle)}.

* Licence: {bundle.licence}
* Cite: {bundle.citation}
* Method: {paper}, doi {doi}
* Voxel size of the training data: {size}
* Written by densecell-batch {__version__}

## Classes

The channels of the output:

{classes}

## Use

{_use(bundle, window, halo)}

densecell-batch itself takes the bundle that lies in here:

```
densecell-batch models import PACKAGE.zip -o {bundle.name}.zip
densecell-batch segment STACK --model {bundle.name}.zip -o OUT
```

## Validation

The test input is {"noise, not tissue" if is_noise else "a piece of tissue"}; the test output was computed by
densecell-batch, not by `weights.onnx`. With labelled stacks of your own: `densecell-batch evaluate`. What was measured
when the model was made:

```json
{scores}
```
"""


def _use(bundle: ModelBundle, window: Triple, halo: Triple) -> str:
    """What goes in, what comes out, and what to expect of it."""
    net, beyond = bundle.architecture, rim(bundle.architecture)
    lines = [
        f"* `weights.onnx` takes one window of {_by(window)} voxels (z, y, x), float32, as (1, 1, z, y, x), and gives",
        "  the probabilities of each class there, as (1, class, z, y, x): the mean over all nets, which are",
        f"  {len(bundle.members)}.",
        "* Normalization: minus the mean, divided by the standard deviation, **of the whole stack**, not of a window.",
        f"* A voxel depends on up to {net.reach[0]} voxels in z and {net.reach[1]} in y and x around it. The halo",
        f"  that the description names, {_by(halo)} voxels (z, y, x) at each end, is to be cropped; where the whole",
        "  reach would leave no core in this window, it is less.",
    ]
    if any(beyond):
        lines[-1] += f" Of the outermost {_by(beyond)} voxels (z, y, x) the nets say nothing:"
        lines.append("  what stands there repeats what lies further in.")
    lines += [
        "* Stacks should have the voxel size above, and a contrast like that of the training data. densecell-batch",
        "  scales stacks, matches their contrast and passes over what is no tissue; what computes `weights.onnx` does",
        "  not.",
    ]
    return "\n".join(lines)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
