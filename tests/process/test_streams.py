"""Standard streams that are full, closed or not read: the work is done, and its exit code is right."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import tifffile
from kills import MODEL, small_disk

from densecell_batch.data import SAMPLE
from densecell_batch.streams import Outlet

# One stream


@contextmanager
def outlet(path, *, keeps=True):
    """One that leads to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield Outlet(descriptor, keeps=keeps)
    os.close(descriptor)


def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        hog = disk / "hog"
        with pytest.raises(OSError, match="No space left"):
            hog.write_bytes(bytes(2**21))
        with outlet(disk / "said") as stdout:
            for line in (b"one\n", b"two\n"):
                assert stdout.write(line) == 4
            assert stdout.unwritten() == "No space left on device, so 2 lines are missing there"
            hog.unlink()
            stdout.write(b"three\n")
            assert stdout.unwritten() == ""
        assert (disk / "said").read_bytes() == b"one\ntwo\nthree\n"


def test_what_stderr_does_not_take_is_dropped():
    with outlet("/dev/full", keeps=False) as stderr:
        assert stderr.write(b"one\n") == 4
        assert stderr.unwritten() == ""


def test_a_reader_that_left_has_all_that_it_wanted():
    read, write = os.pipe()
    os.close(read)
    stdout = Outlet(write, keeps=True)
    assert stdout.write(b"one\n") == 4
    assert stdout.unwritten() == ""
    os.close(write)


def test_a_pipe_that_does_not_wait_gets_all_of_it():
    read, write = os.pipe()
    os.set_blocking(write, False)
    got = bytearray()

    def listen():
        time.sleep(0.2)
        while part := os.read(read, 2**16):
            got.extend(part)

    reader = threading.Thread(target=listen)
    reader.start()
    content = os.urandom(2**20)
    assert Outlet(write, keeps=True).write(content) == len(content)
    os.close(write)
    reader.join()
    os.close(read)
    assert got == content


# The program


def shell(folder, words, redirections):
    """A command with its streams sent elsewhere, by a shell as users have it; stdout and stderr that are left."""
    command = [sys.executable, "-P", "-m", "densecell_batch", *words.split()]
    text = f'"$@" {redirections}; exit "${{PIPESTATUS[0]}}"'
    return subprocess.run(
        ["bash", "-c", text, "bash", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with two stacks, a file that is none between them, and the results in `out`, made without any stream."""
    folder = tmp_path_factory.mktemp("done")
    for name in ("a", "c"):
        tifffile.imwrite(
            folder / f"{name}.tif", tifffile.imread(SAMPLE)[:3, :48, :48], imagej=True, metadata={"axes": "ZYX"}
        )
    (folder / "b.tif").write_bytes(b"no stack")
    ended = shell(folder, f"segment {STACKS} {OPTIONS}", "<&- >/dev/full 2>&-")
    assert ended.returncode == 1
    return folder


STACKS = "a.tif b.tif c.tif"
OPTIONS = f"-o out --model {MODEL} --precision float32 --no-preview"
WHOLE = {f"{name}_{what}" for name in "ac" for what in ("labels.tif", "report.json")}
WHOLE |= {"summary.html", "summary.csv", ".densecell-tables.json"}


def test_the_work_is_done_without_any_stream(done):
    assert {path.name for path in (done / "out").iterdir()} == WHOLE
    for name in "ac":
        assert tifffile.imread(done / f"out/{name}_labels.tif").shape == (3, 48, 48)


OK, BAD = "a.tif c.tif", STACKS
FULL = "stdout cannot be written: No space left on device, so {} missing there; nothing else is"


@pytest.mark.parametrize(
    ("words", "redirections", "code", "lines", "said"),
    [
        (f"segment {OK} {OPTIONS} --assemble", ">/dev/full", 1, 0, FULL.format("4 lines are")),
        (f"segment {BAD} {OPTIONS} --assemble", ">/dev/full", 1, 0, "stack 3 of 3"),
        (f"segment {OK} {OPTIONS} --assemble", ">&-", 0, 0, "stack 2 of 2"),
        (f"segment {OK} {OPTIONS} --assemble", "2>&-", 0, 4, ""),
        (f"segment {BAD} {OPTIONS} --assemble", "2>/dev/full", 1, 5, ""),
        (f"--log /dev/full segment {OK} {OPTIONS} --assemble", "", 0, 4, ""),
        (f"segment {BAD} {OPTIONS} --assemble", "| head -1", 1, 1, "stack 3 of 3"),
        (f"segment {OK} {OPTIONS} --assemble", "| true", 0, 0, "stack 2 of 2"),
        (f"segment {OK} {OPTIONS} --assemble", "<&- >&- 2>&-", 0, 0, ""),
        ("models list", ">/dev/full", 1, 0, "so 6 lines are missing"),
        ("models list", ">&- 2>&-", 0, 0, ""),
        ("models show nosuch", "2>/dev/full", 3, 0, ""),
        ("--help", ">/dev/full", 1, 0, "are missing there"),
        ("segment", "2>&-", 2, 0, ""),
        ("evaluate out/a_labels.tif --labels out/c_labels.tif --json scores.json", ">/dev/full", 1, 0, "missing there"),
        (f"watch in -o watched --once --model {MODEL}", ">/dev/full 2>&-", 0, 0, ""),
    ],
)
def test_exit_codes_and_what_is_said(words, redirections, code, lines, said, done):
    (done / "in").mkdir(exist_ok=True)
    ended = shell(done, words, redirections)
    assert ended.returncode == code, ended.stderr
    assert len(ended.stdout.splitlines()) == lines
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Logging error" not in ended.stderr
    assert {path.name for path in (done / "out").iterdir()} == WHOLE
    if "--json" in words:
        assert (done / "scores.json").exists()


def test_names_that_the_encoding_of_stdout_does_not_have(done):
    """Nor does a terminal of another language end a batch."""
    (done / "é.tif").write_bytes((done / "a.tif").read_bytes())
    text = f'PYTHONIOENCODING=latin-1 "$@" segment *.tif {OPTIONS} --dry-run | cat'
    (done / os.fsdecode(b"\xff.tif")).write_bytes(b"no stack")
    (done / "漢.tif").write_bytes(b"no stack")
    command = ["bash", "-c", text, "bash", sys.executable, "-P", "-m", "densecell_batch"]
    ended = subprocess.run(command, cwd=done, capture_output=True, timeout=300, check=False)
    assert b"Traceback" not in ended.stderr
    assert ended.stdout.count(b"DENSECELL\t") == 6
    assert "plan\té.tif".encode("latin-1") in ended.stdout
    assert rb"failed" + b"\t" + rb"\u6f22.tif" in ended.stdout


def test_the_library_works_in_a_process_without_streams(tmp_path):
    """As in services that use it without the command line."""
    code = "from densecell_batch.nets.backend import quiet_stderr\n"
    code += f"with quiet_stderr(): open({str(tmp_path / 'x')!r}, 'w')"
    subprocess.run(["bash", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True)
    assert (tmp_path / "x").exists()
