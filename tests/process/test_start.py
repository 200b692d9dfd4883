"""What a command loads before it works: nobody waits for what is not needed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

# What takes long to load, beside numpy: engines, and parts of libraries for objects, splits and pictures.
HEAVY = (
    "openvino",
    "tensorflow",
    "keras",
    "jax",
    "scipy.sparse",
    "scipy.spatial",
    "scipy.ndimage",
    "skimage.measure._label",
)


def segment(*words: object) -> tuple[int, str, list[str]]:
    """Exit code and stdout of `densecell-batch segment WORDS`, and what of HEAVY it loaded."""
    code = (
        "import json, sys; from densecell_batch.cli import run_command; code = run_command(); "
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "segment", *map(str, words)], capture_output=True, text=True, check=False
    )
    *lines, last = done.stdout.splitlines()
    exit_code, loaded = json.loads(last)
    return exit_code, "\n".join(lines), loaded


@pytest.fixture
def bundle(data: Path, tmp_path: Path) -> Path:
    place = tmp_path / "bundle"
    shutil.unpack_archive(data / "fly-vnc-small.zip", place)
    return next(place.rglob("bundle.json")).parent


def test_done_before_loads_no_engine(data, bundle, tmp_path):
    """Nor the nets: where all is done, they may even be damaged. Where they are needed, that ends the run at once."""
    shutil.copy(data / "vnc-crop.tif", tmp_path / "x.tif")
    words = (tmp_path / "x.tif", "-o", tmp_path / "out", "--model", bundle)
    code, told, loaded = segment(*words)
    assert (code, told.count("\tok\t")) == (0, 1)
    assert "openvino" in loaded
    assert not {"scipy.sparse", "scipy.spatial", "skimage.measure._label", "tensorflow", "keras"} & {*loaded}

    member = next(bundle.glob("*.safetensors"))
    content = bytearray(member.read_bytes())
    content[-1] ^= 1
    member.write_bytes(content)
    assert segment(*words) == (0, told, [])

    tifffile.imwrite(
        tmp_path / "y.tif", tifffile.imread(data / "vnc-crop.tif")[:, ::-1], imagej=True, metadata={"axes": "ZYX"}
    )
    code, told, _ = segment(tmp_path / "y.tif", *words)
    assert (code, told) == (3, "")
    assert not list((tmp_path / "out").glob("y_*"))


@pytest.mark.parametrize(("block", "code"), [("left_in_imports()", 75), ("nullcontext()", 3)])
def test_a_signal_while_an_engine_is_imported(block, code):
    """C code that is imported turns an exception into an error of the import: such as 3, no engine."""
    program = (
        "import os, signal; from contextlib import nullcontext\n"
        "from densecell_batch.signals import left_in_imports, stop_on_signals\n"
        "stop_on_signals()\n"
        f"with {block}:\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except BaseException: os._exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == code


def test_after_an_import_a_signal_raises_again():
    program = (
        "import os, signal; from densecell_batch.errors import Stopped\n"
        "from densecell_batch.signals import left_in_imports, stop_on_signals\n"
        "stop_on_signals()\n"
        "with left_in_imports(): pass\n"
        "try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "except Stopped: os._exit(4)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 4
