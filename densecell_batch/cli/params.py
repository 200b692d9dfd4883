"""Parameter types of the command line, which say themselves what they expect, and options that several verbs have."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import click

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError

__all__ = ["MEMORY", "ROI", "SCALE", "SECONDS", "SHARD", "TILE", "VOXEL_SIZE", "verbosity"]


class _Tile(click.ParamType):  # type: ignore[type-arg]
    """Three whole numbers, "Z,Y,X"."""

    name = "Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){2}", value) or 0 in (sides := [int(v) for v in value.split(",")]):
            self.fail(f"{value!r} is not three whole numbers above 0 in the order Z,Y,X, such as 5,512,512", param, ctx)
        return sides[0], sides[1], sides[2]


class _VoxelSize(click.ParamType):  # type: ignore[type-arg]
    """Three lengths and an optional unit, "Z,Y,X" in nanometres or "Z,Y,Xum"."""

    name = "Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> VoxelSize:
        if isinstance(value, VoxelSize):
            return value
        number = r"\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*"
        match = re.fullmatch(f"{number},{number},{number}([^0-9.,\\s]*)\\s*", value)
        try:
            if match is None:
                raise ValueError
            z, y, x = (float(edge) for edge in match.groups()[:3])
            return VoxelSize.of(z, y, x, match[4] or "nm")
        except ValueError:
            self.fail(
                f"{value!r} is not three lengths in the order Z,Y,X, such as 40,10,10 (nm) or 0.04,0.01,0.01um",
                param,
                ctx,
            )
        except OptionError as error:
            self.fail(str(error), param, ctx)


class _Memory(click.ParamType):  # type: ignore[type-arg]
    """An amount of memory with a unit, in bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?\s*", value, re.IGNORECASE)
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not an amount of memory, such as 4G or 800M", param, ctx)
        return int(float(match[1]) * 2 ** (10 * (1 + "KMGT".index(match[2].upper()))))


class _Shard(click.ParamType):  # type: ignore[type-arg]
    """Part I of N, from 1."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", value)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is not a part I of N with I from 1 to N, such as 3/8", param, ctx)
        return int(match[1]), int(match[2])


class _Scale(click.ParamType):  # type: ignore[type-arg]
    """auto, off, a factor along y and x, or three factors Z,Y,X."""

    name = "auto|off|FACTOR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value in ("auto", "off"):
            return value
        numbers = value.split(",")
        try:
            factors = [float(number) for number in numbers]
            if len(factors) not in (1, 3) or not all(0.01 <= factor <= 100 for factor in factors):
                raise ValueError
        except ValueError:
            self.fail(
                f"{value!r} is none of auto, off, a factor from 0.01 to 100 along y and x, such as 0.5, and three "
                "factors in the order Z,Y,X, such as 1,0.5,0.5",
                param,
                ctx,
            )
        return factors[0] if len(factors) == 1 else tuple(factors)


class _Region(click.ParamType):  # type: ignore[type-arg]
    """Three ranges, the ends not included."""

    name = "Z0:Z1,Y0:Y1,X0:X1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"\s*" + r"\s*,\s*".join([r"(\d{1,9})\s*:\s*(\d{1,9})"] * 3) + r"\s*", value)
        numbers = [int(number) for number in match.groups()] if match else []
        spans = list(zip(numbers[::2], numbers[1::2], strict=True))
        if not spans or any(start >= stop for start, stop in spans):
            self.fail(
                f"{value!r} is not a region Z0:Z1,Y0:Y1,X0:X1, such as 0:20,100:612,100:612: slices, rows and columns "
                "counted from 0, each end above its beginning and not included",
                param,
                ctx,
            )
        return tuple(spans)


class _Seconds(click.FloatRange):
    """A time above 0."""

    name = "S"


SECONDS = _Seconds(min=0, min_open=True)
TILE = _Tile()
SCALE = _Scale()
ROI = _Region()
SHARD = _Shard()
VOXEL_SIZE = _VoxelSize()
MEMORY = _Memory()


def verbosity(command: Callable[..., Any], *, short: bool = False) -> Callable[..., Any]:
    """Add -v and -q, which stand before the verb as well as after it; `short`: without --verbose and --quiet."""

    def set_level(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
        def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
            if value:
                logging.getLogger("densecell_batch").setLevel(level)

        return callback

    for letter, name, level, text in (
        ("q", "quiet", logging.WARNING, "Say only warnings and errors on stderr."),
        ("v", "verbose", logging.DEBUG, "Say more on stderr, with tracebacks of internal errors."),
    ):
        names = [f"-{letter}"] if short else [f"-{letter}", f"--{name}"]
        flag = click.option(*names, is_flag=True, expose_value=False, callback=set_level(level), help=text)
        command = flag(command)
    return command
