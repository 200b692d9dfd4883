"""Many stacks, one after the other: a stack that fails fails alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecell_batch.errors import DensecellError, OptionError
from densecell_batch.printable import printable, printable_path
from densecell_batch.runs.measured import labels_name, measure_labels
from densecell_batch.runs.object_options import ObjectOptions
from densecell_batch.runs.options import RunSegmenter
from densecell_batch.runs.paths import StackPaths, stack_name
from densecell_batch.runs.pipeline import Progress, SegmentedStack, segment_stack
from densecell_batch.runs.shard_notes import forget_failures, note_failure, noted_failures
from densecell_batch.storage.atomic import remove_remains

__all__ = ["Verdict", "measure_batch", "segment_batch", "verdict_line", "without_outputs"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """How a stack ended.

    Attributes
    ----------
    stack
        The file or folder.
    labels, report
        Files of the results; None where there are none.
    reason
        Why it failed, in one line; "" if it did not.
    skipped
        Whether it was done before.
    part
        What was done of a stack that other processes work on, too.
    error
        What the reason says in words.
    warnings
        What to know of results that are there.
    """

    stack: Path
    labels: Path | None = None
    report: Path | None = None
    reason: str = ""
    skipped: bool = False
    part: str = ""
    error: Exception | None = None
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether this process did what it was asked for."""
        return not self.reason

    def lines(self) -> list[str]:
        """The lines on stdout that macros and scripts read (contract): warnings, then how it ended."""
        return [*(verdict_line("warning", self.stack, text) for text in self.warnings), str(self)]

    def __str__(self) -> str:
        """The line that says how it ended."""
        fields: tuple[object, ...] = ("ok", self.labels, self.report)
        if self.reason:
            fields = ("failed", self.stack, self.reason)
        elif self.part:
            fields = ("part", self.stack, self.part)
        return verdict_line(*fields)


def verdict_line(*fields: object) -> str:
    """A line on stdout: nothing in a field can end it, or the line. Paths are as they are but for what could."""

    def field(value: object) -> str:
        text = re.sub(r"[\t\r\n]", " ", str(value))
        return printable_path(text) if isinstance(value, Path) else printable(text)

    return "\t".join(["DENSECELL", *map(field, fields)])


def without_outputs(stacks: Sequence[Path], folder: Path) -> list[Path]:
    """Leave out the results that a run in the same folder made of other stacks of the list: `*.tif` finds those, too.

    Raises
    ------
    OptionError
        If two stacks would write files of the same name.
    """
    outputs: dict[Path, Path] = {}
    for stack in stacks:
        paths = StackPaths(folder, stack)
        taken = outputs.setdefault(paths.labels.absolute(), stack)
        if taken != stack:
            raise OptionError(
                f"{taken} and {stack} would both be written to {paths.labels}; segment them into different "
                "output folders"
            )
    made = {stack: StackPaths(folder, stack).made() for stack in stacks}
    return [stack for stack in stacks if not any(stack.absolute() in made[other] for other in stacks if other != stack)]


def segment_batch(
    stacks: Sequence[Path], folder: Path, segmenter: RunSegmenter, progress: Progress = lambda what, done, total: None
) -> Iterator[Verdict]:
    """Segment stacks into `folder` and say of each how it ended.

    Raises
    ------
    ModelError, DeviceError, OptionError
        If the nets cannot be loaded, which no stack is to blame for. Where all was done before, they are not.
    Stopped
        If the run was stopped; the stacks that were done stay done.
    """
    remove_remains(folder)
    for number, stack in enumerate(stacks, start=1):
        _log.info("stack %d of %d: %s", number, len(stacks), stack)
        try:
            result = segment_stack(stack, folder, segmenter, progress)
        except DensecellError as error:
            if error is segmenter.unloadable:
                raise
            _log.error("%s", error)
            verdict = Verdict(stack, reason=" ".join(str(error).split()), error=error)
        except Exception as error:  # a defect of ours ends one stack, not the night's run
            verdict = _of_a_defect(stack, error)
        else:
            verdict = _verdict(stack, folder, result, segmenter)
        _note(verdict, folder, segmenter)
        yield verdict


def measure_batch(
    stacks: Sequence[Path], folder: Path, options: ObjectOptions, images: Sequence[Path] = (), **more: Any
) -> Iterator[Verdict]:
    """Measure the objects in stacks of labels, as `measured.measure_labels` does, and say of each how it ended.

    Raises
    ------
    OptionError
        If two stacks would write files of the same name.
    Stopped
        If the run was stopped; the stacks that were done stay done.
    """
    names: dict[str, Path] = {}
    for path in stacks:
        other = names.setdefault(labels_name(path), path)
        if other != path:
            raise OptionError(f"{other} and {path} would both be written to {folder}; choose different output folders")
    remove_remains(folder)
    for path, image in zip(stacks, images or (None,) * len(stacks), strict=True):
        try:
            made = measure_labels(path, folder, options, image=image, **more)
        except DensecellError as error:
            _log.error("%s", error)
            yield Verdict(path, reason=" ".join(str(error).split()), error=error)
        except Exception as error:  # a defect of ours ends one stack
            yield _of_a_defect(path, error)
        else:
            yield Verdict(path, made.table, made.record, skipped=made.skipped)


def _of_a_defect(stack: Path, error: Exception) -> Verdict:
    _log.error("%s: internal error: %s: %s", stack, type(error).__name__, error)
    _log.debug("traceback", exc_info=True)
    reason = f"internal error, please report it with the output of -v: {type(error).__name__}: {error}"
    return Verdict(stack, reason=" ".join(reason.split()), error=error)


def _note(verdict: Verdict, folder: Path, segmenter: RunSegmenter) -> None:
    """Leave word of a failure for whoever assembles; nothing of what is settled."""
    shard, name = segmenter.options.shard, stack_name(verdict.stack)
    if shard is not None and not verdict.ok:
        note_failure(folder, name, shard, verdict.reason)
    elif shard is not None:
        forget_failures(folder, name, shard if verdict.part else None)
    elif segmenter.options.assemble:
        forget_failures(folder, name)


def _verdict(stack: Path, folder: Path, result: SegmentedStack, segmenter: RunSegmenter) -> Verdict:
    shard = "shard {}/{}".format(*segmenter.options.shard or (1, 1))
    if result.left_to_another:
        return Verdict(stack, part=f"{shard} is done, another one writes the results")
    if not result.missing:
        return Verdict(stack, result.labels, result.report, skipped=result.skipped, warnings=result.warnings)
    if segmenter.options.assemble:
        told = noted_failures(folder, stack_name(stack))
        reason = f"{result.missing} pieces are missing: {told + '; ' if told else ''}run the shards that did not "
        reason += "finish again"
        return Verdict(stack, reason=reason)
    return Verdict(stack, part=f"{shard} is done, {result.missing} pieces are missing")
