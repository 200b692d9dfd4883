"""The processor's seconds that go into the steps of our training: not into evaluations, nor into starting up.

A training asks its sampler for the windows of each step, in a thread of their own, right before the step that came
earlier is taken: from one such call to the next is a step, with the drawing of windows beside it. Evaluations begin
where windows are asked for that normalizations are measured on, or where a net looks at a tile.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from densecell_batch.nets.architecture import Architecture
from densecell_batch.nets.predictor import Predictor
from densecell_batch.training import restarts
from densecell_batch.training.fit import fit_member
from densecell_batch.training.recipes import Improved, Published, Recipe
from densecell_batch.training.volumes import LabelledVolume

_PACED = 30  # steps that tell how long one takes; the first third does not count
_DEPTH = 5  # slices that a net which is thrown away is evaluated on
_STARTING = 2  # spans at the beginning of a training: the first windows, and the step that is compiled


class ProcessorMeter:
    """While it is entered, trainings are metered, and minutes of a training are the processor's."""

    def __init__(self) -> None:
        self._trainings: list[list[float]] = []  # spans of each
        self._since: float | None = None  # when a step began; None outside of the steps
        self._patches = ExitStack()

    def __enter__(self) -> ProcessorMeter:
        for recipe in (Improved, Published):
            draw, draw_plain = recipe.sampler, recipe.plain_sampler
            self._patches.enter_context(patch.object(recipe, "sampler", self._metered(draw)))
            self._patches.enter_context(patch.object(recipe, "plain_sampler", self._pausing(draw_plain)))
        look = Predictor.__call__

        def paused(predictor: Predictor, tile: np.ndarray) -> Any:
            self._pause()
            return look(predictor, tile)

        self._patches.enter_context(patch.object(Predictor, "__call__", paused))
        self._patches.enter_context(patch.object(restarts, "seconds_per_step", self.seconds_per_step))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _begun(self) -> list[list[float]]:
        """The trainings that came to a step: a sampler may be made for what it knows of the volumes alone."""
        return [spans for spans in self._trainings if spans]

    @property
    def steps(self) -> int:
        """Steps that were taken, trials included."""
        return sum(len(spans) - 1 for spans in self._begun())

    @property
    def seconds(self) -> float:
        """Of the processor, in these steps; the first one of each training, which is compiled, is taken for one of
        those that follow.
        """
        later = [spans[_STARTING:] for spans in self._begun()]
        if not later or not all(later):
            raise RuntimeError("no steps were metered: does the training draw its windows in another way?")
        return sum(sum(spans) + float(np.median(spans)) for spans in later)

    def seconds_per_step(self, architecture: Architecture, train: list[LabelledVolume], recipe: Recipe) -> float:
        """Of the processor, of a net that is thrown away. A mean: some windows cost more than others."""
        few = replace(recipe.over(_PACED), evaluate_every=_PACED, floor=0.0)
        first = train[0]
        part = replace(
            first, image=first.image[:_DEPTH], labels=first.labels[:_DEPTH],
            weights=None if first.weights is None else first.weights[:_DEPTH], original=None,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            fit_member(architecture, train, [part], few, Path(scratch) / "pace.state", 0)
        spans = self._trainings.pop()
        return float(np.mean(spans[_STARTING + _PACED // 3 :]))

    def _metered(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """A recipe's method `sampler` whose samplers are metered."""

        def sampler(recipe: Recipe, *arguments: Any) -> _Metered:
            self._since = None
            self._trainings.append([])
            return _Metered(draw(recipe, *arguments), self)

        return sampler

    def _pausing(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """A recipe's method `plain_sampler`, of whose windows an evaluation is made."""

        def plain_sampler(recipe: Recipe, *arguments: Any) -> Callable[[int], Any]:
            known = len(self._trainings)
            source = draw(recipe, *arguments)
            del self._trainings[known:]  # it may be a sampler like the others

            def windows(step: int) -> Any:
                self._pause()
                return source(step)

            return windows

        return plain_sampler

    def _pause(self) -> None:
        """The steps are left."""
        if self._since is not None:
            self._trainings[-1].append(time.process_time() - self._since)
            self._since = None

    def asked(self) -> None:
        """Windows are asked for."""
        self._pause()
        if threading.current_thread() is not threading.main_thread():
            self._since = time.process_time()


class _Metered:
    """A sampler, and the meter that is told when it is asked."""

    def __init__(self, source: Any, meter: ProcessorMeter) -> None:
        self._source, self._meter = source, meter

    @property
    def epoch(self) -> int:
        return self._source.epoch

    def __call__(self, step: int) -> Any:
        self._meter.asked()
        return self._source(step)
