"""The threads that load and free models while others answer: they stay out of the way of requests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
_NICE = 10  # more than the process's


class Loader:
    """Two threads. Files are read, checked and freed on one of low priority. Models run on the other, of the priority that requests have: what
    a run starts, the runtime's workers among it, would keep the low one for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: int | None = None
        self._threads()

    def call(self, work: Callable[[], T]) -> T:
        """Does what loads, and waits for it."""
        return self._threads()[0].submit(work).result()

    def run(self, work: Callable[[], T]) -> T:
        """Does what runs a model, and waits for it; for what is called by `call`."""
        return self._threads()[1].submit(work).result()

    def later(self, work: Callable[[], object]) -> None:
        """Does what frees, after what is under way."""
        with suppress(RuntimeError):  # it is closed: what nobody holds any more is freed anyway
            self._threads()[0].submit(work)

    def close(self) -> None:
        """Ends the threads, after what is under way."""
        for each in self._threads():
            each.shutdown(wait=False)

    def _threads(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        """They are started by a thread that has the priority of requests; in a forked process anew."""
        with self._lock:
            if self._process != os.getpid():
                self._low = ThreadPoolExecutor(1, "maas_rt_loader", initializer=_be_nice)
                self._usual = ThreadPoolExecutor(1, "maas_rt_warmup")
                self._usual.submit(int)  # a thread has the priority of the one that starts it
                self._process = os.getpid()
            return self._low, self._usual


def _be_nice() -> None:
    with suppress(AttributeError, OSError):  # Linux has a niceness for each thread
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))
