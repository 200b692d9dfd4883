"""Execute the notebooks, each in a process of its own, and keep what they show.

    python examples/execute.py [--set NAME=VALUE]... [--out FOLDER] [NOTEBOOK...]

Each notebook is written to the folder with all its outputs, its pictures beside it as PNG; what it writes itself is in
the folder of its name, which is emptied first. `--set` gives a value to a name of the cell that is tagged `parameters`,
where the notebook has it. A cell that fails ends the run, with exit code 1.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

COLOURS = r"\x1b\[[0-9;]*m"  # of a terminal
HERE = Path(__file__).resolve().parent


def execute(path: Path, out: Path, parameters: dict[str, str]) -> None:
    """Execute a notebook, and write what came of it; raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    set_parameters(notebook, parameters)
    place = out / path.stem
    shutil.rmtree(place, ignore_errors=True)  # a training that is done would not be done again
    place.mkdir(parents=True)
    of_place = {"metadata": {"path": place}}
    try:
        with tempfile.TemporaryDirectory() as sockets:  # files: no port is open to others, and nothing warns of one
            kernel = KernelManager(transport="ipc", ip=f"{sockets}/kernel")
            try:
                NotebookClient(notebook, kernel, timeout=None, resources=of_place).execute()
            finally:
                kernel.shutdown_kernel(now=True)
    finally:
        for old in out.glob(f"{path.stem}-*.png"):
            old.unlink()
        nbformat.write(notebook, out / path.name)
        for number, picture in enumerate(pictures(notebook), 1):
            (out / f"{path.stem}-{number}.png").write_bytes(picture)


def set_parameters(notebook: nbformat.NotebookNode, parameters: dict[str, str]) -> None:
    """Give values to those names that the cell of parameters has."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in parameters.items():
                line = rf"(?m)^({re.escape(name)} = )[^#\n]*?(\s*(#.*)?)$"
                cell.source = re.sub(line, lambda found, value=value: found[1] + value + found[2], cell.source)


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    """All pictures that a notebook shows, as PNG."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode(picture) for picture in shown]


def of_processor() -> float:
    """Seconds that the processes of notebooks that ended have computed for, on all cores together."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> int:
    """Read the command line; the exit code."""
    parser = argparse.ArgumentParser(description="Execute the notebooks of this folder.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="by default all")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter; repeatable")
    parser.add_argument("--out", type=Path, default=Path("build/examples"), help="folder (default: %(default)s)")
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))  # of kernels
    if not all("=" in text for text in asked.set):
        parser.error(f"--set {' '.join(asked.set)}: expected NAME=VALUE")
    parameters = dict(text.split("=", 1) for text in asked.set)
    notebooks = asked.notebooks or sorted(HERE.glob("*.ipynb"))
    for path in notebooks:
        if not path.is_file():
            parser.error(f"{path}: no such notebook")
        if path.resolve() == (asked.out / path.name).resolve():
            parser.error(f"--out {asked.out}: {path.name} itself lies there; name another folder")
    for path in notebooks:
        start, worked = time.monotonic(), of_processor()
        try:
            execute(path, asked.out, parameters)
        except CellExecutionError as error:
            print(f"{path.name}: {re.sub(COLOURS, '', str(error))}", file=sys.stderr)
            return 1
        took, worked = time.monotonic() - start, of_processor() - worked
        print(f"{asked.out / path.name}: {took:.0f} s, {worked:.0f} s of the processor", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
