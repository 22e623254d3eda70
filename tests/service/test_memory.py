"""More models than there is memory for: what is loaded, when, and what goes for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from maas_rt import Error
from maas_rt.service import Repository, _app
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._record import State
from tests import _tiny
from tests.service._serving import serving
from tests.service._versions import times
from tests.service.test_repository import _ask, _put, _states, _version

SIZE = len(times(1))


def _models(root: Path, *names: str) -> None:
    for factor, name in enumerate(names, 1):
        _put(root / f"{name}.mrt", times(factor))


def _asked_again(repository: Repository, name: str = "m", wanted: str | None = None) -> tuple[str, float]:
    """As a client does that is told to ask again."""
    end = time.monotonic() + 60
    while True:
        try:
            return _ask(repository, wanted, name)
        except ServiceError as error:
            assert error.kind is Kind.NOT_READY and error.retry_after and time.monotonic() < end
            time.sleep(0.01)


def test_what_is_used_least_recently_goes_for_what_is_asked_for(tmp_path: Path) -> None:
    _models(tmp_path, "a", "b", "c")
    repository = Repository(tmp_path, memory=2 * SIZE + 10)
    assert repository.names() == ["a", "b", "c"] and repository.versions("c") == ["1"]
    assert _states(repository) == {"a/1": State.READY, "b/1": State.READY, "c/1": State.UNAVAILABLE}
    assert repository.index()[2].reason == "it is loaded when it is asked for"
    assert [entry.name for entry in repository.index(ready_only=True)] == ["a", "b"]
    _ask(repository, name="b"), _ask(repository, name="a")
    with pytest.raises(ServiceError, match="version 1 of model 'c' is being loaded") as caught:
        repository.lease("c")
    assert caught.value.retry_after == 1
    assert _asked_again(repository, "c") == ("1", 3.0)
    assert _states(repository) == {"a/1": State.READY, "b/1": State.UNAVAILABLE, "c/1": State.READY}
    assert repository.reload() == [] and _states(repository)["b/1"] is State.UNAVAILABLE
    assert _asked_again(repository, "b") == ("1", 2.0) and _states(repository)["a/1"] is State.UNAVAILABLE
    repository.unload("a")
    with pytest.raises(ServiceError, match="no version of model 'a' is ready"):
        repository.lease("a")
    repository.load("a")  # whoever asks for it means it
    assert _ask(repository, name="a") == ("1", 1.0)


def _refused(repository: Repository, name: str) -> ServiceError:
    """What whoever asks for a model is told that was tried, and has no room."""
    end = time.monotonic() + 60
    while True:
        with pytest.raises(ServiceError) as caught:
            repository.lease(name)
        if "is being loaded" not in str(caught.value):
            return caught.value
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_in_use_never_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _models(tmp_path, "a", "b", "c")
    repository = Repository(tmp_path, memory=2 * SIZE + 10)
    leases = [repository.lease(name) for name in ("a", "b")]
    for _ in range(5):  # each of which has it tried again
        refused = _refused(repository, "c")
        assert "could not be loaded yet, and is tried again" in str(refused)
        assert refused.kind is Kind.NOT_READY and refused.retry_after == 5
    repository._loader.call(int)  # after all that were asked for
    assert sum("not served" in line for line in caplog.messages) == 1
    assert _states(repository)["a/1"] is _states(repository)["b/1"] is State.READY
    leases[1].end()
    assert _asked_again(repository, "c") == ("1", 3.0)
    assert _states(repository) == {"a/1": State.READY, "b/1": State.UNAVAILABLE, "c/1": State.READY}
    again = repository.lease("c")  # what has served in between is told of anew
    assert "could not be loaded yet" in str(_refused(repository, "b"))
    again.end(), leases[0].end()
    assert _asked_again(repository, "b") == ("1", 2.0)


def test_a_request_gets_the_version_that_it_means_and_no_other(tmp_path: Path) -> None:
    _version(tmp_path, 1), _version(tmp_path, 2)
    size = (tmp_path / "m" / "2" / "model.mrt").stat().st_size
    repository = Repository(tmp_path, memory=size + 10)
    assert _states(repository) == {"m/1": State.READY, "m/2": State.UNAVAILABLE}
    assert _asked_again(repository) == ("2", 2.0)
    assert _asked_again(repository, wanted="1") == ("1", 1.0)
    repository.set_label("m", "production", "1")
    assert _ask(repository) == ("1", 1.0)
    repository.set_label("m", "production", "2")  # which sleeps
    assert _asked_again(repository) == ("2", 2.0) and repository.rollback("m") == "1"


def test_a_new_version_takes_the_room_of_other_models(tmp_path: Path) -> None:
    _version(tmp_path, 1, "a"), _version(tmp_path, 1, "b")
    size = (tmp_path / "a" / "1" / "model.mrt").stat().st_size
    repository = Repository(tmp_path, memory=2 * size + 10)
    _version(tmp_path, 2, "b")
    assert repository.reload() == []
    assert _ask(repository, name="b") == ("2", 2.0) and _ask(repository, "1", "b") == ("1", 1.0)
    assert _states(repository)["a/1"] is State.UNAVAILABLE
    _version(tmp_path, 3, "b")
    (error,) = repository.reload()
    assert f"b/3/model.mrt takes {size} bytes, and of the {2 * size + 10} for models" in str(error)
    assert _ask(repository, name="b") == ("2", 2.0)
    _version(tmp_path, 2, "b", factor=7)  # there may be two of it for a moment
    repository.reload()
    assert _ask(repository, name="b") == ("2", 7.0) and _ask(repository, "1", "b") == ("1", 1.0)


def test_what_never_has_room_is_told(tmp_path: Path) -> None:
    _models(tmp_path, "a")
    _put(tmp_path / "wide.mrt", times(1, width=64))
    repository = Repository(tmp_path, memory=SIZE + 10)
    assert repository.names() == ["a"]
    assert "wide.mrt takes" in {entry.name: entry.reason for entry in repository.index()}["wide"]
    with pytest.raises(Error, match="takes"):
        Repository(tmp_path, memory=10)


def test_a_file_that_turns_out_to_be_bad(tmp_path: Path) -> None:
    _models(tmp_path, "a", "b")
    path = tmp_path / "b.mrt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # its last weight
    repository = Repository(tmp_path, memory=SIZE + 10)
    with pytest.raises(ServiceError, match="is being loaded"):
        repository.lease("b")
    end = time.monotonic() + 60
    while "SHA-256" not in repository.index()[1].reason and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(ServiceError, match="no version of model 'b' is ready"):
        repository.lease("b")
    assert repository.names() == ["a"]
    _put(path, times(2))
    assert repository.reload() == [] and _asked_again(repository, "b") == ("1", 2.0)


_SECOND = 1_000_000_000


def test_what_nobody_asks_for_is_unloaded(tmp_path: Path) -> None:
    _models(tmp_path, "a", "b")
    repository = Repository(tmp_path, idle=10 * _SECOND)
    begun = time.monotonic_ns()
    repository.unload_idle(begun + 9 * _SECOND)
    assert set(_states(repository).values()) == {State.READY}
    lease = repository.lease("a")
    repository.unload_idle(begun + 3600 * _SECOND)  # but not what is in use
    assert _states(repository) == {"a/1": State.READY, "b/1": State.UNAVAILABLE}
    assert repository.index()[1].reason == "it is loaded when it is asked for"
    assert repository.names() == ["a", "b"] and repository.reload() == []
    assert _states(repository)["b/1"] is State.UNAVAILABLE
    # It is idle from the end of its last use on.
    lease.end()
    ended = time.monotonic_ns()
    repository.unload_idle(ended + 9 * _SECOND)
    assert _states(repository)["a/1"] is State.READY
    repository.unload_idle(ended + 10 * _SECOND)
    assert _states(repository)["a/1"] is State.UNAVAILABLE
    assert _asked_again(repository, "b") == ("1", 2.0) and _asked_again(repository, "a") == ("1", 1.0)
    repository.unload_idle(ended + 9 * _SECOND)
    assert set(_states(repository).values()) == {State.READY}
    assert repository.close(10)


def test_without_a_time_nothing_is_idle(tmp_path: Path) -> None:
    _models(tmp_path, "a")
    repository = Repository(tmp_path)
    repository.unload_idle(2**62)
    assert _states(repository) == {"a/1": State.READY}


def test_an_idle_version_keeps_its_label_and_its_place(tmp_path: Path) -> None:
    _version(tmp_path, 1), _version(tmp_path, 2)
    repository = Repository(tmp_path, idle=_SECOND)
    repository.set_label("m", "production", "1")
    repository.unload_idle(2**62)
    assert repository.labels("m") == {"production": "1"} and repository.versions("m") == ["1", "2"]
    assert _asked_again(repository) == ("1", 1.0) and _states(repository)["m/2"] is State.UNAVAILABLE
    # A file that is replaced while it sleeps is the one that is loaded.
    _version(tmp_path, 2, factor=7)
    assert repository.reload() == [] and _asked_again(repository, wanted="2") == ("2", 7.0)


def test_nothing_is_idle_while_something_is_changed(tmp_path: Path) -> None:
    _models(tmp_path, "a")
    repository = Repository(tmp_path, idle=_SECOND)
    with repository._changing:
        repository.unload_idle(2**62)  # which does not wait: the event loop calls it
    assert _states(repository) == {"a/1": State.READY}


async def test_a_sequence_is_no_idleness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(tmp_path / "sum.mrt", _tiny.accumulator())
    _models(tmp_path, "a")
    monkeypatch.setattr(_app, "_EXPIRY", 0.01)

    def body(**parameters: object) -> dict[str, object]:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
        return {"inputs": [tensor], "parameters": {"sequence_id": 7, **parameters}}

    async with serving(tmp_path, idle=1) as server:
        path, repository, status = "/v2/models/sum/infer", server.core.repository, 503
        while status == 503:
            status, found, _ = await server.ask("POST", path, json=body(sequence_start=True))
        assert status == 200 and found["outputs"][0]["data"] == [11.0] * 4
        while _states(repository)["a/1"] is not State.UNAVAILABLE:
            await asyncio.sleep(0.01)
        assert _states(repository)["sum/1"] is State.READY
        status, found, _ = await server.ask("POST", path, json=body(sequence_end=True))
        assert status == 200 and found["outputs"][0]["data"] == [12.0] * 4
        while _states(repository)["sum/1"] is not State.UNAVAILABLE:
            await asyncio.sleep(0.01)
        assert (await server.ask("GET", "/v2/health/ready"))[0] == 200


async def test_a_client_is_told_to_ask_again(tmp_path: Path) -> None:
    _models(tmp_path, "a", "b")
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}
    async with serving(tmp_path, memory=SIZE + 10) as server:
        status, found, headers = await server.ask("POST", "/v2/models/b/infer", json=body)
        assert (status, headers["Retry-After"]) == (503, "1") and "is being loaded" in found["error"]
        while status == 503:
            status, found, _ = await server.ask("POST", "/v2/models/b/infer", json=body)
        assert status == 200 and found["outputs"][0]["data"] == [2.0] * 4
        assert (await server.ask("GET", "/v2/health/ready"))[0] == 200
