"""Places for sequences: how many there may be at once, of all clients and of one."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ._errors import Kind, ServiceError

_SHARES = 8  # a client may hold one of so many of all places, that the others find some
_HOLDER, _CLIENT = range(2)  # cells of a place; of one that is free the first is 0


class Places:
    """Of one process. Any thread may call anything.

    Args:
        limit: sequences at once; each holds a state. A client that has a name may hold an eighth of them.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._begin(np.zeros((limit, 2), np.uint64), 0)

    def _begin(self, cells: np.ndarray[tuple[int, int], np.dtype[np.uint64]], worker: int) -> None:
        self._cells = cells
        self._worker = worker
        self._lock = threading.Lock()

    def take(self, client: str) -> int:
        """A place for a sequence of a client's, which has no name if that is empty.

        Raises:
            ServiceError: OVERLOADED.
        """
        digest = hashlib.blake2b(client.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        name = np.uint64(int.from_bytes(digest, "little") if client else 0)
        limit = len(self._cells)
        share = max(1, limit // _SHARES)
        with self._held():
            is_taken = self._cells[:, _HOLDER] != 0
            if is_taken.all():
                text = f"{limit} sequences are under way, the most that there may be: end one, or wait for one to end"
                raise ServiceError(Kind.OVERLOADED, text, 1)
            if client and np.count_nonzero(is_taken & (self._cells[:, _CLIENT] == name)) >= share:
                text = f"{share} sequences of this client are under way, the most that it may have: end one, or wait for one to end"
                raise ServiceError(Kind.OVERLOADED, text, 1)
            place = int(np.argmin(is_taken))
            self._cells[place] = self._worker + 1, name
            return place

    def give_back(self, place: int) -> None:
        """Its sequence has ended."""
        self._cells[place, _HOLDER] = 0

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            yield


class SharedPlaces(Places):
    """Those of all workers, in memory that they share. Its file has no name: `descriptor` is handed to workers. A place is taken by one process at a time,
    under a lock of the file that ends with the process, however that ends."""

    def __init__(self, limit: int = 1024, worker: int = 0, descriptor: int | None = None) -> None:
        size = limit * 2 * np.dtype(np.uint64).itemsize
        if descriptor is None:
            descriptor = os.memfd_create("maas-rt sequences", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._begin(np.frombuffer(mmap.mmap(descriptor, size), np.uint64).reshape(limit, 2), worker)

    def end(self, worker: int) -> None:
        """A worker has died, and its sequences with it."""
        self._cells[self._cells[:, _HOLDER] == worker + 1, _HOLDER] = 0

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:  # the file's is one of processes
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1)
            try:
                yield
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1)
