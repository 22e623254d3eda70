"""A thread for work on TVM's objects, with room for recursion, and out of reach of signals.

Expressions and functions of thousands of steps are walked by recursion, here, in Python's own library and in TVM. And TVM's C++ code
calls back into Python: an exception that comes there out of nowhere, as Ctrl-C's does on the main thread, passes through C++ frames that
were not made for one, and can end the process. So what interrupts the caller waits until the work asks for it, by `heed`.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["deep", "heed"]

T = TypeVar("T")
_STACK = 512 << 20  # bytes, of address space: what is not touched is never there
_DEPTH = 50_000  # calls in Python; through TVM each takes a few KB of the stack
_BEGINS = 5.0  # seconds within which a thread that was started has begun
_LOCK = threading.Lock()  # of the stack size and the recursion limit, which are the whole process's
_inside = threading.local()
_running = 0
_limit = 0


def heed() -> None:
    """Raise what has interrupted the caller of `deep` meanwhile. Called between steps of its work, never inside of a callback of TVM's."""
    for interrupt in getattr(_inside, "interrupts", None) or ():
        raise interrupt


def deep(run: Callable[[], T]) -> T:
    """`run()` on a thread with a large stack, under a high recursion limit. Exceptions come out of it as of a plain call; Ctrl-C too,
    when `run` next asks for it or is done."""
    if getattr(_inside, "interrupts", None) is not None:
        return run()
    result: list[T] = []
    failure: list[BaseException] = []
    interrupts: list[BaseException] = []
    begun, finished = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        _inside.interrupts = interrupts
        try:
            heed()
            result.append(run())
        except BaseException as error:  # raised again where the caller waits
            failure.append(error)
        finally:
            finished.set()

    _enter()
    try:
        if not _started(work, begun, interrupts):
            return run()
        _wait(finished, interrupts)
    finally:
        _leave()
    if interrupts:
        raise interrupts[0]
    if failure:
        raise failure[0]
    return result[0]


def _started(work: Callable[[], None], begun: threading.Event, interrupts: list[BaseException]) -> bool:
    """Whether a thread runs `work`; not where this machine has no room for one: then it goes as deep as it can."""
    if not _has_room():
        return False
    with _LOCK:
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=work, name="maas_rt compile", daemon=True).start()
            return True
        except (RuntimeError, MemoryError):
            return False
        except BaseException as error:
            if not begun.wait(_BEGINS):  # interrupted before there was a thread
                raise
            interrupts.append(error)
            return True
        finally:
            threading.stack_size(before)


def _has_room() -> bool:
    """Whether the stack would find its addresses. A thread is not tried without: one that cannot be started leaves a state behind, to which
    CPython before 3.12 sends the exceptions that are meant for the thread that wanted it (`verify/_deadline.py`)."""
    try:
        mmap.mmap(-1, _STACK).close()
    except (OSError, ValueError, MemoryError):
        return False
    return True


def _wait(over: threading.Event, interrupts: list[BaseException]) -> None:
    """Until the work is over. What interrupts the caller meanwhile is kept for both. (Not by Thread.join: an exception within it makes
    Python take the thread for ended, and a process that ends while one is in C++ code is aborted.)"""
    while not over.is_set():
        try:
            over.wait()
        except BaseException as error:  # KeyboardInterrupt, or what a deadline raises in this thread
            interrupts.append(error)


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
