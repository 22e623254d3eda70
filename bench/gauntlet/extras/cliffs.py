"""Time per item at every size of a dynamic dimension: none may cost much more than the one before."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bench._harness import pinned

# (model, dynamic dimension, largest size): batches, and the tokens of a sequence.
CASES = (("mobilenet_v2", 0, 9), ("minilm_16", 0, 17), ("minilm_128", 1, 64))
ROUNDS, CALLS = 5, 3


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """By model and dimension: milliseconds per item by size, one thread, and the largest step from a size to the next."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, pinned(1))
    try:
        return {f"{model}, dimension {dim}": _case(model, dim, largest, told) for model, dim, largest in CASES}
    finally:
        os.sched_setaffinity(0, allowed)


def _case(model: str, dim: int, largest: int, told: Callable[[str], None]) -> dict[str, Any]:
    import maas_rt
    from bench.models import GAUNTLET
    from maas_rt import compiler

    case = GAUNTLET[model]
    told(f"{model}: compiling with a dynamic dimension {dim}")
    examples = _resized(case.inputs(1), dim, 2)
    dynamic = {name: {dim: (1, largest)} for name in examples}
    artifact = compiler.compile(case.module(), examples, dynamic=dynamic, verify=False)  # the tests check these
    session = maas_rt.load(artifact, threads=1).session(1)
    inputs = {
        size: {name: x.numpy() for name, x in _resized(case.inputs(1), dim, size).items()}
        for size in range(1, largest + 1)
    }
    rounds: dict[int, list[float]] = {size: [] for size in inputs}
    for number in range(ROUNDS):
        told(f"{model}, round {number + 1} of {ROUNDS}")
        for size, given in inputs.items():
            session.run(given)
            times = []
            for _ in range(CALLS):
                start = time.perf_counter()
                session.run(given)
                times.append(time.perf_counter() - start)
            rounds[size].append(min(times) / size)
    items = {size: statistics.median(times) for size, times in rounds.items()}
    steps = {size: items[size] / items[size - 1] for size in range(2, largest + 1)}
    worst = max(steps, key=lambda size: steps[size])
    return {
        "item_ms": {str(size): 1e3 * seconds for size, seconds in items.items()},
        "worst_step": steps[worst],
        "at": worst,
    }


def _resized(inputs: dict[str, torch.Tensor], dim: int, size: int) -> dict[str, torch.Tensor]:
    """The inputs repeated, or cut, to an extent."""
    return {
        name: torch.cat([x] * -(-size // x.shape[dim]), dim).narrow(dim, 0, size).contiguous()
        for name, x in inputs.items()
    }
