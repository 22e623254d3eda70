"""Square f32 products through the kernel, one thread: the share of the FMA loop's rate, which is measured around them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench import machine
from bench._harness import QUIET, pinned

SIZES = (384, 512, 768, 1024, 1536, 2048)
ROUNDS = 25  # of all sizes, so that each is measured at many moments
SLICE = 0.02  # seconds of calls in a round, after one that fetches the operands


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """By size: the medians of GFLOP/s and of the share, over the rounds that count: those around which the FMA loop's rate stayed."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(pinned(1)))
    try:
        return _measure(told)
    finally:
        os.sched_setaffinity(0, allowed)


def _measure(told: Callable[[str], None]) -> dict[str, Any]:
    from bench.kernels._cases import gemm

    cases = {size: gemm(size, size, size) for size in SIZES}
    for case in cases.values():
        case.run()
    counted: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    for number in range(ROUNDS):
        told(f"round {number + 1} of {ROUNDS}")
        for size, case in cases.items():
            case.run()
            before = machine.peak_gflops(5)
            start, calls, seconds = time.perf_counter(), 0, 0.0
            while seconds < SLICE:
                case.run()
                calls, seconds = calls + 1, time.perf_counter() - start
            rate = calls * case.flops / seconds * 1e-9
            after = machine.peak_gflops(5)
            if abs(before - after) <= QUIET * before:
                counted[size].append((rate, rate / max(before, after)))
    if not all(counted.values()):
        raise RuntimeError("the FMA loop's rate never stayed the same around a product; a quieter machine is needed")
    return {
        "gflops": {str(size): statistics.median(rate for rate, _ in rounds) for size, rounds in counted.items()},
        "share_of_peak": {
            str(size): statistics.median(share for _, share in rounds) for size, rounds in counted.items()
        },
        "rounds": {str(size): len(rounds) for size, rounds in counted.items()},
    }
