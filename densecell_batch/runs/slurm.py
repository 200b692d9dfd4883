"""Job scripts for Slurm: one stack, or many, divided among the tasks of an array.

Slurm is the engine. Each task is `segment --shard I/N`, which can be killed at any moment and run again; the task that
comes last makes the outputs. A second, small array after the first has a task for each stack, which says whether all of
that stack is there: a stack that failed is one task that failed. Of several stacks a last job makes one page.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import ClusterError, OptionError
from densecell_batch.own_python import python_command
from densecell_batch.runs.ownership import set_aside
from densecell_batch.storage.atomic import make_folder, write_file
from densecell_batch.storage.opening import read_small

__all__ = ["ArrayJob", "Scripts", "submit", "write_scripts"]

_WARNING = 120  # seconds before its time limit at which a task is told to stop
_VERDICTS = 100  # tasks of the second array: clusters limit how many an array, and a user, may have
_RESTARTS = 100  # times that a task puts itself back into the queue


@dataclass(frozen=True)
class ArrayJob:
    """What the user asks for.

    Raises
    ------
    OptionError
        If a value is not one that a line of a script can hold.
    """

    stacks: Sequence[Path]
    out: Path
    tasks: int  # of the array
    segment: Sequence[str] = ()  # further arguments of `segment`
    files: Sequence[Path] = ()  # that these name: a model, macros
    gpus: int = 0  # for each task
    cpus: int | None = None
    memory: str | None = None  # as Slurm writes it, such as 32G
    time: str | None = None  # limit of a task, as Slurm writes it
    partition: str | None = None
    image: Path | None = None  # Apptainer image; None for the command of this installation
    extra: str = ""  # further options of sbatch
    name: str = "densecell"
    summary: bool = True  # whether a last job makes a page of all stacks, if there are several

    def __post_init__(self) -> None:
        patterns = {
            "memory": r"\d+[KMGT]?",
            "time": r"(\d+-)?\d+(:\d+){0,2}",
            "partition": r"[\w,.-]+",
            "name": r"[\w.-]+",
        }
        for field, pattern in patterns.items():
            value = getattr(self, field)
            if value is not None and not re.fullmatch(pattern, value):
                raise OptionError(f"--{field} is {value!r}, which Slurm does not take")
        for path in (*self.stacks, *self.files, self.out, *([self.image] if self.image else [])):
            if "\n" in str(path):
                raise OptionError(f"{str(path)!r}: a job script cannot hold a line break in a path")
        for word in self.sbatch_options():
            if not word.startswith("-") or "\n" in word:
                raise OptionError(
                    f"--extra has {word!r}; expected options of sbatch, such as '--account=lab --qos=long'"
                )

    def sbatch_options(self) -> list[str]:
        """The words of `extra`."""
        try:
            return shlex.split(self.extra)
        except ValueError as error:
            raise OptionError(f"--extra is {self.extra!r}: {error}") from error


@dataclass(frozen=True)
class Scripts:
    """The files of an array job."""

    array: Path
    assemble: Path
    summary: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """In the order in which they run."""
        return [path for path in (self.array, self.assemble, self.summary) if path is not None]


def write_scripts(job: ArrayJob) -> Scripts:
    """Write the scripts into the folder `slurm` beside the outputs.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    folder = job.out.absolute() / "slurm"
    make_folder(folder)
    last = folder / f"{job.name}-summary.sbatch" if job.summary and len(job.stacks) > 1 else None
    scripts = Scripts(folder / f"{job.name}.sbatch", folder / f"{job.name}-assemble.sbatch", last)
    texts = (array_script(job, scripts.array), assemble_script(job), summary_script(job))
    for path, text in zip(scripts.paths, texts, strict=False):
        content = text.encode()
        if path.is_symlink() or (path.exists() and read_small(path) != content):
            set_aside(path, path)  # somebody may have changed it
        write_file(path, content)
    return scripts


def array_script(job: ArrayJob, path: Path) -> str:
    """The script of the array.

    Slurm sends USR1 when the time is nearly up: the task keeps what it has and goes back into the queue. TERM means
    that somebody (scancel) or something wants it to end: it ends. If that was preemption, Slurm itself puts it back.
    """
    folder, stacks = job.out.absolute() / "slurm", shlex.join(str(stack.absolute()) for stack in job.stacks)
    directives = [
        f"--job-name={job.name}",
        f"--array=1-{job.tasks}",
        f"--output={_log_path(folder, '%A_%a.log')}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{_warning(job.time)}",
        *([f"--gres=gpu:{job.gpus}"] if job.gpus else []),
        *([f"--cpus-per-task={job.cpus}"] if job.cpus else []),
        *([f"--mem={job.memory}"] if job.memory else []),
        *([f"--time={job.time}"] if job.time else []),
        *([f"--partition={job.partition}"] if job.partition else []),
        *job.sbatch_options(),
    ]
    return f"""#!/bin/bash
{_directives(directives)}
# Each task makes its pieces; the last one to be ready writes the outputs.
# To run failed tasks again, alone:  sbatch --array=3,7 {shlex.quote(str(path))}
{_command(job, stacks)} --shard "$SLURM_ARRAY_TASK_ID/{job.tasks}" --array-task &
child=$! again=
trap 'again=yes; kill -TERM "$child" 2>/dev/null' USR1  # the time is nearly up: go on later
trap 'again=; kill -TERM "$child" 2>/dev/null' TERM     # scancel: end, and stay ended
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
if [ "$code" -eq 75 ] && [ "$again" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_RESTARTS} ]; then
    # Not $SLURM_JOB_ID, which for one of the tasks is the number of the whole array.
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def assemble_script(job: ArrayJob) -> str:
    """The script of the array after the first one: a task for each stack, which fails, with the reason, if it did.

    Of more stacks than an array may have tasks, each task has several.
    """
    per_task = -(-len(job.stacks) // _VERDICTS)
    directives = [
        f"--job-name={job.name}-assemble",
        f"--array=1-{-(-len(job.stacks) // per_task)}",
        f"--output={_log_path(job.out.absolute() / 'slurm', 'assemble_%A_%a.log')}",
        *([f"--mem={job.memory}"] if job.memory else []),
        *([f"--time={job.time}"] if job.time else []),
        *([f"--partition={job.partition}"] if job.partition else []),
        *job.sbatch_options(),
    ]
    stacks = shlex.join(str(stack.absolute()) for stack in job.stacks)
    mine = f'"${{stacks[@]:(SLURM_ARRAY_TASK_ID - 1) * {per_task}:{per_task}}}"'
    return f"""#!/bin/bash
{_directives(directives)}
# Each task says of its stack whether all is there, and fails if not.
stacks=({stacks})
exec {_command(job, mine)} --no-summary --assemble
"""


def summary_script(job: ArrayJob) -> str:
    """The script of the last job: one page of all stacks."""
    directives = [
        f"--job-name={job.name}-summary",
        f"--output={_log_path(job.out.absolute() / 'slurm', 'summary_%j.log')}",
        *([f"--time={job.time}"] if job.time else []),
        *([f"--partition={job.partition}"] if job.partition else []),
        *job.sbatch_options(),
    ]
    expected = shlex.join(f"--expect={stack.absolute()}" for stack in job.stacks)
    return f"""#!/bin/bash
{_directives(directives)}
# Of all stacks one page, with those that have no results.
exec {shlex.join([*_start(job), "summary", str(job.out.absolute())])} {expected}
"""


def submit(scripts: Scripts) -> list[str]:
    """Submit the array and the jobs after it; their job numbers.

    Raises
    ------
    ClusterError
        If there is no Slurm here, or it refuses.
    """
    first, *others = scripts.paths
    numbers = [_sbatch(first)]
    for script in others:
        try:
            numbers.append(_sbatch(script, f"--dependency=afterany:{numbers[-1]}"))
        except ClusterError as error:
            raise ClusterError(f"{error}; the array {numbers[0]} is submitted, and works without it") from error
    return numbers


def _sbatch(script: Path, *options: str) -> str:
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *options, str(script)], capture_output=True, text=True, timeout=120, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(
            f"{script}: there is no sbatch here; submit it on a login node of the cluster: sbatch "
            f"{shlex.quote(str(script))}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{script}: sbatch did not answer within two minutes; try again") from error
    if done.returncode:
        raise ClusterError(f"{script}: sbatch refuses it: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]


def _warning(limit: str | None) -> int:
    """Seconds before a time limit at which Slurm is to say so; less than usual for a short one, which would be all of
    it: such a task would be told to stop when it starts, again and again.
    """
    if limit is None:
        return _WARNING
    days, dash, clock = limit.rpartition("-")
    fields = [int(field) for field in clock.split(":")]
    units = (3600, 60, 1) if dash or len(fields) > 2 else (60, 1)  # "90" are minutes, but "1-2" a day and two hours
    seconds = int(days or 0) * 86400 + sum(a * b for a, b in zip(fields, units, strict=False))
    return min(_WARNING, seconds // 4) or _WARNING  # 0 is no limit at all


def _directives(options: Sequence[str]) -> str:
    return "\n".join(f"#SBATCH {option}" for option in options)


def _log_path(folder: Path, name: str) -> str:
    """A path in an #SBATCH line, where Slurm takes out quotes and backslashes and reads % as the start of a field."""
    text = str(folder).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}/{name}"'


def _command(job: ArrayJob, stacks: str) -> str:
    """`densecell-batch segment ...`, for bash; `stacks` is what bash makes them of."""
    out = str(job.out.absolute())
    return f"{shlex.join([*_start(job), 'segment'])} {stacks} {shlex.join(['-o', out, *job.segment])}"


def _start(job: ArrayJob) -> list[str]:
    """The words that start this program in a task."""
    if job.image is None:
        return python_command("densecell_batch")
    seen = {p.parent for stack in job.stacks for p in (stack.absolute(), stack.resolve())}
    seen |= {p if p.is_dir() else p.parent for file in job.files for p in (file.absolute(), file.resolve())}
    folders = sorted({str(job.out.absolute()), *map(str, seen)})
    binds = [word for folder in folders for word in _bind(folder)]
    return ["apptainer", "run", *(["--nv"] if job.gpus else []), *binds, str(job.image.absolute())]


def _bind(folder: str) -> tuple[str, str]:
    """The words that make a folder visible in an image, under the same path; `--bind` splits at commas and colons."""
    if not re.search('[,:"]', folder):
        return "--bind", folder
    quoted = folder.replace('"', '""')
    return "--mount", f'type=bind,"source={quoted}","destination={quoted}"'
