"""What this machine can do at most, measured in the same run as everything else (peak.c, built with the system's compiler)."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas_rt import _kernels

SOURCE = Path(__file__).with_name("peak.c")
READ_SIZES = tuple(1 << n for n in (15, 18, 20, 22, 24, 26, 28))  # bytes: from the first cache to memory


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError(
            "the machine's peak is measured by a small C program: install a C compiler (apt install gcc)"
        )
    folder = Path(tempfile.mkdtemp(prefix="maas-rt-bench-"))
    target = folder / "peak.so"
    subprocess.run(
        [compiler, "-O3", "-funroll-loops", "-mavx2", "-mfma", "-shared", "-fPIC", "-o", str(target), str(SOURCE)],
        check=True,
    )
    library = ctypes.CDLL(str(target))
    library.fma_gflops.restype = library.read_gbps.restype = ctypes.c_double
    library.fma_gflops.argtypes = [ctypes.c_long]
    library.read_gbps.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.read_once.restype = ctypes.c_float
    library.read_once.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    shutil.rmtree(folder)
    return library


def peak_gflops(repeats: int = 50, cpus: Sequence[int] | None = None) -> float:
    """The best of `repeats` FMA loops, f32, in GFLOP/s: of this thread, or of a thread on each of `cpus` at the same time."""
    return max(_together(lambda _: _library().fma_gflops(3_000_000), cpus) for _ in range(repeats))


def read_bandwidth(bytes_: int = 1 << 28, cpus: Sequence[int] | None = None, repeats: int = 3) -> float:
    """GB/s of reading `bytes_` that were just written: of this thread, or of a thread on each of `cpus`, which share them."""
    parts = max(1, len(cpus or ()))
    data = np.ones((parts, bytes_ // parts // 128 * 32), np.float32)
    passes = max(1, (1 << 23) // data.nbytes)

    def read(part: int) -> float:
        rate: float = _library().read_gbps(data[part].ctypes.data, data[part].nbytes, passes)
        return rate

    return max(_together(read, cpus) for _ in range(repeats))


def read_once(data: NDArray[Any]) -> None:
    """All of an array's bytes, but for fewer than 128 at its end."""
    _library().read_once(data.ctypes.data, data.nbytes // 128 * 128)


def bandwidth_by_size(cpus: Sequence[int]) -> dict[int, float]:
    """Read bandwidth in GB/s of buffers of READ_SIZES bytes."""
    return {size: read_bandwidth(size, cpus, 5) for size in READ_SIZES}


def _together(work: Callable[[int], float], cpus: Sequence[int] | None) -> float:
    """The sum of the rates that `work(part)` reports, one part on each of `cpus`, started at once."""
    if cpus is None:
        return work(0)
    rates = [0.0] * len(cpus)
    barrier = threading.Barrier(len(cpus))

    def run(part: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
        barrier.wait()
        rates[part] = work(part)

    threads = [threading.Thread(target=run, args=(part, cpu)) for part, cpu in enumerate(cpus)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def describe() -> dict[str, object]:
    """The machine for a result's header."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model,
        "isa": _kernels.cpu_isa(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
