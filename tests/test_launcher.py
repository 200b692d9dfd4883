"""container/densecell: the command that it makes of its arguments.

The engines here are stand-ins that record their arguments; what a real one does with them is in test_container.py, for
Podman. Docker and Apptainer themselves are not started by any test.
"""

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from images import ROOT

LAUNCHER = ROOT / "container/densecell"
SHELLS = [[shell, *options] for shell, *options in (["dash"], ["bash", "--posix"]) if shutil.which(shell)]

STAND_IN = """#!/bin/sh
case "$1 $2" in
"image inspect") [ "$3" = "$IMAGE_HERE" ]; exit ;;
"info --format") echo "$SECURITY"; exit ;;
esac
for word in "$@"; do printf '%s\\n' "$word"; done > "$RECORD"
echo said; echo "${0##*/}" >&2
exit "$CODE"
"""


@pytest.fixture(params=SHELLS, ids=lambda words: words[0])
def launch(request, tmp_path):
    """Start the launcher with stand-in engines; gives what came back and the words that the engine got."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env", "sed", "sort", "tail", "find", "readlink", "id", "mkdir", "printf", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    work = tmp_path / "work"
    work.mkdir()

    def start(*words, engines=("docker",), image="densecell-batch", code=0, cwd=work, launcher=LAUNCHER, **environment):
        for name in engines:
            (tools / name).write_text(STAND_IN)
            (tools / name).chmod(0o755)
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        done = subprocess.run(
            [shutil.which(request.param[0]), *request.param[1:], launcher, *map(str, words)],
            capture_output=True, text=True, timeout=60, check=False, cwd=cwd,
            env={"PATH": str(tools), "HOME": str(tmp_path / "home"), "IMAGE_HERE": image, "RECORD": str(record),
                 "CODE": str(code), "SECURITY": ""} | environment,
        )  # fmt: skip
        return done, record.read_text().split("\n")[:-1] if record.exists() else []

    start.work = work
    return start


def bound(words):
    """Folders that the engine is to bind; each under its own path."""
    found = []
    for option, value in pairwise(words):
        if option == "--volume":
            source, target = value.split(":")
            assert source == target
            found.append(source)
        elif option == "--bind":
            found.append(value)
    return sorted(found)


def passed_on(words, image="densecell-batch"):
    """The words after the image."""
    return words[words.index(image) + 1 :]


def test_arguments_stdout_and_exit_code_are_passed_on(launch):
    arguments = ["segment", "a b.tif", "-o", "o u t", "--instances", "cell $(body) `x` 'y' \"z\" \\", "", "*"]
    done, words = launch(*arguments, code=75)
    assert (done.returncode, done.stdout) == (75, "said\n")
    assert passed_on(words) == arguments
    assert words[0] == "run"
    for option in ("--rm", "--read-only", "--init"):
        assert option in words
    assert words[words.index("--pull") + 1] == "never"
    assert words[words.index("--workdir") + 1] == str(launch.work)
    assert words[words.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"


@pytest.fixture
def tree(tmp_path):
    """Stacks in several folders, some behind links."""
    for name in ("data/one", "data/two 2", "elsewhere/deep", "links", "slices", "far"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/one/a.tif", "data/two 2/b.tif", "elsewhere/deep/c.tif", "far/s0.tif"):
        (tmp_path / name).touch()
    (tmp_path / "links/c.tif").symlink_to("../links/hop.tif")
    (tmp_path / "links/hop.tif").symlink_to(tmp_path / "elsewhere/deep/c.tif")
    (tmp_path / "slices/s0.tif").symlink_to(tmp_path / "far/s0.tif")
    (tmp_path / "link-to-data").symlink_to("data")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "folders"),
    [
        (["doctor"], []),
        (["segment", "T/data/one/a.tif", "-o", "out"], ["data/one"]),
        (["segment", "T/data/one/a.tif", "T/data/two 2/b.tif", "-o", "T/new/sub"], ["."]),  # the nearest that is there
        (["segment", "T/data/one/a.tif", "--out=T/data/new/sub"], ["data"]),  # holds data/one, too
        (["segment", "T/data/one/a.tif", "-oT/far/new"], ["data/one", "far"]),
        (["segment", "../data/one/a.tif", "-o", "."], ["data/one"]),
        (["segment", "T/links/c.tif", "-o", "out"], ["elsewhere/deep", "links"]),
        (["segment", "T/slices", "-o", "out"], ["far", "slices"]),
        (["segment", "T/slices/*.tif", "-o", "out"], ["far", "slices"]),
        (["segment", "T/link-to-data/one/a.tif", "-o", "out"], ["data/one", "link-to-data/one"]),
        (["segment", "x.tif", "--model", "T/data/two 2/m.zip", "-o", "out"], ["data/two 2"]),
        (["segment", "x.tif", "--shard", "1/4", "--tile", "5,64,64", "-o", "out"], []),
        (["segment", "T/none/x.tif", "-o", "out"], ["."]),
    ],
)
def test_folders_of_the_arguments_are_bound(launch, tree, arguments, folders):
    arguments = [word.replace("T/", f"{tree}/") for word in arguments]
    done, words = launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert passed_on(words) == arguments
    expected = {str(launch.work), *(str(tree / name) for name in folders)}
    outer = {folder for folder in expected if not any(folder.startswith(f"{other}/") for other in expected)}
    assert bound(words) == sorted(outer)
    assert list(launch.work.iterdir()) == []


def test_apptainer(launch, tree):
    """What a real Apptainer would be asked; it is not started here."""
    sif = tree / "densecell.sif"
    sif.touch()
    arguments = ["segment", str(tree / "data/two 2/b.tif"), "-o", "out"]
    done, words = launch("--image", sif, *arguments, engines=["apptainer"], code=3)
    assert (done.returncode, done.stdout) == (3, "said\n")
    assert words[:3] == ["run", "--pwd", str(launch.work)]
    assert bound(words) == [str(tree / "data/two 2"), str(launch.work)]
    assert passed_on(words, str(sif)) == arguments
    assert "--nv" not in words
    assert "--nv" in launch("--image", sif, "--gpus=all", *arguments, engines=["apptainer"])[1]


def test_paths_that_binds_split_at(launch, tmp_path):
    odd = tmp_path / 'a,b:c"d'
    odd.mkdir()
    (odd / "x.tif").touch()
    (tmp_path / "d.sif").touch()
    quoted = str(odd).replace('"', '""')
    expected = f'type=bind,"source={quoted}","destination={quoted}"'
    for options in (["--engine", "docker"], ["--image", str(tmp_path / "d.sif")]):
        words = launch(*options, "segment", odd / "x.tif", "-o", "out", engines=["docker", "apptainer"])[1]
        assert words[words.index("--mount") + 1] == expected


def test_engine_and_image_are_found(launch, tmp_path):
    (tmp_path / "x.sif").touch()
    assert launch("doctor", engines=["docker", "podman"])[0].stderr == "docker\n"
    assert launch("--engine", "podman", "doctor", engines=["docker", "podman"])[0].stderr == "podman\n"
    assert launch("--image", "other", "doctor", image="other")[1][-2:] == ["other", "doctor"]
    assert (
        launch("--image", tmp_path / "x.sif", "doctor", engines=["docker", "singularity"])[0].stderr == "singularity\n"
    )
    # Without an image in Docker: a .sif in the current folder, or beside the launcher, also if that is a link.
    own = tmp_path / "bin"
    own.mkdir()
    shutil.copy(LAUNCHER, own / "densecell")
    (tmp_path / "linked").symlink_to(own / "densecell")
    (own / "densecell.sif").touch()
    words = launch("doctor", engines=["docker", "apptainer"], image="none", launcher=tmp_path / "linked")[1]
    assert words[-2:] == [str(own / "densecell.sif"), "doctor"]
    (launch.work / "densecell.sif").touch()
    assert launch("doctor", engines=["apptainer"], image="none")[1][-2:] == ["densecell.sif", "doctor"]


@pytest.mark.parametrize(
    ("words", "engines", "code", "message"),
    [
        (["doctor"], [], 3, "none of these is installed here: docker podman apptainer singularity"),
        (["--image", "other", "doctor"], ["docker"], 3, "no image other for: docker. Build it"),
        (["--engine", "podman", "doctor"], ["docker"], 3, "podman is not installed here"),
        (["--engine", "lxc", "doctor"], ["docker"], 2, "expected docker, podman, apptainer or singularity"),
        (["--image", "no.sif", "doctor"], ["apptainer"], 3, "no image no.sif"),
        (["--gpus", "some", "doctor"], ["docker"], 2, "expected auto, all or none"),
        (["--engine"], ["docker"], 2, "--engine needs a value"),
        (["segment", "a\nb.tif"], ["docker"], 2, "line break"),
        (["segment", "/etc/hostname", "-o", "out"], ["docker"], 2, "/etc/hostname: a file right in /etc"),
    ],
)
def test_what_cannot_be_run(launch, words, engines, code, message):
    done, got = launch(*words, engines=engines)
    assert (done.returncode, done.stdout, got) == (code, "", [])
    assert done.stderr.startswith("densecell: error: ")
    assert message in done.stderr


def test_folders_of_the_system_are_not_hidden(launch):
    """An output right under / cannot be made in the image either; densecell-batch says so."""
    done, words = launch("segment", "x.tif", "-o", "/nowhere/out", cwd="/")
    assert done.returncode == 0
    assert bound(words) == []
    assert words[words.index("--workdir") + 1] == "/"


def test_cache_and_gpus(launch, tmp_path):
    (tmp_path / "cache").mkdir()
    _, words = launch("--gpus", "all", "doctor", DENSECELL_CACHE=str(tmp_path / "cache"), CUDA_VISIBLE_DEVICES="1")
    compiled = tmp_path / "home/.cache/densecell-batch/cuda"
    assert compiled.is_dir()
    assert bound(words) == sorted(map(str, (compiled, tmp_path / "cache", launch.work)))
    assert words[words.index("--gpus") + 1] == "all"
    for setting in (f"CUDA_CACHE_PATH={compiled}", f"DENSECELL_CACHE={tmp_path}/cache", "CUDA_VISIBLE_DEVICES=1"):
        assert words[words.index(setting) - 1] == "--env"
    for arguments in (["--gpus", "none", "doctor"], ["--gpus", "all", "segment", "x", "--device", "cpu"]):
        words = launch(*arguments)[1]
        assert "--gpus" not in words[: words.index("densecell-batch")]
    assert "nvidia.com/gpu=all" in launch("--gpus", "all", "--engine", "podman", "doctor", engines=["podman"])[1]


def test_rootless_docker_maps_the_user_itself(launch):
    _, words = launch("doctor", SECURITY="[name=seccomp,profile=builtin name=rootless]")
    assert words[words.index("--user") + 1] == "0:0"


def test_further_options_and_show(launch):
    _, words = launch("--engine-option", "--memory=8g", "--engine-option=--label=a b", "doctor")
    assert words.index("--memory=8g") < words.index("densecell-batch")
    assert "--label=a b" in words
    done, got = launch("--show", "segment", "it's.tif", "-o", "out")
    assert got == []
    assert Path(done.stdout.split("'")[1]).name == "docker"
    again = subprocess.run(["sh", "-c", f"printf '%s\\n' {done.stdout}"], capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[-4:] == ["segment", "it's.tif", "-o", "out"]


def test_help_is_that_of_both(launch):
    done, words = launch("--help")
    assert "--engine-option WORD" in done.stdout
    assert done.stdout.endswith("said\n")
    assert passed_on(words) == ["--help"]
