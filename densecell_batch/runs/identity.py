"""What decides a result: the same identity is the same work, and all else is information."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

import msgspec
from msgspec import UNSET, Struct

from densecell_batch.identity import digest
from densecell_batch.inference.options import AS_PUBLISHED, SHAPES
from densecell_batch.runs.options import RunOptions, RunSegmenter
from densecell_batch.runs.report import Model, Order, Triple, model_of
from densecell_batch.storage.strict_json import JsonObject

__all__ = ["Content", "Identity"]


class Content(Struct, frozen=True):
    """What a stack is, wherever it lies."""

    sha256: str
    shape: Triple
    dtype: str
    voxel_size_um: tuple[float, float, float] | None


class Identity(Struct, frozen=True):
    """All that decides a result. The same identity is the same work: under any path, at any time, on any device."""

    input: Content | None  # None of the work on whatever stack
    model: Model | None  # None of what is done before the nets
    options: JsonObject  # those that are declared to shape the result
    pre_macro: str | None = None
    version: str | None = None  # of the program

    def is_same(self, other: Identity) -> bool:
        """Whether it is the same work. How a model is called plays no part, but for reports of old: they say no more of
        it than name, version and members.
        """
        mine, its = self.model, other.model
        if mine is not None and its is not None:
            if UNSET in (mine.content, its.content):
                alike = (mine.name, mine.version, mine.members) == (its.name, its.version, its.members)
            else:
                alike = (mine.members, mine.content) == (its.members, its.content)
        else:
            alike = mine is its
        return alike and msgspec.structs.replace(self, model=its) == other

    def digest(self) -> str:
        """A short name that only the same work shares."""
        model = self.model
        if model is not None and model.content is not UNSET:
            model = msgspec.structs.replace(model, name="", version="", licence="")
        return digest(msgspec.structs.replace(self, model=model).as_json())

    @classmethod
    def of(cls, order: Order) -> Self:
        """That of what a report says, or of what is to become one."""
        told = order.input
        return cls(
            Content(told.sha256, told.shape, told.dtype, told.voxel_size_um),
            order.model,
            _shaping(order.options),
            None if order.pre_macro is UNSET else order.pre_macro,
            order.versions.get("densecell-batch"),
        )

    @classmethod
    def of_any_stack(cls, segmenter: RunSegmenter) -> Self:
        """That of a watcher's work, which goes on with the next version of the program."""
        pre = segmenter.options.hooks.pre
        return cls(None, model_of(segmenter), _shaping(segmenter.options.told()), None if pre is None else pre.sha256)

    @classmethod
    def read(cls, values: Any) -> Self:
        """That of JSON values; raises ValueError. Watchers of old wrote down options that shape nothing, too."""
        found = msgspec.convert(values, cls)
        return msgspec.structs.replace(found, options=_shaping(found.options))

    def on_any_stack(self) -> Self:
        """Without the stack and the version, to be compared with that of a watcher."""
        return msgspec.structs.replace(self, input=None, version=None)

    def before_the_nets(self) -> Self:
        """What decides what the first macro makes of a stack."""
        return msgspec.structs.replace(self, model=None, options={})

    def as_json(self) -> Any:
        """JSON values as they are after a file: lists, not tuples."""
        return json.loads(json.dumps(msgspec.to_builtins(self), allow_nan=False))


# What was done before there was a choice.
_OF_OLD: JsonObject = {name: value for name, value in AS_PUBLISHED.items() if name not in ("stitch", "precision")} | {
    "roi": None,
    "mask": None,
    "cells_from": [],
    "split": False,
    "split_tolerance": None,
    "rois": False,
}


def _shaping(options: Mapping[str, Any]) -> JsonObject:
    """The options that shape the result, and those that this version does not know."""
    options = {**_OF_OLD, **options}
    known, shaping = RunOptions.__dataclass_fields__, RunOptions.marked(SHAPES)
    return {name: value for name, value in options.items() if name in shaping or name not in known}
