"""A real container: the image that `make image` built, run as clusters and careful administrators run it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from images import IMAGE, ROOT, definition, find_engine, has_image

from densecell_batch.data import SAMPLE

pytestmark = [pytest.mark.container, pytest.mark.slow]

LAUNCHER = ROOT / "container/densecell"
SELF_TEST = ["--entrypoint", "/opt/densecell/self-test"]
# A file system that cannot be written, a user whom the image does not know, no network, no privilege.
STRICT = ["--read-only", "--tmpfs", "/tmp", "--user", "12345:54321", "--network", "none", "--cap-drop", "all",
          "--security-opt", "no-new-privileges"]  # fmt: skip
MODEL = ROOT / "tests/data/fly-vnc-small.zip"  # one small net; the self-test runs the bundled ensemble
QUICK = ["--precision", "float32", "--tile", "5,64,64", "--no-preview"]


@pytest.fixture(scope="module")
def engine():
    found = find_engine()
    if found is None:
        pytest.skip(f"neither docker nor podman has an image {IMAGE}: make image")
    return found


@pytest.fixture
def contained(engine):
    """Run the image."""

    def run(*words, options=STRICT):
        command = [engine, "run", "--rm", "--pull", "never", "--no-healthcheck", *options, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)

    return run


def launcher(*words):
    """The command of the launcher."""
    return [str(LAUNCHER), *map(str, words)]


def bare(*words):
    return [sys.executable, "-m", "densecell_batch", *map(str, words)]


def run(command, cwd):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack of 60 slices, in a folder whose name is hard on scripts."""
    path = tmp_path_factory.mktemp("it's a, folder") / "cells é.tif"
    volume = np.tile(tifffile.imread(SAMPLE)[:, :160, :160], (6, 1, 1))
    tifffile.imwrite(path, volume, imagej=True, metadata={"axes": "ZYX"})
    return path


# The image


def test_the_image_tests_itself(contained):
    done = contained(IMAGE, options=[*STRICT, *SELF_TEST])
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert verdicts.count("ok") >= 8
    assert set(verdicts) <= {"ok", "skip"}


@pytest.mark.parametrize(
    "options",
    [
        [*STRICT, "--env", "HOME=/nonexistent"],
        ["--read-only", "--network", "none", "--user", "4321", "--env", "TMPDIR=/out"],
        ["--network", "none"],  # the user of the image
    ],
    ids=["no home", "temporary files elsewhere", "as it is"],
)
def test_starts_wherever(contained, options, tmp_path):
    tmp_path.chmod(0o777)
    words = ["segment", "/in/" + SAMPLE.name, "-o", "/out", "--model", f"/models/{MODEL.name}", *QUICK]
    folders = {SAMPLE.parent: "/in:ro", MODEL.parent: "/models:ro", tmp_path: "/out"}
    volumes = [word for folder, target in folders.items() for word in ("--volume", f"{folder}:{target}")]
    done = contained(IMAGE, *words, options=[*options, *volumes])
    assert done.returncode == 0, done.stderr
    assert "DENSECELL\tok\t/out/fly-vnc-sample_labels.tif\t" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"fly-vnc-sample_labels.tif", "fly-vnc-sample_report.json"}


def test_nothing_can_be_written(contained, engine):
    """Not even a temporary folder: OpenVINO needs none (TensorFlow would, if only for its name)."""
    options = ["--read-only", "--network", "none", "--user", "4321"]
    options += ["--read-only-tmpfs=false"] if engine == "podman" else []
    done = contained(IMAGE, "segment", "x.tif", "-o", "out", options=options)
    assert done.returncode == 1, done.stderr
    assert "x.tif: no such file or folder" in done.stderr
    assert "telemetry" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_in_it(contained, engine):
    text = subprocess.run([engine, "image", "inspect", IMAGE], capture_output=True, text=True, check=True).stdout
    image = json.loads(text)[0]
    config = image["Config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["densecell-batch"]
    assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40
    health = config.get("Healthcheck") or image["Healthcheck"]  # Docker, Podman
    assert health["Test"] == ["CMD", "/opt/densecell/healthcheck"]
    # No tools, no leftovers, nothing that belongs to the user and could be changed by it.
    script = """
        for tool in pip pip3 gcc cc make git curl; do command -v $tool; done
        ls -d /src /opt/build 2>/dev/null
        for folder in /root /home /var/lib/apt/lists; do ls $folder; done
        find /opt /usr -xdev '(' -user 1000 -o -perm -o+w -not -type l ')'
    """
    found = contained(IMAGE, "-c", script, options=["--network", "none", "--user", "0", "--entrypoint", "sh"])
    assert found.stdout == "", found.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["watch", "/data", "-o", "/tmp"], 0),
        (["watch", "/nosuch", "-o", "/tmp"], 1),
        (["watch", "/data", "--out=/usr"], 1),
        (["watch", "/data", "--out=/tmp/not yet", "--move-done", "/tmp/later"], 0),
        (["segment", "/nosuch", "-o", "/usr"], 0),
    ],
)
def test_health_of_a_watcher(contained, words, code):
    """The check reads the command of the first process; here it is that itself."""
    done = contained(IMAGE, *words, options=[*STRICT, "--entrypoint", "/opt/densecell/healthcheck"])
    assert done.returncode == code, done.stdout + done.stderr


# The launcher


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["segment", "STACK", "-o", "out", "--model", str(MODEL), *QUICK], 0),
        (["segment", "no stack.tif", "STACK", "-o", "out", f"--model={MODEL}", *QUICK], 1),
        (["segment", "STACK"], 2),
        (["segment", "STACK", "-o", "STACK"], 2),
        (["segment", "STACK", "-o", "out", "--model", "nosuch"], 3),
        (["segment", "STACK", "-o", "out", "--device", "gpu"], 3),
    ],
)
def test_launcher_returns_what_the_command_returns(engine, stack, tmp_path, words, code):
    """The same exit code, the same lines on stdout, with paths outside the current folder."""
    if code == 3 and "gpu" in words and Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    results = []
    for name, start in (("bare", bare), ("contained", launcher)):
        work = tmp_path / name
        work.mkdir()
        (work / "no stack.tif").write_text("no stack")
        done = run(start(*(str(stack) if word == "STACK" else word for word in words)), work)
        assert done.returncode == code, f"{name}: {done.stdout}{done.stderr}"
        # The launcher makes the output folder before the command can refuse.
        made = (path for path in work.rglob("*") if path != work / "out" or list(path.iterdir()))
        results.append((done.stdout, sorted(path.relative_to(work) for path in made)))
        for path in work.rglob("*"):
            assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
    assert results[0] == results[1]


def test_launcher_runs_the_demo_elsewhere(engine, tmp_path):
    out = tmp_path / "not there yet" / "d, e:mo"
    done = run(launcher("demo", "-o", out), tmp_path.parent)
    assert done.returncode == 0, done.stderr
    _, verdict, labels, report = done.stdout.rstrip("\n").split("\t")
    assert verdict == "ok"
    assert Path(labels).parent == out
    assert json.loads(Path(report).read_text())["outputs"]["labels"]["file"] == Path(labels).name
    assert (out / "fly-vnc-sample_preview.png").stat().st_size > 10_000


def test_launcher_follows_links_that_are_named(engine, stack, tmp_path):
    for name in ("work", "far", "links"):
        (tmp_path / name).mkdir()
    shutil.copy(SAMPLE, tmp_path / "far/a b.tif")
    (tmp_path / "links/one.tif").symlink_to("../far/a b.tif")
    (tmp_path / "links/two.tif").symlink_to(stack)
    (tmp_path / "around").symlink_to("links")
    done = run(
        launcher(
            "segment",
            "../around/one.tif",
            tmp_path / "links/two.tif",
            "-o",
            "../out",
            "--model",
            MODEL,
            "--no-summary",
            *QUICK,
        ),
        tmp_path / "work",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"one_labels.tif", "one_report.json", "two_labels.tif", "two_report.json"}


SEES = """
cat "$1/x.tif" "$1/link.tif" "$1/linked/s.tif" "$1/../secret/s.tif"
touch "$1/new" "$1/x.tif" "$3/made" "$3/../beside" /usr/new
ls -A "$1/.."
grep -c : /proc/net/dev
grep -E 'NoNewPrivs|CapEff' /proc/self/status
"""


def test_launcher_shows_what_is_named_and_no_more(engine, tmp_path):
    """A shell in place of the command: it reads and writes whatever it can."""
    for name in ("secret", "in"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret/s.tif").write_text("a secret")
    (tmp_path / "in/x.tif").write_text("a stack")
    (tmp_path / "in/link.tif").symlink_to("../secret/s.tif")
    (tmp_path / "in/linked").symlink_to("../secret")
    words = ["--engine-option=--entrypoint=/bin/sh", "-c", SEES, "sh", tmp_path / "in", "-o", tmp_path / "results/out"]
    done = run(launcher(*(str(word).replace("\n", "; ").strip("; ") for word in words)), tmp_path)
    capabilities = "b" if os.getuid() == 0 else "0"  # of root: chown, and access to files of others
    assert done.stdout.splitlines() == [
        "a stackin", "results", "1", f"CapEff:\t000000000000000{capabilities}", "NoNewPrivs:\t1",
    ], done.stdout + done.stderr  # fmt: skip
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "in", "link.tif", "linked", "made", "out", "results", "s.tif", "secret", "x.tif",
    ]  # fmt: skip


def test_launcher_passes_signals_on(engine, stack, tmp_path):
    """SIGTERM: 75, nothing under a final name, no container left; the same command goes on to the same bytes."""
    words = ["segment", stack, "-o", "out", "--model", MODEL, *QUICK]
    process = subprocess.Popen(
        launcher(*words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("out/.*.parts-*/piece-*.npz")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, said
    assert said[0] == ""
    assert "stopped by SIGTERM" in said[1]
    assert all(path.name.startswith(".") for path in (tmp_path / "out").iterdir())
    left = subprocess.run(
        [engine, "ps", "--quiet", "--all", "--filter", f"ancestor={IMAGE}"], capture_output=True, text=True
    )
    assert left.stdout == ""
    assert run(launcher(*words), tmp_path).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    assert run(launcher(*words), other).returncode == 0
    name = "out/cells é_labels.tif"
    assert (tmp_path / name).read_bytes() == (other / name).read_bytes()


# How far a container has come after so long can only be guessed: nothing of it is seen before its first file.
@pytest.mark.flaky(reruns=1)
def test_a_signal_at_the_very_start_is_heard(engine, stack, tmp_path):
    process = subprocess.Popen(launcher("segment", stack, "-o", "out", *QUICK), cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        time.sleep(2)  # Python has started, TensorFlow has not
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (75, 143)  # 143: before there was a handler, with an init in the container


def test_start_time(contained):
    """Printed for docs/containers.md."""
    for words in (["--version"], ["doctor"]):
        start = time.perf_counter()
        assert contained(IMAGE, *words).returncode == 0
        print(f"{words[0]}: {time.perf_counter() - start:.1f} s")


# Singularity.def


@pytest.fixture(scope="module")
def built_by_definition(tmp_path_factory):
    """A function that runs a shell in a Debian root in which %files and %post were carried out.

    It stands for Apptainer, which is not on every machine: the bodies of the sections are real, the runtime is not.
    """
    tools = shutil.which("buildah") and shutil.which("podman")
    bases = ["localhost/densecell-base", "debian:bookworm-slim"] if tools else []
    base = next((name for name in bases if has_image("podman", name)), None)
    if base is None or os.geteuid() != 0:
        pytest.skip("needs root, buildah and a base image: make image-base")
    text = (
        (ROOT / "Singularity.def")
        .read_text()
        .replace("VARIANT=gpu", "VARIANT=cpu")
        .replace("MODELS=auto", "MODELS=none")
    )
    sections = definition(text)[1]

    def buildah(*words, **options):
        return subprocess.run(["buildah", *map(str, words)], capture_output=True, text=True, timeout=500, **options)

    container = buildah("from", "--pull-never", base, check=True).stdout.strip()
    try:
        for line in sections["files"].splitlines():
            if line.strip():
                name, target = line.split()
                buildah("copy", container, ROOT / name, target, check=True)
        flags = os.environ.get("IMAGE_BUILD_FLAGS", "").split()
        done = buildah("run", *flags, container, "--", "/bin/sh", "-c", sections["post"], check=False)
        assert done.returncode == 0, done.stdout + done.stderr

        def shell(name, *arguments, environment=""):
            """A section, as Apptainer runs it: after %environment, with the host's own environment before that."""
            script = f"{environment}\n{sections['environment']}\n{sections[name]}"
            return buildah(
                "run", "--user", "12345:54321", container, "--", "/bin/sh", "-c", script, name, *arguments, check=False
            )

        yield shell
    finally:
        buildah("rm", container, check=False)


def test_runscript(built_by_definition):
    done = built_by_definition("runscript", "--version")
    assert (done.returncode, done.stdout) == (0, "densecell-batch, version 0.1.0\n")
    done = built_by_definition("runscript", "segment", "no such.tif")
    assert done.returncode == 2
    assert "Missing option '-o'" in done.stderr


def test_test_section(built_by_definition):
    """With what a host's environment may bring along."""
    host = "export HOME=/nonexistent PYTHONPATH=/evil KERAS_BACKEND=torch"
    done = built_by_definition("test", environment=host)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok\tdemo" in done.stdout
    assert "FAIL" not in done.stdout
