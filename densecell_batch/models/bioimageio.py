"""Packages of bioimage.io: a model with all that other programs need to use it, and our bundle in it as it is.

::

    rdf.yaml               what it is, for the programs that read such packages
    README.md              what it is, for people
    weights.onnx           the ensemble and the mean of its members
    test_input.npy         (1, 1, z, y, x) float32: grey values, as before the normalization
    test_output.npy        (1, class, z, y, x) float32: the probabilities, computed by our own engine
    cover.png              a slice of the two
    NAME.densecell.zip     the bundle: what `import_package` takes

References
----------
.. [1] bioimage.io model description, version 0.5: https://bioimage-io.github.io/spec-bioimage-io/
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from densecell_batch.data import BUNDLED, SAMPLE
from densecell_batch.errors import BundleError, OptionError
from densecell_batch.models.bundle import ModelBundle, load_bundle, pack_bundle
from densecell_batch.models.derived import check_free
from densecell_batch.models.description import Package, description, halo_for, readme
from densecell_batch.models.golden import smooth_noise, verify_bundle
from densecell_batch.models.onnx_export import ExportedOnnx, grey_window, made_onnx, normalized, window_for
from densecell_batch.nets.predictor import Triple
from densecell_batch.plots.cover import render_cover
from densecell_batch.plots.png import as_png
from densecell_batch.printable import printable
from densecell_batch.storage.atomic import write_file
from densecell_batch.storage.yaml import as_yaml
from densecell_batch.storage.zips import Files, Folder, open_archive, write_folder, write_zip

__all__ = ["export_package", "import_package", "is_package"]

_DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
_BUNDLE = ".densecell.zip"
_NOT_STATED = "not stated"
_OURS = "The densecell-batch authors"


def export_package(
    bundle: ModelBundle,
    out: Path,
    window: Triple | None = None,
    *,
    image: Path | None = None,
    authors: Sequence[str] = (),
) -> ExportedOnnx:
    """Write a package of bioimage.io. Equal input, equal bytes.

    Parameters
    ----------
    bundle
        The model.
    out
        The zip. Must not exist.
    window
        What goes in, (z, y, x) in voxels; None for what `window_for` takes.
    image
        A stack of the tissue that the model is for: its middle becomes the test and the cover. None for the sample, of
        models that lie in the package, and for noise of others.
    authors
        Who made the model; a bundle does not say.

    Raises
    ------
    OptionError
        If the nets take no such window without loss, or an author has no name that can be written in a line.
    StackError
        If the image cannot be read, or is too small.
    DeviceError
        If the package onnx is not installed.
    BundleError
        If the bundle is not whole, or its ONNX would not say what its nets say.
    OutputError
        If `out` exists or cannot be written.
    """
    for name in authors:
        if not name.strip() or printable(name) != name:
            raise OptionError(f"author {printable(repr(name))[:80]}: expected a name in one line")
    check_free(out)
    window = window_for(bundle, window)
    ours = bundle.path.parent.resolve() == BUNDLED.resolve()
    image = SAMPLE if image is None and ours else image
    voxels = smooth_noise(window) if image is None else grey_window(image, window)
    made = made_onnx(bundle, normalized(voxels), padded=True)
    packed = _packed(bundle)
    name = f"{bundle.name}{_BUNDLE}"
    halo = halo_for(bundle, window)
    files = {
        "README.md": readme(bundle, window, halo, is_noise=image is None).encode(),
        "weights.onnx": made.content,
        "test_input.npy": _npy(voxels[None, None]),
        "test_output.npy": _npy(np.moveaxis(made.probabilities, -1, 0)[None]),
        "cover.png": _cover(bundle, voxels, made.probabilities),
        name: packed,
    }
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    names = tuple(authors) or ((_OURS,) if ours else (_NOT_STATED,))
    described = description(Package(bundle, window, names, hashes, name, halo))
    write_zip(out, ({"rdf.yaml": as_yaml(described).encode()} | files).items())
    return made


def is_package(path: Path) -> bool:
    """Whether a zip or a folder is a package of bioimage.io, ours or not; False of what is neither.

    Raises
    ------
    BundleError
        If it is a zip that an honest one is not.
    """
    if path.is_dir():
        return any((path / name).is_file() for name in _DESCRIPTIONS)
    if not path.is_file() or path.suffix.lower() != ".zip":
        return False
    with open_archive(path, BundleError) as archive:
        return any(name in archive.names for name in _DESCRIPTIONS)


def import_package(path: Path, out: Path) -> ModelBundle:
    """Take the bundle out of a package that `export_package` wrote, and check it: hashes, tensors, golden pair.

    Nothing else of the package is read: its ONNX is made of the bundle, not the bundle of it.

    Parameters
    ----------
    path
        The zip, or the folder that it was unpacked to.
    out
        The bundle: a zip if it ends in .zip, else a folder. Must not exist.

    Raises
    ------
    BundleError
        If there is no bundle in it, or one that is damaged or does not give the recorded probabilities.
    OutputError
        If `out` exists or cannot be written.
    """
    check_free(out)
    with _files(path) as files:
        found = [name for name in files.names if "/" not in name and name.endswith(_BUNDLE)]
        if len(found) != 1:
            raise BundleError(
                f"{path}: this package of bioimage.io does not come from densecell-batch: it holds {len(found)} files "
                f"NAME{_BUNDLE} where 1 was expected. The nets of others cannot be imported; use it with a program "
                "that computes packages of bioimage.io"
            )
        content = files.read(found[0])
    with TemporaryDirectory() as folder:
        inner, packed = Path(folder) / "inner.zip", Path(folder) / "packed.zip"
        write_file(inner, content)
        try:
            verify_bundle(pack_bundle(inner, packed))
        except BundleError as error:
            text = str(error).replace(str(packed), str(inner)).replace(str(inner), f"{path}: {found[0]}")
            raise BundleError(text) from error
        with open_archive(packed, BundleError) as archive:
            write = write_zip if out.suffix.lower() == ".zip" else write_folder
            write(out, ((name, archive.read(name)) for name in archive.names))
    return load_bundle(out)


@contextmanager
def _files(path: Path) -> Iterator[Files]:
    if path.is_dir():
        yield Folder(path, BundleError)
        return
    with open_archive(path, BundleError) as archive:
        yield archive


def _packed(bundle: ModelBundle) -> bytes:
    """The bundle as `models pack` writes it."""
    with TemporaryDirectory() as folder:
        packed = Path(folder) / "bundle.zip"
        pack_bundle(bundle.path, packed)
        return packed.read_bytes()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _cover(bundle: ModelBundle, voxels: np.ndarray, probabilities: np.ndarray) -> bytes:
    """The slice in the middle, and its classes, as far as the nets say them."""
    depth, height, width = voxels.shape
    margin = bundle.architecture.margin
    core = (depth // 2, slice(margin, height - margin), slice(margin, width - margin))
    labels = probabilities[core].argmax(-1).astype(np.uint8)
    return as_png(render_cover(voxels[core], labels, [(c.name, c.colour) for c in bundle.classes]))
