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


def test_a_signal_while_an_engine_is_imported():
    """C code that is imported turns an exception into an error of the import, which would pass for a missing engine."""
    program = """
import os, signal, sys
from densecell_batch.errors import Stopped
from densecell_batch.nets.architecture import UNet2D
from densecell_batch.nets.engines import make_engine
from densecell_batch.signals import stop_on_signals

class Importer:
    def find_spec(self, name, path=None, target=None):
        if name == "densecell_batch.nets.engines.openvino":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException:
                raise ImportError("initialization failed")

stop_on_signals()
if sys.argv[1] == "during":
    sys.meta_path.insert(0, Importer())
make_engine("openvino", UNet2D(3, 4, 2), "float32", None)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except Stopped:
    os._exit(4)
"""
    for when, code in (("during", 75), ("after", 4)):
        assert subprocess.run([sys.executable, "-c", program, when], check=False, timeout=60).returncode == code
