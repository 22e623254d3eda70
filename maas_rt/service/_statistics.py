"""What a version has done so far: counts and times in the fields of Triton's statistics.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from .._native import count


@dataclass
class Phases:
    """Nanoseconds of one request: until its run began, in reading its tensors, in the run, and in making its outputs."""

    queue: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0


# What cells hold: three numbers, and a count and a sum of each of these, in which success and the phases follow one another.
_LAST, _INFERENCES, _EXECUTIONS, _SUMS = range(4)  # when the last run ended is in milliseconds since 1970
_NAMES = ("fail", "cache_hit", "cache_miss", "success", *(each.name for each in fields(Phases)))
_AT = {name: _SUMS + 2 * number for number, name in enumerate(_NAMES)}
_SUCCESS = _AT["success"]


class Statistics:
    """Of one version. Any thread may call anything."""

    def __init__(self) -> None:
        self._cells = array("Q", bytes(8 * (_SUMS + 2 * len(_NAMES))))
        self._batches: dict[int, array[int]] = {}  # a count and a sum by rows
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
        batches = self._batches.get(rows)
        if batches is None:
            batches = self._batches.setdefault(rows, array("Q", (0, 0)))
        count(batches, 0, 1, 1, ns)
        self._cells[_LAST] = time.time_ns() // 1_000_000
        count(self._cells, _INFERENCES, rows, _EXECUTIONS, 1)

    def kept(self, held: int) -> None:
        """An answer was kept; all that are take so many bytes."""
        if self.cache_listener is not None:
            self.cache_listener(None, held)

    def looked_up(self, hit: bool, held: int, ns: int) -> None:
        """A request was looked for among the answers that are kept, `held` bytes, for so many nanoseconds."""
        if self.cache_listener is not None:
            self.cache_listener(hit, held)
        self._add("cache_hit" if hit else "cache_miss", ns)

    def answered(self, phases: Phases, ns: int, ran: bool = True) -> None:
        """A request has been answered, all in all in so many nanoseconds; `ran`: and was not answered before."""
        if not ran:
            self._add("success", ns)
            return
        at = _SUCCESS
        count(self._cells, at, 1, at + 1, ns, at + 2, 1, at + 3, phases.queue, at + 4, 1, at + 5, phases.compute_input)
        count(self._cells, at + 6, 1, at + 7, phases.compute_infer, at + 8, 1, at + 9, phases.compute_output)

    def failed(self, ns: int) -> None:
        """A request was refused, or its run has failed."""
        self._add("fail", ns)

    def _add(self, name: str, ns: int) -> None:
        at = _AT[name]
        count(self._cells, at, 1, at + 1, ns)

    def told(self, name: str, version: str) -> dict[str, Any]:
        """An entry of the statistics response."""
        cells = self._cells.tolist()
        batches = {rows: batch.tolist() for rows, batch in sorted(self._batches.copy().items())}
        return {
            "name": name,
            "version": version,
            "last_inference": cells[_LAST],
            "inference_count": cells[_INFERENCES],
            "execution_count": cells[_EXECUTIONS],
            "inference_stats": {name: _told(*cells[at : at + 2]) for name, at in _AT.items()},
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": _told(number, 0),
                    "compute_infer": _told(number, ns),
                    "compute_output": _told(number, 0),
                }
                for rows, (number, ns) in batches.items()
            ],
            "memory_usage": [],
        }


def _told(number: int, ns: int) -> dict[str, int]:
    return {"count": number, "ns": ns}


def model_stats(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The statistics response."""
    return {"model_stats": list(entries)}


def summed(entries: Iterable[dict[str, Any]], others: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, with what others of the same versions, of other processes, have counted."""
    found = {(entry["name"], entry["version"]): entry for entry in entries}
    for other in others:
        names = other["name"], other["version"]
        if names in found:
            found[names] = _sum(found[names], other)
    return list(found.values())


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    batches = {batch["batch_size"]: batch for batch in one["batch_stats"]}
    for batch in other["batch_stats"]:
        rows = batch["batch_size"]
        batches[rows] = {**_added(batches[rows], batch), "batch_size": rows} if rows in batches else batch
    return {
        **one,
        "last_inference": max(one["last_inference"], other["last_inference"]),
        "inference_count": one["inference_count"] + other["inference_count"],
        "execution_count": one["execution_count"] + other["execution_count"],
        "inference_stats": _added(one["inference_stats"], other["inference_stats"]),
        "batch_stats": [batches[rows] for rows in sorted(batches)],
    }


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Counts and times by name, added up."""
    return {
        name: _told(told["count"] + other[name]["count"], told["ns"] + other[name]["ns"])
        for name, told in one.items()
        if isinstance(told, dict)
    }
