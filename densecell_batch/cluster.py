"""Job scripts for Slurm: one stack, or many, divided among the tasks of an array.

Slurm is the engine. Each task is `segment --shard I/N`, which can be killed at any moment and run again; the task that
comes last makes the outputs, and a small job after the array says whether all is there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.atomic import make_folder, write_file
from densecell_batch.errors import ClusterError, OptionError

__all__ = ["ArrayJob", "Scripts", "submit", "write_scripts"]

_WARNING = 120  # seconds before its time limit at which a task is told to stop
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


def write_scripts(job: ArrayJob) -> Scripts:
    """Write the scripts into the folder `slurm` beside the outputs.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    folder = job.out.absolute() / "slurm"
    make_folder(folder)
    scripts = Scripts(folder / f"{job.name}.sbatch", folder / f"{job.name}-assemble.sbatch")
    write_file(scripts.array, array_script(job, scripts.array).encode())
    write_file(scripts.assemble, assemble_script(job).encode())
    return scripts


def array_script(job: ArrayJob, path: Path) -> str:
    """The script of the array.

    A task that is told to stop, by preemption or before its time limit, exits with 75 and goes back into the queue.
    """
    folder = job.out.absolute() / "slurm"
    directives = [
        f"--job-name={job.name}",
        f"--array=1-{job.tasks}",
        f"--output={_log_path(folder, '%A_%a.log')}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{_WARNING}",
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
{_command(job)} --shard "$SLURM_ARRAY_TASK_ID/{job.tasks}" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
if [ "$code" -eq 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_RESTARTS} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def assemble_script(job: ArrayJob) -> str:
    """The script of the job after the array; it fails, with what is missing, if a task did."""
    directives = [
        f"--job-name={job.name}-assemble",
        f"--output={_log_path(job.out.absolute() / 'slurm', 'assemble_%j.log')}",
        *([f"--mem={job.memory}"] if job.memory else []),
        *([f"--time={job.time}"] if job.time else []),
        *([f"--partition={job.partition}"] if job.partition else []),
        *job.sbatch_options(),
    ]
    return f"#!/bin/bash\n{_directives(directives)}\nexec {_command(job)} --assemble\n"


def submit(scripts: Scripts) -> tuple[str, str]:
    """Submit the array and the job after it; their job numbers.

    Raises
    ------
    ClusterError
        If there is no Slurm here, or it refuses.
    """
    array = _sbatch(scripts.array)
    return array, _sbatch(scripts.assemble, f"--dependency=afterany:{array}")


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


def _directives(options: Sequence[str]) -> str:
    return "\n".join(f"#SBATCH {option}" for option in options)


def _log_path(folder: Path, name: str) -> str:
    """A path in an #SBATCH line, where Slurm takes out quotes and backslashes and reads % as the start of a field."""
    text = str(folder).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}/{name}"'


def _command(job: ArrayJob) -> str:
    """`densecell-batch segment ...`, for bash."""
    out = job.out.absolute()
    stacks = [stack.absolute() for stack in job.stacks]
    if job.image is None:
        start = [sys.executable, "-m", "densecell_batch"]
    else:
        seen = {p.parent for stack in stacks for p in (stack, stack.resolve())}
        seen |= {p if p.is_dir() else p.parent for file in job.files for p in (file.absolute(), file.resolve())}
        folders = sorted({str(out), *map(str, seen)})
        binds = [word for folder in folders for word in _bind(folder)]
        start = ["apptainer", "run", *(["--nv"] if job.gpus else []), *binds, str(job.image.absolute())]
    return shlex.join([*start, "segment", *map(str, stacks), "-o", str(out), *job.segment])


def _bind(folder: str) -> tuple[str, str]:
    """The words that make a folder visible in an image, under the same path; `--bind` splits at commas and colons."""
    if not re.search('[,:"]', folder):
        return "--bind", folder
    quoted = folder.replace('"', '""')
    return "--mount", f'type=bind,"source={quoted}","destination={quoted}"'
