"""Models are found by name or path, fetched once from a real server, and held to what they were."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import BundleError, FetchError, ModelError, OptionError, PublishedModelError
from densecell_batch.models import fetching
from densecell_batch.models import registry as known
from densecell_batch.models.bundle import load_bundle
from densecell_batch.models.fetching import fetch, find_bundle
from densecell_batch.models.published import import_published
from densecell_batch.models.registry import RegistryEntry, RemoteFile, cache_dir, fetched


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` over https, and over http on another port; counts requests; with `truncate`, breaks off in the
    middle; redirects what is in `moved`; sends zeros for ever for the name "endless".
    """

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.requests: list[str] = []
        self.sent = 0
        self.truncate = False
        self.say_length = True
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"

    def handle_error(self, *_: object) -> None:
        """A client that breaks off is no news."""

    def url(self, name: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/{name}?dl=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/").partition("?")[0]
        self.server.requests.append(name)
        if name in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[name])
            self.end_headers()
            return
        if name == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"PK\x03\x04")
            while True:
                self.server.sent += self.wfile.write(bytes(2**16))
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine that signs itself; its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "here.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-out", path, "-keyout", path.with_suffix(".key")],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@contextmanager
def running(server: Server) -> Iterator[Server]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with running(Server(certificate)) as found:
        yield found


@pytest.fixture
def plain_server(zips: dict[str, bytes]) -> Iterator[Server]:
    """Without TLS."""
    with running(Server()) as found:
        found.files.update(zips)
        yield found


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
) -> dict[str, RegistryEntry]:
    """A registry of what the server holds: a model of two members, and a data set with published MD5."""
    server.files.update(zips)
    entries = {
        "nets": RegistryEntry(
            kind="model",
            about="two small nets",
            files=tuple(RemoteFile(name, server.url(name)) for name in ("net_0.zip", "net_1.zip")),
            citation="us",
            voxel_size=VoxelSize(0.04, 0.01, 0.01),
        ),
        "stacks": RegistryEntry(
            kind="data set",
            about="two stacks",
            files=(RemoteFile("data.zip", server.url("data.zip"), hashlib.md5(zips["data.zip"]).hexdigest()),),
            citation="us",
            contents={f"stacks/{name}.tif": hashlib.md5(name.encode()).hexdigest() for name in "ab"},
        ),
    }
    monkeypatch.setattr(known, "REGISTRY", entries)
    return entries


def test_registry_is_what_was_published() -> None:
    nets, stacks = known.REGISTRY["platelet-2d3d"], known.REGISTRY["platelet-data"]
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
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes]
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


def test_fetch_of_a_data_set(registry: dict[str, RegistryEntry], cache: Path, server: Server) -> None:
    folder = fetch("stacks")
    assert folder == cache / "data" / "stacks"
    assert (folder / "stacks" / "b.tif").read_bytes() == b"b"
    assert fetch("stacks") == folder
    assert server.requests == ["data.zip"]
    assert not (cache / "downloads" / "sha256.json").exists()
    with pytest.raises(ModelError, match="stacks is a data set, not a model; models: nets"):
        find_bundle("stacks")


def test_changed_content_is_refused(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    fetch("nets")
    shutil.rmtree(cache / "models")
    file = cache / "downloads" / "nets" / "net_1.zip"
    file.unlink()
    server.files["net_1.zip"] = zips["net_0.zip"]
    with pytest.raises(FetchError, match=r"net_1\.zip\?dl=1 does not deliver the file that .* --sha256 net_1\.zip="):
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
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    server.files["data.zip"] = zips["net_0.zip"]
    with pytest.raises(FetchError, match="does not deliver the file"):
        fetch("stacks")
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_a_file_in_a_data_set_with_another_md5(
    registry: dict[str, RegistryEntry], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry["stacks"].contents, "stacks/a.tif", "0" * 32)  # type: ignore[arg-type]
    with pytest.raises(FetchError, match=r"stacks/a\.tif in .*data\.zip: MD5 is .*, published is 0{32}"):
        fetch("stacks")
    assert list((cache / "data").iterdir()) == []


@pytest.mark.parametrize("say_length", [True, False])
def test_a_truncated_download_leaves_nothing(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, say_length: bool
) -> None:
    server.truncate, server.say_length = True, say_length
    with pytest.raises(FetchError, match=r"net_0\.zip cannot be downloaded from https://127\.0\.0\.1"):
        fetch("nets")
    assert not any(path.is_file() for path in cache.rglob("*"))
    server.truncate = False
    assert len(find_bundle("nets").members) == 2


def test_a_page_instead_of_the_file(registry: dict[str, RegistryEntry], server: Server, cache: Path) -> None:
    server.files["net_0.zip"] = b"<html>too many downloads</html>"
    with pytest.raises(FetchError, match="what came does not begin as a file of its kind does, but with b'<html>"):
        fetch("nets")
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_offline_says_what_to_put_where_and_takes_it(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    server.files.clear()
    with pytest.raises(FetchError) as caught:
        find_bundle("nets")
    for name in ("net_0.zip", "net_1.zip"):
        assert f"{server.url(name)}\n    -> {cache / 'downloads' / 'nets' / name}" in str(caught.value)
    for name in ("net_0.zip", "net_1.zip"):
        (cache / "downloads" / "nets" / name).write_bytes(zips[name])
    server.requests.clear()
    hashes = {name: hashlib.sha256(zips[name]).hexdigest() for name in ("net_0.zip", "net_1.zip")}
    with pytest.raises(FetchError, match=r"net_0\.zip lies in the cache, but it was not downloaded") as caught:
        find_bundle("nets")
    for name, value in hashes.items():
        assert f" --sha256 {name}={value}" in str(caught.value)
    assert not (cache / "downloads" / "sha256.json").exists()
    fetch("nets", hashes)
    assert len(find_bundle("nets").members) == 2
    assert server.requests == []


def test_server_gone(registry: dict[str, RegistryEntry], server: Server, cache: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match=r"cannot be downloaded.*put each file at the place named here"):
        find_bundle("nets")


def test_a_half_file_put_by_hand_is_not_recorded(
    registry: dict[str, RegistryEntry], cache: Path, zips: dict[str, bytes]
) -> None:
    folder = cache / "downloads" / "nets"
    folder.mkdir(parents=True)
    (folder / "net_0.zip").write_bytes(zips["net_0.zip"][:1000])
    with pytest.raises(FetchError, match=r"net_0\.zip: not a zip, or not a whole one; delete it"):
        fetch("nets")
    assert not (cache / "downloads" / "sha256.json").exists()


def test_a_whole_zip_without_a_model(
    registry: dict[str, RegistryEntry], server: Server, zips: dict[str, bytes]
) -> None:
    server.files["net_0.zip"] = zips["data.zip"]
    with pytest.raises(PublishedModelError, match="no published model"):
        fetch("nets")
    assert fetched("nets") is None


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_record_is_not_ignored(registry: dict[str, RegistryEntry], cache: Path, content: str) -> None:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "sha256.json").write_text(content)
    with pytest.raises(FetchError, match=r"sha256\.json cannot be read .*; repair it, or delete it"):
        fetch("nets")


def test_another_process_was_faster(
    registry: dict[str, RegistryEntry], cache: Path, monkeypatch: pytest.MonkeyPatch, zips: dict[str, bytes]
) -> None:
    def import_twice(name: str, files: list[Path], place: Path) -> None:
        for _ in range(2):
            import_published(files, place, name)

    monkeypatch.setattr(fetching, "_import", import_twice)
    assert load_bundle(fetch("nets")).name == "nets"


def test_unwritable_cache(registry: dict[str, RegistryEntry], cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(FetchError, match="lacks what was asked for and cannot be written"):
        fetch("nets")


def test_read_only_cache_that_holds_all(registry: dict[str, RegistryEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user where the tests run as root, whom permissions do not bind."""
    user: list[str] = []
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv: nothing here is read-only")
        user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from densecell_batch.models import fetching, registry\n"
        "registry.REGISTRY = {'nets': registry.REGISTRY['platelet-2d3d']}\n"
        "try:\n"
        "    Path(os.environ['DENSECELL_CACHE'], 'probe').touch()\n"
        "except PermissionError:\n"
        "    print(len(fetching.find_bundle('nets').weights(1)))\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are private to the user
        cache = Path(folder)
        monkeypatch.setenv("DENSECELL_CACHE", folder)
        monkeypatch.setenv("PYTHONPATH", str(Path(fetching.__file__).parents[2]))
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
    registry: dict[str, RegistryEntry], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundled").mkdir()
    made = import_published([data / "published/2d3d-small_A"], tmp_path / "bundled" / "demo", "demo")
    shutil.copytree(made.path, tmp_path / "elsewhere")
    monkeypatch.setattr(known, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    assert known.bundled_names() == ["demo"]
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


# ------------------------------------------------------------------------------------------- downloads, by a stranger


def moved(server: Server, name: str, *urls: str) -> None:
    """Redirects from one address to the next."""
    for i, url in enumerate(urls):
        server.moved[name if i == 0 else f"{name}.{i}"] = server.url(f"{name}.{i + 1}") if i < len(urls) - 1 else url


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_redirect_to_http_is_not_followed(
    registry: dict[str, RegistryEntry], server: Server, plain_server: Server, cache: Path, steps: int
) -> None:
    moved(server, "net_0.zip", *["on the way"] * (steps - 1), plain_server.url("net_0.zip"))
    with pytest.raises(FetchError, match=r"it leads to http://127.* expected an address with https"):
        fetch("nets")
    assert plain_server.requests == []
    assert not any(path.is_file() for path in cache.rglob("*"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/net_0.zip", "/net_0.zip"])
def test_redirects_to_other_schemes(
    registry: dict[str, RegistryEntry], server: Server, zips: dict[str, bytes], url: str
) -> None:
    server.files["elsewhere.zip"] = zips["net_0.zip"]
    moved(server, "net_0.zip", url if ":" in url else "/elsewhere.zip")
    if ":" not in url:  # within the server: as good as before
        assert len(find_bundle("nets").members) == 2
        return
    with pytest.raises(FetchError, match="expected an address with https"):
        fetch("nets")


def test_http_in_the_registry_and_redirects_in_a_ring(
    registry: dict[str, RegistryEntry], server: Server, plain_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.moved["net_0.zip"] = server.url("net_0.zip")
    with pytest.raises(FetchError, match="leads on more than 10 times"):
        fetch("nets")
    files = (RemoteFile("net_0.zip", plain_server.url("net_0.zip")),)
    monkeypatch.setitem(registry, "nets", replace(registry["nets"], files=files))
    with pytest.raises(FetchError, match="expected an address with https"):
        fetch("nets")
    assert plain_server.requests == []


@pytest.mark.parametrize("name", ["endless", "net_1.zip", "net_0.zip"])
def test_a_download_is_no_larger_than_it_may_be(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With a length that is said, without one, and without an end."""
    server.say_length = name == "net_1.zip"
    files = (RemoteFile(name, server.url(name), max_bytes=200_000),)
    monkeypatch.setitem(registry, "nets", replace(registry["nets"], files=files))
    with pytest.raises(FetchError, match=r"it has .*200,000"):
        fetch("nets")
    assert server.sent < 2**26
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_a_hash_of_the_users_goes_before_the_first_use(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    good = {name: hashlib.sha256(zips[name]).hexdigest() for name in ("net_0.zip", "net_1.zip")}
    with pytest.raises(FetchError, match=r"SHA256 is .* expected 0{64}.*--sha256 net_0\.zip=SHA256"):
        fetch("nets", {"net_0.zip": "0" * 64})
    with pytest.raises(OptionError, match=r"nets has no file 'net_9\.zip'; its files are net_0\.zip, net_1\.zip"):
        fetch("nets", {"net_9.zip": "0" * 64})
    assert fetched("nets") is None
    fetch("nets", good)
    assert fetch("nets", good) == fetched("nets")
    with pytest.raises(FetchError, match=r"was made of another net_1\.zip: its SHA-256 was .*, expected 1{64}"):
        fetch("nets", {"net_1.zip": "1" * 64})


def test_a_hash_that_was_recorded_for_another_file_can_be_overruled(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes]
) -> None:
    server.files["net_0.zip"] = zips["net_1.zip"]  # somebody was on the way when it was fetched for the first time
    fetch("nets")
    server.files["net_0.zip"] = zips["net_0.zip"]
    shutil.rmtree(cache / "models")
    (cache / "downloads" / "nets" / "net_0.zip").unlink()
    with pytest.raises(FetchError, match="does not deliver"):
        fetch("nets")
    good = {"net_0.zip": hashlib.sha256(zips["net_0.zip"]).hexdigest()}
    fetch("nets", good)
    assert json.loads((cache / "downloads" / "sha256.json").read_text())["nets/net_0.zip"] == good["net_0.zip"]


def test_what_was_fetched_before_the_line_broke_is_not_doubted(
    registry: dict[str, RegistryEntry], server: Server, zips: dict[str, bytes]
) -> None:
    del server.files["net_1.zip"]
    with pytest.raises(FetchError, match=r"net_1\.zip cannot be downloaded"):
        fetch("nets")
    server.files["net_1.zip"] = zips["net_1.zip"]
    fetch("nets")
    assert server.requests == ["net_0.zip", "net_1.zip", "net_1.zip"]


@pytest.mark.parametrize("present", [("net_0.zip",), ("net_1.zip",), ("net_0.zip", "net_1.zip")])
def test_zips_planted_before_the_first_fetch(
    registry: dict[str, RegistryEntry], server: Server, cache: Path, zips: dict[str, bytes], present: tuple[str, ...]
) -> None:
    folder = cache / "downloads" / "nets"
    folder.mkdir(parents=True)
    for name in present:
        (folder / name).write_bytes(zips["net_0.zip"])
    with pytest.raises(FetchError, match=r"lies in the cache, but it was not downloaded by this program.*") as caught:
        find_bundle("nets")
    assert str(caught.value).count("--sha256") == len(present)
    assert server.requests == []


@pytest.mark.parametrize(
    "content", ["[" * 10_000, '{"nets/net_0.zip": NaN}', '{"nets/net_0.zip": 5}', '{"nets/net_0.zip": "\\ud800"}']
)
def test_records_that_somebody_forged(registry: dict[str, RegistryEntry], cache: Path, content: str) -> None:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "sha256.json").write_text(content)
    with pytest.raises(FetchError, match=r"sha256\.json cannot be read .*; repair it, or delete it"):
        fetch("nets")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_records_that_are_no_files(registry: dict[str, RegistryEntry], cache: Path, make: Any) -> None:
    (cache / "downloads").mkdir(parents=True)
    make(cache / "downloads" / "sha256.json")
    with pytest.raises(FetchError, match=r"sha256\.json cannot be read .(it is no regular file|Is a directory)"):
        fetch("nets")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    "given", [".", "models", "models/nets", "models/nets/bundle.json", "models/nets/member-1.safetensors"]
)
def test_a_model_of_another_account_is_not_used(registry: dict[str, RegistryEntry], cache: Path, given: str) -> None:
    fetch("nets")
    os.chown(cache / given, 4242, -1)
    with pytest.raises(FetchError, match=r"belongs to another account .user 4242.*chmod g\+s"):
        find_bundle("nets")
    assert "another account" in fetching.distrusted_cache("nets")
    # A group that shares the cache, as its folder says.
    for path in (cache, *cache.rglob("*")):
        os.chown(path, -1, os.getgid())
    cache.chmod(0o2775)
    assert len(find_bundle("nets").members) == 2
    cache.chmod(0o2777)
    with pytest.raises(FetchError, match="belongs to another account"):
        find_bundle("nets")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("given", ["downloads", "downloads/nets", "downloads/nets/net_0.zip", "downloads/sha256.json"])
def test_downloads_of_another_account_are_not_used(registry: dict[str, RegistryEntry], cache: Path, given: str) -> None:
    fetch("nets")
    shutil.rmtree(cache / "models")
    os.chown(cache / given, 4242, -1)
    with pytest.raises(FetchError, match="belongs to another account"):
        find_bundle("nets")
    assert fetched("nets") is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_link_in_the_cache_counts_as_what_it_shows(
    registry: dict[str, RegistryEntry], cache: Path, tmp_path: Path
) -> None:
    fetch("nets")
    (cache / "models" / "nets").rename(tmp_path / "elsewhere")
    (cache / "models" / "nets").symlink_to(tmp_path / "elsewhere")
    assert fetching.distrusted_cache("nets") == ""
    os.chown(tmp_path / "elsewhere" / "bundle.json", 4242, -1)
    with pytest.raises(FetchError, match="belongs to another account"):
        find_bundle("nets")


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ModelError, match="nnn"):
        find_bundle("n" * 300)
    with pytest.raises(BundleError, match="no such file"):
        load_bundle(Path("n" * 300))
