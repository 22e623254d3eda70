"""What this machine can do at most, measured in the same run as everything else (peak.c, built with the system's compiler)."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("peak.c")


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
    library.read_gbps.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    shutil.rmtree(folder)
    return library


def peak_gflops(repeats: int = 50) -> float:
    """The best of `repeats` FMA loops on this thread, f32, in GFLOP/s."""
    return max(_library().fma_gflops(3_000_000) for _ in range(repeats))


def read_bandwidth(megabytes: int = 256) -> float:
    """GB/s of reading a buffer larger than the caches, on this thread."""
    data = np.ones(megabytes << 18, np.float32)
    return max(_library().read_gbps(data.ctypes.data, data.nbytes) for _ in range(3))


def describe() -> dict[str, object]:
    """The machine for a result's header."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
