"""The limits of clients where several workers answer them: what one of them has let in counts in all."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from ._limiter import Admission, Limits, let_in

_WAYS = 8  # clients of a set, beside the bucket that others share where all of them are busy
_KEY, _FULL_AT, _IN_FLIGHT = 0, 2, 3  # cells of a bucket; of the last there is one for each worker
_CELL = 8


class ClientTable:
    """Buckets of clients, in memory that workers share. A client's place is in one set, by a hash of its name. Its file has no name: `descriptor` is handed
    to workers."""

    def __init__(self, workers: int, clients: int = 10_000, descriptor: int | None = None) -> None:
        self.sets = max(1, clients // _WAYS)
        self._cells_of_bucket = _IN_FLIGHT + workers
        size = _CELL * self.sets * (_WAYS + 1) * self._cells_of_bucket
        if descriptor is None:
            descriptor = os.memfd_create("maas-rt limits", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)  # zeros, that take no memory before they are written to
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._cells = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    def buckets(self, number: int) -> list[memoryview]:
        """Those of a set; the last is shared."""
        begin, length = number * (_WAYS + 1) * self._cells_of_bucket, self._cells_of_bucket
        return [self._cells[begin + each * length :][:length] for each in range(_WAYS + 1)]

    def end(self, worker: int) -> None:
        """A worker has died, and its requests with it."""
        for at in range(_IN_FLIGHT + worker, len(self._cells), self._cells_of_bucket):
            if self._cells[at]:
                self._cells[at] = 0


class _Bucket:
    """A client's, as one worker sees it and changes it; with the lock of its set."""

    __slots__ = ("_cells", "_own", "number")

    def __init__(self, cells: memoryview, worker: int, number: int) -> None:
        self._cells = cells
        self._own = _IN_FLIGHT + worker
        self.number = number  # of the set

    @property
    def full_at(self) -> int:
        return self._cells[_FULL_AT]

    @full_at.setter
    def full_at(self, value: int) -> None:
        self._cells[_FULL_AT] = max(0, value)

    @property
    def in_flight(self) -> int:
        """Of all workers."""
        return sum(self._cells[_IN_FLIGHT:])

    @in_flight.setter
    def in_flight(self, value: int) -> None:
        self._cells[self._own] = max(0, self._cells[self._own] + value - self.in_flight)


class SharedLimiter:
    """A Limiter of one worker, whose counts are those of all. Any thread may call anything.

    A set is changed by one process at a time, under a lock of the file that ends with the process, however that ends.
    """

    def __init__(self, limits: Limits, table: ClientTable, worker: int) -> None:
        self._limits = limits
        self._table = table
        self._worker = worker
        self._lock = threading.Lock()

    def admit(self, client: str, now: int, limits: Limits | None = None) -> Admission:
        """Lets a request in, or refuses it at once, as Limiter.admit does."""
        limits = limits or self._limits
        if not limits.rate and not limits.in_flight:
            return Admission(None, None, 0)
        digest = hashlib.blake2b(client.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        key = int.from_bytes(digest[:8], "little") or 1, int.from_bytes(digest[8:], "little")
        number = key[0] % self._table.sets
        with self._held(number):
            bucket = _Bucket(self._place(key, number, now), self._worker, number)
            taken = let_in(limits, bucket, now)
        return Admission(self, bucket, taken)

    def give_back(self, bucket: _Bucket, taken: int = 0) -> None:
        """A request is over; `taken`: it was none."""
        with self._held(bucket.number):
            bucket.in_flight -= 1
            bucket.full_at -= taken

    @contextmanager
    def _held(self, number: int) -> Iterator[None]:
        with self._lock:  # the file's is one of processes
            fcntl.lockf(self._table.descriptor, fcntl.LOCK_EX, 1, number)
            try:
                yield
            finally:
                fcntl.lockf(self._table.descriptor, fcntl.LOCK_UN, 1, number)

    def _place(self, key: tuple[int, int], number: int, now: int) -> memoryview:
        """The client's; one that nobody needs any more; or the one that is shared: to come under many names wins nothing."""
        *own, shared = self._table.buckets(number)
        for cells in own:
            if (cells[_KEY], cells[_KEY + 1]) == key:
                return cells
        for cells in own:
            if cells[_FULL_AT] <= now and not any(cells[_IN_FLIGHT:]):
                cells[_KEY], cells[_KEY + 1], cells[_FULL_AT] = *key, 0
                return cells
        return shared
