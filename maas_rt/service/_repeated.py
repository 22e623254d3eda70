"""Something that is done again and again, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_LOGGER = logging.getLogger(__name__)


class Repeated:
    """Does something at once and every so many seconds, until it is closed. What it raises is logged, and it goes on."""

    def __init__(self, work: Callable[[], None], interval: float, name: str) -> None:
        self._work = work
        self._interval = interval
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after what is under way."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._work()
            except Exception:
                _LOGGER.exception("%s has failed", self._thread.name)
            if self._closed.wait(self._interval):
                return
