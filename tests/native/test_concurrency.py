"""Many threads on one model, asynchronous runs, cancel and deadline, fork."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from tests import _tiny

RNG = np.random.default_rng(3)
X4 = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def endless() -> maas_rt.Model:
    return maas_rt.load(_tiny.endless(), threads=1)


def test_many_threads_call_one_model() -> None:
    model = maas_rt.load(_tiny.mlp("batch"), threads=1)
    inputs = [RNG.standard_normal((1 + i % 5, 16), np.float32) for i in range(16)]
    expected = [model(x) for x in inputs]

    def work(i: int) -> None:
        for _ in range(50):
            np.testing.assert_array_equal(model(inputs[i]), expected[i])
            np.testing.assert_array_equal(model.run({"x": inputs[i]})["y"], expected[i])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


def test_a_run_lets_other_python_threads_go_on(endless: maas_rt.Model) -> None:
    token = maas_rt.CancelToken()
    future = endless.run_async({"x": X4}, cancel=token)
    time.sleep(0.05)  # this thread runs: the GIL is free
    assert not future.done()
    token.cancel()
    with pytest.raises(maas_rt.CancelledError):
        future.result(timeout=30)


def test_a_session_serves_one_run_at_a_time(endless: maas_rt.Model) -> None:
    session = endless.session()
    token = maas_rt.CancelToken()
    refused: list[maas_rt.Error] = []  # whoever comes second, either thread

    def work() -> None:
        try:
            session.run({"x": X4}, cancel=token)
        except maas_rt.CancelledError:
            pass
        except maas_rt.Error as error:
            refused.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    give_up = time.monotonic() + 60
    while not refused and time.monotonic() < give_up:
        try:
            session.run({"x": X4}, deadline=0.05)
        except maas_rt.DeadlineExceededError:
            time.sleep(0.001)  # the thread had not begun: let it
        except maas_rt.Error as error:
            refused.append(error)
    token.cancel()
    thread.join()
    assert [error.status for error in refused[:1]] == ["MRT_ERROR_BUSY"]


def test_a_run_is_cancelled_from_another_thread(endless: maas_rt.Model) -> None:
    token = maas_rt.CancelToken()
    timer = threading.Timer(0.02, token.cancel)
    timer.start()
    with pytest.raises(maas_rt.CancelledError, match="cancel"):
        endless.run({"x": X4}, cancel=token)
    timer.join()
    assert token.cancelled
    with pytest.raises(maas_rt.CancelledError):  # it stays cancelled
        endless.run({"x": X4}, cancel=token)
    token.clear()
    assert not token.cancelled
    model = maas_rt.load(_tiny.softmax())
    assert model.run({"x": X4}, cancel=token)["y"].shape == (1, 4)


@pytest.mark.parametrize("seconds", [0.02, 0, -1, 1e-9])
def test_a_deadline_ends_a_run(endless: maas_rt.Model, seconds: float) -> None:
    with pytest.raises(maas_rt.DeadlineExceededError, match="deadline") as caught:
        endless.run({"x": X4}, deadline=seconds)
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize("seconds", [60, 1e30, float("inf"), np.float64(60)])
def test_a_far_deadline_does_not(seconds: float) -> None:
    assert maas_rt.load(_tiny.softmax()).run({"x": X4}, deadline=seconds)["y"].shape == (1, 4)


def test_asynchronous_runs() -> None:
    model = maas_rt.load(_tiny.mlp("batch"), threads=1)
    inputs = [RNG.standard_normal((1 + i % 3, 16), np.float32) for i in range(40)]
    futures = [model.run_async({"x": x}) for x in inputs]
    for x, future in zip(inputs, futures, strict=True):
        np.testing.assert_array_equal(future.result(timeout=60)["y"], model(x))
    buffer = np.zeros((1, 8), np.float32)
    assert model.run_async({"x": inputs[0]}, out={"y": buffer}).result(60)["y"] is buffer
    with pytest.raises(maas_rt.InvalidArgumentError, match="is missing"):
        model.run_async({}).result(60)


def test_runs_that_wait_are_bounded(endless: maas_rt.Model) -> None:
    token = maas_rt.CancelToken()
    futures: list[Any] = []
    with pytest.raises(maas_rt.Error, match="65536 runs wait in this pool") as caught:
        for _ in range(70_000):
            futures.append(endless.run_async({"x": X4}, cancel=token))
    assert caught.value.status == "MRT_ERROR_BUSY" and len(futures) >= 65536
    token.cancel()
    for future in futures:
        assert isinstance(future.exception(timeout=60), maas_rt.CancelledError)
    token.clear()
    model = maas_rt.load(_tiny.softmax())
    assert model.run_async({"x": X4}).result(60)["y"].shape == (1, 4)


def test_a_future_that_is_cancelled_gets_no_result(endless: maas_rt.Model) -> None:
    token = maas_rt.CancelToken()
    future, other = (endless.run_async({"x": X4}, cancel=token) for _ in range(2))
    assert future.cancel() and future.cancelled()
    token.cancel()
    with pytest.raises(maas_rt.CancelledError):
        other.result(60)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(60)


def test_a_state_is_one_runs_at_a_time() -> None:
    model = maas_rt.load(_tiny.accumulator())
    state, refused = model.state(), 0
    futures = []
    for _ in range(2000):
        try:
            futures.append(model.run_async({"x": np.ones((1, 4), np.float32)}, state=state))
        except maas_rt.Error as error:
            assert error.status == "MRT_ERROR_BUSY"
            refused += 1
    sums = sorted(future.result(60)["y"][0, 0] for future in futures)
    assert sums == [11.0 + n for n in range(2000 - refused)]


def test_what_a_run_needs_lives_until_it_is_done() -> None:
    futures = []
    for number in range(200):
        model = maas_rt.load(_tiny.mlp("batch"), threads=1)
        futures.append(model.run_async({"x": np.full((1, 16), number, np.float32)}, deadline=60))
        del model
    for number, future in enumerate(futures):
        wanted = _tiny.reference_mlp(np.full((1, 16), number, np.float32))
        np.testing.assert_allclose(future.result(60)["y"], wanted, rtol=1e-4, atol=1e-3)


async def test_asynchronous_runs_are_awaited(endless: maas_rt.Model) -> None:
    model = maas_rt.load(_tiny.softmax())
    results = await asyncio.gather(*(asyncio.wrap_future(model.run_async({"x": X4 + i})) for i in range(5)))
    for result in results:
        np.testing.assert_allclose(result["y"], 0.25)
    with pytest.raises(maas_rt.DeadlineExceededError):
        await asyncio.wrap_future(endless.run_async({"x": X4}, deadline=0.02))


def test_the_deadline_counts_from_the_request(endless: maas_rt.Model) -> None:
    token = maas_rt.CancelToken()
    blockers = [endless.run_async({"x": X4}, cancel=token) for _ in range(64)]
    waiting = maas_rt.load(_tiny.softmax()).run_async({"x": X4}, deadline=0.001)
    time.sleep(0.01)
    token.cancel()
    for blocker in blockers:
        with pytest.raises(maas_rt.CancelledError):
            blocker.result(60)
    with pytest.raises(maas_rt.DeadlineExceededError):
        waiting.result(60)


def test_a_model_works_in_a_forked_child() -> None:
    model = maas_rt.load(_tiny.mlp("batch"))
    x = RNG.standard_normal((64, 16), np.float32)
    expected = model(x)
    model.run_async({"x": x}).result(60)
    child = os.fork()
    if child == 0:
        ok = np.array_equal(model(x), expected) and np.array_equal(model.run_async({"x": x}).result(60)["y"], expected)
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(model(x), expected)


def test_the_interpreter_ends_while_a_run_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "endless.mrt").write_bytes(_tiny.endless())
    program = (
        "import maas_rt, numpy, sys\n"
        "m = maas_rt.load(sys.argv[1])\n"
        "m.run_async({'x': numpy.zeros((1, 4), 'f4')}, deadline=0.2)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "endless.mrt")], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")


# Each with sys.argv[1], a model of mlp(), and its standard output.
AT_THE_END = {
    "daemon threads that go on running": (
        "import maas_rt, numpy, sys, threading, time\n"
        "m = maas_rt.load(sys.argv[1], threads=1)\n"
        "x = numpy.zeros((1, 16), 'f4')\n"
        "def work():\n"
        "    while True:\n"
        "        m(x)\n"
        "for _ in range(4):\n"
        "    threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.1)\n",
        "",
    ),
    "runs while it ends": (
        "import atexit, maas_rt, numpy, sys\n"
        "m = maas_rt.load(sys.argv[1])\n"
        "x = numpy.zeros((1, 16), 'f4')\n"
        "def last():\n"
        "    print(m(x).shape)\n"
        "    try:\n"
        "        m.run_async({'x': x})\n"
        "    except maas_rt.Error as error:\n"
        "        print(error)\n"
        "atexit.register(last)\n",
        "(1, 8)\nthe interpreter ends and starts no runs any more: call run instead of run_async\n",
    ),
}


@pytest.mark.parametrize("name", AT_THE_END)
def test_at_the_end_of_the_interpreter(name: str, tmp_path: Path) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    program, output = AT_THE_END[name]
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "mlp.mrt")], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, output, "")


SUB_INTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
source = "try:\\n import maas_rt._native\\nexcept ImportError as error:\\n print(error, flush=True)"
interpreters.run_string(other, source)
"""


def test_a_sub_interpreter_is_told() -> None:
    command = [sys.executable, "-W", "ignore", "-c", SUB_INTERPRETER]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # Newer numpy refuses before maas_rt's turn comes.
    assert "maas_rt runs in Python's main interpreter" in run.stdout or "subinterpreter" in run.stdout, run
