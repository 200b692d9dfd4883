"""What is asked of the nets. Each option says itself what it is to the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_type_hints

__all__ = ["SHAPES", "TOLD", "InferenceOptions"]

SHAPES = "shapes the result: what was asked for with another value is other work"
TOLD = "stands in the report, but work with another value is the same"


@dataclass(frozen=True)
class InferenceOptions:
    """How a volume goes through the nets of a model."""

    stitch: Annotated[str, SHAPES] = "crop"
    ensemble: Annotated[str, SHAPES] = "mean"
    probabilities: Annotated[bool, SHAPES] = False
    uncertainty: Annotated[bool, SHAPES] = False
    precision: Annotated[str, SHAPES] = "auto"
    tile: Annotated[tuple[int, int, int] | None, SHAPES] = None  # output region (z, y, x)
    device: Annotated[str, TOLD] = "auto"
    memory: int | None = None  # bytes; None: half of what is free

    @classmethod
    def marked(cls, *marks: str) -> frozenset[str]:
        """The names of the options that are marked as SHAPES or TOLD."""
        hints = get_type_hints(cls, include_extras=True)
        return frozenset(name for name, hint in hints.items() if {*getattr(hint, "__metadata__", ())} & {*marks})
