"""Calls without a transport: who is let in, what is observed, and what is left over after every way in which a call can end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt.service import Repository
from maas_rt.service._calls import Context
from maas_rt.service._core import Core
from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._errors import Kind, ServiceError, kind_of
from maas_rt.service._grants import Client
from maas_rt.service._offload import beside_the_loop
from maas_rt.service._requests import InferRequest, InferResponse, InputTensor
from maas_rt.service._served import Served
from maas_rt.service._statistics import Phases
from tests import _tiny

ANYBODY = Context()


class _Gate:
    """Lets in who knows the word; of models none whose name begins with "secret"."""

    def __init__(self) -> None:
        self.inside = 0
        self.asked: list[tuple[str, str | None]] = []

    @contextmanager
    def enter(self, context: Context, verb: str, model: str | None) -> Iterator[Client]:
        self.asked.append((verb, model))
        if not self.allows(context, verb, model):
            raise ServiceError(Kind.FORBIDDEN, "no")
        self.inside += 1
        try:
            yield Client(context.credential or "", ())
        finally:
            self.inside -= 1

    def allows(self, context: Context, verb: str, model: str | None) -> bool:
        return context.credential == "word" and not (model or "").startswith("secret")


class _Observer:
    """Keeps what it is told, and how many requests are under way."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.under_way = 0

    def began(self, served: Served) -> None:
        self.under_way += 1

    def left(self, served: Served) -> None:
        self.under_way -= 1

    def ended(self, served: Served, kind: Kind | None, phases: Phases, ns: int) -> None:
        assert ns > 0
        self.under_way -= 1
        self.seen.append((served.name, kind, phases))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[Core, _Gate, list[Any]]]:
    for name, data in (
        ("mlp", _tiny.mlp("batch")),
        ("sum", _tiny.accumulator()),
        ("endless", _tiny.endless()),
        ("secret", _tiny.mlp()),
    ):
        (tmp_path / f"{name}.mrt").write_bytes(data)
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless" / "config.toml").write_text("[warmup]\ntimeout_ms = 0\n")
    gate, observer = _Gate(), _Observer()
    core = Core(Repository(tmp_path), gate=gate, observe=observer)
    yield core, gate, observer.seen
    assert observer.under_way == 0
    core.close()
    assert core.repository.close(10)  # no lease is left


def _request(width: int = 16, rows: int = 1, value: float = 1.0, **parameters: Any) -> InferRequest:
    array = np.full((rows, width), value, np.float32)
    return InferRequest((InputTensor("x", DATATYPES["FP32"], array.shape, array),), parameters=parameters)


async def _infer(
    core: Core, model: str, request: InferRequest, context: Context | None = None, version: str | None = None
) -> InferResponse:
    with core.begin(model, version, context or Context("word")) as call:
        return await call.infer(request)


def _total(response: InferResponse) -> float:
    return float(response.outputs[0].array[0, 0])


async def test_who_is_let_in(world: tuple[Core, _Gate, list[Any]]) -> None:
    core, gate, seen = world
    friend = Context("word")
    await _infer(core, "mlp", _request())
    for model, context in (("mlp", ANYBODY), ("secret", friend)):
        with pytest.raises(ServiceError, match="no"):
            await _infer(core, model, _request(), context)
    assert [each["name"] for each in core.index(friend)] == ["endless", "mlp", "sum"]
    assert "secret" not in {each["name"] for each in (await core.statistics(None, None, friend))["model_stats"]}
    for call in (core.index, core.server_metadata, core.log_settings):
        with pytest.raises(ServiceError, match="no"):
            call(ANYBODY)
    for change in (core.load, core.unload):
        with pytest.raises(ServiceError, match="no"):
            await change("mlp", ANYBODY)
    gate.asked.clear()
    await core.change_log_settings(friend, {})
    core.log_settings(friend)
    await core.change_trace_settings("mlp", friend, {})
    core.labels("mlp", friend)
    await core.load("mlp", friend)
    verbs = [("admin", None), ("read", None), ("admin", "mlp"), ("read", "mlp"), ("admin", "mlp")]
    assert gate.asked == verbs and gate.inside == 0
    assert [(name, kind) for name, kind, _ in seen] == [("mlp", None)]


async def test_changes_that_wait_keep_nothing_else_waiting_and_end_as_they_are_noted(
    world: tuple[Core, _Gate, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    core, gate, _ = world
    begun, goes_on, loaded = threading.Event(), threading.Event(), []

    def load(name: str) -> None:
        begun.set()
        assert goes_on.wait(60)
        loaded.append(name)

    monkeypatch.setattr(core.repository, "load", load)
    changes = [asyncio.create_task(core.load(f"m{number}", Context("word"))) for number in range(100)]
    while not begun.is_set():
        await asyncio.sleep(0.001)
    try:
        assert await asyncio.wait_for(beside_the_loop(1 << 20, int, "3"), 30) == 3
        assert await core.set_label("mlp", "best", "1", Context("word")) == {"best": "1"}
        for change in changes[:99]:  # the first is under way, the others are not
            change.cancel()
        await asyncio.sleep(0.01)
        assert gate.inside == 2 and not changes[0].done()
    finally:
        goes_on.set()
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert outcomes[0] is None and outcomes[99] is None and loaded == ["m0", "m99"] and gate.inside == 0
    assert {kind_of(error) for error in outcomes[1:99] if error is not None} == {Kind.CANCELLED}


async def test_not_too_many_changes_wait(world: tuple[Core, _Gate, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    core, gate, _ = world
    goes_on = threading.Event()
    monkeypatch.setattr(core.repository, "load", lambda name: goes_on.wait(60))
    changes = [asyncio.create_task(core.load(f"m{number}", Context("word"))) for number in range(1000)]
    await asyncio.sleep(0)  # each begins
    await asyncio.sleep(0)
    errors = [change.exception() for change in changes if change.done()]
    try:
        assert len(errors) == 1000 - 128 and gate.inside == 128
        assert all(isinstance(each, ServiceError) and each.kind is Kind.OVERLOADED for each in errors)
        assert str(errors[0]).startswith("128 changes wait already") and errors[0].retry_after
        with pytest.raises(ServiceError, match="wait already"):
            await core.unload("mlp", Context("word"))
        assert await core.set_label("mlp", "best", "1", Context("word")) == {"best": "1"}
        # Who goes away makes room.
        next(change for change in reversed(changes) if not change.done()).cancel()
        while gate.inside == 128:
            await asyncio.sleep(0)
        last = asyncio.create_task(core.unload("mlp", Context("word")))
        await asyncio.sleep(0)
        assert gate.inside == 128 and not last.done()
    finally:
        goes_on.set()
    await last
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert outcomes.count(None) == 127 and gate.inside == 0
    await core.load("mlp", Context("word"))


async def test_what_is_cancelled_beside_the_loop_holds_its_bytes_until_it_has_ended() -> None:
    goes_on = threading.Event()
    task = asyncio.create_task(beside_the_loop(1 << 20, goes_on.wait, 60))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ValueError, match="invalid literal"):
        await beside_the_loop(1 << 20, int, "x")


async def test_what_is_observed(world: tuple[Core, _Gate, list[Any]]) -> None:
    core, gate, seen = world
    await _infer(core, "mlp", _request())
    with pytest.raises(ServiceError):
        await _infer(core, "mlp", _request(datatype=3, timeout=-1))
    with pytest.raises(Exception) as caught:
        await _infer(core, "mlp", _request(width=15))
    assert kind_of(caught.value) is Kind.BAD_REQUEST
    with pytest.raises(ServiceError, match="no model"):
        await _infer(core, "nope", _request())
    with pytest.raises((ServiceError, maas_rt.DeadlineExceededError)):
        await _infer(core, "endless", _request(width=4, timeout=20_000))
    task = asyncio.create_task(_infer(core, "endless", _request(width=4)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(name, kind) for name, kind, _ in seen] == [
        ("mlp", None),
        ("mlp", Kind.BAD_REQUEST),
        ("mlp", Kind.BAD_REQUEST),
        ("endless", Kind.DEADLINE),
        ("endless", Kind.CANCELLED),
    ]
    assert seen[0][2].compute_infer > 0 and gate.inside == 0


async def test_a_sequence_goes_on_after_every_kind_of_failure(world: tuple[Core, _Gate, list[Any]]) -> None:
    core, _, _ = world
    steps = {"sequence_id": 7}
    assert _total(await _infer(core, "sum", _request(4, **steps, sequence_start=True))) == 11
    for bad in (_request(3, **steps), _request(4, rows=2, **steps)):
        with pytest.raises(Exception):  # noqa: B017
            await _infer(core, "sum", bad)
    assert _total(await _infer(core, "sum", _request(4, **steps))) == 12
    answers = await asyncio.gather(*(_infer(core, "sum", _request(4, **steps)) for _ in range(10)))
    assert sorted(map(_total, answers)) == [float(each) for each in range(13, 23)]

    sequence = core.sequences._sequences["word", "sum", 7]
    sequence.busy = True
    waits = [asyncio.create_task(_infer(core, "sum", _request(4, **steps))) for _ in range(3)]
    await asyncio.sleep(0.01)
    waits[0].cancel()
    await asyncio.sleep(0)
    core.sequences.give_back(sequence)
    await asyncio.gather(*waits, return_exceptions=True)
    assert [_total(each.result()) for each in waits[1:]] == [23, 24]
    assert _total(await _infer(core, "sum", _request(4, **steps, sequence_end=True))) == 25
    assert len(core.sequences) == 0


async def test_a_sequence_keeps_its_version_while_another_is_loaded(world: tuple[Core, _Gate, list[Any]]) -> None:
    core, _, _ = world
    start = _request(4, sequence_id="s", sequence_start=True)
    assert _total(await _infer(core, "sum", start)) == 11
    before = core.sequences._sequences["word", "sum", "s"].served
    await core.load("sum", Context("word"))
    assert core.repository.ready("sum")[0] is not before
    assert _total(await _infer(core, "sum", _request(4, sequence_id="s", sequence_end=True))) == 12
    assert _total(await _infer(core, "sum", start)) == 11


async def test_from_other_loops_and_threads(world: tuple[Core, _Gate, list[Any]]) -> None:
    core, _, _ = world

    def elsewhere(value: int) -> float:
        return float(asyncio.run(_infer(core, "mlp", _request(value=value))).outputs[0].array[0, 0])

    found = await asyncio.gather(*(asyncio.to_thread(elsewhere, value) for value in range(8)))
    expected = [_tiny.reference_mlp(np.full((1, 16), value, np.float32))[0, 0] for value in range(8)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
