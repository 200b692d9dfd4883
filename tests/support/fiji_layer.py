"""Fiji's macro layer without Fiji: ImageJ patched by ij1-patcher, with macros as script modules of SciJava."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from fiji_folder import attend
from imagej_app import fetch

# What ties these together in Fiji, imagej-legacy, is not on Maven Central: FijiLayer.java does what it does for macros.
# Java's own compiler may be missing, where there is only its runtime: this one is a jar.
PARTS = "net.imagej:ij:1.54p+net.imagej:ij1-patcher:2.0.0+org.scijava:scijava-common:2.100.1"
COMPILER = "org.eclipse.jdt:ecj:3.33.0"
SOURCE = Path(__file__).with_name("FijiLayer.java")


def build_layer(folder: Path) -> list[Path]:
    """Compile FijiLayer into a folder; the class path that runs it. Skips the test where its parts cannot be had."""
    parts, compiler = fetch(PARTS), fetch(COMPILER)
    for found in (parts, compiler):
        if isinstance(found, str):
            pytest.skip(found)
    class_path = [*parts, folder]
    command = ["java", "-jar", *compiler, "-17", "-nowarn", "-cp", join(class_path), "-d", folder, SOURCE]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return class_path


def join(class_path: list[Path]) -> str:
    return ":".join(map(str, class_path))


def run_steps(
    class_path: list[Path],
    imagej: Path,
    steps: list[str],
    folder: Path,
    *,
    clicks: tuple[tuple[Any, ...], ...] = (),
    timeout: float = 200,
) -> list[str]:
    """What FijiLayer says of the steps, "pick COMMAND" or a line of macro code; `clicks` are those of `run_script`."""
    folder.mkdir(exist_ok=True)
    (folder / "steps.txt").write_text("\n".join(steps), encoding="utf-8")
    command = ["java", "-Xmx2g", "--add-opens", "java.base/java.lang=ALL-UNNAMED", f"-Duser.home={folder}"]
    command += [f"-Dplugins.dir={imagej}", "-cp", join(class_path), "FijiLayer", str(imagej), str(folder)]
    return attend(command, folder, timeout=timeout, clicks=clicks)
