"""Square f32 products through the kernel, one thread: the share of the FMA loop's rate, which is measured around each size."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench import machine
from bench._harness import pinned

SIZES = (384, 512, 768, 1024, 1536, 2048)
ROUNDS = 7


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """GFLOP/s, the best peak seen and the share, by size."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(pinned(1)))
    try:
        return _measure(told)
    finally:
        os.sched_setaffinity(0, allowed)


def _measure(told: Callable[[str], None]) -> dict[str, Any]:
    from bench.kernels._cases import gemm

    rates, peaks = {}, []
    for size in SIZES:
        told(f"{size} cubed")
        case = gemm(size, size, size)
        case.run()
        times = []
        for _ in range(ROUNDS):
            peaks.append(machine.peak_gflops(3))
            start = time.perf_counter()
            case.run()
            times.append(time.perf_counter() - start)
        rates[str(size)] = case.flops / statistics.median(times) * 1e-9
    peak = max(peaks)
    return {"gflops": rates, "peak_gflops": peak, "share_of_peak": {size: rate / peak for size, rate in rates.items()}}
