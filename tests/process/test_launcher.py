"""container/densecell: the command that it makes of its arguments.

The engines here are stand-ins that record their arguments; what a real one does with them is in test_container.py, for
Podman. Docker and Apptainer themselves are not started by any test.
"""

import os
import shutil
import subprocess
from itertools import combinations, pairwise
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
    """What the engine is to bind, each under its own path: path -> whether it can be written there."""
    found = {}
    for option, value in pairwise(words):
        if option in ("--volume", "--bind"):
            source, *more = value.split(":")
            assert more in ([], [source], [source, "ro"])
            assert source not in found
            found[source] = more[1:] == []
    # Outer ones come first, for engines that bind in the order given.
    assert not any(first.startswith(f"{then}/") for first, then in combinations(found, 2))
    return found


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
    assert words[words.index("--security-opt") + 1] == "no-new-privileges"
    assert words[words.index("--cap-drop") + 1] == "all"


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


BINDS = [
    ("doctor", {}),
    ("segment T/data/one/a.tif -o out", {"data/one": 0, "work/out": 1}),
    ("segment T/data/one/a.tif T/data/two/b.tif -o T/new/sub", {"data/one": 0, "data/two": 0, "new/sub": 1}),
    ("segment T/data/one/a.tif --out=T/data/new/sub", {"data/one": 0, "data/new/sub": 1}),
    ("segment T/data/one/a.tif -oT/far/new", {"data/one": 0, "far/new": 1}),
    ("segment ../data/one/a.tif -o .", {"data/one": 0, "work": 1}),
    # An input in the very folder of the outputs stays as it is.
    ("segment x.tif -o .", {"work": 1, "work/x.tif": 0}),
    ("segment x.tif -o out", {"work": 0, "work/out": 1}),
    ("segment T/slices/deep -o T/slices", {"slices": 1, "slices/deep": 0}),
    ("segment T/slices -o T/slices/deep/out", {"slices": 0, "slices/deep/out": 1}),
    # A link that is named: the file that it leads to, and nothing around that. A link in a folder: nothing.
    ("segment T/links/c.tif -o out", {"links": 0, "elsewhere/deep/c.tif": 0, "work/out": 1}),
    ("segment T/slices -o out", {"slices": 0, "work/out": 1}),
    ("segment T/slices/*.tif -o out", {"slices": 0, "work/out": 1}),
    ("segment T/*/one/a.tif -o out", {".": 0, "work/out": 1}),
    ("watch T/links -o out", {"links": 0, "work/out": 1}),
    ("segment ../link-to-data/one/a.tif -o ./../far", {"data/one": 0, "link-to-data/one": 0, "far": 1}),
    ("watch ../link-to-data -o ..", {".": 1, "data": 0, "link-to-data": 0}),
    ("segment T/link-to-data/one/a.tif -o out", {"data/one": 0, "link-to-data/one": 0, "work/out": 1}),
    ("segment y.tif --model T/data/two/m.zip -o out", {"data/two": 0, "work/out": 1}),
    ("segment y.tif --model=T/data/two/m.zip -o out", {"data/two": 0, "work/out": 1}),
    ("segment y.tif --shard 1/4 --tile 5,64,64 -o out", {"work/out": 1}),
    ("segment T/none/x.tif -o out", {"work/out": 1}),
    ("--log T/far/log.txt segment x.tif -o out", {"far": 1, "work": 0, "work/out": 1}),
    # Stacks that are moved away leave the watched folder.
    ("watch T/links -o out --move-done T/far/done", {"links": 1, "far/done": 1, "work/out": 1}),
    ("watch T/links -o out --move-failed=bad", {"links": 1, "work/bad": 1, "work/out": 1}),
    # What makes a file writes a temporary one beside it.
    ("models pack T/links -o T/far/m.zip", {"links": 0, "far": 1}),
    ("models import T/links -o mine", {"links": 0, "work": 1}),
    ("evaluate T/far/s0.tif --labels T/data/one/a.tif --json T/new.json", {".": 1, "far": 0, "data/one": 0}),
    ("train --images T/far/s0.tif --labels T/data/one/a.tif -o run", {"far": 0, "data/one": 0, "work/run": 1}),
    ("train --labels T/far/s0.tif --make-weights -o w.tif", {"far": 0, "work": 1}),
    ("fiji install T/far", {"far": 1}),
    ("fiji macro T/far/m.ijm", {"far": 0}),
    ("demo", {"work/densecell-demo": 1}),
    ("demo -o T/far/demo", {"far/demo": 1}),
]


@pytest.fixture
def named(tree):
    """The same tree, with names of a word each, and files that some arguments name."""
    (tree / "data/two 2").rename(tree / "data/two")
    (tree / "slices/deep").mkdir()
    for name in ("data/two/m.zip", "far/m.ijm", "work/x.tif"):
        (tree / name).touch()
    return tree


@pytest.mark.parametrize(("line", "expected"), BINDS, ids=[line for line, _ in BINDS])
def test_what_the_arguments_name_is_bound_and_no_more(launch, named, line, expected):
    arguments = [word.replace("T/", f"{named}/") for word in line.split()]
    done, words = launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert passed_on(words) == arguments
    assert bound(words) == {str(named / name): bool(access) for name, access in expected.items()}
    # Only folders of results were made, and everything the engine is to bind is there.
    assert all(Path(path).exists() for path in bound(words))
    made = {path.name for path in launch.work.iterdir()} - {"x.tif"}
    assert made == {Path(name).parts[1] for name, access in expected.items() if access and name.startswith("work/")}


def test_showing_makes_nothing(launch, named):
    done, got = launch("--show", "segment", "x.tif", "-o", "../new/out")
    assert f"'--volume' '{named}/new/out:{named}/new/out' " in done.stdout
    assert got == []
    assert not (named / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "alone"),
    [
        (["segment", "a.tif", "-o", "out"], True),
        (["watch", "models", "-o", "fetch"], True),
        (["segment", "models fetch x.tif", "--model", "fetch", "-o", "out"], True),
        (["fiji", "macro", "a.ijm"], True),
        (["fiji", "install", "ij", "--download"], True),
        (["models", "fetch", "platelet-2d3d"], False),
        (["--log", "models", "models", "fetch", "x"], False),
        (["fiji", "macro", "a.ijm", "--imagej", "net.imagej:ij", "--download"], False),
    ],
)
def test_only_what_fetches_has_a_network(launch, tree, arguments, alone):
    words = launch(*arguments)[1]
    own = words[: words.index("densecell-batch")]
    assert ("--network" in own) == alone
    if alone:
        assert own[own.index("--network") + 1] == "none"
    for chosen in (["--network", "bridge"], ["--network=bridge"], ["--net=bridge"]):
        options = [word for each in chosen for word in ("--engine-option", each)]
        words = launch(*options, *arguments)[1]
        assert "none" not in words[: words.index("densecell-batch")]
    (tree / "d.sif").touch()
    words = launch("--image", tree / "d.sif", *arguments, engines=["apptainer"])[1]
    assert ("--net" in words) == alone


def test_apptainer(launch, tree):
    """What a real Apptainer would be asked; it is not started here."""
    sif = tree / "densecell.sif"
    sif.touch()
    arguments = ["segment", str(tree / "data/two 2/b.tif"), "-o", "out"]
    done, words = launch("--image", sif, *arguments, engines=["apptainer"], code=3)
    assert (done.returncode, done.stdout) == (3, "said\n")
    assert words[:4] == ["run", "--contain", "--pwd", str(launch.work)]
    assert bound(words) == {str(tree / "data/two 2"): False, str(launch.work / "out"): True}
    assert passed_on(words, str(sif)) == arguments
    assert "--nv" not in words
    assert "--nv" in launch("--image", sif, "--gpus=all", *arguments, engines=["apptainer"])[1]
    # Names that count from a folder of which nothing is bound; and where there are none.
    words = launch("--image", sif, "segment", "../data/one/a.tif", "-o", "../out", engines=["apptainer"])[1]
    assert bound(words)[str(launch.work)] is False
    words = launch("--image", sif, "doctor", engines=["apptainer"])[1]
    assert (bound(words), words[words.index("--pwd") + 1]) == ({}, "/")


def test_paths_that_binds_split_at(launch, tmp_path):
    odd = tmp_path / 'a,b:c"d'
    odd.mkdir()
    (odd / "x.tif").touch()
    (tmp_path / "d.sif").touch()
    quoted = str(odd).replace('"', '""')
    expected = f'type=bind,"source={quoted}","destination={quoted}",ro'
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
    # Without an image in Docker: a .sif beside the launcher, also if that is a link; never one in the current folder.
    own = tmp_path / "bin"
    own.mkdir()
    shutil.copy(LAUNCHER, own / "densecell")
    (tmp_path / "linked").symlink_to(own / "densecell")
    (launch.work / "densecell.sif").touch()
    done = launch("doctor", engines=["docker", "apptainer"], image="none", launcher=tmp_path / "linked")[0]
    assert "no image densecell-batch for: docker podman apptainer" in done.stderr
    (own / "densecell.sif").touch()
    words = launch("doctor", engines=["docker", "apptainer"], image="none", launcher=tmp_path / "linked")[1]
    assert words[-2:] == [str(own / "densecell.sif"), "doctor"]
    words = launch("--image", "densecell.sif", "doctor", engines=["apptainer"], image="none")[1]
    assert words[-2:] == ["densecell.sif", "doctor"]  # named, it is the user's choice


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
    assert bound(words) == {}
    assert words[words.index("--workdir") + 1] == "/"
    assert not Path("/nowhere").exists()


def test_cache_and_gpus(launch, tmp_path):
    (tmp_path / "cache").mkdir()
    _, words = launch("--gpus", "all", "doctor", DENSECELL_CACHE=str(tmp_path / "cache"), CUDA_VISIBLE_DEVICES="1")
    compiled = tmp_path / "home/.cache/densecell-batch/cuda"
    assert compiled.is_dir()
    assert bound(words) == {str(compiled): True, str(tmp_path / "cache"): False}
    fetching = launch("models", "fetch", "x", DENSECELL_CACHE=str(tmp_path / "new"))[1]
    assert bound(fetching) == {str(tmp_path / "new"): True}
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
