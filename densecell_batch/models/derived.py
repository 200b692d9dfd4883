"""A bundle that is made of another one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from densecell_batch._version import __version__
from densecell_batch.errors import OutputError
from densecell_batch.models.bundle import ModelBundle, write_bundle
from densecell_batch.models.golden import verify_bundle
from densecell_batch.models.manifest import check_texts
from densecell_batch.storage.atomic import explained, temporary_name

__all__ = ["check_free", "derive", "name_of"]

_KEPT = (
    *("version", "licence", "citation", "architecture", "classes", "voxel_size", "window", "scores"),
    *("own_data", "class_offsets", "quantization"),
)


def name_of(out: Path, name: str | None, bundle: ModelBundle) -> str:
    """The name of a bundle that is to be written: as given, or after its file; raises BundleError if it is none."""
    name = out.name.removesuffix(".zip") if name is None else name
    check_texts(name, bundle.version, bundle.licence, bundle.citation)
    return name


def check_free(out: Path) -> None:
    """See that a bundle can be written there, before the work; raises OutputError if not."""
    with explained(out):
        taken = os.path.lexists(out)
        if taken or not out.absolute().parent.is_dir():
            found = "exists already; remove it" if taken else "there is no folder for it; make one"
            raise OutputError(f"{out}: {found} or choose another name")
        with suppress(FileNotFoundError):
            temporary_name(out).lstat()  # raises where the name, with what is added to it, is too long


def derive(bundle: ModelBundle, out: Path, name: str, how: str, of: Any, **changes: Any) -> ModelBundle:
    """Write a bundle with the nets of another one, and check it.

    Parameters
    ----------
    bundle
        Where the nets come from.
    out
        A zip if it ends in .zip, else a folder. Must not exist.
    name
        Of the new bundle.
    how, of
        What was done to it ("calibrated"), and on what, for its provenance.
    changes
        Fields of `ModelBundle`, and the golden pair, that are others.

    Raises
    ------
    OutputError
        If it exists or cannot be written.
    BundleError
        If what is given makes no valid bundle.
    """
    kept = {field: getattr(bundle, field) for field in _KEPT}
    provenance = {
        f"{how} by": f"densecell-batch {__version__}",
        f"{how} on": of,
        f"{how} from": {"name": bundle.name, "version": bundle.version, "provenance": dict(bundle.provenance)},
    }
    made = write_bundle(
        out,
        **kept | {"golden": bundle.golden(), "provenance": provenance, "name": name} | changes,
        members=[bundle.weights(i) for i in range(len(bundle.members))],
    )
    verify_bundle(made)
    return made
