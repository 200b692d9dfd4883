"""`densecell-batch doctor`: what is there, what is missing, and what follows from it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click

from densecell_batch._version import __version__
from densecell_batch.errors import DensecellError

__all__ = ["doctor"]

_GIB = 2**30


@click.command()
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", help="The device to check.")
def doctor(device: str) -> None:
    """Check what this machine has: a line each, "ok", "warn" or "FAIL", separated by tabs. Exit code 3 when
    unusable.
    """
    worst = 0
    for state, what, found in _findings(device):
        click.echo(f"{state}\t{what}\t{found}")
        worst = max(worst, 3 if state == "FAIL" else 0)
    sys.exit(worst)


def _findings(device: str) -> Iterator[tuple[str, str, str]]:
    """(state, what, found) of everything that matters."""
    yield "ok", "densecell-batch", __version__
    new_enough = sys.version_info >= (3, 11)
    yield ("ok" if new_enough else "FAIL"), "Python", f"{platform.python_version()}; 3.11 or later is needed"
    yield from _computing(device)
    yield from _cache()
    java = shutil.which("java")
    yield ("ok", "Java", _java_version(java)) if java else ("warn", "Java", "not found; only Fiji macros need it")
    yield _imagej()
    free = shutil.disk_usage(".").free
    yield ("ok" if free > 2 * _GIB else "warn"), "disk", f"{free / _GIB:.1f} GiB free in the current folder"


def _computing(device: str) -> Iterator[tuple[str, str, str]]:
    from densecell_batch.nets.engines import ENGINES, is_installed
    from densecell_batch.runs.report import versions

    found, there = versions(), [name for name in ENGINES if is_installed(name)]
    told = [f"{name} {found.get(name) or found.get(f'{name}-cpu', '')}".strip() for name in there]
    if there == ["openvino"]:
        told.append("training and GPUs need TensorFlow: pip install tensorflow keras")
    yield ("ok" if there else "FAIL"), "backend", "; ".join(told) or "none; pip install openvino"
    if not there:
        return
    try:
        from densecell_batch.inference.segmenter import Segmenter
        from densecell_batch.models.golden import verify_bundle
        from densecell_batch.models.registry import DEFAULT_MODEL
        from densecell_batch.system import available_memory

        segmenter = Segmenter(DEFAULT_MODEL, device=device)
        yield "ok", "device", str(segmenter.device)
        precision = segmenter.precision
        yield "ok", "precision", f"auto takes {segmenter.engine} in {precision.name}: {precision.reason}"
        difference = verify_bundle(segmenter.bundle)
        yield "ok", "nets", f"{DEFAULT_MODEL} gives what was recorded of it, to {difference:.1g}"
    except DensecellError as error:
        yield "FAIL", "device", str(error)
    except ImportError as error:
        yield "FAIL", "backend", f"{error}; install the package again: pip install densecell-batch"
    else:
        free = available_memory()
        yield (
            ("ok" if free > 4 * _GIB else "warn"),
            "memory",
            f"{free / _GIB:.1f} GiB free; half of it is used by default",
        )


def _cache() -> Iterator[tuple[str, str, str]]:
    from densecell_batch.models.registry import REGISTRY, bundled_names, cache_dir, fetched

    folder = cache_dir()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    yield (
        ("ok" if writable else "warn"),
        "cache",
        f"{folder}" + ("" if writable else " is read-only: nothing can be fetched"),
    )
    there = [*bundled_names(), *(name for name in REGISTRY if fetched(name) is not None)]
    yield ("ok" if there else "warn"), "models", ", ".join(there) or "none bundled or fetched; import or fetch one"


def _imagej() -> tuple[str, str, str]:
    from densecell_batch.errors import ImageJError
    from densecell_batch.imagej.find import find_imagej

    try:
        place = find_imagej()
    except ImageJError:
        return "warn", "ImageJ", "not found in the usual places; only macros need it: give them --imagej"
    if place.has_gateway:
        return "ok", "ImageJ", f"{place.where}, a Fiji: it needs no screen"
    if shutil.which("Xvfb"):
        return "ok", "ImageJ", f"{place.where}, with screens of Xvfb"
    return "warn", "ImageJ", f"{place.where}, without Xvfb: in macros, open() and run(...) may not work"


def _java_version(java: str) -> str:
    done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)
    return (done.stderr or done.stdout).partition("\n")[0]
