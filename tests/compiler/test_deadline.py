"""The time limit for code that is not ours (verification's runs of a source framework)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time

import pytest
from maas_rt.compiler.verify._deadline import OverdueError, within


def _endless() -> None:
    while True:
        pass


def test_a_result_and_an_error_are_handed_on() -> None:
    assert within(60, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(60, lambda: {}["a"])


def test_what_does_not_end_is_stopped() -> None:
    with pytest.raises(OverdueError):
        within(0.05, _endless)


def test_a_handler_on_the_way_does_not_swallow_it() -> None:
    def swallows() -> None:
        with contextlib.suppress(BaseException):
            _endless()
        _endless()

    with pytest.raises(OverdueError):
        within(0.05, swallows)


def test_a_limit_may_pass_before_anything_runs() -> None:
    """Nobody goes on raising then."""
    for _ in range(50):
        with contextlib.suppress(OverdueError):
            within(0.0, lambda: None)
    watchers = [thread for thread in threading.enumerate() if thread.name.endswith("(_wait)")]
    for thread in watchers:
        thread.join(60)
        assert not thread.is_alive()


def test_native_code_is_interrupted() -> None:
    """It waits where no exception can reach it, and complains in its own words once it is woken."""
    woken = threading.Event()

    def waits() -> None:
        assert woken.wait(60)
        raise OSError("interrupted")

    with pytest.raises(OverdueError):
        within(0.05, waits, woken.set)


def test_nothing_comes_afterwards() -> None:
    """A limit that passes at the very end: the exception is raised within, or not at all."""
    for _ in range(50):
        end = time.monotonic() + 0.002
        with contextlib.suppress(OverdueError):
            within(0.002, lambda end=end: _until(end))
        _until(time.monotonic() + 0.001)


def _until(end: float) -> None:
    while time.monotonic() < end:
        pass


def test_a_process_under_a_tracer_goes_on() -> None:
    """coverage and debuggers trace: where the interpreter is left looking for an exception to raise, it never gets past a function's
    entry then."""
    program = """
import contextlib, sys, threading
from maas_rt.compiler.verify._deadline import OverdueError, within
for trace in (sys.settrace, threading.settrace):
    trace(lambda frame, event, argument: None)
def endless():
    while True:
        pass
with contextlib.suppress(OverdueError):
    within(0.05, endless)
woken = threading.Lock()
woken.acquire()
with contextlib.suppress(OverdueError):
    within(0.05, lambda: woken.acquire(), lambda: woken.release())  # it waits in native code, where no exception is seen
print(within(60, lambda: "went on"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("went on\n", 0), done.stderr


AFTER_A_FAILED_START = """
import threading, time
threading.stack_size(1 << 46)  # more than there are addresses
for _ in range(3):
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        print("failed")
threading.stack_size(0)
from maas_rt.compiler.verify._deadline import OverdueError, within
def endless():
    while True:
        pass
try:
    within(0.05, endless)
except OverdueError:
    print("stopped")
try:
    within(0.05, lambda: time.sleep(0.2))
except OverdueError:
    print("overdue")
print(within(60, lambda: 3))
"""


def test_threads_that_could_not_be_started_change_nothing() -> None:
    """CPython before 3.12 sends exceptions for this thread to what is left of them."""
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_FAILED_START], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["failed"] * 3 + ["stopped", "overdue", "3"]
