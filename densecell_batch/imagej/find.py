"""Where an ImageJ and a Java are on this machine. Nothing is started here, and nothing is fetched unless asked for."""

from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from densecell_batch.errors import ImageJError, OptionError

__all__ = [
    "FOLDERS",
    "KNOWN_PLACES",
    "ImageJPlace",
    "find_folder",
    "find_imagej",
    "find_java",
    "is_imagej",
    "missing_extra",
]

_PARENTS = ("~", "~/Desktop", "~/Applications", "~/Downloads", "~/opt", "/Applications", "/opt", "/usr/local", "C:",
            "C:/Program Files")  # fmt: skip
_NAMES = ("Fiji.app", "Fiji", "fiji", "ImageJ", "ImageJ.app", "imagej")

# Where people unpack Fiji; and, before that, the container's and Debian's: looked at in this order when none is named.
FOLDERS = tuple(f"{parent}/{name}" for parent in _PARENTS for name in _NAMES)
KNOWN_PLACES = ("/opt/densecell/imagej", "/usr/share/java/ij.jar", *FOLDERS)

_REMEDY = (
    "give --imagej with a Fiji or ImageJ folder, or an ij.jar; Debian and Ubuntu have one (apt install libij-java), "
    "and Fiji (fiji.sc) needs only to be unpacked"
)
_ENDPOINT = re.compile(r"[\w.-]+(:[\w.-]+){1,3}(\+[\w.-]+(:[\w.-]+){1,3})*")


@dataclass(frozen=True)
class ImageJPlace:
    """An ImageJ on disk."""

    where: str  # as the user would name it
    jars: tuple[Path, ...]  # for the class path
    plugins: Path | None = None  # folder of plugins that ImageJ itself loads
    has_gateway: bool = False  # ImageJ2 is there, whose patches let commands run without a screen

    @property
    def home(self) -> Path:
        """The folder whose `plugins` and `macros`, if any, are ImageJ's; without a word it takes the working folder."""
        return (self.jars[0] if self.plugins is None else self.plugins).absolute().parent


def find_imagej(where: str | None = None, *, download: bool = False) -> ImageJPlace:
    """Find an ImageJ.

    Parameters
    ----------
    where
        A Fiji or ImageJ folder, an `ij.jar`, or a Maven endpoint such as `net.imagej:ij:1.54p` or `sc.fiji:fiji`; None
        for the first of `KNOWN_PLACES` that is there.
    download
        Whether the jars of an endpoint may be fetched. Without it, they have to be in the local Maven repository.

    Returns
    -------
    ImageJPlace

    Raises
    ------
    ImageJError
        If there is none, or it is not whole.
    """
    if where is None:
        left_out = ""
        for place in KNOWN_PLACES:
            if (found := _look(_expanded(place))) is None:
                continue
            if _is_trusted(_expanded(place), found):
                return found
            left_out += f"; {place} is left out: others than you and root own it, or can write there"
        raise ImageJError(
            f"there is no ImageJ in any usual place ({', '.join(KNOWN_PLACES[:3])}, ...){left_out}; {_REMEDY}"
        )
    path = _expanded(where)
    if path.exists():
        if (found := _look(path.absolute())) is None:
            raise ImageJError(f"{where}: no ImageJ in it; expected an ij.jar, or a folder with ij.jar or jars/ij-*.jar")
        return found
    if _ENDPOINT.fullmatch(where) and not re.match(r"[A-Za-z]:", where):
        return _resolve(where, download)
    raise ImageJError(f"{where}: no such file or folder; {_REMEDY}")


def find_folder() -> Path:
    """The one Fiji or ImageJ folder in the usual places, to install something into.

    Raises
    ------
    OptionError
        If there is none, or more than one.
    """
    found: dict[Path, Path] = {}
    for folder in map(_expanded, FOLDERS):
        try:
            place = _look(folder)
        except OSError:  # not ours to read
            continue
        if place is not None and _is_trusted(folder, place):
            found.setdefault(folder.resolve(), folder)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise OptionError(
            "no Fiji or ImageJ in the usual places (home, Desktop, Applications, Downloads, /opt); give its folder: "
            "densecell-batch fiji install FOLDER"
        )
    raise OptionError(f"there are several: {', '.join(map(str, found.values()))}; give the folder of the one you mean")


def is_imagej(folder: Path) -> bool:
    """Whether a folder is a Fiji or ImageJ."""
    return folder.is_dir() and _look(folder) is not None


def _is_trusted(path: Path, found: ImageJPlace) -> bool:
    """Whether others cannot have put there what was found at `path`: each part of it counts."""
    return all(map(_ours_alone, {path, *found.jars, *([] if found.plugins is None else [found.plugins])}))


def _ours_alone(path: Path) -> bool:
    """Whether only this user and root can have put there what is at `path`: with /tmp as home, anybody can."""
    if os.name == "nt":
        return True
    ours = {os.getuid(), 0, Path("/").stat().st_uid}  # of "/": root, as a container may show it
    try:
        found, target, around = path.lstat(), path.stat(), path.resolve().parent.stat()
    except OSError:
        return False
    if found.st_uid not in ours or target.st_uid not in ours or target.st_mode & stat.S_IWOTH:
        return False
    return not around.st_mode & stat.S_IWOTH or bool(around.st_mode & stat.S_ISVTX)


def _expanded(path: str) -> Path:
    """A path with ~ as the user's home; as it is where that is not known, as in containers."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser fails there)


def _look(path: Path) -> ImageJPlace | None:
    """The ImageJ in a folder, or that is a jar."""
    if path.is_file() and path.suffix == ".jar":
        return ImageJPlace(str(path), (path,))
    plugins = path / "plugins" if (path / "plugins").is_dir() else None
    inside = ("ij.jar", "Contents/Java/ij.jar", "ImageJ*.app/Contents/Java/ij.jar")
    for jar in (jar for pattern in inside for jar in sorted(path.glob(pattern))):
        if jar.is_file():
            return ImageJPlace(str(path), (jar,), plugins)
    if not any((path / "jars").glob("ij*.jar")):
        return None
    jars = tuple(sorted((path / "jars").rglob("*.jar")))
    if not any(re.match(r"ij(-\d.*)?\.jar", jar.name) for jar in jars):
        return None
    if not _has_gateway(jars):
        return ImageJPlace(str(path), jars, plugins)
    return ImageJPlace(str(path), jars + tuple(sorted((path / "plugins").rglob("*.jar"))), plugins, True)


def _has_gateway(jars: tuple[Path, ...]) -> bool:
    names = "\n".join(jar.name for jar in jars)
    return bool(re.search(r"^imagej-legacy-\d", names, re.M) and re.search(r"^imagej-\d", names, re.M))


def _resolve(endpoint: str, download: bool) -> ImageJPlace:
    """The jars of a Maven endpoint and of all that it needs."""
    try:
        import jgo
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.env import EnvironmentBuilder
        from jgo.maven import MavenContext, PythonResolver
        from scyjava import config
    except ImportError as error:
        raise missing_extra(error) from error
    wanted = endpoint
    if re.match(r"net\.imagej:imagej(:|$)", endpoint) and "imagej-legacy" not in endpoint:
        wanted += "+net.imagej:imagej-legacy:MANAGED"  # brings ij.*; ImageJ2 manages the version
    try:
        if download:
            environment = jgo.build(wanted, repositories=config.get_repositories(), resolver=PythonResolver())
        else:
            repositories = {"central": MAVEN_CENTRAL_URL, **config.get_repositories()}
            context = MavenContext(resolver=PythonResolver(), remote_repos=repositories, offline=True)
            environment = EnvironmentBuilder(context=context).from_endpoint(wanted)
    except Exception as error:  # jgo raises whatever its parsers, sockets and files raise
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = (
            "is the artifact's name right, and the network there? A Fiji folder needs neither"
            if download
            else "fetch them once, where there is a network: densecell-batch fiji macro FILE --imagej ... --download; "
            "or give a Fiji folder"
        )
        raise ImageJError(f"{endpoint}: its jars cannot be had ({reason}); {remedy}") from error
    jars = tuple(Path(jar) for jar in environment.all_jars)
    if not any(re.match(r"ij-\d.*\.jar", jar.name) for jar in jars):
        raise ImageJError(
            f"{endpoint}: there is no ImageJ among its {len(jars)} jars; expected net.imagej:ij, or what needs it"
        )
    return ImageJPlace(endpoint, jars, None, _has_gateway(jars))


def find_java() -> Path:
    """The home of the Java that will be used: JAVA_HOME, else that of `java` on the PATH.

    Raises
    ------
    ImageJError
        If there is none.
    """
    remedy = "install Java 11 or later (Debian and Ubuntu: apt-get install openjdk-17-jre), or module load java"
    program = "java.exe" if os.name == "nt" else "java"
    if home := os.environ.get("JAVA_HOME"):
        if (Path(home) / "bin" / program).exists():
            return Path(home)
        raise ImageJError(f"JAVA_HOME is {home}, where there is no bin/java; {remedy}")
    java = shutil.which("java")
    if java is None:
        raise ImageJError(f"there is no Java: JAVA_HOME is not set and no java is on the PATH; {remedy}")
    return Path(java).resolve().parents[1]


def missing_extra(error: ImportError) -> ImageJError:
    """What to say when pyimagej is not installed."""
    return ImageJError(f"the Python side of ImageJ is not installed ({error}); pip install 'densecell-batch[fiji]'")
