"""Two threads against one, on ResNet-50 and BERT-base at batch 1: both workers in one interleaved race."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from bench._harness import OURS, Worker, pinned, race
from bench.gauntlet._prepare import prepare
from bench.gauntlet._row import settled

MODELS = ("resnet50", "bert_base")
ROUNDS, SECONDS = 30, 0.2  # short ones: the speed of a shared machine changes within seconds


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """Per model: the median over the rounds of (time of one thread / time of two), the times, and whether the machine was quiet."""
    if len(pinned(2)) < 2:
        return {model: {"speed": None, "reason": "this process may use one core only"} for model in MODELS}
    return {model: _scaling(model, told) for model in MODELS}


def _scaling(model: str, told: Callable[[str], None]) -> dict[str, Any]:
    folder = prepare(model, 1, [OURS], told).folder
    workers = [Worker(OURS, folder, threads, pinned(threads), label=f"{threads}") for threads in (1, 2)]
    try:
        result, before, after = settled(2, lambda: race(workers, ROUNDS, SECONDS, told=told), told)
    finally:
        for worker in workers:
            worker.close()
    if result.errors:
        raise RuntimeError(f"{model} did not run: {result.errors}")
    return {
        "speed": statistics.median(result.ratios("2", ours="1")),
        "median_ms": {threads: result.median(threads) * 1e3 for threads in ("1", "2")},
        "quiet": before.moved(after).quiet,
    }
