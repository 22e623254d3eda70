"""Things in use: a version is not unloaded before the last request that began with it has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Lease(Generic[T]):
    """The right to use `value` until `end`, or the end of a with block. To end it twice is to end it once."""

    def __init__(self, owner: Leased[T], parts: Sequence[Lease[T]] = ()) -> None:
        self._owner = owner
        self._parts = parts
        self._ended = False
        self.value = owner.value

    def end(self) -> None:
        """Gives it back."""
        self._owner._give_back(self)
        for part in self._parts:
            part.end()

    def share(self) -> Lease[T]:
        """Another lease of the same value, retired or not. This one must not have ended."""
        return self._owner._share([part.share() for part in self._parts])

    def __enter__(self) -> T:
        return self.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Leased(Generic[T]):
    """A value, its users, and its end: once it is retired nobody new gets it, and when its last lease ends it is closed.

    Any thread may call anything. `close` is called once, without a lock, on the thread that retires it or ends the last lease: it should
    do no more than hand the value to the thread that frees it. `parts` are what the value is made of: whoever leases it leases them, too.
    """

    def __init__(self, value: T, close: Callable[[T], None], parts: Sequence[Leased[T]] = ()) -> None:
        self.value = value
        self.parts = tuple(parts)
        self._close = close
        self._changed = threading.Condition()
        self._users = 0
        self.used = time.monotonic_ns()  # when it was leased, given back or made last
        self._retired = False
        self._closed = False

    @property
    def users(self) -> int:
        """Leases that have not ended."""
        return self._users

    def lease(self) -> Lease[T] | None:
        """A new lease; None if it, or a part of it, is retired, upon which whoever asks looks for its successor."""
        parts = []
        for part in self.parts:
            held = part.lease()
            if held is None:
                break
            parts.append(held)
        with self._changed:
            is_there = not self._retired and len(parts) == len(self.parts)
            if is_there:
                self._users += 1
                self.used = time.monotonic_ns()
        if is_there:
            return Lease(self, parts)
        for held in parts:
            held.end()
        return None

    def retire(self) -> None:
        """No new leases from here on."""
        with self._changed:
            first, self._retired = not self._retired, True
            last = first and self._users == 0
        if last:
            self._end()

    def wait_closed(self, seconds: float | None = None) -> bool:
        """Waits until it was closed; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def _share(self, parts: Sequence[Lease[T]]) -> Lease[T]:
        with self._changed:
            assert self._users and not self._closed
            self._users += 1
        return Lease(self, parts)

    def _give_back(self, lease: Lease[T]) -> None:
        with self._changed:
            if lease._ended:
                return
            lease._ended = True
            self._users -= 1
            self.used = time.monotonic_ns()
            last = self._retired and self._users == 0
        if last:
            self._end()

    def _end(self) -> None:
        try:
            self._close(self.value)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
