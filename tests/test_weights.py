"""Models are found by name or path, fetched once from a real server, and held to what they were."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from densecell_batch import weights
from densecell_batch.bundle import load_bundle
from densecell_batch.errors import BundleError, FetchError, ModelError, PublishedModelError
from densecell_batch.published import import_published
from densecell_batch.volume import VoxelSize
from densecell_batch.weights import Published, RemoteFile, cache_dir, fetch, fetched, find_bundle


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; counts requests; with `truncate`, breaks off in the middle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.truncate = False
        self.say_length = True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}?dl=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/").partition("?")[0]
        self.server.requests.append(name)
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        if self.server.say_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.truncate else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENSECELL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def zips(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two published models as zips of one folder each, and a data set."""
    folder = tmp_path_factory.mktemp("zips")
    for i, name in enumerate(("2d3d-small_A", "2d3d-small_B")):
        shutil.make_archive(str(folder / f"net_{i}"), "zip", data / "published", name)
    with zipfile.ZipFile(folder / "data.zip", "w") as file:
        file.writestr("stacks/a.tif", b"a")
        file.writestr("stacks/b.tif", b"b")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def registry(
    server: Server, zips: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Published]:
    """A registry of what the server holds: a model of two members, and a data set with published MD5."""
    server.files.update(zips)
    entries = {
        "nets": Published(
            kind="model",
            about="two small nets",
            files=tuple(RemoteFile(name, server.url(name)) for name in ("net_0.zip", "net_1.zip")),
            citation="us",
            voxel_size=VoxelSize(0.04, 0.01, 0.01),
        ),
        "stacks": Published(
            kind="data set",
            about="two stacks",
            files=(RemoteFile("data.zip", server.url("data.zip"), hashlib.md5(zips["data.zip"]).hexdigest()),),
            citation="us",
            contents={f"stacks/{name}.tif": hashlib.md5(name.encode()).hexdigest() for name in "ab"},
        ),
    }
    monkeypatch.setattr(weights, "REGISTRY", entries)
    return entries


def test_registry_is_what_was_published() -> None:
    nets, stacks = weights.REGISTRY["platelet-2d3d"], weights.REGISTRY["platelet-data"]
    assert [file.url for file in nets.files] == [
        "https://www.dropbox.com/s/peroaqonnq1chtv/2d3d-3x3x3_0.zip?dl=1",
        "https://www.dropbox.com/s/seqjvr7ulx9j8cp/2d3d-3x3x3_1.zip?dl=1",
        "https://www.dropbox.com/s/p536tuy8hgz2gmb/2d3d-3x3x3_2.zip?dl=1",
        "https://www.dropbox.com/s/uwhfq3jsijlfv9j/2d3d-3x3x3_3.zip?dl=1",
    ]
    assert all(file.md5 is None for file in nets.files)
    assert stacks.files[0].md5 == "253310093ee2c00304fbabdb0c7e3a4a"
    assert len(stacks.contents) == 7
    assert all(len(md5) == 32 for md5 in stacks.contents.values())


def test_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECELL_CACHE", "~/models")
    assert cache_dir() == Path.home() / "models"
    monkeypatch.delenv("DENSECELL_CACHE")
    assert cache_dir().name == "densecell-batch"


def test_fetch_imports_once_and_records_hashes(
    registry: dict[str, Published], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    assert fetched("nets") is None
    bundle = find_bundle("nets")
    assert bundle.path == cache / "models" / "nets" == fetched("nets")
    assert (bundle.name, len(bundle.members), bundle.citation) == ("nets", 2, "us")
    assert bundle.voxel_size == VoxelSize(0.04, 0.01, 0.01)
    record = json.loads((cache / "downloads" / "sha256.json").read_text())
    assert record == {f"nets/{name}": hashlib.sha256(zips[name]).hexdigest() for name in ("net_0.zip", "net_1.zip")}
    assert find_bundle("nets") == bundle
    assert server.requests == ["net_0.zip", "net_1.zip"]
    assert (cache / "downloads" / "nets" / "net_0.zip").stat().st_mode & 0o044 == 0o044  # a cache may be shared


def test_fetch_of_a_data_set(registry: dict[str, Published], cache: Path, server: Server) -> None:
    folder = fetch("stacks")
    assert folder == cache / "data" / "stacks"
    assert (folder / "stacks" / "b.tif").read_bytes() == b"b"
    assert fetch("stacks") == folder
    assert server.requests == ["data.zip"]
    assert not (cache / "downloads" / "sha256.json").exists()
    with pytest.raises(ModelError, match="stacks is a data set, not a model; models: nets"):
        find_bundle("stacks")


def test_changed_content_is_refused(
    registry: dict[str, Published], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    fetch("nets")
    shutil.rmtree(cache / "models")
    file = cache / "downloads" / "nets" / "net_1.zip"
    file.unlink()
    server.files["net_1.zip"] = zips["net_0.zip"]
    with pytest.raises(FetchError, match=r"net_1\.zip\?dl=1 does not deliver the file that .* delete its line in"):
        fetch("nets")
    assert not file.exists()
    assert fetched("nets") is None
    file.write_bytes(zips["net_0.zip"])
    with pytest.raises(FetchError, match=r"net_1\.zip: SHA256 is .*, expected .*; the file was changed or damaged"):
        fetch("nets")
    file.unlink()
    server.files["net_1.zip"] = zips["net_1.zip"]
    assert len(find_bundle("nets").members) == 2


def test_a_data_set_that_is_not_the_published_one(
    registry: dict[str, Published], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    server.files["data.zip"] = zips["net_0.zip"]
    with pytest.raises(FetchError, match="does not deliver the file"):
        fetch("stacks")
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_a_file_in_a_data_set_with_another_md5(
    registry: dict[str, Published], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry["stacks"].contents, "stacks/a.tif", "0" * 32)  # type: ignore[arg-type]
    with pytest.raises(FetchError, match=r"stacks/a\.tif in .*data\.zip: MD5 is .*, published is 0{32}"):
        fetch("stacks")
    assert list((cache / "data").iterdir()) == []


@pytest.mark.parametrize("say_length", [True, False])
def test_a_truncated_download_leaves_nothing(
    registry: dict[str, Published], server: Server, cache: Path, say_length: bool
) -> None:
    server.truncate, server.say_length = True, say_length
    with pytest.raises(FetchError, match=r"net_0\.zip cannot be downloaded from http://127\.0\.0\.1"):
        fetch("nets")
    assert not any(path.is_file() for path in cache.rglob("*"))
    server.truncate = False
    assert len(find_bundle("nets").members) == 2


def test_a_page_instead_of_the_file(registry: dict[str, Published], server: Server, cache: Path) -> None:
    server.files["net_0.zip"] = b"<html>too many downloads</html>"
    with pytest.raises(FetchError, match="what came is not a zip"):
        fetch("nets")
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_offline_says_what_to_put_where_and_takes_it(
    registry: dict[str, Published], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    server.files.clear()
    with pytest.raises(FetchError) as caught:
        find_bundle("nets")
    for name in ("net_0.zip", "net_1.zip"):
        assert f"{server.url(name)}\n    -> {cache / 'downloads' / 'nets' / name}" in str(caught.value)
    for name in ("net_0.zip", "net_1.zip"):
        (cache / "downloads" / "nets" / name).write_bytes(zips[name])
    server.requests.clear()
    assert len(find_bundle("nets").members) == 2
    assert server.requests == []


def test_server_gone(registry: dict[str, Published], server: Server, cache: Path) -> None:
    server.server_close()
    with pytest.raises(FetchError, match=r"cannot be downloaded.*put each file at the place named here"):
        find_bundle("nets")


def test_a_half_file_put_by_hand_is_not_recorded(
    registry: dict[str, Published], cache: Path, zips: dict[str, bytes]
) -> None:
    folder = cache / "downloads" / "nets"
    folder.mkdir(parents=True)
    (folder / "net_0.zip").write_bytes(zips["net_0.zip"][:1000])
    with pytest.raises(FetchError, match=r"net_0\.zip: not a zip, or not a whole one; delete it"):
        fetch("nets")
    assert not (cache / "downloads" / "sha256.json").exists()


def test_a_whole_zip_without_a_model(registry: dict[str, Published], server: Server, zips: dict[str, bytes]) -> None:
    server.files["net_0.zip"] = zips["data.zip"]
    with pytest.raises(PublishedModelError, match="no published model"):
        fetch("nets")
    assert fetched("nets") is None


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_record_is_not_ignored(registry: dict[str, Published], cache: Path, content: str) -> None:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "sha256.json").write_text(content)
    with pytest.raises(FetchError, match=r"sha256\.json cannot be read .*; repair it, or delete it"):
        fetch("nets")


def test_another_process_was_faster(
    registry: dict[str, Published], cache: Path, monkeypatch: pytest.MonkeyPatch, zips: dict[str, bytes]
) -> None:
    def import_twice(name: str, files: list[Path], place: Path) -> None:
        for _ in range(2):
            import_published(files, place, name)

    monkeypatch.setattr(weights, "_import", import_twice)
    assert load_bundle(fetch("nets")).name == "nets"


def test_unwritable_cache(registry: dict[str, Published], cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(FetchError, match="lacks what was asked for and cannot be written"):
        fetch("nets")


def test_read_only_cache_that_holds_all(registry: dict[str, Published], monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user where the tests run as root, whom permissions do not bind."""
    user: list[str] = []
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv: nothing here is read-only")
        user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from densecell_batch import weights\n"
        "weights.REGISTRY = {'nets': weights.REGISTRY['platelet-2d3d']}\n"
        "try:\n"
        "    Path(os.environ['DENSECELL_CACHE'], 'probe').touch()\n"
        "except PermissionError:\n"
        "    print(len(weights.find_bundle('nets').weights(1)))\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are private to the user
        cache = Path(folder)
        monkeypatch.setenv("DENSECELL_CACHE", folder)
        monkeypatch.setenv("PYTHONPATH", str(Path(weights.__file__).parents[1]))
        fetch("nets")
        for path in (cache, *cache.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [*user, sys.executable, "-B", "-c"]
        can_run = subprocess.run([*command, "import densecell_batch, numpy"], cwd="/", check=False).returncode == 0
        run = subprocess.run([*command, code], cwd="/", capture_output=True, text=True, check=False)
        for path in (cache, *cache.rglob("*")):
            path.chmod(0o755)
    if not can_run:
        pytest.skip("another user cannot run this Python")
    assert (run.stdout, run.returncode) == ("66\n", 0), run.stderr


def test_names_and_paths(
    registry: dict[str, Published], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundled").mkdir()
    made = import_published([data / "published/2d3d-small_A"], tmp_path / "bundled" / "demo", "demo")
    shutil.copytree(made.path, tmp_path / "elsewhere")
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    assert weights.bundled_names() == ["demo"]
    assert find_bundle("demo").path == tmp_path / "bundled" / "demo"
    assert find_bundle("elsewhere").path == Path("elsewhere")
    (tmp_path / "demo").mkdir()
    assert find_bundle("demo").path == tmp_path / "bundled" / "demo"
    with pytest.raises(BundleError, match="this is no model bundle"):
        find_bundle("./demo")
    with pytest.raises(ModelError, match=r"no model 'dem': .* one of demo, nets; did you mean demo\?"):
        find_bundle("dem")
    with pytest.raises(ModelError, match=r"no model 'gone/b\.zip': .*one of demo, nets$"):
        find_bundle("gone/b.zip")
    with pytest.raises(ModelError, match="nothing named 'x' can be fetched; expected one of nets, stacks"):
        fetch("x")
