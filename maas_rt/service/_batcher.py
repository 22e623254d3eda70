"""Dynamic batching as a rule: which requests are run together, and when. It has no thread and no clock: it is told the time.

Times are nanoseconds of one clock. Requests of one `key` fit together: their arrays differ in their first dimension alone. They leave
in the order of their priority, then of their arrival.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import numpy as np

from .._errors import InvalidArgumentError
from ._datatypes import Array
from ._signature import Signature

T = TypeVar("T")


class Left(Enum):
    """Why a batch left the queue."""

    FULL = "full"
    PREFERRED = "preferred"  # it has the largest preferred size
    DELAY = "delay"  # its first request has waited as long as it may
    DEADLINE = "deadline"  # one of its requests would come too late if it waited longer
    DRAIN = "drain"


@dataclass(frozen=True)
class BatchPolicy:
    """How batches are made.

    Args:
        max_rows: the most rows of a batch; a request of more is run in parts.
        max_delay: how long a request waits for others, in nanoseconds; 0: only as long as the runners are busy.
        preferred: sizes to stop at. A batch of exactly the largest leaves at once; when a delay ends, the largest that is filled leaves.
        ageing: after so many nanoseconds a request counts as one of the next higher priority; 0: priorities are strict.
    """

    max_rows: int
    max_delay: int = 0
    preferred: tuple[int, ...] = ()
    ageing: int = 0

    def __post_init__(self) -> None:
        if self.max_rows < 1 or self.max_delay < 0 or self.ageing < 0:
            raise InvalidArgumentError(f"{self}: max_rows must be 1 or more, max_delay and ageing 0 or more")
        if any(not 1 <= size <= self.max_rows for size in self.preferred):
            raise InvalidArgumentError(f"{self}: preferred sizes must be 1 to max_rows")


@dataclass(frozen=True)
class Part(Generic[T]):
    """The rows `first` to `first + rows` of a request: all of them, unless it has more than a batch may."""

    request: T
    first: int
    rows: int
    priority: int
    arrived: int
    deadline: int | None


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Parts that are run together, in the order of their rows."""

    parts: tuple[Part[T], ...]
    left: Left

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(part.rows for part in self.parts)


class Batcher(Generic[T]):
    """The requests that wait for a batch. One thread at a time may call it.

    Args:
        run_time: nanoseconds that a run of so many rows takes, as far as one knows: what a deadline leaves for waiting.
    """

    def __init__(self, policy: BatchPolicy, run_time: Callable[[int], int] = lambda rows: 0) -> None:
        self._policy = policy
        self._run_time = run_time
        self._waiting: dict[Hashable, list[Part[T]]] = {}

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(part.rows for parts in self._waiting.values() for part in parts)

    def add(
        self, request: T, rows: int, key: Hashable, now: int, priority: int = 1, deadline: int | None = None
    ) -> list[Batch[T]]:
        """Takes a request of 1 row or more, and returns the batches that leave by it. Of priorities 1 is the highest."""
        most = self._policy.max_rows
        full = rows // most * most
        batches: list[Batch[T]] = []
        if full and key in self._waiting:
            batches.append(self._leave(key, now, Left.FULL))  # all that waits: it is less than a batch
        # What fills batches by itself waits for nobody: a request of many parts costs no more than their number.
        for first in range(0, full, most):
            batches.append(Batch((Part(request, first, most, priority, now, deadline),), Left.FULL))
        if full < rows:
            self._waiting.setdefault(key, []).append(Part(request, full, rows - full, priority, now, deadline))
        while (why := self._reached(key, now)) is not None:
            batches.append(self._leave(key, now, why))
        return batches

    def due(self, now: int) -> list[Batch[T]]:
        """The batches whose time has come."""
        batches = []
        for key in list(self._waiting):
            while key in self._waiting:
                at, why = self._due(self._waiting[key])
                if at > now:
                    break
                batches.append(self._leave(key, now, why))
        return batches

    def next_due(self) -> int | None:
        """When `due` will have something to return; None if nothing waits."""
        return min((self._due(parts)[0] for parts in self._waiting.values()), default=None)

    def remove(self, request: T) -> bool:
        """Takes a request out that was cancelled or is too late; False if no part of it waits."""
        found = False
        for key, parts in list(self._waiting.items()):
            kept = [part for part in parts if part.request is not request]
            found = found or len(kept) < len(parts)
            self._keep(key, kept)
        return found

    def drain(self, now: int) -> list[Batch[T]]:
        """All that waits, in batches."""
        batches = []
        for key in list(self._waiting):
            while key in self._waiting:
                batches.append(self._leave(key, now, Left.DRAIN))
        return batches

    def _due(self, parts: Sequence[Part[T]]) -> tuple[int, Left]:
        delayed = min(part.arrived for part in parts) + self._policy.max_delay
        run_time = self._run_time(min(sum(part.rows for part in parts), self._policy.max_rows))
        late = min((part.deadline - run_time for part in parts if part.deadline is not None), default=delayed)
        return (late, Left.DEADLINE) if late < delayed else (delayed, Left.DELAY)

    def _reached(self, key: Hashable, now: int) -> Left | None:
        """Why a batch leaves before any time has passed."""
        parts = self._waiting.get(key, [])
        if sum(part.rows for part in parts) >= self._policy.max_rows:
            return Left.FULL
        if self._policy.preferred and max(self._policy.preferred) in self._fitting(parts, now)[1]:
            return Left.PREFERRED
        return None

    def _fitting(self, parts: Sequence[Part[T]], now: int) -> tuple[list[Part[T]], list[int]]:
        """The parts in their order, and the rows of the first 0, 1, ... of them that fit into one batch."""
        ordered = sorted(parts, key=lambda part: (self._level(part, now), part.arrived))
        sizes = [0]
        for part in ordered:
            if sizes[-1] + part.rows > self._policy.max_rows:
                break  # nobody is passed by: what is too large for this batch is the first of the next
            sizes.append(sizes[-1] + part.rows)
        return ordered, sizes

    def _leave(self, key: Hashable, now: int, why: Left) -> Batch[T]:
        ordered, sizes = self._fitting(self._waiting[key], now)
        filled = [size for size in self._policy.preferred if size in sizes]
        count = sizes.index(max(filled)) if filled and why in (Left.DELAY, Left.PREFERRED) else len(sizes) - 1
        self._keep(key, ordered[count:])
        return Batch(tuple(ordered[:count]), why)

    def _level(self, part: Part[T], now: int) -> int:
        return part.priority - ((now - part.arrived) // self._policy.ageing if self._policy.ageing else 0)

    def _keep(self, key: Hashable, parts: list[Part[T]]) -> None:
        if parts:
            self._waiting[key] = parts
        else:
            self._waiting.pop(key, None)


# ---- arrays ---------------------------------------------------------------------------------------------------------


def batches(signature: Signature) -> bool:
    """Whether shapes allow to put rows of requests together: one open extent is the first of all inputs and outputs, and of nothing else.

    Whether rows are computed each on its own, shapes do not tell: a model is batched where its config says so, and this allows it.
    """
    shapes = [spec.shape for spec in (*signature.inputs, *signature.outputs)]
    if not shapes or not all(shapes):
        return False
    symbol = shapes[0][0]
    elsewhere = {word for shape in shapes for extent in shape[1:] for word in re.findall(r"\w+", str(extent))}
    return (
        isinstance(symbol, str)
        and symbol.isidentifier()
        and symbol not in elsewhere
        and all(shape[0] == symbol for shape in shapes)
    )


def batch_key(arrays: dict[str, Array]) -> tuple[object, ...]:
    """Requests of equal keys can be stacked."""
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(arrays.items()))


def stacked(parts: Sequence[tuple[dict[str, Array], int, int]]) -> dict[str, Array]:
    """The arrays of a batch: of each part its request's arrays, its first row and its rows."""
    if len(parts) == 1:
        arrays, first, rows = parts[0]
        return {name: array[first : first + rows] for name, array in arrays.items()}
    return {
        name: np.concatenate([arrays[name][first : first + rows] for arrays, first, rows in parts])
        for name in parts[0][0]
    }


def shared_out(results: dict[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """A batch's results for each part, views of them."""
    ends = np.cumsum(rows).tolist()
    return [{name: array[end - count : end] for name, array in results.items()} for count, end in zip(rows, ends)]
