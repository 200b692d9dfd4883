"""Folders, and files, that cannot be flushed: on some file systems, and for some users."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
import tifffile
from kills import MODEL

from densecell_batch.data import SAMPLE

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
    assert "DENSECELL\tok\t" in done.stdout, done.stderr
    assert (tmp_path / "out/cells_report.json").exists()
