"""What is counted: requests, errors and times of each version, in memory that all workers share.

Why not prometheus-client: its values are Python objects of one process, and what it has for several processes is a directory of files, one a
process, that grow with each one that ends. Here each worker has a region of one shared page and is the only one that writes to it, so that a
count is an addition and needs nobody else; whichever worker is asked adds up all regions. A worker that takes a dead one's place goes on
with its region: no counter ever falls.

    region:  worker (pid, start, connections, beat, up, restarts) | row of the server | rows, one for each version that was leased
    row:     stamp (odd: in use) | lengths of the names | cells, 64 bits each | model and version, as UTF-8
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
import threading
import weakref
from array import array
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .._native import count, observe
from ._errors import Kind

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PHASES = ("request", "parse", "queue", "compute", "serialise", "batch")
KINDS = tuple(Kind)

_BOUNDS_NS = array("Q", [round(bound * 1e9) for bound in SECONDS])
_SIZES = array("Q", SIZES)
_KIND_AT = {kind: 1 + number for number, kind in enumerate(KINDS)}
_ROWS = 1 + len(KINDS)
_TIMES = _ROWS + 1
_TIME_CELLS = len(SECONDS) + 2  # a count for each bound, one above them, the sum
_OF_REQUESTS = tuple(_TIMES + number * _TIME_CELLS for number in range(len(PHASES) - 1))
_OF_RUNS = _TIMES + (len(PHASES) - 1) * _TIME_CELLS
_BATCHES = _TIMES + len(PHASES) * _TIME_CELLS
_BATCH_CELLS = len(SIZES) + 2
_IN_FLIGHT = _BATCHES + _BATCH_CELLS
_HITS = _IN_FLIGHT + 1
_MISSES = _HITS + 1
_CACHED = _MISSES + 1
CELLS = _CACHED + 1

_NAME_BYTES = 320  # of model and version together; a file's name has 255 at most
_ROW_CELLS = 2 + CELLS + _NAME_BYTES // 8
_WORKER_CELLS = 6
# The first four are the worker's to write, the others those of the process that watches over it.
_PID, _START, _CONNECTIONS, _BEAT, _UP, _RESTARTS = range(_WORKER_CELLS)
_MAX = (1 << 64) - 1


class Phases(NamedTuple):
    """Where a request's time went, in ns; a phase that it did not have is None."""

    request: int  # all of it
    parse: int | None = None  # to read its tensors
    queue: int | None = None
    compute: int | None = None
    serialise: int | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts by bound, not added up; the last is of what lies above all bounds."""

    counts: tuple[int, ...]
    sum: int


@dataclass(frozen=True)
class Counts:
    """Of a version, or of the server, of all workers together."""

    requests: int
    errors: dict[Kind, int]
    rows: int
    times: dict[str, Histogram]  # in ns
    batches: Histogram
    in_flight: int
    hits: int  # of the cache of answers
    misses: int
    cached: int  # bytes in it

    @classmethod
    def of(cls, cells: list[int]) -> Counts:
        times = {
            phase: _histogram(cells, _TIMES + number * _TIME_CELLS, _TIME_CELLS) for number, phase in enumerate(PHASES)
        }
        errors = {kind: cells[at] for kind, at in _KIND_AT.items()}
        batches = _histogram(cells, _BATCHES, _BATCH_CELLS)
        cache = cells[_HITS], cells[_MISSES], cells[_CACHED]
        return cls(cells[0], errors, cells[_ROWS], times, batches, cells[_IN_FLIGHT], *cache)


def _histogram(cells: list[int], start: int, length: int) -> Histogram:
    return Histogram(tuple(cells[start : start + length - 1]), cells[start + length - 1])


class Series:
    """The counts of one version in this worker. Any thread may call anything."""

    __slots__ = ("_cells",)

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def begin(self) -> None:
        """A request has got its lease."""
        count(self._cells, _IN_FLIGHT, 1)

    def end(self, kind: Kind | None, phases: Phases) -> None:
        """It was answered, with an error of this kind or without."""
        cells = self._cells
        if kind is None:
            count(cells, _IN_FLIGHT, -1, 0, 1)
        else:
            count(cells, _IN_FLIGHT, -1, 0, 1, _KIND_AT[kind], 1)
        first, second, third, fourth, fifth = _OF_REQUESTS
        observe(
            cells,
            _BOUNDS_NS,
            first,
            phases.request,
            second,
            phases.parse,
            third,
            phases.queue,
            fourth,
            phases.compute,
            fifth,
            phases.serialise,
        )

    def ran(self, rows: int, ns: int) -> None:
        """A run of so many rows has succeeded, which took so long to put together."""
        cells = self._cells
        count(cells, _ROWS, rows)
        observe(cells, _SIZES, _BATCHES, rows)
        observe(cells, _BOUNDS_NS, _OF_RUNS, ns)

    def looked_up(self, hit: bool | None, held: int) -> None:
        """A request was looked for in the cache of answers (None: its answer was put there), which holds so many bytes."""
        if hit is not None:
            count(self._cells, _HITS if hit else _MISSES, 1)
        self._cells[_CACHED] = held

    def leave(self) -> None:
        """A request that has begun here goes on elsewhere."""
        count(self._cells, _IN_FLIGHT, -1)

    def refuse(self, kind: Kind) -> None:
        """A request that came to no model was refused."""
        count(self._cells, 0, 1, _KIND_AT[kind], 1)

    def _leave(self) -> None:
        """Its row is somebody else's from now on: what still comes goes nowhere."""
        self._cells = _scratch()


class Page:
    """The memory of `workers` regions with room for `models` versions each. Its file has no name: `descriptor` is handed to workers."""

    def __init__(self, workers: int = 1, models: int = 512, descriptor: int | None = None) -> None:
        self.workers = workers
        self.models = models
        size = 8 * workers * self._region_cells
        if descriptor is None:
            descriptor = _nameless()
            os.ftruncate(descriptor, size)  # zeros, that take no memory before they are written to
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._cells = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    @property
    def _region_cells(self) -> int:
        return _WORKER_CELLS + (1 + self.models) * _ROW_CELLS

    def region(self, worker: int) -> memoryview:
        """A worker's cells."""
        start = worker * self._region_cells
        return self._cells[start : start + self._region_cells]

    def row(self, worker: int, number: int) -> memoryview:
        """A row of a worker; 0 is the server's."""
        start = worker * self._region_cells + _WORKER_CELLS + number * _ROW_CELLS
        return self._cells[start : start + _ROW_CELLS]

    def begin(self, worker: int) -> None:
        """A worker answers from now on."""
        self.region(worker)[_UP] = 1

    def end(self, worker: int) -> None:
        """Its process is gone, and what it was doing; what it has counted stays."""
        region = self.region(worker)
        region[_UP] = region[_CONNECTIONS] = 0
        for number in range(1, self.models + 1):
            cells = _cells(self.row(worker, number))
            cells[_IN_FLIGHT] = cells[_CACHED] = 0

    def restart(self, worker: int) -> None:
        """It is started again."""
        self.region(worker)[_RESTARTS] += 1

    def is_ahead(self, worker: int, connections: int) -> bool:
        """Notes how many connections a worker has, and says whether it has more than another one."""
        self.region(worker)[_CONNECTIONS] = connections
        others = [self.region(number) for number in range(self.workers) if number != worker]
        return any(other[_UP] and other[_CONNECTIONS] < connections for other in others)

    def beat(self, worker: int) -> None:
        """A worker does something."""
        self.region(worker)[_BEAT] += 1

    def beat_of(self, worker: int) -> int:
        """How often it has said so."""
        return int(self.region(worker)[_BEAT])

    @property
    def complete(self) -> bool:
        """Whether all workers answer."""
        return all(self.region(worker)[_UP] for worker in range(self.workers))


class Worker(NamedTuple):
    """Of a worker that has begun: its number, process id and start (ns since 1970), whether it answers, how often it was started again."""

    number: int
    pid: int
    start: int
    is_up: bool
    restarts: int


class Metrics:
    """The counts of one worker, and the sums of all. Any thread may call anything.

    A series exists from the first lease of a version until the version is gone: requests for names that do not exist make none.
    """

    def __init__(self, page: Page | None = None, worker: int = 0, now: int = 0) -> None:
        self._page = page or Page()
        if page is None:
            self._page.begin(worker)
        self._worker = worker
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str], tuple[int, Series]] = {}
        self._free: list[int] = []
        self._told = False
        region = self._page.region(worker)
        region[_PID], region[_START] = os.getpid(), now
        self.server = Series(_cells(self._page.row(worker, 0)))
        for number in range(self._page.models, 0, -1):
            row = self._page.row(worker, number)
            names = _names(row)
            if names is None:
                self._free.append(number)
            else:  # of the worker in whose place this one is: its requests have gone with it
                series = Series(_cells(row))
                series._cells[_IN_FLIGHT] = series._cells[_CACHED] = 0
                self._series[names] = number, series

    def series(self, model: str, version: str) -> Series:
        """The counts of a version that is leased."""
        found = self._series.get((model, version))
        return found[1] if found is not None else self._add(model, version)

    def forget(self, model: str, version: str) -> None:
        """The version is gone, and its series with it."""
        with self._lock:
            found = self._series.pop((model, version), None)
            if found is None:
                return
            number, series = found
            series._leave()
            row = self._page.row(self._worker, number)
            row[0] += 1
            row[1:] = memoryview(bytes(8 * (_ROW_CELLS - 1))).cast("Q")
            self._free.append(number)

    def keep(self, known: Container[tuple[str, str]]) -> None:
        """Forgets the versions that are none of these."""
        for names in list(self._series):
            if names not in known:
                self.forget(*names)

    def collect(self) -> dict[tuple[str, str], Counts]:
        """The counts of each version in all workers, in order of names."""
        sums: dict[tuple[str, str], list[int]] = {}
        for worker in range(self._page.workers):
            for number in range(1, self._page.models + 1):
                row = self._page.row(worker, number)
                stamp = row[0]
                names = _names(row)
                if names is None:
                    continue
                cells = _cells(row).tolist()
                if row[0] == stamp:  # it was not given to another version meanwhile
                    old = sums.get(names)
                    sums[names] = cells if old is None else [a + b for a, b in zip(old, cells)]
        return {names: Counts.of(cells) for names, cells in sorted(sums.items())}

    def collect_server(self) -> Counts:
        """The counts of requests that came to no model."""
        rows = [_cells(self._page.row(worker, 0)).tolist() for worker in range(self._page.workers)]
        return Counts.of([sum(cells) for cells in zip(*rows)])

    def workers(self) -> Iterator[Worker]:
        """Those that have begun."""
        for number in range(self._page.workers):
            pid, start, _, _, up, restarts = self._page.region(number)[:_WORKER_CELLS]
            if pid:
                yield Worker(number, pid, start, bool(up), restarts)

    def _add(self, model: str, version: str) -> Series:
        with self._lock:
            found = self._series.get((model, version))
            if found is not None:
                return found[1]
            names = model.encode("utf-8", "surrogateescape"), version.encode("utf-8", "surrogateescape")
            if not self._free or len(names[0]) + len(names[1]) > _NAME_BYTES:
                if not self._told:
                    self._told = True
                    logging.getLogger(__name__).warning(
                        "%s version %s is not counted: there is room for %d versions", model, version, self._page.models
                    )
                return Series(_scratch())
            number = self._free.pop()
            row = self._page.row(self._worker, number)
            text = b"".join(names).ljust(_NAME_BYTES, b"\0")
            row[2 + CELLS :] = memoryview(text).cast("Q")
            row[1] = len(names[0]) << 32 | len(names[1])
            row[0] += 1  # the last: now it is one
            series = Series(_cells(row))
            self._series[model, version] = number, series
            return series


def _cells(row: memoryview) -> memoryview:
    return row[2 : 2 + CELLS]


def _names(row: memoryview) -> tuple[str, str] | None:
    """Model and version of a row; None if it is free."""
    if not row[0] & 1:
        return None
    text = row[2 + CELLS :].tobytes()
    first, second = row[1] >> 32, row[1] & 0xFFFFFFFF
    model, version = text[:first], text[first : first + second]
    return model.decode("utf-8", "surrogateescape"), version.decode("utf-8", "surrogateescape")


def _scratch() -> memoryview:
    """Cells that nobody reads."""
    return memoryview(bytearray(8 * CELLS)).cast("Q")


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("maas-rt metrics")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
