"""Dockerfile, Singularity.def and their scripts, as far as they can be checked without building."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from images import ROOT, definition

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFINITION = (ROOT / "Singularity.def").read_text()
SCRIPTS = sorted([*(ROOT / "container").glob("*.sh"), ROOT / "container/densecell"])


def tool(name):
    """A linter, from the environment of the tests."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*words, **options):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)


def test_dockerfile_is_clean():
    done = run(tool("hadolint"), ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    done = run(tool("shellcheck"), script)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "startscript", "test"])
def test_bodies_of_the_definition_are_clean(name):
    body = definition(DEFINITION)[1][name]
    done = run(tool("shellcheck"), "--shell=sh", "-", input=body)
    assert (done.returncode, done.stdout) == (0, "")


def test_definition_has_what_it_needs():
    header, sections = definition(DEFINITION)
    assert header == {"bootstrap": "docker", "from": "debian:bookworm-slim"}
    assert {"files", "post", "environment", "runscript", "test", "labels", "help"} <= set(sections)
    assert all(body.strip() for body in sections.values())
    assert "{{" not in str(sections)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%runscript", "%runscirpt", "unknown section: %runscirpt"),
        ("%startscript", "%runscript", "second section"),
        ("{{ VARIANT }}", "{{ VARAINT }}", "VARAINT"),
        ("Bootstrap: docker", "Bootstrap docker", "neither header nor section"),
    ],
)
def test_a_misspelt_definition_is_noticed(old, new, message):
    assert old in DEFINITION
    with pytest.raises(ValueError, match=message):
        definition(DEFINITION.replace(old, new, 1))


def test_another_parser_reads_the_same_definition():
    code = (
        "import json, sys; from spython.main.parse.parsers import SingularityParser as P\n"
        "recipe, = P(sys.argv[1]).parse().values(); print(json.dumps([recipe.cmd, recipe.files, recipe.labels]))"
    )
    pytest.importorskip("spython")
    done = run(sys.executable, "-c", code, ROOT / "Singularity.def")
    assert done.returncode == 0, done.stderr
    command, files, labels = json.loads(done.stdout.splitlines()[-1])
    sections = definition(DEFINITION)[1]
    assert command == sections["runscript"].strip()
    assert set(files) == {line.strip() for line in sections["files"].splitlines() if line.strip()}
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"]
    assert f"org.opencontainers.image.licenses {licence}" in labels


def test_both_run_the_same_script():
    steps = re.findall(r"install\.sh (\w+)", " ".join(re.findall("^RUN .*", DOCKERFILE, re.M)))
    assert sorted(steps) == ["dependencies", "imagej", "models", "package", "system"]
    assert re.findall(r"install\.sh (\w+)", definition(DEFINITION)[1]["post"]) == ["all"]


def test_both_copy_what_there_is():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = dict(line.split() for line in definition(DEFINITION)[1]["files"].splitlines() if line.strip())
    assert set(copied) == allowed > {"densecell_batch"}
    for name, target in copied.items():
        assert (ROOT / name).exists(), name
        assert target == f"/src/{name}"


def test_both_set_the_same_environment():
    """But for HOME, which Apptainer keeps, and what only Docker's GPU hook reads."""
    block = re.search(r"^ENV (.*?[^\\])$", DOCKERFILE, re.S | re.M)[1]
    docker = dict(word.split("=", 1) for word in block.replace("\\\n", " ").split())
    done = run("sh", "-c", definition(DEFINITION)[1]["environment"] + "env", env={"HOME": "/nonexistent"})
    apptainer = dict(line.split("=", 1) for line in done.stdout.splitlines())
    for name in (
        "PATH",
        "HOME",
        "LANG",
        "KERAS_HOME",
        "DENSECELL_CACHE",
        "PYTHONDONTWRITEBYTECODE",
        "CUDA_CACHE_MAXSIZE",
    ):
        assert docker[name] == apptainer[name], name


def test_host_settings_for_another_python_do_not_come_in(tmp_path):
    host = {"PYTHONPATH": "/evil", "KERAS_BACKEND": "torch", "HOME": str(tmp_path), "DENSECELL_CACHE": "/mine"}
    body = definition(DEFINITION)[1]["environment"]
    found = dict(line.split("=", 1) for line in run("sh", "-c", body + "env", env=host).stdout.splitlines())
    assert not {"PYTHONPATH", "KERAS_BACKEND"} & set(found)
    assert (found["HOME"], found["DENSECELL_CACHE"]) == (str(tmp_path), "/mine")


def test_image_is_not_root_and_nothing_lies_in_home():
    assert re.search(r"^USER 1000:1000$", DOCKERFILE, re.M)
    assert re.search(r'^ENTRYPOINT \["densecell-batch"\]$', DOCKERFILE, re.M)
    for text in (DOCKERFILE, DEFINITION, *(script.read_text() for script in SCRIPTS)):
        assert not re.search(r"(?<!\w)/(root|home)\b", text)


# The pinned packages


PIN = re.compile(r"([a-z0-9-]+)==(\S+?)((?: \\\n {4}--hash=sha256:[0-9a-f]{64})+)\n")


def constraints(variant):
    return (ROOT / f"container/constraints-{variant}.txt").read_text()


def pins(variant):
    return {name: version for name, version, _ in PIN.findall(constraints(variant))}


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_every_pin_has_its_hash_and_nothing_else_is_there(variant):
    """No place to fetch from, and no option: pip takes these very files, wherever they come from."""
    rest = PIN.sub("", constraints(variant)).splitlines()
    assert rest == [f"# Made by: container/constraints.sh {variant}", "# For ImageJ alone (FIJI=1)"]
    assert len(PIN.findall(constraints(variant))) == len(pins(variant)) > 40


def test_images_install_by_hash_alone():
    """Each `pip install` of the script: pinned packages, or the project with the build tool that is there."""
    script = (ROOT / "container/install.sh").read_text()
    calls = re.findall(r"^ *(pip_install .*|.*\bpip\b.* install .*)$", script, re.M)
    assert len(calls) == 3
    wrapper = [call for call in calls if '"$@"' in call]
    assert len(wrapper) == 1
    for call in calls:
        assert "--require-hashes" in call or "--no-deps --no-build-isolation" in call or call in wrapper
    assert "setuptools" in pins("cpu")
    assert "setuptools" in pins("gpu")


@pytest.mark.parametrize(("fiji", "there"), [("1", True), ("", False)])
def test_packages_of_imagej_can_be_left_out(fiji, there, tmp_path):
    """As install.sh does it."""
    script = (ROOT / "container/install.sh").read_text()
    lines = [line.strip() for line in script.splitlines() if "For ImageJ alone" in line]
    assert len(lines) == 1
    words = lines[0].replace("/opt/build/pins.txt", str(tmp_path / "pins.txt"))
    done = run("sh", "-c", words, env=os.environ | {"fiji": fiji, "pins": str(ROOT / "container/constraints-cpu.txt")})
    assert done.returncode == 0, done.stderr
    left = {name for name, _, _ in PIN.findall((tmp_path / "pins.txt").read_text())}
    assert ("pyimagej" in left) == there
    assert ("jpype1" in left) == there
    assert {"openvino", "numpy"} <= left


def test_pins_are_made_of_reports(tmp_path):
    """Two kinds of processor, for one of which a package is another file."""

    def report(name, **packages):
        found = [
            {
                "metadata": {"name": key.replace("_", "-").title(), "version": "1.0"},
                "download_info": {"archive_info": {"hashes": {"sha256": value * 64}}},
            }
            for key, value in packages.items()
        ]
        (tmp_path / name).write_text(json.dumps({"install": found}))
        return tmp_path / name

    plain = report("plain.json", numpy="a", scikit_image="b")
    both = report("imagej.json", numpy="a", scikit_image="b", jgo="c")
    other = report("other.json", numpy="d", scikit_image="b", jgo="c")
    program = ROOT / "container/pins.py"
    made = run(sys.executable, program, "pins", plain, both, other).stdout
    assert PIN.findall(made) == [
        ("numpy", "1.0", f" \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'d' * 64}"),
        ("scikit-image", "1.0", f" \\\n    --hash=sha256:{'b' * 64}"),
        ("jgo", "1.0", f" \\\n    --hash=sha256:{'c' * 64}"),
    ]
    (tmp_path / "made.txt").write_text(made)
    names = run(sys.executable, program, "versions", tmp_path / "made.txt").stdout.split()
    assert names == ["numpy==1.0", "scikit-image==1.0", "jgo==1.0"]


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_all_that_the_package_needs_is_pinned(variant):
    done = run(sys.executable, ROOT / "container/requirements.py", variant, "fiji")
    assert done.returncode == 0, done.stderr
    for requirement in done.stdout.split():
        name, lowest = re.fullmatch(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)", requirement).groups()
        assert name in pins(variant), f"{name} is not pinned: make image-constraints"
        assert version(pins(variant)[name]) >= version(lowest), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ["fiji", "gpu"] if variant == "gpu" else ["fiji"]
    wanted = [
        "setuptools",
        *project["dependencies"],
        *(r for extra in extras for r in project["optional-dependencies"][extra]),
    ]
    assert len(wanted) - len(done.stdout.split()) == (0 if variant == "gpu" else 2)


def version(text):
    return [int(part) for part in re.findall(r"\d+", text)]


def test_the_image_for_processors_is_that_for_gpus_without_tensorflow():
    cpu, gpu = pins("cpu"), pins("gpu")
    assert cpu.items() < gpu.items()
    others = gpu.keys() - cpu.keys()
    assert {"tensorflow", "keras", "nvidia-cudnn-cu12"} < others
    assert "openvino" in cpu


def test_unknown_variant_is_refused():
    assert "expected cpu or gpu" in run(sys.executable, ROOT / "container/requirements.py", "tpu").stderr
    done = run("sh", ROOT / "container/install.sh", "all", env={"VARIANT": "tpu", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 1
    assert "VARIANT is 'tpu'; expected cpu or gpu" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_pinned_packages_fit_together_and_can_be_had(variant):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the pins are those of Python 3.11")
    done = run(ROOT / "container/constraints.sh", variant, "--check", env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(pins(variant))} packages fit together" in done.stdout


# The base


def test_the_base_may_be_given_by_its_digest():
    """Make, Dockerfile and definition hand on whatever is said; the image says what it was."""
    base = "debian:bookworm-slim@sha256:" + "0" * 64
    done = run(tool("make"), "--no-print-directory", "-n", "image", f"BASE={base}", "ENGINE=docker", cwd=ROOT)
    assert f"--build-arg BASE={base} " in done.stdout, done.stderr
    assert "--build-arg BASE=debian:bookworm-slim " in run(
        tool("make"), "--no-print-directory", "-n", "image", "ENGINE=docker", cwd=ROOT
    ).stdout.replace("\\\n", "")
    assert set(re.findall("^FROM (\\S+)", DOCKERFILE, re.M)) == {"${BASE}", "dependencies"}
    assert 'image.base.name="${BASE}"' in DOCKERFILE
    assert definition(DEFINITION.replace("BASE=debian:bookworm-slim", f"BASE={base}"))[0]["from"] == base


# What runs as a service


def test_the_unit_of_systemd_is_sandboxed():
    unit = ROOT / "container/densecell-watch.service"
    done = run(tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", unit)
    assert done.returncode == 0, done.stderr
    exposure = float(re.search(r"Overall exposure level for densecell-watch.service: ([\d.]+)", done.stdout)[1])
    assert exposure < 3, done.stdout
    limits = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"\w+=", line))
    assert (limits["ReadOnlyPaths"], limits["ReadWritePaths"]) == ("/data/in", "/data/out")
    assert limits["MemoryMax"]
    assert limits["SuccessExitStatus"] == "75"
    assert "MemoryDenyWriteExecute" not in limits  # Java and the engines compile while they run


def test_systemd_understands_every_line_of_the_unit(tmp_path):
    text = (ROOT / "container/densecell-watch.service").read_text()
    (tmp_path / "densecell-watch.service").write_text(re.sub("ExecStart=.*", "ExecStart=/bin/true", text))
    done = run(tool("systemd-analyze"), "verify", "--man=no", tmp_path / "densecell-watch.service")
    assert "densecell-watch" not in done.stderr, done.stderr


def test_compose_gives_the_container_what_it_needs_and_no_more():
    text = (ROOT / "compose.yaml").read_text()
    for line in (
        "- ./in:/in:ro", "network_mode: none", "read_only: true", "cap_drop: [ALL]", 'mem_limit: "${DENSECELL_MEMORY:-',
        'memswap_limit: "${DENSECELL_MEMORY:-', 'cpus: "${DENSECELL_CPUS:-', "pids_limit: ",
        'security_opt: ["no-new-privileges:true"]',
    ):  # fmt: skip
        assert re.search(rf"^ +{re.escape(line)}", text, re.M), line
    assert "privileged: true" not in text
