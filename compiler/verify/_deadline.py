"""A time limit for code that is not ours, such as a source framework whose loop may never end on inputs that were drawn."""

from __future__ import annotations

import contextvars
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["OverdueError", "within"]

T = TypeVar("T")
_RAISE_INTERVAL = 1.0  # seconds until the exception is raised once more, where a callback swallowed it
_JUMPS = 1000  # each of which looks for an exception; one would do


class OverdueError(Exception):
    """What was to be run did not finish in its time."""


class _Stop(BaseException):
    """Raised inside of what runs; not an Exception, so that nothing on the way takes it for one of its own."""


def within(seconds: float, run: Callable[[], T], interrupt: Callable[[], None] | None = None) -> T:
    """`run()`, with an exception raised in it after `seconds`, and `interrupt` called from another thread for what is native code
    and would not see one. Raises OverdueError then."""
    if not _arrives(threading.get_ident()):
        return _elsewhere(lambda: within(seconds, run, interrupt))
    watch = _Watch(seconds, interrupt)
    try:
        try:
            watch.start()  # here: its exception may come before the next line
            return run()
        finally:
            watch.stop()
    except _Stop:
        watch.stop()  # it may have come in the call above, in its place
        raise OverdueError from None
    except Exception as error:
        if watch.expired:  # native code's own words for having been interrupted
            raise OverdueError from error
        raise


class _Watch:
    """A thread that waits for the end or for the limit."""

    def __init__(self, seconds: float, interrupt: Callable[[], None] | None) -> None:
        self.expired = False
        self._watched = threading.get_ident()
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._seconds = seconds

    def start(self) -> None:
        threading.Thread(target=self._wait, daemon=True).start()

    def stop(self) -> None:
        """After this nothing is raised any more."""
        self._done.set()
        with self._lock:
            if self.expired:
                _discard(self._watched)

    def _wait(self) -> None:
        delay = self._seconds
        while not self._done.wait(delay):
            with self._lock:
                if self._done.is_set():
                    return
                self.expired = True
            # Before the exception: while one is to be raised in a thread that waits, no other one that is traced gets past a function's
            # entry (CPython before 3.12).
            if self._interrupt is not None:
                self._interrupt()
            with self._lock:
                if self._done.is_set():
                    return
                _raise_in(self._watched, _Stop)
            delay = _RAISE_INTERVAL


def _raise_in(thread: int, exception: type[BaseException]) -> None:
    """Have a thread raise `exception` before its next bytecode that asks for such."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))


def _discard(thread: int) -> None:
    """Take what may still be to be raised in this thread. To ask for no exception instead would take it back too, but the interpreter
    (CPython before 3.12) would go on looking for one before every jump, and never get past a function's entry where it is traced."""
    _arrives(thread)


def _arrives(thread: int) -> bool:
    """Whether an exception that is to be raised in this thread, whose number is `thread`, is.

    CPython before 3.12 keeps of a thread that could not be started (there was no memory for its stack) a state with the number of the
    thread that wanted it, and exceptions for that one go there, for as long as the process lives.
    """
    try:
        _raise_in(thread, _Stop)
        for _ in range(_JUMPS):
            pass
    except _Stop:
        return True
    return False


def _elsewhere(run: Callable[[], T]) -> T:
    """`run()` in a thread of its own, with the context of this one."""
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(run())
        except BaseException as error:  # raised again where the caller waits
            failures.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
