"""Room for recursion: expressions and functions of thousands of steps are walked by recursion, here, in Python's own library and in TVM."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from ._deadline import raise_in

__all__ = ["deep"]

T = TypeVar("T")
_STACK = 512 << 20  # bytes, of address space: what is not touched is never there
_DEPTH = 50_000  # calls in Python; through TVM each takes a few KB of the stack
_LOCK = threading.Lock()  # of the stack size and the recursion limit, which are the whole process's
_inside = threading.local()
_running = 0
_limit = 0


def deep(run: Callable[[], T]) -> T:
    """`run()` on a thread with a large stack, under a high recursion limit. Exceptions come out of it as of a plain call; Ctrl-C too."""
    if getattr(_inside, "yes", False):
        return run()
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        _inside.yes = True
        try:
            result.append(run())
        except BaseException as error:  # raised again where the caller waits
            failure.append(error)

    _enter()
    try:
        thread = _started(work)
        if thread is None:
            return run()
        interrupt = _wait(thread)
    finally:
        _leave()
    if interrupt is not None and not isinstance(failure[0] if failure else None, type(interrupt)):
        raise interrupt
    if failure:
        raise failure[0]
    return result[0]


def _started(work: Callable[[], None]) -> threading.Thread | None:
    """A thread that runs `work`; None where this machine has no room for one: then it goes as deep as it can."""
    with _LOCK:
        before = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=work, name="maas_rt compile", daemon=True)
            thread.start()
            return thread
        except (RuntimeError, MemoryError):
            return None
        finally:
            threading.stack_size(before)


def _wait(thread: threading.Thread) -> BaseException | None:
    """Until the thread ends. An interrupt of the caller is handed on to it first, and given back."""
    interrupt = None
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:  # KeyboardInterrupt, or what a deadline raises in this thread
            interrupt = error
            raise_in(thread.ident or 0, type(error))
    return interrupt


def _enter() -> None:
    global _running, _limit
    with _LOCK:
        if _running == 0:
            _limit = sys.getrecursionlimit()
            sys.setrecursionlimit(max(_limit, _DEPTH))
        _running += 1


def _leave() -> None:
    global _running
    with _LOCK:
        _running -= 1
        if _running == 0:
            sys.setrecursionlimit(_limit)
