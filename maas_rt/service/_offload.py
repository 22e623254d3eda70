"""Work on much data beside an event loop, and its ends brought back to it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
_IN_PLACE_BYTES = 1 << 16  # reading or writing less takes a fraction of a millisecond


async def beside_the_loop(size: int, work: Callable[..., T], *args: Any) -> T:
    """What works on so many bytes: in place, or in a thread where other requests would wait for it. It has ended when this has."""
    if size < _IN_PLACE_BYTES:
        return work(*args)
    task = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])  # a thread cannot be stopped: its bytes count as held until it lets go of them
        raise


class Inbox:
    """Small work for the loop that it is made on, from any thread; the loop is woken once for all that came since it last looked."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._landed: deque[Callable[[], object]] = deque()
        self._woken = False

    def land(self, future: asyncio.Future[None]) -> None:
        """Ends a future, now or soon."""
        if threading.get_ident() == self._thread:
            _end(future)
        else:
            self.call(partial(_end, future))

    def call(self, work: Callable[[], object]) -> None:
        """Calls a function that raises nothing, soon."""
        self._landed.append(work)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                self.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False  # first: what comes from now on wakes the loop again
        while self._landed:
            self._landed.popleft()()


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
