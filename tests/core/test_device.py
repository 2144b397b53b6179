"""What is decided about the machine is decided by measurement, and said."""

import ctypes
import json
import platform
import subprocess
import sys

import pytest
import torch

from chiasm.core import device
from chiasm.core.device import (
    environment,
    keep_freed_memory,
    measure_precision,
    peak_memory_bytes,
    pick_device,
)


@pytest.mark.parametrize(
    ("bf16_s", "chosen", "said"),
    [(0.5, "bf16", "2.0"), (0.7, "fp32", "1.4"), (2.0, "fp32", "0.50"), (40.0, "fp32", "0.025")],
)
def test_bf16_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch, bf16_s: float, chosen: str, said: str) -> None:
    """Guards against a swapped quotient, which would choose the slower format."""
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16_s}
    monkeypatch.setattr(device, "_seconds", lambda dtype, where, enough_s: seconds[dtype])
    precision, sentence = measure_precision(torch.device("cpu"))
    assert precision == chosen
    assert sentence.startswith(chosen) and f"{said} times" in sentence


def test_the_probe_measures_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a probe that fails on this build of torch, or that returns no time, or never has enough."""
    assert 0 < device._seconds(torch.float32, torch.device("cpu"), 10.0) < 10
    calls = iter(range(0, 1000, 5))
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(calls))
    assert device._seconds(torch.float32, torch.device("cpu"), 1.0) == 5
    assert next(calls) == 10, "one round was enough"


def test_the_device_follows_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a GPU that stands idle, and a CPU machine that asks for one."""
    for present, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert pick_device().type == expected


FAULTS = """
import resource, sys, threading, torch
from chiasm.core.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    for turn in range(40):  # the first ones settle where blocks lie
        if turn == 30:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        torch.ones(20_000_000)  # more than the 64 MiB of a heap
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_a_thread_keeps_its_memory() -> None:
    """Guards against a server whose model, in a thread, asks the kernel anew for the memory of every operation."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("return", "keep")
    }
    assert faults["keep"] < 100 < 10_000 < faults["return"], faults


def test_the_peak_of_memory_is_in_bytes() -> None:
    """Guards against kilobytes, and memory that is counted only while it is held."""
    before = peak_memory_bytes()
    held = torch.ones(2**26)  # 256 MiB
    del held
    assert 2**27 < peak_memory_bytes() < before + 2**30


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a program that does not start where there is no glibc."""

    def absent(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    keep_freed_memory()


def test_the_environment_is_complete_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a written number whose origin cannot be told, and against a crash without git or /proc."""
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert all(found[name] for name in ("chiasm", "python", "numpy", "pillow", "system", "cpu", "cores", "device"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(device.Path, "read_text", lambda self: "nothing known\n")
    assert device._commit() == "" and device._cpu_name()
