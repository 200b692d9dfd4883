"""Start real ImageJ under Xvfb, let it open images, and say what it sees."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

JAR = Path(os.environ.get("IMAGEJ_JAR", "/usr/share/java/ij.jar"))  # to try another version
MISSING = [name for name in ("java", "Xvfb") if shutil.which(name) is None] + ([] if JAR.exists() else [str(JAR)])

# Opens each image and describes it, a JSON object a line. Macro errors open a window and hang: hence the timeout below.
_LOOK = r"""
list = split(File.openAsString(getArgument()), "\n");
out = list[0];
for (i = 1; i < list.length; i++) {
  open(list[i]);
  Stack.getDimensions(width, height, channels, slices, frames);
  getVoxelSize(w, h, d, unit);
  getMinAndMax(low, high);
  getLut(reds, greens, blues);
  lut = "";
  for (k = 0; k < 256; k++) lut = lut + "," + reds[k] + "," + greens[k] + "," + blues[k];
  means = "";
  step = maxOf(1, floor((nSlices - 1) / 2));
  for (s = 1; s <= nSlices; s += step) {
    setSlice(s);
    getStatistics(area, mean, min, max);
    last = getPixel(width - 1, height - 1);
    means += ",[" + s + "," + d2s(mean, 9) + "," + d2s(min, 9) + "," + d2s(max, 9) + "," + d2s(last, 9) + "]";
  }
  setSlice(1);
  info = getMetadata("Info");
  info = replace(replace(info, '"', "'"), "\n", "|");
  label = replace(getMetadata("Label"), '"', "'");
  line = '{"shape":[' + slices + "," + channels + "," + frames + "," + height + "," + width + "]";
  line += ',"voxel":[' + d2s(d, 9) + "," + d2s(h, 9) + "," + d2s(w, 9) + '],"unit":"' + unit + '"';
  line += ',"range":[' + d2s(low, 9) + "," + d2s(high, 9) + '],"bits":' + bitDepth() + ',"lut":[' + substring(lut, 1);
  line += '],"slices":[' + substring(means, 1) + '],"info":"' + info + '","label":"' + label + '"}';
  File.append(line, out);
  close();
}
"""

# What the Python side of ImageJ needs beside that.
MISSING_PYTHON = MISSING + [name for name in ("scyjava", "jgo") if find_spec(name) is None]


@cache
def fetch(endpoint: str) -> list[Path] | str:
    """The jars of an endpoint of Maven Central and of what it needs, or why they cannot be had."""
    code = "import jgo, sys; print(*jgo.build(sys.argv[1]).all_jars, sep='\\n')"
    # One at a time: the cache of jgo is that of the user, and other processes of the tests fill it, too.
    with (Path(tempfile.gettempdir()) / f"densecell-tests-jgo-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", code, endpoint]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        return f"{endpoint} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}"
    return [Path(line) for line in done.stdout.splitlines() if line.endswith(".jar")]


@cache
def newest_jar() -> Path | str:
    """The newest ij.jar of Maven Central, or why it cannot be had."""
    jars = fetch("net.imagej:ij")
    if isinstance(jars, str):
        return jars
    (found,) = (jar for jar in jars if jar.name.startswith("ij-"))
    with zipfile.ZipFile(found) as jar:
        assert jar.testzip() is None
        assert "ij/IJ.class" in jar.namelist()
    return found


def jar_of(name: str) -> Path:
    """The ij.jar called "debian" or "newest"; skips the test where there is none."""
    if name == "debian":
        return JAR
    jar = newest_jar()
    if isinstance(jar, str):
        pytest.skip(jar)
    return jar


@contextmanager
def display() -> Iterator[str]:
    """A virtual screen of its own; its name."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x900x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as stream:
            yield f":{stream.readline().strip()}"
    finally:
        server.terminate()
        server.wait(10)


def run_macro(macro: Path, argument: str, *, memory: str = "2g", timeout: float = 60) -> str:
    """Run a macro in real ImageJ; what it printed to stdout. ImageJ's exit code is always 0."""
    with display() as screen:
        time.sleep(0.2)
        done = subprocess.run(
            ["java", f"-Xmx{memory}", "-cp", str(JAR), "ij.ImageJ", "-batch", str(macro), argument],
            env={**os.environ, "DISPLAY": screen},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    return done.stdout + done.stderr


def look(images: list[Path], folder: Path, *, memory: str = "2g", timeout: float = 60) -> list[dict]:
    """Open images in real ImageJ.

    Returns for each: shape (slices, channels, frames, height, width), voxel (z, y, x), unit, range, bits, lut
    (256 x rgb), and of the first, middle and last plane [number, mean, min, max, last pixel].
    """
    folder.mkdir(exist_ok=True)
    macro, listing, out = folder / "look.ijm", folder / "images.txt", folder / "seen.jsonl"
    macro.write_text(_LOOK)
    out.unlink(missing_ok=True)
    listing.write_text("\n".join(map(str, [out, *images])))
    said = run_macro(macro, str(listing), memory=memory, timeout=timeout)
    assert out.exists(), said
    return [json.loads(line) for line in out.read_text().splitlines()]
