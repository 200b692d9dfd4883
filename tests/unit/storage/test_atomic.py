"""Files whole or not at all; the remains of runs that were killed."""

import errno
import os
import shutil
import subprocess
import sys
import time

import pytest
import tifffile
from kills import MODEL

from densecell_batch.data import SAMPLE
from densecell_batch.errors import OutputError
from densecell_batch.storage.atomic import remove_remains, replacing, temporary_name, write_file


def test_what_stood_there_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, may_exist=True) as temporary:
        temporary.write_text(f"{path.read_text()} {1 / 0}")
    assert path.read_text() == "old"
    write_file(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_replaced_unasked(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputError, match="exists already"), replacing(tmp_path / "a"):
        pass


@pytest.fixture(scope="module")
def dead_process():
    """Number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def left(folder, pid, host=None, age=0):
    """A temporary file of process `pid`."""
    path = temporary_name(folder / "cells_labels.tif")
    name = path.name.replace(f".{os.getpid()}.tmp", f".{pid}.tmp")
    if host is not None:
        name = f".cells_labels.tif.{host}.{pid}.tmp"
    path = path.with_name(name)
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_remains_of_a_dead_process_are_removed(tmp_path, dead_process):
    left(tmp_path, dead_process)
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("pid", "host", "age"), [("me", None, 0), ("dead", "another-node", 3600), (1, None, 3600)])
def test_what_may_be_in_use_stays(tmp_path, dead_process, pid, host, age):
    path = left(tmp_path, {"me": os.getpid(), "dead": dead_process}.get(pid, pid), host, age)
    remove_remains(tmp_path)
    assert path.exists()


def test_remains_of_another_machine_go_after_a_day(tmp_path):
    left(tmp_path, 1, "another-node", 25 * 3600)
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["notes.tmp", ".hidden.tmp", ".a.b.tmp", "cells.host.12.tmp", ".cells.host.12.tif"])
def test_other_files_stay(tmp_path, name):
    path = tmp_path / name
    path.write_text("mine")
    os.utime(path, (0, 0))
    remove_remains(tmp_path)
    assert path.exists()


def test_no_folder(tmp_path):
    remove_remains(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


# Folders, and files, that cannot be flushed

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static int refused(int descriptor, const char *function) {
    struct stat found;
    const char *folders = getenv("FOLDERS_REFUSE"), *files = getenv("FILES_REFUSE");
    const char *refusal = fstat(descriptor, &found) == 0 && S_ISDIR(found.st_mode) ? folders : files;
    if (refusal) { errno = atoi(refusal); return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, function))(descriptor);
}
int fsync(int descriptor) { return refused(descriptor, "fsync"); }
int fdatasync(int descriptor) { return refused(descriptor, "fdatasync"); }
"""


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """Run Python with an fsync that fails for folders, or for files, with an error number."""
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)

    def run(*words, folders=None, files=None):
        environment = {**os.environ, "LD_PRELOAD": str(folder / "shim.so")}
        for name, number in (("FOLDERS_REFUSE", folders), ("FILES_REFUSE", files)):
            if number is not None:
                environment[name] = str(number)
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return run


WRITE = """
import logging, sys
from pathlib import Path
from densecell_batch.storage.atomic import replacing, sync, write_file
logging.basicConfig(level=logging.DEBUG)
folder = Path(sys.argv[1])
for name in "ab":
    write_file(folder / name, b"content")
with replacing(folder / "c") as made:
    made.mkdir()
sync(folder)
"""

NUMBERS = ("EINVAL", "EIO", "ENOTSUP", "ENOSYS", "EACCES", "EPERM", "EROFS", "EBADF", "ENOSPC")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_folder_that_cannot_be_flushed_is_no_error(number, refusing, tmp_path):
    done = refusing("-c", WRITE, tmp_path, folders=getattr(errno, number))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
    assert done.stderr.count("does not flush") == 1  # said once, for those who look for it


@pytest.mark.parametrize("number", NUMBERS)
def test_a_file_is_lost_only_if_the_error_says_so(number, refusing, tmp_path):
    done = refusing("-c", WRITE, tmp_path, files=getattr(errno, number))
    if number in ("EINVAL", "ENOTSUP", "ENOSYS"):
        assert done.returncode == 0, done.stderr
        assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"content"] * 2
        assert (tmp_path / "c").is_dir()
        return
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_opened_is_no_error(tmp_path):
    """Into which one may write, but not look."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes somebody else")
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(0o333)
    code = WRITE.replace("folder = Path(sys.argv[1])", "folder = Path(); os.chdir(sys.argv[1]); os.setuid(65534)")
    command = [sys.executable, "-c", f"import os{code}", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("verb", "refusal"),
    [("watch", {"folders": errno.EIO}), ("segment", {"folders": errno.EINVAL, "files": errno.ENOTSUP})],
)
def test_the_program_works_where_nothing_can_be_flushed(verb, refusal, refusing, tmp_path):
    inbox = tmp_path / "in"
    inbox.mkdir()
    volume = tifffile.imread(SAMPLE)[:3, :48, :48]
    tifffile.imwrite(inbox / "cells.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    words = {"segment": ["segment", inbox / "cells.tif"], "watch": ["watch", inbox, "--once", "--quiet", "0"]}[verb]
    done = refusing("-P", "-m", "densecell_batch", *words, "-o", tmp_path / "out", "--model", MODEL, **refusal)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DENSECELL\tok\t"), done.stderr
    assert (tmp_path / "out/cells_report.json").exists()
