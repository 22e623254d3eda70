"""Files that are read again when they change: API keys, key sets, certificates."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from .._errors import InvalidArgumentError

T = TypeVar("T")
_LOOK_NS = 500_000_000  # between two looks at the files
_SETTLED_NS = (
    2_000_000_000  # file systems tell times as coarsely as this: a younger file may have changed and look the same
)
_Stamp = tuple[tuple[int, int, int, int], ...]


class Watched(Generic[T]):
    """What `read` makes of some files. Any thread may call anything.

    Whoever asks looks at the files, at most twice a second: there is no thread and nothing to stop. A change that cannot be read, or is
    only half there (a certificate without its key), is logged once and leaves what was read before.

    Args:
        paths: the files that `read` reads.
        read: raises InvalidArgumentError or OSError for what it does not take.
        what: names them in the log, as "the API keys".
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], what: str) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._what = what
        self._lock = threading.Lock()
        self._stamp = _stamp(self._paths)
        self._content = _content(self._paths)  # before it is read: what changes meanwhile is read once more
        self._value = _readable(read, what)
        self._looked: int | None = None
        self._told = ""

    def get(self, now: int) -> T:
        """The newest value that could be read; `now` is the time in ns since 1970."""
        # The first look may be long after the files were read.
        if self._looked is None or not 0 <= now - self._looked < _LOOK_NS:
            if self._lock.acquire(blocking=False):  # who comes second takes what there is
                try:
                    self._looked = now
                    self._look(now)
                finally:
                    self._lock.release()
        return self._value

    def _look(self, now: int) -> None:
        stamp = _stamp(self._paths)
        if stamp == self._stamp and all(now - changed > _SETTLED_NS for changed, *_ in stamp):
            return
        content = _content(self._paths)
        if content != self._content:
            try:
                self._value = _readable(self._read, self._what)
            except InvalidArgumentError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    logging.getLogger(__name__).error("%s; what was read before goes on", error)
                return
            logging.getLogger(__name__).info("%s: read anew", self._what)
        self._stamp, self._content, self._told = stamp, content, ""


def _content(paths: Sequence[Path]) -> bytes:
    """A hash of what the files hold."""
    found = hashlib.sha256()
    for path in paths:
        try:
            found.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            found.update(b"unreadable")
    return found.digest()


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """Of the files that the names lead to now."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append((0, 0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _readable(read: Callable[[], T], what: str) -> T:
    try:
        return read()
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise InvalidArgumentError(f"{what}{name} cannot be read: {error.strerror or error}") from None
