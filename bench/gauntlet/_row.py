"""One line of the result: one model, precision, thread count and batch, with every peer in one interleaved run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from bench import machine
from bench._agreement import quantized_error, relative_error
from bench._harness import OURS, QUIET, Comparison, compare, pinned
from bench.gauntlet._prepare import Prepared

T = TypeVar("T")
FAR_BEHIND = 2.5  # a peer that takes this many times the quickest one's time after three rounds cannot be the best one
BUDGET = 30.0  # seconds of timing a row, after which it ends once it has four rounds
QUIET_MEMORY = 3 * QUIET
TRIES = 2  # of what is measured, before it is left as void


@dataclass(frozen=True)
class Moved:
    """Changes of the FMA loop's rate and of the rate of reading memory; the latter varies by more on an idle machine, too."""

    arithmetic: float
    memory: float

    @property
    def quiet(self) -> bool:
        return self.arithmetic <= QUIET and self.memory <= QUIET_MEMORY

    def __str__(self) -> str:
        return f"arithmetic by {self.arithmetic:.0%} (at most {QUIET:.0%}), memory by {self.memory:.0%} (at most {QUIET_MEMORY:.0%})"


@dataclass(frozen=True)
class Rates:
    """What the machine can do at `threads` threads at one moment."""

    gflops: float
    bandwidth: dict[int, float]

    @classmethod
    def now(cls, threads: int) -> Rates:
        cpus = pinned(threads)
        return cls(machine.peak_gflops(20, cpus), machine.bandwidth_by_size(cpus))

    def moved(self, other: Rates) -> Moved:
        """By how much they differ, as shares."""
        largest = max(self.bandwidth)
        memory, after = self.bandwidth[largest], other.bandwidth[largest]
        return Moved(abs(other.gflops - self.gflops) / self.gflops, abs(after - memory) / memory)

    def best(self, other: Rates) -> Rates:
        """The higher of each rate: a disturbance can only slow a loop."""
        both = {size: max(rate, other.bandwidth[size]) for size, rate in self.bandwidth.items()}
        return Rates(max(self.gflops, other.gflops), both)

    def record(self) -> dict[str, Any]:
        return {"fma_gflops": self.gflops, "read_gbps": {str(size): rate for size, rate in self.bandwidth.items()}}


def settled(threads: int, run: Callable[[], T], told: Callable[[str], None]) -> tuple[T, Rates, Rates]:
    """What `run` gives, and the machine's rates before and after; run again, once, if the machine was not quiet."""
    for left in reversed(range(TRIES)):
        before = Rates.now(threads)
        result = run()
        after = Rates.now(threads)
        if left == 0 or (moved := before.moved(after)).quiet:
            break
        told(f"the machine's rates moved: {moved}")
    return result, before, after


def measure(
    prepared: Prepared, peers: list[str], threads: int, rounds: int, seconds: float, told: Callable[[str], None]
) -> dict[str, Any]:
    """A row."""
    able = [peer for peer in peers if prepared.failure(peer) is None]
    result, before, after = settled(
        threads, lambda: compare(prepared.folder, able, threads, rounds, seconds, FAR_BEHIND, BUDGET, told), told
    )
    return row_of(prepared, peers, threads, result, before, after)


def row_of(
    prepared: Prepared, peers: list[str], threads: int, result: Comparison, before: Rates, after: Rates
) -> dict[str, Any]:
    error_of = relative_error if prepared.precision == "fp32" else quantized_error
    errors = {peer: error_of(prepared.folder, peer) for peer in result.rounds}
    moved = before.moved(after)
    return assemble(
        {"model": prepared.model, "precision": prepared.precision, "threads": threads, "batch": prepared.batch},
        result,
        errors,
        {**result.errors, **{p: reason for p in peers if (reason := prepared.failure(p)) is not None}},
        prepared.work.least_seconds(before.best(after).gflops, before.best(after).bandwidth),
        prepared.tolerance,
    ) | {
        "flops": prepared.work.flops,
        "bytes": prepared.work.bytes,
        "rates": [before.record(), after.record()],
        "rates_moved": {"arithmetic": moved.arithmetic, "memory": moved.memory},
        "quiet": moved.quiet,
    }


def assemble(
    row: dict[str, Any],
    result: Comparison,
    errors: dict[str, float],
    failed: dict[str, str],
    least_seconds: float,
    tolerance: float,
) -> dict[str, Any]:
    """The figures of a row. A peer whose outputs differ by more than the tolerance is marked wrong and is not compared with."""
    wrong = sorted(peer for peer, error in errors.items() if not error <= tolerance)
    right = [peer for peer in result.rounds if peer not in wrong]
    counted = OURS in right
    best = result.best_peer(among=right) if counted else None
    ratio = result.best_ratio(among=right) if counted else None
    return row | {
        "median_ms": {peer: result.median(peer) * 1e3 for peer in result.rounds},
        "spread": {peer: max(times) / min(times) for peer, times in result.rounds.items()},
        "rounds": {peer: len(times) for peer, times in result.rounds.items()},
        "speed": {
            peer: 1 / statistics.median(result.ratios(peer))
            for peer in result.rounds
            if peer != OURS and OURS in result.rounds
        },
        "best_peer": best,
        "speed_to_best": 1 / ratio if ratio else None,
        "relative_error": errors,
        "tolerance": tolerance,
        "wrong": wrong,
        "failed": failed,
        "memory_bytes": {p: facts["memory"] for p, facts in result.facts.items() if "memory" in facts},
        "roofline_ms": least_seconds * 1e3,
        "share_of_roofline": {peer: least_seconds / result.median(peer) for peer in result.rounds},
    }
