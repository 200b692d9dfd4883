"""Put the macros into a Fiji or ImageJ folder, where they become the commands of Plugins > DenseCell, or into the
folder of an update site, from which Fijis fetch them.

A macro is installed with `shared.ijm` in front of it, for the macro language has no include. `runner.txt` beside them
says how they start the tool; ImageJ reads macros and text in the encoding of the machine, so it is ASCII.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from densecell_batch.errors import OptionError, OutputError
from densecell_batch.imagej.find import is_imagej
from densecell_batch.storage.atomic import explained, write_file

__all__ = ["RUNNERS", "Runner", "export_site", "install", "uninstall"]

_log = logging.getLogger(__name__)

RUNNERS = ("local", "docker", "apptainer", "ssh")

_USUAL = {"local": "densecell-batch", "docker": "docker", "apptainer": "apptainer", "ssh": "densecell-batch"}
_NEEDS = {"docker": "the name of the image", "apptainer": "the .sif file", "ssh": "the host, such as user@machine"}

_HEAD = b"// What the DenseCell macros share."  # the first words of shared.ijm, in all versions

# In a wheel the macros lie inside the package, in a clone beside it.
_PLACES = (Path(__file__).parents[1] / "macros", Path(__file__).parents[2] / "macros")


@dataclass(frozen=True)
class Runner:
    """How the macros start the tool.

    Raises
    ------
    OptionError
        If a part is missing, or is not one that a line of runner.txt can hold.
    """

    kind: str = "local"  # one of RUNNERS
    command: str = ""  # densecell-batch or the launcher; docker or podman; apptainer; for ssh the tool on the host
    target: str = ""  # image, .sif file or host; nothing for "local"
    words: str = ""  # further words for docker, apptainer or ssh, such as "--gpus all"

    def __post_init__(self) -> None:
        if self.kind not in RUNNERS:
            raise OptionError(f"--runner is {self.kind!r}; expected one of {', '.join(RUNNERS)}")
        if not self.target and self.kind in _NEEDS:
            raise OptionError(f"--runner {self.kind} needs --target: {_NEEDS[self.kind]}")
        if self.target and self.kind == "local":
            raise OptionError("--runner local takes no --target; give --runner docker, apptainer or ssh with it")
        if self.target.startswith("-"):
            raise OptionError(f"--target is {self.target!r}; expected {_NEEDS[self.kind]}")
        for name in ("command", "target", "words"):
            if not getattr(self, name).isprintable():
                raise OptionError(f"--{name} is {getattr(self, name)!r}; expected no line breaks or control characters")

    def resolved(self) -> Runner:
        """The same with its command: where none is given, the usual one, by its full path where it is found.

        Fiji started from a desktop often has another PATH than a terminal.

        Raises
        ------
        OptionError
            If the command is a path where nothing is, or, for "local", cannot be found.
        """
        command = self.command or {**_USUAL, "local": str(_this_command())}[self.kind]
        if self.kind != "ssh":
            found = shutil.which(command)
            if found is None and (self.kind == "local" or Path(command).name != command):
                raise OptionError(f"{command}: no such program, or not executable; give another one as --command")
            if found is None:
                _log.warning("%s is not found on this machine's PATH; give its path as --command if ImageJ complains",
                             command)  # fmt: skip
            command = os.path.abspath(found) if found else command  # noqa: PTH100 (a link in a bin folder stays one)
        target = self.target
        if self.kind == "apptainer" and "://" not in target:
            if not Path(target).exists():
                raise OptionError(f"--target {target}: no such image; expected {_NEEDS['apptainer']}")
            target = str(Path(target).absolute())
        return Runner(self.kind, command, target, self.words)

    def by_name(self) -> Runner:
        """The same with its command as another machine knows it: where none is given, the usual one, by its name."""
        return replace(self, command=self.command or _USUAL[self.kind])


def _this_command() -> Path:
    """The `densecell-batch` of this installation."""
    return Path(sys.executable).with_name("densecell-batch.exe" if os.name == "nt" else "densecell-batch")


def install(imagej: Path, runner: Runner) -> Path:
    """Install the macros into an ImageJ folder, in place of earlier ones.

    Parameters
    ----------
    imagej
        The folder of Fiji or ImageJ.
    runner
        How the macros start the tool.

    Returns
    -------
    pathlib.Path
        Folder of the macros.

    Raises
    ------
    OptionError
        If the folder is no ImageJ, or the runner's program is not there.
    OutputError
        If the folder cannot be written.
    """
    folder = _folder(imagej)
    _write(folder, _files(runner.resolved()))
    return folder


def export_site(site: Path, runner: Runner) -> Path:
    """Write the macros as an update site of Fiji has them: below `plugins`, for machines that are not this one.

    Parameters
    ----------
    site
        The folder of the site; it may hold what others offer there.
    runner
        How the macros start the tool on the machines that they are for; without a command, the usual one, by its name.

    Returns
    -------
    pathlib.Path
        Folder of the macros.

    Raises
    ------
    OutputError
        If a file that would be replaced is not one of these macros, or the folder cannot be written.
    """
    folder, files = site.absolute() / "plugins" / "DenseCell", _files(runner.by_name())
    with explained(folder):
        foreign = [folder / name for name in files if (folder / name).exists() and not _is_ours(folder / name)]
    if foreign:
        raise OutputError(
            f"{foreign[0]}: a file that is not one of these macros; expected none, or an earlier export: move it"
            " away, or choose another folder"
        )
    _write(folder, files)
    return folder


def _files(runner: Runner) -> dict[str, bytes]:
    """What stands in the folder of the macros, by name."""
    source = next((place for place in _PLACES if (place / "shared.ijm").exists()), None)
    if source is None:
        raise OutputError("the package has no macros; it is incomplete: install it again")
    shared = (source / "shared.ijm").read_bytes()
    files = {macro.name: shared + b"\n" + macro.read_bytes() for macro in sorted(source.glob("DenseCell_*.ijm"))}
    return {**files, "runner.txt": _runner_text(runner).encode("ascii")}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files in place of earlier ones, and remove those of other versions."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(folder / name, content)
    for old in _ours(folder):
        if old.name not in files:
            with explained(old):
                old.unlink()


def uninstall(imagej: Path) -> bool:
    """Remove what `install` wrote, and no macro of the user's; whether there was anything.

    Raises
    ------
    OptionError
        If the folder is no ImageJ.
    OutputError
        If a file cannot be removed.
    """
    folder = _folder(imagej)
    ours = _ours(folder)
    for file in ours:
        with explained(file):
            file.unlink()
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):  # a link is the user's
        with explained(folder):
            folder.rmdir()
    return bool(ours)


def _folder(imagej: Path) -> Path:
    """Where the macros of an ImageJ folder belong."""
    if not imagej.is_dir():
        raise OptionError(f"{imagej}: no such folder; expected the folder of Fiji or ImageJ")
    if not is_imagej(imagej):
        raise OptionError(f"{imagej} is no Fiji or ImageJ: no ij.jar in it or its jars; expected one like Fiji.app")
    return imagej.absolute() / "plugins" / "DenseCell"


def _is_ours(file: Path) -> bool:
    """Whether a file was written here: all macros begin alike, and runner.txt with how the tool is started."""
    if not file.is_file():
        return False
    with explained(file), file.open("rb") as stream:
        return stream.read(len(_HEAD)).startswith((_HEAD, b"runner="))


def _ours(folder: Path) -> list[Path]:
    found = [*sorted(folder.glob("DenseCell_*.ijm")), *folder.glob("runner.txt")]
    return [file for file in found if _is_ours(file)]


def _runner_text(runner: Runner) -> str:
    """Lines key=value; what is not plain ASCII, and %, as %uXXXX of each UTF-16 unit."""

    def escaped(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be")
        return "".join(f"%u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

    parts = {"runner": runner.kind, "command": runner.command, "target": runner.target, "words": runner.words}
    return "".join(f"{key}={re.sub(r'[^ -$&-~]', escaped, value)}\n" for key, value in parts.items())
