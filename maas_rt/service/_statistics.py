"""What a version has done so far: counts and times in the fields of Triton's statistics.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Phases:
    """Nanoseconds of one request: until its run began, in reading its tensors, in the run, and in making its outputs."""

    queue: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0


_PHASES = tuple(each.name for each in fields(Phases))


@dataclass
class _Sum:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def told(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class Statistics:
    """Of one version. Any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0  # when the last run ended, in milliseconds since 1970
        self._inferences = 0
        self._executions = 0
        self._requests = {name: _Sum() for name in ("success", "fail", *_PHASES, "cache_hit", "cache_miss")}
        self._batches: dict[int, _Sum] = {}
        self.listener: Callable[[int, int], object] | None = (
            None  # told of each run: its rows, and the ns to put them together
        )
        # Told of each request that is looked for among answers (whether it is there), and of each answer that is kept (None), with the bytes that
        # all of them take.
        self.cache_listener: Callable[[bool | None, int], object] | None = None

    def executed(self, rows: int, ns: int, assembled: int = 0) -> None:
        """A run of so many rows has succeeded in that time, after so many nanoseconds in which it was put together."""
        if self.listener is not None:
            self.listener(rows, assembled)
        with self._lock:
            self._last = time.time_ns() // 1_000_000
            self._inferences += rows
            self._executions += 1
            self._batches.setdefault(rows, _Sum()).add(ns)

    def kept(self, held: int) -> None:
        """An answer was kept; all that are take so many bytes."""
        if self.cache_listener is not None:
            self.cache_listener(None, held)

    def looked_up(self, hit: bool, held: int, ns: int) -> None:
        """A request was looked for among the answers that are kept, `held` bytes, for so many nanoseconds."""
        if self.cache_listener is not None:
            self.cache_listener(hit, held)
        with self._lock:
            self._requests["cache_hit" if hit else "cache_miss"].add(ns)

    def answered(self, phases: Phases, ns: int, ran: bool = True) -> None:
        """A request has been answered, all in all in so many nanoseconds; `ran`: and was not answered before."""
        with self._lock:
            self._requests["success"].add(ns)
            for name in _PHASES if ran else ():
                self._requests[name].add(getattr(phases, name))

    def failed(self, ns: int) -> None:
        """A request was refused, or its run has failed."""
        with self._lock:
            self._requests["fail"].add(ns)

    def told(self, name: str, version: str) -> dict[str, Any]:
        """An entry of the statistics response."""
        with self._lock:
            return {
                "name": name,
                "version": version,
                "last_inference": self._last,
                "inference_count": self._inferences,
                "execution_count": self._executions,
                "inference_stats": {key: each.told() for key, each in self._requests.items()},
                "batch_stats": [
                    {
                        "batch_size": rows,
                        "compute_input": _Sum(each.count).told(),
                        "compute_infer": each.told(),
                        "compute_output": _Sum(each.count).told(),
                    }
                    for rows, each in sorted(self._batches.items())
                ],
                "memory_usage": [],
            }


def model_stats(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The statistics response."""
    return {"model_stats": list(entries)}
