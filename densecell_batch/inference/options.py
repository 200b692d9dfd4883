"""What is asked of the nets. Each option says itself what it may be, and what it is to the result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from densecell_batch.errors import OptionError

__all__ = ["AS_PUBLISHED", "SHAPES", "TOLD", "UNTOLD", "InferenceOptions", "Side", "check_options"]

# What an option is to the result; each bears one of these.
SHAPES = "shapes the result: what was asked for with another value is other work"
TOLD = "stands in the report, but work with another value is the same"
UNTOLD = "says how the work is done; nobody needs to know it later"

Side = Annotated[int, Meta(ge=1)]
Span = tuple[Annotated[int, Meta(ge=0)], Side]  # [start, stop)
Factor = Annotated[float, Meta(ge=0.01, le=100)]


# What the published code does: everything is tissue, and is taken as it is.
AS_PUBLISHED = {
    "stitch": "deepest",
    "precision": "float32",
    "outside": "off",
    "contrast": "stack",
    "scale": "off",
    "fit": "off",
    "defects": "off",
}


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Name -> type of each option, with its marks. Looking them up takes longer than reading a report."""
    return get_type_hints(kind, include_extras=True)


def check_options(options: Any) -> None:
    """See that the fields of a frozen dataclass are of their types, and within their bounds; lists become tuples.

    Raises
    ------
    OptionError
        If one is not; the message names it, what was given and what was expected.
    """
    for name, hint in _hints(type(options)).items():  # type: ignore[arg-type] # a class is hashable
        value = getattr(options, name)
        try:
            object.__setattr__(options, name, msgspec.convert(value, hint))
        except ValueError as error:
            bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            choices = get_args(bare) if get_origin(bare) is Literal else ()
            expected = f"expected one of {', '.join(choices)}" if choices else str(error).replace("null", "None")
            raise OptionError(f"{name} is {value!r}; {expected[0].lower()}{expected[1:]}") from error


@dataclass(frozen=True)
class InferenceOptions:
    """How a volume goes through the nets of a model.

    Raises
    ------
    OptionError
        If an option is none of what it may be.
    """

    stitch: Annotated[Literal["crop", "deepest", "blend"], SHAPES] = "crop"
    ensemble: Annotated[Literal["mean", "vote"], SHAPES] = "mean"
    probabilities: Annotated[bool, SHAPES] = False
    uncertainty: Annotated[bool, SHAPES] = False
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16", "int8"], SHAPES] = "auto"
    tile: Annotated[tuple[Side, Side, Side] | None, SHAPES] = None  # output region (z, y, x)
    outside: Annotated[Literal["auto", "off"], SHAPES] = "auto"
    contrast: Annotated[Literal["auto", "stack", "slice", "match", "none"], SHAPES] = "auto"
    fit: Annotated[Literal["warn", "auto", "off"], SHAPES] = "warn"
    defects: Annotated[Literal["report", "replace", "off"], SHAPES] = "report"
    scale: Annotated[Literal["auto", "off"] | tuple[Factor, Factor, Factor], SHAPES] = "auto"  # (z, y, x)
    roi: Annotated[tuple[Span, Span, Span] | None, SHAPES] = None  # region (z, y, x) that is segmented
    device: Annotated[Literal["auto", "cpu", "gpu"], TOLD] = "auto"
    engine: Annotated[Literal["auto", "openvino", "tensorflow", "jax"], TOLD] = "auto"
    memory: Annotated[Side | None, UNTOLD] = None  # bytes; None: half of what is free

    def __post_init__(self) -> None:
        if isinstance(self.scale, int | float):  # one factor is that within the slice
            object.__setattr__(self, "scale", (1.0, self.scale, self.scale))
        check_options(self)

    @classmethod
    @cache
    def marked(cls, *marks: str) -> frozenset[str]:
        """The names of the options that bear one of the marks SHAPES, TOLD and UNTOLD."""
        hints = _hints(cls).items()  # type: ignore[arg-type]
        return frozenset(name for name, hint in hints if {*getattr(hint, "__metadata__", ())} & {*marks})
