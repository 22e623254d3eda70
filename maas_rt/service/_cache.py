"""Answers that are kept: what was asked before, of the same version, is not run again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from ._datatypes import Array

Arrays = dict[str, Array]
_ENTRY = 512  # bytes that an entry takes beside its arrays


class ResponseCache:
    """The results of one version by what it was given, those used last: at most `limit` bytes of them. Any thread may call anything."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._held = 0
        self._entries: OrderedDict[bytes, tuple[int, Arrays]] = OrderedDict()

    @property
    def held(self) -> int:
        """Bytes of what is kept."""
        return self._held

    @staticmethod
    def key(arrays: Arrays) -> bytes:
        """Of the inputs, by names, types, shapes and every byte: -0 is another than 0, and a NaN the same as itself."""
        digest = hashlib.sha256()
        for name, array in sorted(arrays.items()):
            head = f"{len(name)} {name} {array.dtype.name} {array.shape}".encode("utf-8", "surrogatepass")
            digest.update(b"%d " % len(head) + head)
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.digest()

    def get(self, key: bytes) -> Arrays | None:
        """The results, which nobody may write to."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return dict(found[1])

    def put(self, key: bytes, results: Arrays) -> None:
        """Keeps copies: a result may be a part of a batch's, and would keep all of it."""
        size = _ENTRY + sum(array.nbytes for array in results.values())
        if size > self._limit:
            return
        kept = {name: np.array(array) for name, array in results.items()}
        for array in kept.values():
            array.flags.writeable = False
        with self._lock:
            old = self._entries.pop(key, None)
            self._held += size - (old[0] if old is not None else 0)
            self._entries[key] = size, kept
            while self._held > self._limit:
                self._held -= self._entries.popitem(last=False)[1][0]
