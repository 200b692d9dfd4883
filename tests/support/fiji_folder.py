"""A bare ImageJ folder with our macros, and a real ImageJ with its windows that runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from imagej_app import JAR, display

TOOL = Path(sys.executable).with_name("densecell-batch")


def make_imagej(folder: Path, jar: Path = JAR) -> Path:
    """ImageJ as one unpacks it: ij.jar and the folder of plugins."""
    (folder / "plugins").mkdir(parents=True)
    (folder / "ij.jar").symlink_to(jar)
    return folder


def install(imagej: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [TOOL, "fiji", "install", imagej, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


def photograph(screen: str, picture: Path, window: str = "root") -> None:
    """Take a picture of a virtual screen or of a window, where ImageMagick is installed."""
    if shutil.which("import"):
        subprocess.run(["import", "-display", screen, "-window", window, str(picture)], timeout=30, check=False)


def cut_out(shot: Path, region: str | None, picture: Path) -> None:
    """Make a picture for the docs of one that was taken: WxH+X+Y of it, or all, in few colours."""
    crop = ["-crop", region, "+repage"] if region else []
    command = ["convert", shot, *crop, "+dither", "-colors", "128", picture]
    subprocess.run(list(map(str, command)), check=True)


def click_ok(screen: str, folder: Path, title: str, where: str, *before: tuple[int, int] | str) -> bool:
    """Click on OK of a dialog of ImageJ, at the right or in the middle of its lower edge; whether it was there. A
    picture of it stays in the folder. "cancel" clicks on Cancel instead, and "box" on the check box above before;
    `before` are places that are clicked on, from the left and from the upper edge, or the lower one if below 0, and
    texts that are typed.
    """
    environment = {**os.environ, "DISPLAY": screen}

    def xdotool(*words: str) -> str:
        done = subprocess.run(["xdotool", *words], env=environment, capture_output=True, text=True, check=False)
        return done.stdout

    found = xdotool("search", "--onlyvisible", "--name", f"^{title}$").split()
    if not found:
        return False
    time.sleep(1)  # until it is drawn
    photograph(screen, folder / f"{title}.png", found[-1])
    place = dict(line.split("=") for line in xdotool("getwindowgeometry", "--shell", found[-1]).splitlines())
    left, width, bottom = int(place["X"]), int(place["WIDTH"]), int(place["Y"]) + int(place["HEIGHT"])
    if where == "box":
        xdotool("mousemove", str(left + 40), str(bottom - 60), "click", "1")
        time.sleep(0.5)
    for step in before:
        if isinstance(step, str):
            xdotool("type", step)
        else:
            xdotool(
                "mousemove",
                str(left + step[0]),
                str(step[1] + (int(place["Y"]) if step[1] > 0 else bottom)),
                "click",
                "1",
            )
        time.sleep(0.5)
    if before:
        photograph(screen, folder / f"{title} answered.png", found[-1])
    x = left + {"middle": width // 2, "cancel": width - 94}.get(where, width - 38)
    xdotool("mousemove", str(x), str(bottom - 20), "click", "1")
    return True


def run_script(
    imagej: Path,
    script: str,
    folder: Path,
    *,
    timeout: float = 150,
    clicks: tuple[tuple[Any, ...], ...] = (),
    memory: str = "2g",
) -> list[str]:
    """Run a macro in ImageJ with its windows open; the lines that it gave to `say(line)`.

    `clicks` are the titles of dialogs whose OK, "right" or in the "middle", is clicked when they appear, one after the
    other; "cancel" clicks on Cancel, "box" on the last check box, too, and what follows is done before (`click_ok`).

    ImageJ would ask before it quits, and its windows wait for clicks: it is ended once the macro has said all, and
    a macro that has not after the time limit fails the test. `shoot(name)` in it makes name.png of the whole screen.
    """
    folder.mkdir(exist_ok=True)
    macro = folder / "script.ijm"
    # The folders come as the argument: a macro is read as ISO 8859-1, which holds no other characters.
    head = (
        'var lines = split(getArgument(), "\\n");\nvar D = lines[0];\nvar T = lines[1];\n'
        'function say(line) { File.append(replace(line, "\\n", "|"), T + "said.txt"); }\n'
        'function shoot(name) { wait(1500); File.saveString(name, T + "shoot.txt"); '
        'while (File.exists(T + "shoot.txt")) wait(100); }\n'
    )
    macro.write_text(f'{head}{script}\nFile.saveString("done", T + "done.txt");\n', encoding="ascii")
    argument = f"{imagej}/plugins/DenseCell/\n{folder}/"
    command = ["java", f"-Xmx{memory}", f"-Duser.home={folder}", f"-Dplugins.dir={imagej}"]
    command += ["-cp", str(imagej / "ij.jar"), "ij.ImageJ", "-port0", "-macro", str(macro), argument]
    return attend(command, folder, timeout=timeout, clicks=clicks)


def attend(command: list[str], folder: Path, *, timeout: float, clicks: tuple[tuple[Any, ...], ...] = ()) -> list[str]:
    """Start an ImageJ, click as `run_script` says, and end it once there is done.txt; the lines of said.txt."""
    said, done = folder / "said.txt", folder / "done.txt"
    for file in (said, done):
        file.unlink(missing_ok=True)
    with display() as screen, (folder / "java.txt").open("w") as output:
        environment = {**os.environ, "DISPLAY": screen, "LC_ALL": "C.UTF-8"}
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + timeout
            while not done.exists():
                assert process.poll() is None, f"ImageJ ended: {(folder / 'java.txt').read_text()}"
                if time.monotonic() > until:
                    photograph(screen, folder / "hang.png")
                    raise AssertionError(f"ImageJ hangs; it said: {said.read_text() if said.exists() else 'nothing'}")
                if (shoot := folder / "shoot.txt").exists():
                    time.sleep(0.2)
                    photograph(screen, folder / f"{shoot.read_text().strip()}.png")
                    shoot.unlink()
                if clicks and click_ok(screen, folder, *clicks[0]):
                    clicks = clicks[1:]
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait(10)
    return said.read_text(encoding="utf-8").splitlines() if said.exists() else []
