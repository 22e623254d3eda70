"""A version takes another one's place: checked, warmed up, on threads that requests do not wait for, and freed there."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt import DeadlineExceededError, Error, InvalidArgumentError, TensorInfo
from maas_rt.service import Repository, _catalogue, _repository
from maas_rt.service._batcher import BatchPolicy
from maas_rt.service._config import ModelConfig, Scheduling, Warmup
from maas_rt.service._errors import Kind
from maas_rt.service._record import State
from maas_rt.service._warmup import warm_up
from tests import _tiny
from tests.service import loads
from tests.service._serving import serving
from tests.service._versions import times
from tests.service.test_repository import _ask, _kind, _put, _states, _version


class _Model:
    """Notes what it is run with."""

    states = ()
    draws = False

    def __init__(self, *failures: Exception | None) -> None:
        self.inputs = (
            TensorInfo("x", "float32", ("n", 8, "s"), ((1, 64), (8, 8), (3, None)), (1, 1, 4)),
            TensorInfo("m", "bfloat16", ("n",), ((1, 64),)),
        )
        self.shapes: list[list[tuple[int, ...]]] = []
        self.failures = list(failures)

    def run(self, inputs: dict[str, Any], deadline: float, state: object, seed: object) -> None:
        assert 0 < deadline <= 1 and state is None and seed is None
        assert not any(array.astype(np.float32).any() for array in inputs.values())
        self.shapes.append([array.shape for array in inputs.values()])
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure


def _warm(model: _Model, config: str = "") -> list[Any]:
    import tomllib

    read = ModelConfig.read(tomllib.loads(config))
    warm_up("m", model, read.scheduling, read.warmup)  # type: ignore[arg-type]
    return model.shapes


def test_what_a_version_is_warmed_up_with() -> None:
    pytest.importorskip("tomllib", reason="Python 3.11 has tomllib"), pytest.importorskip("ml_dtypes")
    assert _warm(_Model()) == [[(1, 8, 4), (1,)]]
    batches = "max_batch_size = 16\n[dynamic_batching]\npreferred_batch_size = [4, 8]\n"
    assert _warm(_Model(), batches) == [[(rows, 8, 4), (rows,)] for rows in (1, 4, 8, 16)]
    pads = "max_batch_size = 2\n[dynamic_batching]\npad = {x = {axis = 2, to = [8, 16]}}\n"
    assert _warm(_Model(), pads) == [[(1, 8, 4), (1,)], [(2, 8, 4), (2,)], [(2, 8, 16), (2,)]]
    shapes = "[warmup]\nshapes = [{x = [2, 8, 8], m = [2]}, {x = [3, 8, 4], m = [3]}]\n"
    assert _warm(_Model(), shapes) == [[(2, 8, 8), (2,)], [(3, 8, 4), (3,)]]
    assert _warm(_Model(), "[warmup]\ntimeout_ms = 0\n") == []


def _run_error(status: str | None) -> Error:
    error = Error("an index is out of range")
    error.status = status
    return error


def test_what_a_warm_up_that_fails_says_of_a_model() -> None:
    scheduling, warmup = Scheduling(BatchPolicy(2, 0, ())), Warmup()
    for failure in (_run_error("MRT_ERROR_RUN"), InvalidArgumentError("n is too small")):  # of zeros
        model = _Model(failure)
        warm_up("m", model, scheduling, warmup)  # type: ignore[arg-type]
        assert len(model.shapes) == 2
    late = _Model(DeadlineExceededError("late"))
    warm_up("m", late, scheduling, warmup)  # type: ignore[arg-type]
    assert len(late.shapes) == 1
    for bad in (_run_error(None), MemoryError()):
        with pytest.raises(Error, match="its first run fails"):
            warm_up("m", _Model(bad), scheduling, warmup)  # type: ignore[arg-type]
    asked = Warmup(shapes=({"x": (2, 8, 4), "m": (2,)},))
    with pytest.raises(InvalidArgumentError, match=r"its warm-up with x \[2, 8, 4\], m \[2\] fails: an index"):
        warm_up("m", _Model(_run_error("MRT_ERROR_RUN")), scheduling, asked)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="a shape for each of x, m, and no other"):
        warm_up("m", _Model(), scheduling, Warmup(shapes=({"x": (1, 8, 4)},)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "warmup",
    [
        {"shapes": 1},
        {"shapes": [1]},
        {"shapes": [{"x": 1}]},
        {"shapes": [{"x": [-1]}]},
        {"timeout_ms": -1},
        {"runs": 1},
    ],
)
def test_warm_ups_that_are_none(warmup: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="shapes is|timeout_ms is|warmup has runs"):
        ModelConfig.read({"warmup": warmup})


def test_a_version_whose_warm_up_fails_does_not_serve(tmp_path: Path) -> None:
    path = _version(tmp_path, 1)
    config = path.parents[1] / "config.toml"
    config.write_text("[warmup]\nshapes = [{x = [1, 4]}]\n")
    repository = Repository(tmp_path)
    config.write_text("[warmup]\nshapes = [{x = [1, 5]}]\n")
    _version(tmp_path, 2)
    (error,) = repository.reload()  # the first one is warm
    assert "m/2/model.mrt: its warm-up with x [1, 5] fails: " in str(error)
    assert _ask(repository) == ("1", 1.0) and _states(repository)["m/2"] is State.UNAVAILABLE


def test_models_with_states_and_with_random_numbers_are_warmed_up(tmp_path: Path) -> None:
    for name, data in (
        ("sum", _tiny.accumulator()),
        ("noise", _tiny.noise()),
        ("two", _tiny.two_outputs()),
        ("rows", _tiny.gather()),
    ):
        _put(tmp_path / f"{name}.mrt", data)
    repository = Repository(tmp_path)
    assert repository.names() == ["noise", "rows", "sum", "two"]
    with repository.lease("sum") as served:  # states begin as they are declared
        assert served.model.run({"x": np.ones((1, 4), np.float32)}, state=served.model.state())["y"][0, 0] == 11


def test_another_interface_does_not_take_the_place_of_the_one_that_is_asked(tmp_path: Path) -> None:
    path = _version(tmp_path, 1)
    repository = Repository(tmp_path)
    _put(path, times(7, names=("z", "y")))
    (error,) = repository.reload()
    assert str(error).startswith(
        f"{path}: it cannot take the place of version 1, which goes on: input 'x' is gone; input 'z' is new"
    )
    assert (
        _ask(repository) == ("1", 1.0) and repository.reload() == [] and _kind(repository.load, "m") is Kind.BAD_REQUEST
    )
    later = _put(tmp_path / "m" / "2" / "model.mrt", times(2, width=5))
    _put(path, times(3))
    (error,) = repository.reload()
    assert str(later) in str(error) and "dimension 1 of input 'x' is 5 and was 4" in str(error)
    assert _ask(repository) == ("1", 3.0)
    config = tmp_path / "m" / "config.toml"
    config.write_text("replace_incompatible = true\n")
    assert repository.reload() == [] and repository.versions("m") == ["1", "2"]
    config.write_text("replace_incompatible = 1\n")
    assert "replace_incompatible is 1 and must be true or false" in str(repository.reload()[0])
    config.unlink()
    repository = Repository(tmp_path)  # at start nothing is replaced
    assert repository.versions("m") == ["1", "2"]
    config.write_text("[labels]\nproduction = 1\n")
    _put(tmp_path / "m" / "3" / "model.mrt", times(3, width=6))  # and here neither: nobody gets it unasked
    assert repository.reload() == [] and repository.versions("m") == ["1", "2", "3"] and _ask(repository) == ("1", 3.0)


def test_the_threads_that_load_run_and_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here() -> tuple[str, int]:
        return threading.current_thread().name.rpartition("_")[0], os.getpriority(
            os.PRIO_PROCESS, threading.get_native_id()
        )

    usual = here()[1]
    _version(tmp_path, 1)
    seen: list[tuple[str, int]] = []
    repository = Repository(tmp_path)
    load, warm = repository._files.load, _repository.warm_up
    monkeypatch.setattr(repository._files, "load", lambda path: (seen.append(here()), load(path))[1])
    monkeypatch.setattr(_repository, "warm_up", lambda *given: (seen.append(here()), warm(*given))[1])
    monkeypatch.setattr(_catalogue, "_LAST_USES", 1_000_000)
    _version(tmp_path, 2)
    thread = threading.Thread(target=repository.reload)  # whoever asks
    thread.start(), thread.join()
    assert seen == [("maas_rt_loader", min(19, usual + 10)), ("maas_rt_warmup", usual)]

    async def last_request() -> None:
        lease = repository.lease("m", "1")
        weakref.finalize(lease.value.model, lambda: seen.append(here()))
        (tmp_path / "m" / "1" / "model.mrt").unlink()
        await asyncio.to_thread(repository.reload)
        lease.end()
        del lease
        assert len(seen) == 2  # not here
        end = time.monotonic() + 60
        while len(seen) == 2 and time.monotonic() < end:
            await asyncio.sleep(0.01)

    asyncio.run(last_request())
    assert seen[2][0] == "maas_rt_loader" and _states(repository) == {"m/2": State.READY}


async def test_updates_a_copy_over_a_file_in_use_and_a_rollback_under_load(tmp_path: Path) -> None:
    """No request fails, and every answer is of what was served at some time between its request and itself."""
    path = _version(tmp_path, 1)
    live = [{1.0}]  # what may answer from one moment to the next
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}
    labels = "/v2/repository/models/m/labels/production"
    stop, answered = asyncio.Event(), 0

    async with serving(tmp_path) as server:

        async def ask() -> None:
            nonlocal answered
            while not stop.is_set():
                first = len(live) - 1
                status, found, _ = await server.ask("POST", "/v2/models/m/infer", json=body)
                assert status == 200, found
                assert found["outputs"][0]["data"][0] in set().union(*live[first:])
                answered += 1

        async def change(factor: float, made: Awaitable[Any]) -> None:
            live.append({*live[-1], factor})
            outcome = await made
            assert outcome == [] or outcome[0] == 200, outcome
            live.append({factor})
            before = answered
            while answered < before + 4:
                assert not any(client.done() for client in clients)
                await asyncio.sleep(0.001)

        def reload() -> Awaitable[Any]:
            return asyncio.to_thread(server.core.repository.reload)

        clients = [asyncio.create_task(ask()) for _ in range(4)]
        for factor in range(2, 12):
            _put(path, times(factor))
            await change(factor, reload())
        path.write_bytes(times(12))
        await change(12, reload())
        _version(tmp_path, 20)
        await change(20, reload())
        assert (await server.ask("POST", labels, json={"version": "20"}))[0] == 200
        await change(12, server.ask("POST", labels, json={"version": "1"}))
        await change(20, server.ask("POST", labels + "/rollback"))
        stop.set()
        await asyncio.gather(*clients)


def test_a_forked_process_loads_too(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    repository = Repository(tmp_path)
    _version(tmp_path, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if repository.reload() == [] and repository.versions("m") == ["1", "2"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_is_flat(tmp_path: Path) -> None:
    assert loads.grown(30, tmp_path) < 8 * loads.WIDTH**2 * 4  # one that is not freed is 1 MiB
