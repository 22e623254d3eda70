"""Functions that are called at their times, by one thread."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable


class Timer:
    """The thread begins with the first call. Times are nanoseconds of time.monotonic_ns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_at(self, when: int, function: Callable[[], None]) -> None:
        """Calls a short function once, at that time or soon after. One that raises is told in the log."""
        with self._changed:
            entry = (when, next(self._number), function)
            heapq.heappush(self._waiting, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="maas_rt_timer", daemon=True)
                self._thread.start()
            elif self._waiting[0] is entry:
                self._changed.notify()

    def close(self) -> None:
        """Ends the thread. What waits is not called."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:
                logging.getLogger(__name__).exception("a function of the timer has failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                left = self._waiting[0][0] - time.monotonic_ns() if self._waiting else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(None if left is None else left / 1e9)
        return None
