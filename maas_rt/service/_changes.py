"""Changes that take their time, made beside an event loop one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ._errors import Kind, ServiceError

T = TypeVar("T")
_SOON = 5  # seconds after which there may be room again: a load takes its time


class Changes:
    """Those of one kind, in a thread of their own: they wait for one another, and would keep all of asyncio's own threads from the bodies that are read
    there. Calls are one loop's, but for `submit`.

    Args:
        name: the thread's.
        most: changes that are not over, at once.
    """

    def __init__(self, name: str, most: int = 128) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self._most = most
        self._count = 0

    async def make(self, change: Callable[..., T], *args: Any) -> T:
        """Makes a change. A caller that goes away ends one that has not begun, and no other.

        Raises:
            ServiceError: OVERLOADED if too many wait; NOT_READY after `close`.
        """
        return await self.made(partial(self.submit, change, *args))

    async def made(self, begin: Callable[[], Future[T]]) -> T:
        """The same for one that is begun elsewhere, in another process perhaps."""
        if self._count >= self._most:
            raise ServiceError(Kind.OVERLOADED, f"{self._count} changes wait already, the most that may", _SOON)
        self._count += 1
        try:
            return await _until_made(begin())
        finally:
            self._count -= 1

    def submit(self, change: Callable[..., T], *args: Any) -> Future[T]:
        """Begins a change when those before it are over, however many there are. Any thread may call it.

        Raises:
            ServiceError: NOT_READY after `close`.
        """
        try:
            return self._executor.submit(change, *args)
        except RuntimeError:
            raise ServiceError(Kind.NOT_READY, "the server goes away") from None

    def close(self) -> None:
        """Takes no more of them."""
        self._executor.shutdown(wait=False)


async def _until_made(change: Future[T]) -> T:
    ended = asyncio.wrap_future(change)
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        if change.cancel():
            raise
        # It is made whether or not somebody waits: whoever notes how it ended goes on when it has.
        await asyncio.wait([ended])
        return ended.result()
