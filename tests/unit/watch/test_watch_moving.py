"""Moving stacks away, on one disk and from one to another."""

import subprocess

import pytest
from watched import save

from densecell_batch.errors import OutputError
from densecell_batch.storage.opening import Reach
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
        moved = move_below(root / "sub" / "a.tif", Reach(root), target / "done")
        assert moved == target / "done" / "sub" / ("a.tif" if i == 0 else f"a-{i + 1}.tif")
        assert moved.read_bytes() == content
        assert not (root / "sub" / "a.tif").exists()
    save(root / "series" / "0.tif")
    assert move_below(root / "series", Reach(root), target / "done") == target / "done" / "series"
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
        move_below(large, Reach(root), target / "file")
    if target.stat().st_dev != root.stat().st_dev:
        with pytest.raises(OutputError, match="full"):
            move_below(large, Reach(root), target)
        assert {path.name for path in target.iterdir()} == {"file"}
    assert large.stat().st_size == 2**21


def test_links_are_moved_and_what_they_lead_to_stays(tmp_path, target):
    root, secret = tmp_path / "in", save(tmp_path / "private" / "secret.tif")
    root.mkdir()
    (root / "link.tif").symlink_to(secret)
    save(root / "series" / "0.tif")
    (root / "series" / "1.tif").symlink_to(secret)
    moved = move_below(root / "link.tif", Reach(root), target / "done")
    assert moved.readlink() == secret
    assert (move_below(root / "series", Reach(root), target / "done") / "1.tif").readlink() == secret
    assert secret.is_file()
    assert not list(root.iterdir())


def test_a_folder_that_became_a_link_leads_nowhere(tmp_path, target):
    """Somebody puts a link to another folder in place of the one that the stack lay in."""
    root, secret = tmp_path / "in", save(tmp_path / "private" / "secret.tif")
    root.mkdir()
    (root / "sub").symlink_to(tmp_path / "private")
    with pytest.raises(OutputError):
        move_below(root / "sub" / "secret.tif", Reach(root), target / "done")
    assert secret.is_file()
    assert not list(target.rglob("*.tif"))
    assert move_below(root / "sub" / "secret.tif", Reach(root, links=True), target / "done").is_file()
