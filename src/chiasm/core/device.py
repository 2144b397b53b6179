"""Device, measured precision, memory allocator settings and environment of this machine."""

import ctypes
import math
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

Precision = Literal["fp32", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_BF16_MUST_GAIN = 1.5
_ROUNDS = 7


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks instead of returning them to the kernel after every operation.

    Activations of a step are freed and asked for again thousands of times a second, and each return costs page
    faults: an fp32 GELU over 41k x 512 numbers takes 0.28 of the time with it (one thread; `benchmarks/allocator.py`).
    Threads share the main thread's arena from here on: one of their own gives memory back whatever the thresholds
    say, in heaps of 64 MiB, and a server's model runs in a thread. Does nothing where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Give back to the kernel what `keep_freed_memory` has kept; takes milliseconds."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def peak_memory_bytes() -> int:
    """The largest memory that this process has had: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(dtype: torch.dtype, device: torch.device, enough_s: float) -> float:
    """Median time of a small MLP, forward and backward, in one number format.

    Of seven rounds, or of fewer where `enough_s` has passed: without instructions for it, one round in bf16 can take
    a hundred times as long as one in fp32.
    """
    x = torch.ones(512, 256, dtype=dtype, device=device, requires_grad=True)
    up, down = (torch.ones(shape, dtype=dtype, device=device) * 1e-2 for shape in ((1024, 256), (256, 1024)))
    times: list[float] = []
    while len(times) < _ROUNDS and sum(times) < enough_s:
        start = time.perf_counter()
        F.linear(F.gelu(F.linear(x, up)), down).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bf16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def has_int8() -> bool:
    """Whether the CPU adds up products of bytes by instructions of its own, without sums that saturate (VNNI, AMX)."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def measure_precision(device: torch.device) -> tuple[Precision, str]:
    """Return the number format to train in, and a sentence that says why.

    bf16 needs to be 1.5 times faster to be chosen, because it costs accuracy in each product.
    """
    plain_s = _seconds(torch.float32, device, math.inf)
    gain = plain_s / _seconds(torch.bfloat16, device, 2 * _ROUNDS * plain_s)
    chosen: Precision = "bf16" if gain >= _BF16_MUST_GAIN else "fp32"
    return chosen, f"{chosen} (measured: bf16 is {gain:#.2g} times as fast as fp32 on this machine)"


def choose_precision(stated: Literal["auto", "fp32", "bf16"], device: torch.device) -> tuple[Precision, str]:
    """The number format that `train.precision` states, or the measured one for "auto", and a sentence that says why."""
    return measure_precision(device) if stated == "auto" else (stated, f"{stated} (set by train.precision)")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    """Commit of chiasm's own checkout, "" where it is installed without one."""
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return answer.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def environment() -> dict[str, str | int]:
    """Versions, hardware and commit, for `environment.json` and every written number."""
    device = pick_device()
    return {
        "chiasm": metadata.version("chiasm"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "pillow": metadata.version("pillow"),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
