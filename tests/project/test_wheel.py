"""What is built of the project: nothing stays in the clone, the wheel has all that is needed, and it runs elsewhere."""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from images import ROOT

MODELS = ("fly-vnc", "fly-vnc-2d3d", "fly-vnc-fast")
STACKS = ("fly-vnc-sample", "fly-vnc-labelled", "platelet-slices")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def run(*words, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = list(map(str, words))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_wheel(source, out):
    """As `pip wheel .` in the clone, and `pip install .`, but without a network."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", out]
    run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=source)
    (wheel,) = out.glob("*.whl")
    return wheel


def hook(name, source, out):
    """What pip and `build` call, without them."""
    out.mkdir()
    return out / run(sys.executable, "-c", HOOK, name, out, cwd=source).splitlines()[-1]


def there(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def content(wheel):
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


def copy(target):
    for name in ("densecell_batch", "macros"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A clone, without what no package is made of."""
    return copy(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    before = there(source)
    built = pip_wheel(source, tmp_path_factory.mktemp("wheel"))
    assert there(source) == before
    return built


def test_the_wheel_has_all_that_is_in_the_package_and_the_macros(source, wheel):
    files = {name for name in there(source) if name.startswith(("densecell_batch/", "macros/"))}
    assert content(wheel) == {re.sub("^macros/", "densecell_batch/macros/", name) for name in files}
    assert {
        "densecell_batch/py.typed",
        *(f"densecell_batch/data/{name}/TERMS.md" for name in MODELS + STACKS),
    } < content(wheel)


def test_a_deleted_module_does_not_come_back(wheel, tmp_path):
    """Not from the last build, and not from what older versions left in build/."""
    source = copy(tmp_path / "clone")
    gone = source / "densecell_batch/gone.py"
    gone.touch()
    assert "densecell_batch/gone.py" in content(pip_wheel(source, tmp_path / "first"))
    gone.unlink()
    shutil.copytree(source / "densecell_batch/cli", source / "build/lib/densecell_batch/gone")
    assert content(pip_wheel(source, tmp_path / "second")) == content(wheel)


def test_the_source_distribution_makes_the_same_wheel(source, wheel, tmp_path):
    before = there(source)
    sdist = hook("build_sdist", source, tmp_path / "sdist")
    assert there(source) == before
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("densecell_batch-*")
    assert not (unpacked / "tests").exists()
    assert content(hook("build_wheel", unpacked, tmp_path / "wheel")) == content(wheel)


def metadata(text):
    return email.message_from_string(text)


def test_what_the_index_says(wheel):
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        found = metadata(opened.read(name).decode())
    assert found["License-Expression"] == "BSD-3-Clause AND CC-BY-NC-SA-3.0 AND LicenseRef-NIBIB-public-release"
    assert len(found.get_all("License-File")) == 1 + len(MODELS + STACKS)  # the first is that of the code
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", workflow)[1])
    said = [c.rpartition(" ")[2] for c in found.get_all("Classifier") if c.startswith("Programming Language")]
    assert said == tested


@pytest.mark.parametrize("address", [None, "https://example.org/densecell-batch"])
def test_links_of_the_readme_work_on_the_index(address, tmp_path):
    source = copy(tmp_path / "clone")
    text = (source / "pyproject.toml").read_text(encoding="utf-8")
    text = re.sub(r"^#? ?Repository = .*\n", "", text, flags=re.M)
    if address:
        text = text.replace("[project.urls]\n", f'[project.urls]\nRepository = "{address}"\n')
    (source / "pyproject.toml").write_text(text, encoding="utf-8")
    info = hook("prepare_metadata_for_build_wheel", source, tmp_path / "info")
    body = metadata((info / "METADATA").read_text(encoding="utf-8")).get_payload()
    links = re.findall(r"\]\(([^)]*)\)", body)
    assert bool(links) == bool(address)
    pictures = re.findall(r"!\[[^]]+\]\(([^)]*)\)", body)
    assert pictures == ([f"{address}/raw/main/docs/pictures/first.png"] if address else [])
    assert re.search(r"^!", body, re.M) is None or address
    assert all(link.startswith("https://") for link in links)
    for link in links:
        path = re.sub(rf"{address}/(blob|raw)/main/", "", link)
        assert (ROOT / path).exists() or path.startswith("https://"), link


def test_an_installed_wheel_runs_without_the_clone(wheel, tmp_path):
    """In an environment of its own, which borrows the dependencies of this one, but not its finder of the clone."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = run(python, "-c", code, cwd=tmp_path).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    assert run(python, "-c", "import densecell_batch; print(densecell_batch.__file__)", cwd=tmp_path).startswith(site)
    program = tmp_path / "venv/bin/densecell-batch"
    assert "Usage: densecell-batch demo" in run(program, "demo", "--help", cwd=tmp_path)
    assert all(name in run(program, "models", "list", cwd=tmp_path) for name in MODELS)
    assert "FAIL" not in run(program, "doctor", cwd=tmp_path)
    for name in MODELS:
        run(program, "models", "verify", name, cwd=tmp_path)
    (tmp_path / "ImageJ/plugins").mkdir(parents=True)
    (tmp_path / "ImageJ/ij.jar").touch()
    run(program, "fiji", "install", tmp_path / "ImageJ", cwd=tmp_path)
    assert list((tmp_path / "ImageJ").rglob("DenseCell_Segment.ijm"))
