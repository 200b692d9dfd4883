"""What computes a net, apart from what the net is. Engines are imported when they are asked for: each is heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from densecell_batch.errors import DeviceError
from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.ensemble import Answer
from densecell_batch.signals import left_in_imports

__all__ = ["ENGINES", "CompiledNets", "Engine", "for_processor", "is_installed", "make_engine", "missing"]

# Where this package is there, importing OpenVINO makes files in the user's home, to count users: it shall not be.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

ENGINES = ("openvino", "tensorflow", "jax")

Triple = tuple[int, int, int]


class CompiledNets(Protocol):
    """The members of an ensemble for tiles of one shape."""

    def member(self, tile: np.ndarray, i: int) -> np.ndarray:
        """Probabilities (z, y', x', class) float32 of member i about a tile (z, y, x) float32."""

    def together(self, tile: np.ndarray, with_probabilities: bool, with_disagreement: bool) -> Answer:
        """What the mean of the members' probabilities says, as `nets.ensemble` computes it."""


class Engine(Protocol):
    """What compiles nets."""

    def load(self, members: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the tensors of each member, under canonical names; what was compiled goes on with them."""

    def compiled(self, shape: Triple) -> CompiledNets:
        """The nets for tiles of one shape (z, y, x)."""


def is_installed(name: str) -> bool:
    """Whether an engine can be imported, as far as one can say without importing it."""
    needed = {"openvino": ("openvino",)}.get(name, ("keras", name))
    try:
        return all(find_spec(module) is not None for module in needed)
    except (ImportError, ValueError):  # of a finder, or of a module that was put there by hand
        return False


def missing(name: str) -> str:
    """What to say of an engine that is not installed."""
    packages = {"tensorflow": "tensorflow keras", "keras": "tensorflow keras", "jax": "jax keras"}.get(name, name)
    return f"the engine {name} is not installed here, or cannot be imported: pip install {packages}"


def for_processor() -> str:
    """The engine that is taken where there is no GPU."""
    return "openvino" if is_installed("openvino") else "keras"


def make_engine(name: str, architecture: Architecture, precision: str, offsets: np.ndarray | None) -> Engine:
    """An engine for nets of an architecture.

    Parameters
    ----------
    name
        One of `ENGINES`, or "keras": the backend of Keras that is configured.
    architecture
        What all members are.
    precision
        "float32", "bfloat16" or "float16": what the nets compute in.
    offsets
        Added to the logit of each class (class,) float32; None for nothing.

    Raises
    ------
    DeviceError
        If it is not installed.
    """
    if name != "keras" and not is_installed(name):
        raise DeviceError(missing(name))
    engine: Callable[..., Engine]
    try:
        with left_in_imports():
            if name == "openvino":
                from densecell_batch.nets.engines.openvino import OpenVinoEngine

                engine = OpenVinoEngine
            else:
                from densecell_batch.nets.engines.keras import KerasEngine

                engine = KerasEngine
    except ImportError as error:
        raise DeviceError(f"{missing(name)} ({error})") from error
    return engine(architecture, precision, offsets)
