"""The macros with the tool in a container and on another machine: real Podman, real sshd, the real command in them."""

import getpass
import io
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
import tifffile
from fiji_folder import TOOL, install, make_imagej, run_script
from imagej_app import MISSING
from macro_input import ODD, options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fiji,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, data):
    """A folder whose name is hard on scripts, with a stack, and a model in another such folder."""
    folder, models = tmp_path / ODD, tmp_path / "models, $HOME"
    folder.mkdir()
    models.mkdir()
    shutil.copy(data / "vnc-crop.tif", folder / "it's `x` $y é.tif")
    shutil.copy(data / "fly-vnc-small.zip", models / "small, 1.zip")
    return folder


def segment(imagej, place, out):
    """The answers of Segment, to what can be done and to what cannot, and of Batch."""
    talk, model = place / "talk", place.parent / "models, $HOME" / "small, 1.zip"
    talk.mkdir()
    rows = [
        options(stack=place / "it's `x` $y é.tif", out=out, model=model, show="no"),
        options(stack=place / "it's `x` $y é.tif", out=out, model="no-such-model"),
    ]
    (talk / "args.txt").write_text("\n".join(rows), encoding="utf-8")
    script = r"""
args = split(File.openAsString(T + "args.txt"), "\n");
for (i = 0; i < args.length; i++) say(runMacro(D + "DenseCell_Segment.ijm", args[i]));
"""
    return run_script(imagej, script, talk)


def check(answers, out):
    good, bad = answers
    labels = out / "it's `x` $y é_labels.tif"
    assert good == f"ok\t{labels}", (out / "it's `x` $y é_log.txt").read_text()
    assert tifffile.imread(labels).shape == (4, 96, 96)
    assert bad.startswith("failed\tthe tool gave no verdict. ")
    assert "densecell-batch: error: no model 'no-such-model'" in bad


@pytest.fixture
def podman(tmp_path):
    """Podman with a storage of its own, and an image without content, in which the files of this machine are seen."""
    if shutil.which("podman") is None or shutil.which("runc") is None or os.geteuid() != 0:
        pytest.skip("needs podman and runc, as root")
    storage = Path(tempfile.mkdtemp(prefix="dc"))  # a longer name than 50 characters is refused
    engine = tmp_path / "podman"
    options = f"--runtime runc --root {storage}/s --runroot {storage}/r --storage-driver vfs"
    engine.write_text(f'#!/bin/sh\nexec {shutil.which("podman")} {options} "$@"\n')
    engine.chmod(0o755)
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        for name in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(entry, io.BytesIO())
    done = subprocess.run(
        [engine, "import", "--change", f'ENTRYPOINT ["{TOOL}"]', "--change", "ENV LC_ALL=C.UTF-8",
         tmp_path / "image.tar", "densecell:test"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    yield engine
    subprocess.run([engine, "rmi", "--force", "--all"], capture_output=True, check=False)
    shutil.rmtree(storage, ignore_errors=True)


@pytest.mark.container
def test_a_container_sees_the_folders_of_stack_output_and_model(podman, place, tmp_path):
    seen = {"/usr", "/lib", "/lib64", "/bin", sys.prefix, sys.base_prefix, str(ROOT)}
    mounts = " ".join(f"-v {path}:{path}:ro" for path in sorted(seen) if Path(path).exists())
    words = f"{mounts} --pull never --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
    imagej = make_imagej(tmp_path / "ij")
    done = install(imagej, "--runner", "docker", "--command", podman, "--target", "densecell:test", "--words", words)
    assert done.returncode == 0, done.stderr
    out = place / 'o, "u" t'
    check(segment(imagej, place, out), out)


@pytest.fixture
def host(tmp_path):
    """An sshd of our own; words for ssh to reach it."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists() or shutil.which("ssh") is None or os.geteuid() != 0:
        pytest.skip("needs sshd and ssh, as root")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    settings = f"""
ListenAddress 127.0.0.1
HostKey {tmp_path}/host
AuthorizedKeysFile {tmp_path}/authorized
PidFile none
StrictModes no
UsePAM no
SetEnv LC_ALL=C.UTF-8
"""
    (tmp_path / "sshd_config").write_text(settings)
    for _ in range(5):  # somebody else may take the port before sshd does
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = [sshd, "-D", "-e", "-f", tmp_path / "sshd_config", "-p", str(port)]
        with (tmp_path / "sshd.txt").open("w") as log:
            server = subprocess.Popen(words, stderr=log)
        until = time.monotonic() + 60
        while server.poll() is None and "Server listening" not in (tmp_path / "sshd.txt").read_text():
            assert time.monotonic() < until, (tmp_path / "sshd.txt").read_text()
            time.sleep(0.02)
        if server.poll() is None:
            break
    else:
        raise AssertionError((tmp_path / "sshd.txt").read_text())
    try:
        yield f"-p {port} -i {tmp_path}/user -o UserKnownHostsFile={tmp_path}/known -o StrictHostKeyChecking=no"
    finally:
        server.terminate()
        server.wait(10)


def test_another_machine_by_ssh(host, place, tmp_path):
    """Its shell gets every word in quotes. The tool there has a name with a space."""
    tool = tmp_path / "the tool"
    tool.write_text(f'#!/bin/sh\nexec {shlex.quote(str(TOOL))} "$@"\n')
    tool.chmod(0o755)
    imagej = make_imagej(tmp_path / "ij")
    target = f"{getpass.getuser()}@127.0.0.1"
    done = install(imagej, "--runner", "ssh", "--command", tool, "--target", target, "--words", host)
    assert done.returncode == 0, done.stderr
    out = place / "o, 'u' t"
    check(segment(imagej, place, out), out)
