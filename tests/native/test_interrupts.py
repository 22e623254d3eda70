"""Signals reach a run: Ctrl-C ends it, handlers are called meanwhile, and nothing outlives the interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import maas_rt
from maas_rt._plan import Block, StepKind
from tests import _tiny

ONE = np.ones((1, 4), np.float32)
SOON = 0.2


@pytest.fixture
def endless() -> maas_rt.Model:
    return maas_rt.load(_tiny.endless(), threads=1)


@pytest.fixture
def interrupt() -> Iterator[None]:
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background inherits that it is ignored
    timer = threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.join()
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupt")
def test_ctrl_c_ends_a_run(endless: maas_rt.Model) -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        endless.run({"x": ONE}, deadline=30)
    assert time.monotonic() - begin < 5
    with pytest.raises(maas_rt.DeadlineExceededError):  # and the model goes on
        endless.run({"x": ONE}, deadline=0.01)


def test_handlers_run_meanwhile_and_may_raise(endless: maas_rt.Model) -> None:
    seen: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.monotonic()))
    try:
        timer = threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(maas_rt.DeadlineExceededError):
            endless.run({"x": ONE}, deadline=1.0)
        assert time.monotonic() - seen[0] > 0.2  # the run went on after the handler
        timer.join()

        def refuse(*_: object) -> None:
            raise ZeroDivisionError("by a handler")

        signal.signal(signal.SIGUSR1, refuse)
        timer = threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(ZeroDivisionError, match="by a handler"):
            endless.run({"x": ONE}, deadline=30)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("interrupt")
def test_a_state_is_not_torn_by_ctrl_c() -> None:
    b = _tiny.Builder("endless with a state")
    x, total = b.input("x", [1, 4]), b.state("sum", np.full((1, 4), 10, np.float32))
    y, z = b.value("y", [1, 4]), b.value("z", [1, 4])
    b.gemm(x, np.eye(4, dtype=np.float32), y, residual=total)
    b.copy(y, total)
    number, carried = b.value("number", [], "int64"), b.value("carried", [1, 4])
    go, body = b.constant("go", np.array(True)), len(b.blocks)
    b.blocks.append(Block("body", params=[number, carried], results=[go, carried]))
    b.step(StepKind.LOOP, [None, None, y], [z], blocks=[body])
    model = maas_rt.load(b.file(z), threads=1)
    state = model.state()
    with pytest.raises(KeyboardInterrupt):
        model.run({"x": ONE}, state=state, deadline=30)
    np.testing.assert_array_equal(state["sum"], 10)


def test_a_long_step_is_left_between_its_pieces() -> None:
    size, rows = 1024, 16384
    b = _tiny.Builder("one product")
    x, y = b.input("x", [rows, size]), b.value("y", [rows, size])
    b.gemm(x, np.ones((size, size), np.float32), y)
    model = maas_rt.load(b.file(y), threads=1)
    data = np.zeros((rows, size), np.float32)
    begin = time.monotonic()
    model.run({"x": data})
    whole = time.monotonic() - begin
    begin = time.monotonic()
    with pytest.raises(maas_rt.DeadlineExceededError):
        model.run({"x": data}, deadline=whole / 8)
    assert time.monotonic() - begin < whole / 2 + 0.1


def test_what_is_queued_is_dropped_at_exit() -> None:
    program = """
import numpy, maas_rt
from tests import _tiny
m = maas_rt.load(_tiny.endless(), threads=1)
futures = [m.run_async({"x": numpy.ones((1, 4), numpy.float32)}, deadline=60) for _ in range(8)]
print("over")
"""
    begin = time.monotonic()
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (run.stdout, run.stderr, run.returncode) == ("over\n", "", 0)
    assert time.monotonic() - begin < 30
