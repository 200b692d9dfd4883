"""Moving stacks away, on one disk and from one to another."""

import subprocess

import pytest
from watched import save

from densecell_batch.errors import OutputError
from densecell_batch.watch.moving import move_below


@pytest.fixture(params=["the same disk", "another disk"])
def target(request, tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    if request.param == "the same disk":
        yield folder
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a disk here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_files_and_folders(tmp_path, target):
    root = tmp_path / "in"
    for i in range(3):
        content = save(root / "sub" / "a.tif", i).read_bytes()
        moved = move_below(root / "sub" / "a.tif", root, target / "done")
        assert moved == target / "done" / "sub" / ("a.tif" if i == 0 else f"a-{i + 1}.tif")
        assert moved.read_bytes() == content
        assert not (root / "sub" / "a.tif").exists()
    save(root / "series" / "0.tif")
    assert move_below(root / "series", root, target / "done") == target / "done" / "series"
    assert (target / "done" / "series" / "0.tif").exists()
    assert not (root / "series").exists()
    assert not list(target.rglob(".*"))


def test_what_cannot_be_moved_stays(tmp_path, target):
    root = tmp_path / "in"
    large = root / "large.tif"
    root.mkdir()
    large.write_bytes(b"x" * 2**21)
    (target / "file").write_text("")
    with pytest.raises(OutputError):
        move_below(large, root, target / "file")
    if target.stat().st_dev != root.stat().st_dev:
        with pytest.raises(OutputError, match="full"):
            move_below(large, root, target)
        assert {path.name for path in target.iterdir()} == {"file"}
    assert large.stat().st_size == 2**21
