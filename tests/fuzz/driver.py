"""What all targets share: damage at random, run, and say what is wrong.

A target runs in a process of its own, which writes each input to a file before it reads it, so that an input that ends
the process is known, too.
"""

from __future__ import annotations

import importlib
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecell_batch.errors import DensecellError

__all__ = ["TARGETS", "Target", "fuzz", "mutated", "mutated_json", "run_once"]

TARGETS = ("bundle", "published", "tiff", "report", "ledger")

_SECONDS = 20  # that an input may take
_MEMORY = 1 * 2**30  # bytes of address space that reading may add; twice that ends the process
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)

# What JSON of a stranger might say anywhere, as JSON.
_VALUES = (
    "null", "true", "-1", "0", "1e400", "1e-400", "NaN", "-Infinity", "9" * 30, "9" * 5000, "2147483648", '""', '"a"',
    '"a\\nb"', '"\\u001b[2J"', '"\\u202e"', '"\\ud800"', '"' + "x" * 10_000 + '"', '"../../x"', "[]", "{}", "[[]]",
    '[{"name": "a", "colour": [1, 2, 3]}]', "[1, 1, 1]", "[5, 100000, 100000]", "[16384, 20, 20]",
    "[" * 200 + "]" * 200, "[" * 20_000, '{"family": "unet2d", "n_classes": 5}', '{"a": {"b": [1, {}]}}', "4096", "256",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader and what it is given.

    Attributes
    ----------
    seeds
        Good inputs.
    read
        Reads the file; returns, or raises a DensecellError.
    suffix
        Of the file's name.
    mutate
        Makes a random input of a good one; `mutated` if the format has no checksums that would hide all else.
    """

    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[Path], object]
    suffix: str = ""
    mutate: Callable[[random.Random, bytes], bytes] = lambda rng, content: mutated(rng, content)


def target(name: str) -> Target:
    """The target of a name: `TARGET` in the module of that name."""
    found: Target = importlib.import_module(f"{__package__}.{name}").TARGET
    return found


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A few random changes of bytes: flipped, set to a number at the edge of its range, cut, repeated, moved."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                size = rng.choice((1, 2, 4, 8))
                value = rng.choice(_INTERESTING) & (256**size - 1)
                data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
            case 3:
                del data[at : at + rng.choice((1, 4, 64, len(data)))]
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 4, 64))] * rng.choice((1, 2, 50))
            case _:
                end = at + rng.choice((1, 4, 16))
                data[at:end] = data[rng.randrange(len(data)) :][: end - at]
    return bytes(data)


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    """JSON with another value, or another key, somewhere."""
    values = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        inside: Any = values
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(inside[key], dict | list) and inside[key] and rng.random() < 0.7:
                inside = inside[key]
                continue
            if isinstance(inside, dict) and rng.random() < 0.1:
                inside[rng.choice(("new", "\x1b]0;x\x07", "a\nb", "\u202e", "\ud800"))] = inside.pop(key)
            else:
                inside[key] = f"<{rng.randrange(len(_VALUES))}>"
            break
    text = json.dumps(values)
    for i, value in enumerate(_VALUES):
        text = text.replace(f'"<{i}>"', value)
    return text.encode()


def run_once(found: Target, path: Path) -> str:
    """Read one input; what is wrong with how that ended, or an empty text."""
    begun = time.monotonic()
    try:
        found.read(path)
    except DensecellError as error:
        if not str(error).isprintable() and "\n  " not in str(error):
            return f"an error text with control characters: {str(error)!r}"
    except Exception:
        return traceback.format_exc()
    seconds = time.monotonic() - begun
    return f"took {seconds:.0f} s" if seconds > _SECONDS else ""


def fuzz(name: str, seconds: float, seed: int, keep: Path) -> list[Path]:
    """Fuzz one target in a process of its own.

    Parameters
    ----------
    name
        Of the target.
    seconds
        How long.
    seed
        Of the random numbers.
    keep
        Folder for inputs with which something is wrong.

    Returns
    -------
    list of Path
        These inputs; beside each a `.txt` with what is wrong.
    """
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __package__, name, "--here", folder, "--seconds", seconds, "--seed", seed]
        # Hung for good: an input may take its time, and a machine may be busy.
        limit = seconds + 10 * _SECONDS
        current = Path(folder) / f"input{target(name).suffix}"
        try:
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=limit)
            problem = f"the process ended with {done.returncode}: {done.stderr[-2000:]}" if done.returncode else ""
            print(done.stdout, end="")
        except subprocess.TimeoutExpired:
            problem = f"nothing came for {limit:.0f} s"
        if not problem:
            return []
        kept = keep / f"{name}-{seed}{current.suffix}"
        if current.exists():
            shutil.copyfile(current, kept)
        kept.with_suffix(".txt").write_text(problem)
        print(f"{name}: {problem}\n  the input: {kept}", file=sys.stderr)
        return [kept]


def fuzz_here(name: str, folder: Path, seconds: float, seed: int) -> str:
    """The loop of `fuzz`, in this process: until the time is over, or something is wrong."""
    found, rng = target(name), random.Random(seed)
    seeds = found.seeds()
    path = folder / f"input{found.suffix}"
    for content in seeds:  # also imports what is imported when it is needed
        path.write_bytes(content)
        found.read(path)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * _MEMORY,) * 2)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        path.write_bytes(found.mutate(rng, rng.choice(seeds)))
        problem = run_once(found, path)
        count += 1
        if problem:
            return f"input {count}: {problem}"
    print(f"{name}: {count:,} inputs, nothing wrong")
    return ""
