"""The one Java machine of a process, and ImageJ in it: started once, without a window.

ImageJ is what `find` finds: plain ImageJ (`ij.jar`), or ImageJ2 with its gateway in a Fiji folder. After the start both
are the same `ij.*` classes. Java, and with it pyimagej, is imported only by the functions here.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecell_batch.errors import ImageJError
from densecell_batch.imagej.find import ImageJPlace, find_imagej, find_java, missing_extra

__all__ = ["ImageJ", "running", "start_imagej"]


@dataclass(frozen=True)
class ImageJ:
    """The ImageJ of this process."""

    place: ImageJPlace
    version: str
    headless: bool
    gateway: Any = None  # net.imagej.ImageJ, where there is one

    def __str__(self) -> str:
        return f"ImageJ {self.version} ({self.place.where})"


_started: ImageJ | None = None


def start_imagej(
    where: str | None = None, *, headless: bool = True, heap: int | None = None, download: bool = False
) -> ImageJ:
    """Start ImageJ in this process; a second call with the same place returns the one that runs.

    Parameters
    ----------
    where
        As for `find_imagej`.
    headless
        Whether Java does without a screen. Plain ImageJ then knows no menu commands (`run`) in macros.
    heap
        Bytes that Java may take.
    download
        Whether the jars of an endpoint may be fetched.

    Raises
    ------
    ImageJError
        If there is no ImageJ or no Java, or they do not start, or another one runs in this process already.
    """
    global _started
    place = find_imagej(where, download=download)
    if _started is not None:
        if _started.place != place:
            raise ImageJError(f"this process runs {_started}; a process can have one: start another for {place.where}")
        return _started
    java = find_java()
    headless = headless or place.has_gateway
    _start_jvm(place, java, headless, heap)
    from scyjava import jimport

    try:
        gateway = _gateway(place) if place.has_gateway else None  # first: its patches precede all else of ij.*
        # ImageJ otherwise takes System.out for a place to show windows' text; stdout is not ours to write to.
        system = jimport("java.lang.System")
        system.setOut(system.err)
        version = str(jimport("ij.IJ").getVersion())
    except Exception as error:  # Java's exceptions are of any class
        raise ImageJError(f"{place.where}: ImageJ does not start ({_reason(error)}); is the folder whole?") from error
    _started = ImageJ(place, version, headless, gateway)
    return _started


def _gateway(place: ImageJPlace) -> Any:
    """ImageJ2 of the JVM that runs."""
    if any(jar.name.startswith("imglib2-imglyb") for jar in place.jars):
        import imagej  # with its conversions, ij.py; a Fiji as it is unpacked has not got what they need

        return imagej.init(mode=imagej.Mode.HEADLESS)
    from scyjava import jimport

    return jimport("net.imagej.ImageJ")()


def running() -> ImageJ | None:
    """The ImageJ of this process, once it was started."""
    return _started


def _start_jvm(place: ImageJPlace, java: Path, headless: bool, heap: int | None) -> None:
    """Start Java with the jars of an ImageJ; nothing is resolved, and so nothing is fetched."""
    os.environ["JAVA_HOME"] = str(java)
    try:
        import jpype
        import scyjava
        from scyjava import config
    except ImportError as error:
        raise missing_extra(error) from error
    if jpype.isJVMStarted():
        raise ImageJError("this process runs a Java already, without this ImageJ; start another process")
    config.endpoints.clear()  # what is there would be fetched
    config.set_java_constraints(fetch="never")
    for jar in place.jars:
        config.add_classpath(str(jar))
    if headless:
        config.enable_headless_mode()
    # Signals stay with Python: Java would shut down below a thread that is in it, which crashes. A log of a crash does
    # not belong into the folder that the user happens to be in.
    config.add_option("-Xrs")
    config.add_option(f"-XX:ErrorFile={Path(tempfile.gettempdir()) / 'densecell-java-%p.log'}")
    config.add_option(f"-Dplugins.dir={place.home}")
    if place.has_gateway:
        config.add_option("--add-opens=java.base/java.lang=ALL-UNNAMED")  # its patches of classes need it
    if heap is not None:
        config.add_option(f"-Xmx{max(heap >> 20, 64)}m")
    try:
        scyjava.start_jvm()
    except Exception as error:  # no common class
        raise ImageJError(f"Java does not start from {java}: {_reason(error)}; Java 11 or later is needed") from error
    # ImageJ looks for plugins, macros and settings there, too, where plugins.dir has none. Only ImageJ asks for it:
    # relative names of files mean the working folder all the same.
    scyjava.jimport("java.lang.System").setProperty("user.dir", str(place.home))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
