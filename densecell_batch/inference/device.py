"""Which device computes, and in which precision.

`auto` does not trust processor flags: AVX512-BF16 doubles the rate of 3-D convolutions on some processors and halves
it on others (docs/design/0002-precision.md), so where the flag is there the choice is measured once, in about half a
second.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecell_batch.errors import DeviceError
from densecell_batch.nets.engines import ENGINES, is_installed, missing
from densecell_batch.system import amd_present, cpu_features, cpu_name, nvidia_present, threads

__all__ = [
    "PRECISIONS",
    "DeviceInfo",
    "Precision",
    "choose_precision",
    "convolution_rates",
    "select_device",
    "select_engine",
]

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")

_log = logging.getLogger(__name__)

# What rounds has to be this much faster to be worth it.
_WORTHWHILE = 1.2


@dataclass(frozen=True)
class DeviceInfo:
    """What computes."""

    kind: str  # "cpu" or "gpu"
    name: str  # as the system names it
    features: tuple[str, ...]  # CPU: those of `system.CPU_FEATURES` that are there; GPU: compute capability
    threads: int  # CPU cores that this process may use

    def __str__(self) -> str:
        return f"{self.kind}: {self.name} ({', '.join((*self.features, f'{self.threads} threads'))})"


@dataclass(frozen=True)
class Precision:
    """What the nets compute in, and why."""

    name: str  # of `PRECISIONS`, but "auto"
    reason: str


def select_engine(engine: str = "auto", device: str = "auto") -> tuple[str, DeviceInfo]:
    """Choose what computes, and on which device, before any net is built. TensorFlow is imported only if it may be it.

    Parameters
    ----------
    engine
        "openvino", "tensorflow", "jax", or "auto": the backend of Keras on a GPU that it can use, else OpenVINO where
        that is installed.
    device
        As for `select_device`.

    Returns
    -------
    engine : str
        One of `nets.engines.ENGINES`.
    device : DeviceInfo

    Raises
    ------
    DeviceError
        If the engine is not installed, or cannot use the device that is asked for.
    """
    if engine != "auto" and not is_installed(engine):
        raise DeviceError(missing(engine))
    if engine == "openvino" and device == "gpu":
        raise DeviceError(
            "--engine openvino computes on processors; leave it away for --device gpu, or give --engine tensorflow"
        )
    if engine == "openvino":
        return engine, _processor()
    if engine == "auto" and is_installed("openvino"):
        if device == "cpu" or (device == "auto" and not (nvidia_present() or amd_present())):
            return "openvino", _processor()
        if not any(map(is_installed, ENGINES[1:])):
            _tell_of_unused_gpu(device, "no engine that is installed here")
            return "openvino", _processor()
    from densecell_batch.nets.backend import backend, use_backend

    if engine != "auto":
        use_backend(engine)
    elif not any(map(is_installed, ENGINES)):
        raise DeviceError(missing("openvino"))
    found = select_device(device)
    if found.kind == "cpu" and engine == "auto" and is_installed("openvino"):
        return "openvino", found
    return backend(), found


def select_device(device: str = "auto") -> DeviceInfo:
    """Choose the device for the backend of Keras, before any net is built.

    Parameters
    ----------
    device
        "auto": a GPU if the backend can use one, else the CPU. "cpu", "gpu": that one or an error.

    Returns
    -------
    DeviceInfo

    Raises
    ------
    DeviceError
        If "gpu" is asked for and the backend can use none.
    """
    gpu = None if device == "cpu" else _usable_gpu()
    if device == "cpu":
        _hide_gpus()
    if gpu is not None:
        return gpu
    _tell_of_unused_gpu(device, "the installed backend")
    return _processor()


def _processor() -> DeviceInfo:
    return DeviceInfo("cpu", cpu_name(), cpu_features(), threads())


def _tell_of_unused_gpu(device: str, by: str) -> None:
    """Say loudly that there is a GPU that `by` cannot use; raise DeviceError if a GPU was asked for."""
    nvidia = nvidia_present()
    if device == "gpu":
        found = f"the NVIDIA device at {nvidia} cannot be used by {by}" if nvidia else "no GPU was found"
        raise DeviceError(
            f"--device gpu: {found}; install the GPU libraries (pip install 'densecell-batch[gpu]'), start the "
            "container with --gpus all (docker) or --nv (apptainer), or run with --device cpu; `densecell-batch "
            "doctor` shows more"
        )
    if device == "auto" and nvidia:
        _log.warning(
            "WARNING: an NVIDIA device is present (%s) but cannot be used: running on the CPU, which is many times "
            "slower. Install the GPU libraries (pip install 'densecell-batch[gpu]') or start the container with "
            "--gpus all / --nv; --device cpu silences this",
            nvidia,
        )


def choose_precision(
    precision: str, device: DeviceInfo, rates: Callable[..., dict[str, float]] | None = None, *, int8: str = "absent"
) -> Precision:
    """Resolve "auto"; any other name is taken as it is.

    Parameters
    ----------
    precision
        Of `PRECISIONS`.
    device
        What computes.
    rates
        (precision, ...) -> how fast it computes in each; by default, convolutions of the backend of Keras.
    int8
        Whether the nets can compute in eight bits here: "near" if they are then as good as in float32, "far" if not,
        "absent" if they cannot.

    Raises
    ------
    DeviceError
        If it cannot be had: float16 on a CPU, or int8 where it is absent.
    """
    if precision == "float16" and device.kind == "cpu":
        raise DeviceError("--precision float16 needs a GPU; on this CPU use float32, bfloat16, int8 or auto")
    if precision == "int8" and int8 == "absent":
        raise DeviceError(
            "--precision int8 needs a processor, --engine openvino, and a model that knows how its nets are rounded: "
            "`densecell-batch models quantize` makes one; or use --precision auto"
        )
    if precision != "auto":
        return Precision(precision, "asked for")
    if device.kind == "gpu":
        capability = float(device.features[0].rpartition(" ")[2]) if device.features else 0.0
        if capability >= 8:
            return Precision("bfloat16", f"GPU of {device.features[0]}")
        return Precision("float32", "GPU without bfloat16")
    others = ["bfloat16"] if {"avx512_bf16", "amx_bf16"} & set(device.features) else []
    if int8 == "near" and {"avx512_vnni", "avx_vnni", "amx_int8"} & set(device.features):
        others.append("int8")  # elsewhere pairs of products are added in 16 bits, which may overflow
    if not others:
        return Precision("float32", "processor or nets that can neither do bfloat16 nor int8")
    measured = (rates or convolution_rates)("float32", *others)
    times = {name: measured[name] / measured["float32"] for name in others}
    what = "convolutions run" if rates is None else "the nets run"
    told = " and ".join(f"in {name} {what} at {ratio:.2f} times" for name, ratio in times.items())
    best = max(others, key=lambda name: times[name])
    return Precision(best if times[best] >= _WORTHWHILE else "float32", f"{told} the float32 rate here")


def _usable_gpu() -> DeviceInfo | None:
    from densecell_batch.nets.backend import backend

    if backend() == "jax":
        import jax

        gpus = [d for d in jax.devices() if d.platform == "gpu"]
        if not gpus:
            return None
        capability = getattr(gpus[0], "compute_capability", "0.0")
        return DeviceInfo("gpu", gpus[0].device_kind, (f"compute capability {capability}",), threads())
    # The driver's own limit drops code before it is used again; it is read when CUDA starts.
    os.environ.setdefault("CUDA_CACHE_MAXSIZE", str(4 * 2**30))
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return None
    for gpu in devices:
        # Without growth the first process takes the whole card; too late once a net has run, then it does not matter.
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break
    details = tf.config.experimental.get_device_details(devices[0])
    major, minor = details.get("compute_capability", (0, 0))
    _tell_of_compiling(major, minor, tf.sysconfig.get_build_info().get("cuda_compute_capabilities", []))
    return DeviceInfo("gpu", details.get("device_name", "GPU"), (f"compute capability {major}.{minor}",), threads())


def _tell_of_compiling(major: int, minor: int, built_for: Sequence[str]) -> None:
    """Say so if the driver has to compile TensorFlow's code for this GPU at its first use: nothing else would, for many
    minutes.

    Parameters
    ----------
    major, minor
        Compute capability of the GPU.
    built_for
        As TensorFlow lists them: "sm_80" runs on 8.0 and later minors of 8; "compute_90" on 9.x, and can be compiled
        for later majors.
    """
    known = [divmod(int(name.rpartition("_")[2]), 10) for name in built_for]
    if not known or any(major == known_major and minor >= known_minor for known_major, known_minor in known):
        return
    folder = Path(os.environ.get("CUDA_CACHE_PATH") or Path.home() / ".nv" / "ComputeCache")
    _log.warning(
        "this GPU has compute capability %d.%d, and TensorFlow holds code for %s only: the driver compiles it now, "
        "which can take half an hour in which nothing seems to happen. It keeps the result in %s; give CUDA_CACHE_PATH "
        "a folder that lasts if this one does not (in a container: one of the host), and later starts are quick",
        major,
        minor,
        ", ".join(f"{known_major}.{known_minor}" for known_major, known_minor in known),
        folder,
    )


def _hide_gpus() -> None:
    from densecell_batch.nets.backend import backend

    if backend() == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        return
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:  # a net has already run: the GPU, if any, is in use
        _log.warning("--device cpu comes too late in this process: nets already run on another device")


def convolution_rates(*dtypes: str) -> dict[str, float]:
    """Rate of a 3x3x3 convolution, 64 to 64 channels, in each dtype, in GFLOP/s.

    The dtypes take turns and the best time counts, so that other work on the machine tells on neither.
    """
    from densecell_batch.nets.backend import compiled
    from densecell_batch.nets.build import ops

    rng = np.random.default_rng(0)
    image, kernel = (rng.standard_normal(shape, np.float32) for shape in ((1, 5, 64, 64, 64), (3, 3, 3, 64, 64)))
    # The sum brings one number back instead of an image and makes the call wait for a device that works asynchronously.
    convolve = compiled(lambda a, b: ops.cast(ops.sum(ops.conv(a, b, padding="same")), "float32"))
    inputs = {dtype: (ops.cast(image, dtype), ops.cast(kernel, dtype)) for dtype in dtypes}
    best = dict.fromkeys(dtypes, float("inf"))
    for dtype in dtypes:
        np.asarray(convolve(*inputs[dtype]))  # traces
    for dtype in dtypes * 6:
        start = time.perf_counter()
        np.asarray(convolve(*inputs[dtype]))
        best[dtype] = min(best[dtype], time.perf_counter() - start)
    return {dtype: 2 * 27 * 64 * image.size / seconds / 1e9 for dtype, seconds in best.items()}
