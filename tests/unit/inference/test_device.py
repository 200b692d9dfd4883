"""Device and precision: what is found, and what is refused."""

import logging
import os
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from limits import memory_limit, run_in

from densecell_batch import system
from densecell_batch.errors import DeviceError
from densecell_batch.inference import device
from densecell_batch.inference.device import (
    DeviceInfo,
    choose_precision,
    convolution_rates,
    select_device,
    select_engine,
)
from densecell_batch.system import CPU_FEATURES, available_memory

PLAIN = DeviceInfo("cpu", "a processor", ("avx2",), 2)
BF16 = DeviceInfo("cpu", "a processor", ("avx2", "avx512f", "avx512_bf16"), 2)
VNNI = DeviceInfo("cpu", "a processor", ("avx2", "avx_vnni"), 2)
BOTH = DeviceInfo("cpu", "a processor", (*BF16.features, "avx512_vnni"), 2)


def gpu(capability):
    return DeviceInfo("gpu", "a card", (f"compute capability {capability}",), 2)


@pytest.mark.parametrize(
    ("asked", "info", "rates", "int8", "expected"),
    [
        ("bfloat16", PLAIN, None, "absent", "bfloat16"),
        ("float32", BF16, None, "near", "float32"),
        ("auto", PLAIN, None, "absent", "float32"),
        ("auto", BF16, {"float32": 200, "bfloat16": 400}, "absent", "bfloat16"),
        ("auto", BF16, {"float32": 380, "bfloat16": 200}, "absent", "float32"),  # measured: flag there, half the rate
        ("auto", BF16, {"float32": 200, "bfloat16": 210}, "absent", "float32"),  # not worth its rounding
        ("auto", BOTH, {"float32": 200, "bfloat16": 400, "int8": 700}, "near", "int8"),
        ("auto", BOTH, {"float32": 200, "bfloat16": 400, "int8": 300}, "near", "bfloat16"),
        ("auto", BOTH, {"float32": 200, "bfloat16": 400, "int8": 700}, "far", "bfloat16"),
        ("auto", VNNI, {"float32": 200, "int8": 400}, "near", "int8"),
        ("auto", VNNI, {"float32": 200, "int8": 210}, "near", "float32"),
        ("auto", PLAIN, None, "near", "float32"),  # its sums of products may overflow
        ("auto", PLAIN, None, "far", "float32"),
        ("int8", PLAIN, None, "far", "int8"),
        ("auto", gpu("9.0"), None, "absent", "bfloat16"),
        ("auto", gpu("12.1"), None, "absent", "bfloat16"),
        ("auto", gpu("7.5"), None, "absent", "float32"),
        ("float16", gpu("7.5"), None, "absent", "float16"),
    ],
)
def test_choice_of_precision(asked, info, rates, int8, expected):
    def measured(*precisions):
        return {precision: rates[precision] for precision in precisions}

    assert choose_precision(asked, info, measured, int8=int8).name == expected


def test_int8_needs_nets_that_know_how():
    with pytest.raises(DeviceError, match="models quantize"):
        choose_precision("int8", BF16)


def test_float16_needs_a_gpu():
    with pytest.raises(DeviceError, match="float16 needs a GPU"):
        choose_precision("float16", PLAIN)


@pytest.mark.keras
def test_rates_are_measured():
    rates = convolution_rates("float32", "bfloat16")
    assert set(rates) == {"float32", "bfloat16"}
    assert 0.1 < min(rates.values()) <= max(rates.values()) < 1e6


@pytest.mark.keras
def test_the_best_of_six_turns_is_the_rate(monkeypatch):
    """By a clock of our own: 27 products and sums for each of 64 x 64 pairs of channels and each voxel."""
    seconds = [0.3, 0.4, 0.2, 0.4, 0.1, 0.8, 0.3, 0.4, 0.3, 0.4, 0.3, 0.4]  # float32 and bfloat16 take turns
    ticks = iter(np.cumsum([0.0, *(part for turn in seconds for part in (turn, 5.0))]))
    monkeypatch.setattr(device, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    operations = 2 * 27 * 64 * 64 * (5 * 64 * 64)
    rates = convolution_rates("float32", "bfloat16")
    assert rates == pytest.approx({"float32": operations / 0.1 / 1e9, "bfloat16": operations / 0.4 / 1e9})


@pytest.mark.keras
def test_cpu_is_described():
    info = select_device("cpu")
    assert info.kind == "cpu"
    assert info.name
    assert info.threads >= 1
    assert info.name in str(info)
    assert str(BF16) == "cpu: a processor (avx2, avx512f, avx512_bf16, 2 threads)"


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="others describe themselves less")
@pytest.mark.keras
def test_the_cpu_is_the_one_that_linux_describes():
    info, described = select_device("cpu"), Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    flags = re.search(r"^flags\s*: (.*)", described, re.M)[1].split()
    assert info.name == re.search(r"^model name\s*: (.*)", described, re.M)[1]
    assert info.features == tuple(f for f in CPU_FEATURES if f in flags)
    assert info.threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("nvidia", "found"), [(None, "no GPU was found"), ("/dev/nvidia0", "/dev/nvidia0 cannot be used")]
)
def test_gpu_asked_for_and_not_there(monkeypatch, nvidia, found):
    monkeypatch.setattr(device, "_usable_gpu", lambda: None)
    monkeypatch.setattr(device, "nvidia_present", lambda: nvidia)
    with pytest.raises(DeviceError, match=found):
        select_device("gpu")


@pytest.mark.parametrize("nvidia", [None, "/dev/nvidia0"])
def test_unusable_nvidia_is_a_loud_warning_under_auto(monkeypatch, caplog, nvidia):
    monkeypatch.setattr(device, "_usable_gpu", lambda: None)
    monkeypatch.setattr(device, "nvidia_present", lambda: nvidia)
    with caplog.at_level(logging.WARNING):
        assert select_device("auto").kind == "cpu"
    assert ("NVIDIA device is present" in caplog.text) == (nvidia is not None)


BUILT_FOR = ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]  # of TensorFlow 2.21


@pytest.mark.parametrize(
    ("capability", "built_for", "told"),
    [
        ((9, 0), BUILT_FOR, False),
        ((8, 6), BUILT_FOR, False),  # code of 8.0 runs
        ((7, 5), BUILT_FOR, False),
        ((12, 0), BUILT_FOR, True),
        ((10, 0), BUILT_FOR, True),
        ((10, 0), [*BUILT_FOR, "sm_100"], False),
        ((12, 0), [*BUILT_FOR, "compute_120"], False),
        ((12, 0), [], False),  # a TensorFlow that does not say
    ],
)
def test_a_gpu_that_needs_compiling_is_told_of(monkeypatch, caplog, capability, built_for, told):
    monkeypatch.setenv("CUDA_CACHE_PATH", "/kept/here")
    with caplog.at_level(logging.WARNING):
        device._tell_of_compiling(*capability, built_for)
    assert ("can take half an hour" in caplog.text) == told
    if told:
        assert "{}.{}".format(*capability) in caplog.text
        assert "/kept/here" in caplog.text


@pytest.mark.keras
def test_tensorflow_says_what_it_was_built_for():
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    if not build["is_cuda_build"]:
        pytest.skip("this TensorFlow was built for processors alone")
    built_for = build["cuda_compute_capabilities"]
    assert built_for
    assert all(re.fullmatch(r"(sm|compute)_\d+", name) for name in built_for), built_for


def test_available_memory_is_plausible():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 < available_memory() < total


def test_memory_of_a_control_group_of_this_machine():
    with memory_limit(2**28) as group:
        if group is None:
            pytest.skip("no cgroup can be made here: that takes root, outside of a container")
        code = "from densecell_batch.system import available_memory; print(available_memory())"
        done = run_in(group, [sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert 2**26 < int(done.stdout) < 2**28


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_nested_control_groups(tmp_path, version):
    """A container, or a job of Slurm, has less than the machine; what files in the cache take can be had."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    root = tmp_path / "cgroup"
    top = root / "memory" if version == 1 else root
    for path, limit, used, cache in (("", "max", 9, 0), ("slurm", 500, 200, 50), ("slurm/job", 400, 390, 100)):
        (top / path).mkdir(parents=True, exist_ok=True)
        (top / path / names[0]).write_text(str(limit))
        (top / path / names[1]).write_text(str(used))
        (top / path / "memory.stat").write_text(f"total_inactive_file {cache}\ninactive_file {cache}\n")
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/x\n" + ("5:memory:/slurm/job\n" if version == 1 else "0::/slurm/job\n"))
    assert system._left_in_cgroups(root, own) == [110, 350]
    own.write_text("0::/of/the/host\n")
    assert system._left_in_cgroups(tmp_path / "none", own) == []
    assert system._left_in_cgroups(root, tmp_path / "none") == []


CARD = DeviceInfo("gpu", "a card", ("compute capability 9.0",), 2)


@pytest.mark.parametrize(
    ("engine", "asked", "installed", "nvidia", "usable", "expected"),
    [
        ("auto", "auto", "openvino tensorflow", False, False, ("openvino", "cpu")),
        ("auto", "cpu", "openvino tensorflow", True, True, ("openvino", "cpu")),
        ("auto", "auto", "openvino tensorflow", True, True, ("tensorflow", "gpu")),
        ("auto", "auto", "openvino tensorflow", True, False, ("openvino", "cpu")),  # and a warning
        ("auto", "gpu", "openvino tensorflow", False, True, ("tensorflow", "gpu")),  # of a kind that nobody looks for
        ("auto", "auto", "openvino", True, True, ("openvino", "cpu")),  # and a warning
        ("auto", "auto", "openvino", False, False, ("openvino", "cpu")),
        ("auto", "auto", "tensorflow", False, False, ("tensorflow", "cpu")),
        ("openvino", "auto", "openvino tensorflow", True, True, ("openvino", "cpu")),
        ("tensorflow", "auto", "openvino tensorflow", False, False, ("tensorflow", "cpu")),
        ("tensorflow", "auto", "openvino tensorflow", True, True, ("tensorflow", "gpu")),
        ("tensorflow", "cpu", "openvino tensorflow", True, True, ("tensorflow", "cpu")),
    ],
)
@pytest.mark.keras
def test_choice_of_engine(monkeypatch, caplog, engine, asked, installed, nvidia, usable, expected):
    monkeypatch.setattr(device, "is_installed", lambda name: name in installed.split())
    monkeypatch.setattr(device, "nvidia_present", lambda: "/dev/nvidia0" if nvidia else None)
    monkeypatch.setattr(device, "amd_present", lambda: False)
    monkeypatch.setattr(device, "_usable_gpu", lambda: CARD if usable else None)
    with caplog.at_level(logging.WARNING):
        name, chosen = select_engine(engine, asked)
    assert (name, chosen.kind) == expected
    warned = asked == "auto" and nvidia and chosen.kind == "cpu" and engine == "auto"
    assert ("NVIDIA device is present" in caplog.text) == warned


@pytest.mark.parametrize(
    ("engine", "asked", "installed", "told"),
    [
        ("jax", "auto", "openvino tensorflow", "pip install jax keras"),
        ("openvino", "auto", "tensorflow", "pip install openvino"),
        ("auto", "auto", "", "pip install openvino"),
        ("openvino", "gpu", "openvino tensorflow", "computes on processors"),
        ("auto", "gpu", "openvino", "--device gpu: no GPU was found"),
        ("jax", "auto", "jax tensorflow", "cannot change to jax"),  # this process computes with TensorFlow
    ],
)
@pytest.mark.keras
def test_engines_that_cannot_be_had(monkeypatch, engine, asked, installed, told):
    import densecell_batch.nets.build  # noqa: F401

    monkeypatch.setattr(device, "is_installed", lambda name: name in installed.split())
    monkeypatch.setattr(device, "nvidia_present", lambda: None)
    with pytest.raises(DeviceError, match=re.escape(told)):
        select_engine(engine, asked)
