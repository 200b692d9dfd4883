"""The process that runs a macro of a user: `python -P -m densecell_batch.imagej.worker FOLDER PARENT`; see `macro`."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import DensecellError, ImageJError, MacroError
from densecell_batch.imagej.find import find_imagej, find_java
from densecell_batch.imagej.images import from_imageplus, to_imageplus
from densecell_batch.imagej.interpreter import run_macro, tables
from densecell_batch.imagej.jvm import start_imagej
from densecell_batch.imagej.macro import Ended, Macro, MacroOutcome, MacroTask, read_task
from densecell_batch.io.formats.grey_values import GreyValues
from densecell_batch.io.reading import open_stack
from densecell_batch.io.stack import Stack, StackInfo
from densecell_batch.io.writing import StackWriter
from densecell_batch.storage.atomic import write_file
from densecell_batch.streams import secure

__all__ = ["main", "screen"]

_SCREEN_START = 20.0  # seconds


def main() -> None:
    """Do the task in a folder and leave the outcome there. The process ends here: a macro may still run in it."""
    secure()
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        Path.home()
    except RuntimeError:  # a user without a name, as in containers; scyjava asks when it is imported
        os.environ["HOME"] = str(folder)
    task = read_task(folder / "task.json")
    with ExitStack() as opened:
        try:
            place = find_imagej(task.imagej, download=task.download)
            there = opened.enter_context(screen(not place.has_gateway, folder))
            ended = Ended(_do(task, folder, headless=not there))
        except ImageJError as error:
            ended = Ended(imagej_error=str(error))
        except DensecellError as error:
            ended = Ended(macro_error=str(error))
        # Before the screen goes: Java ends the process when it loses it.
        write_file(folder / "outcome.json", msgspec.json.encode(ended))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    """End this process, and its screen, when the one that started it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    for process in _children:
        process.terminate()
    os._exit(1)


_children: list[subprocess.Popen[bytes]] = []


def _do(task: MacroTask, folder: Path, *, headless: bool) -> MacroOutcome:
    """Run the macro."""
    imagej = start_imagej(task.imagej, headless=headless, heap=task.heap, download=task.download)
    image, before = None, None
    if task.image is not None:
        override = None if task.voxel_size is None else VoxelSize(*task.voxel_size)
        labels = task.colours is not None
        with _explained_memory(task), open_stack(task.image, override, stored=labels) as stack:
            image, before = _opened(stack, task), stack.info
    (folder / "begun").touch()
    with _explained_memory(task):
        run = run_macro(task.macro, task.argument, image, time_limit=task.time_limit, heard=_say)
    (folder / "over").touch()
    notes = []
    if task.result is not None and before is not None:
        with _explained_memory(task):
            notes = _save(run.image, task.result, before, task.macro)
    return MacroOutcome(
        value=run.value, tables=tables(), notes=notes, imagej=str(imagej), seconds=round(run.seconds, 3)
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _opened(stack: Stack, task: MacroTask) -> Any:
    """The image of a stack, with the folder and name that macros ask for."""
    from scyjava import jimport

    dtype = "float32" if stack.info.dtype == "int16" else stack.info.dtype  # ImageJ has no int16; float32 holds it
    planes = (stack.read(z).astype(dtype, copy=False) for z in range(stack.info.shape[0]))
    colours = None if task.colours is None else np.array(task.colours, np.uint8)
    path = stack.info.path
    image = to_imageplus(planes, stack.info.voxel_size, colours, task.class_names, path.name)
    info = jimport("ij.io.FileInfo")()
    info.directory, info.fileName = f"{path.parent}{os.sep}", path.name
    info.width, info.height, info.nImages = image.getWidth(), image.getHeight(), image.getStackSize()
    image.setFileInfo(info)
    return image


def _save(image: Any, path: Path, before: StackInfo, macro: Macro) -> list[str]:
    """Write the image that a macro left, whole or not at all; notes on it."""
    if image is None:
        raise MacroError(f"{macro.name}: it left no image open; expected the image to segment, as the active one")
    found = from_imageplus(image)
    notes, kept = [], found.voxel_size
    if found.volume.shape == before.shape:
        kept = kept or before.voxel_size
    else:
        shapes = [" x ".join(map(str, shape)) for shape in (before.shape, found.volume.shape)]
        notes.append(f"{macro.name} changed the shape from {shapes[0]} to {shapes[1]} (z, y, x), which the labels have")
        if kept is None and before.voxel_size is not None:
            notes.append(f"{macro.name} left no voxel size, and that of the stack is not one of another shape")
    grey = GreyValues(inverted=bool(image.isInvertedLut()), bits=8 * found.volume.dtype.itemsize)
    with StackWriter(path, found.volume.shape, found.volume.dtype.name, voxel_size=kept) as writer:
        for z, plane in enumerate(found.volume):
            writer.write(z, grey(plane))
        writer.commit()
    return notes


@contextmanager
def _explained_memory(task: MacroTask) -> Iterator[None]:
    """Turn what Java and Python raise when memory runs out into words."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, MemoryError) and "OutOfMemoryError" not in f"{type(error).__name__} {error}":
            raise
        raise MacroError(
            f"{task.macro.name}: the memory of {(task.heap or 0) / 2**30:.1f} GiB for ImageJ is used up; ImageJ holds "
            "whole stacks: give the job more memory (--memory), or crop the stack"
        ) from error


@contextmanager
def screen(wanted: bool, folder: Path) -> Iterator[bool]:
    """A screen for Java: one of its own (Xvfb), or else the user's. Yields whether there is one.

    Its own takes nobody who does not know the cookie in `folder`, which is private: without that, every account of the
    machine could take pictures of it, and type.
    """
    library = find_java() / "lib/libawt_xawt.so"  # not in Debian's openjdk-17-jre-headless
    if (
        not wanted or sys.platform == "darwin" or (sys.platform == "linux" and not library.exists())
    ):  # Java on macOS needs the main thread for windows, which is Python's
        yield False
    elif sys.platform == "win32":
        yield True
    elif shutil.which("Xvfb"):
        read, write = os.pipe()
        authority = _write_authority(folder)
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp", "-auth", authority],
            pass_fds=[write], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _children.append(server)
        os.close(write)
        try:
            number = os.read(read, 16).strip() if select.select([read], [], [], _SCREEN_START)[0] else b""
            if number:
                os.environ |= {"DISPLAY": f":{number.decode()}", "XAUTHORITY": authority}
            yield bool(number)
        finally:
            os.close(read)
            server.terminate()
            server.wait(10)
    else:
        yield _reachable(os.environ.get("DISPLAY", ""))


def _write_authority(folder: Path) -> str:
    """A file of X authority with a random cookie, as server and client read it; its path.

    It holds big-endian numbers of 16 bits: the kind of address, 65535 for any; then address, display (empty: any), name
    and cookie, each after its length.
    """
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))
    content = struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(field)) + field for field in fields)
    path = folder / "Xauthority"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 (a descriptor)
        file.write(content)
    return str(path)


def _reachable(display: str) -> bool:
    """Whether an X server answers; jobs on a cluster inherit the name of a screen that is not theirs."""
    host, _, number = display.rpartition(":")
    number = number.partition(".")[0]
    if not number.isdecimal():
        return False
    try:
        if host in ("", "unix"):
            with socket.socket(socket.AF_UNIX) as local:
                local.settimeout(2)
                local.connect(f"/tmp/.X11-unix/X{number}")
        else:
            socket.create_connection((host, 6000 + int(number)), 2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
