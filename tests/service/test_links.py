"""Inferences that are handed from one process to another: here both are in one, each with its own repository, application and states."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt.service import _inference, _links
from maas_rt.service._calls import Answered, Handed, Key, NotHeld
from maas_rt.service._datatypes import BYTES, DATATYPES
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._grants import ALL, Client
from maas_rt.service._links import Links
from maas_rt.service._parcel import mapped, pack, unpack
from maas_rt.service._places import SharedPlaces
from maas_rt.service._requests import InferRequest, InferResponse, InputTensor, OutputTensor, SharedMemory
from maas_rt.service._sealed import is_offered
from maas_rt.service._sequences import Sequences
from maas_rt.service._statistics import Phases
from maas_rt.service._tracing import Trail
from tests import _tiny
from tests.service._serving import Served, serving

pytestmark = pytest.mark.skipif(
    not is_offered(), reason="workers share files in memory, which this system does not have"
)
ROWS = 1 << 15  # of a model whose tensors, of half a megabyte, go in a file


class Way:
    """The side of one of two workers: all sequences are the other one's to hold, or its own."""

    complete = True

    def __init__(self, holder: int | None) -> None:
        self._holder = holder
        self.links: Links | None = None
        self.other: Way | None = None
        self.is_there = True

    def holder(self, key: Key) -> int | None:
        return self._holder

    def hand_over(self, holder: int, key: Key, handed: Handed, asked: list[InferRequest]) -> Awaitable[Answered]:
        assert self.links is not None
        return self.links.hand_over(holder, key, handed, asked)

    def share(self, descriptor: int) -> str:
        return "key"

    def drop(self, key: str) -> None:
        assert key == "key"

    async def finished(self) -> None:
        assert self.links is not None
        self.links.close()

    def dial(self, worker: int) -> Future[socket.socket | None]:
        made: Future[socket.socket | None] = Future()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert self.other is not None and self.other.links is not None
        if self.other.is_there:
            self.other.links.take(there)
            made.set_result(here)
        else:
            here.close(), there.close()
            made.set_result(None)
        return made


@asynccontextmanager
async def two(folder: Path, **options: Any) -> AsyncIterator[tuple[Served, Served]]:
    """The one that is asked, and the one that holds what it is asked for."""
    asks, holds = Way(1), Way(None)
    asks.other, holds.other = holds, asks
    async with AsyncExitStack() as ends:
        servers = []
        for way in (asks, holds):
            server = await ends.enter_async_context(serving(folder, peers=way, **options))
            way.links = Links(way.dial, server.core.take_over)
            servers.append(server)
        yield servers[0], servers[1]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "sum.mrt").write_bytes(_tiny.accumulator())
    (tmp_path / "wide.mrt").write_bytes(_tiny.accumulator(ROWS))
    return tmp_path


async def step(
    server: Served, value: float = 1, model: str = "sum", headers: dict[str, str] | None = None, **more: Any
) -> tuple[int, Any]:
    """The sum so far, or why there is none."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
    parameters = {"sequence_id": 7, **more}
    body = {"inputs": [tensor], "parameters": parameters}
    status, found, _ = await server.ask("POST", f"/v2/models/{model}/infer", json=body, headers=headers)
    return status, found["outputs"][0]["data"][0] if status == 200 else found["error"]


def counted(server: Served) -> tuple[int, dict[str, int], int]:
    """Requests of model "sum", its errors by kind, and those that are under way."""
    from maas_rt.service._guard import METRICS

    found = server.app[METRICS].collect().get(("sum", "1"))
    if found is None:
        return 0, {}, 0
    return found.requests, {kind.label: n for kind, n in found.errors.items() if n}, found.in_flight


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def test_the_state_is_the_other_ones_and_all_is_counted_there(models: Path) -> None:
    async with two(models) as (asks, holds):
        assert await step(asks, sequence_start=True) == (200, 11.0)
        assert await step(holds) == (200, 12.0)  # asked directly, it is the same
        assert await step(asks, sequence_end=True) == (200, 13.0)
        status, why = await step(asks)
        assert status == 400 and "sequence 7 of model 'sum' has not begun" in why
        status, why = await step(asks, seed=-1)  # what is wrong with the request is seen where it comes
        assert status == 400 and '"seed" is -1' in why
        assert len(asks.core.sequences) == len(holds.core.sequences) == 0
        assert counted(holds) == (4, {"bad_request": 1}, 0)
        assert counted(asks) == (1, {"bad_request": 1}, 0)
        (told,) = (each for each in holds.core.all_statistics() if each["name"] == "sum")
        assert told["inference_stats"]["success"]["count"] == told["execution_count"] == 3
        assert told["inference_stats"]["compute_input"]["ns"] > 0


async def test_large_tensors_as_binary_data_and_as_json(models: Path) -> None:
    x = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)
    tensor = {"name": "x", "shape": [ROWS, 4], "datatype": "FP32"}
    async with two(models) as (asks, _):
        head = {"inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}]}
        head["parameters"] = {"sequence_id": "s", "sequence_start": True, "binary_data_output": True}  # type: ignore[assignment]
        text = json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        async with asks.session.post("/v2/models/wide/infer", data=text + x.tobytes(), headers=headers) as response:
            assert response.status == 200
            body, length = await response.read(), int(response.headers["Inference-Header-Content-Length"])
        assert (np.frombuffer(body[length:], np.float32).reshape(ROWS, 4) == x + np.float32(10)).all()
        document = {"inputs": [{**tensor, "data": x.reshape(-1).tolist()}], "parameters": {"sequence_id": "s"}}
        status, found, _ = await asks.ask("POST", "/v2/models/wide/infer", json=document)
        assert status == 200
        expected = x + (x + np.float32(10))
        assert (np.array(found["outputs"][0]["data"], np.float32).reshape(ROWS, 4) == expected).all()


async def test_requests_of_a_sequence_are_made_in_the_order_in_which_they_came(models: Path) -> None:
    """The first of them is large, and goes there by a file that is written beside the loop."""
    served: list[str] = []

    async def serve(handed: Handed, asked: list[InferRequest]) -> Answered:
        served.append(asked[0].id or "")
        return Answered(InferResponse("m", "1", ()), Phases())

    asks, holds = Way(1), Way(None)
    asks.other = holds
    asks.links, holds.links = Links(asks.dial, serve), Links(holds.dial, serve)
    tasks = []
    for number in range(8):
        data = memoryview(bytes(8 << 20 if number % 2 == 0 else 4))
        request = InferRequest((InputTensor("x", DATATYPES["FP32"], (len(data) // 4,), data),), id=str(number))
        tasks.append(asks.links.hand_over(1, ("", "m", 1), _handed(), [request]))
    await asyncio.gather(*tasks)
    assert served == [str(number) for number in range(8)]
    asks.links.close(), holds.links.close()


def _handed() -> Handed:
    return Handed("m", None, Client("", ALL, is_known=False), None, 0, 0, "", "", Trail("r"))


async def test_who_goes_away_while_he_waits_for_his_turn_is_stopped_there(models: Path) -> None:
    async with two(models) as (asks, holds):
        assert await step(asks, sequence_start=True) == (200, 11.0)
        repository, sequences = holds.core.repository, holds.core.sequences
        held = sequences.take("sum", 7, False, repository.lease("sum")).result(0)
        asking = asyncio.create_task(step(asks))
        await until(lambda: held.waiting)
        asking.cancel()
        await until(lambda: held.waiting[0].cancelled())
        await until(lambda: counted(holds) == (2, {"cancelled": 1}, 0))
        sequences.give_back(held)
        assert await step(asks) == (200, 12.0)
        assert counted(asks) == (0, {}, 0)


async def test_a_deadline_is_carried_over(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two(models) as (asks, holds):
        assert await step(asks, sequence_start=True) == (200, 11.0)
        held = holds.core.sequences.take("sum", 7, False, holds.core.repository.lease("sum")).result(0)
        for given in ({"headers": {"X-Request-Timeout-Ms": "20"}}, {"timeout": 20_000}):
            status, why = await step(asks, **given)
            assert status == 504 and "time was over" in why
        await until(lambda: counted(holds) == (3, {"deadline": 2}, 0))
        # One that says nothing at all is waited for no longer, either.
        monkeypatch.setattr(_inference, "_GRACE", 0.01)
        monkeypatch.setattr(_links._Link, "receive", _nothing)
        assert (await step(asks, timeout=20_000))[0] == 504
        assert counted(asks) == (1, {"deadline": 1}, 0)
        monkeypatch.undo()
        holds.core.sequences.give_back(held)
        assert await step(asks) == (200, 12.0)


def _nothing(link: Any) -> None:
    raise BlockingIOError


async def test_one_that_dies_takes_its_sequences_along(models: Path) -> None:
    async with two(models) as (asks, holds):
        assert await step(asks, sequence_start=True) == (200, 11.0)
        held = holds.core.sequences.take("sum", 7, False, holds.core.repository.lease("sum")).result(0)
        asking = [asyncio.create_task(step(asks)) for _ in range(3)]
        asking.append(asyncio.create_task(step(asks, sequence_start=True, timeout=60_000_000)))
        await until(lambda: len(held.waiting) == 3)
        way = holds.core.peers
        assert isinstance(way, Way) and way.links is not None
        way.is_there = False
        way.links.close()
        for status, why in await asyncio.gather(*asking[:3]):
            assert status == 400 and "has not begun, has ended or was idle too long" in why
        assert (await asking[3])[0] in (200, 503)
        status, why = await step(asks)
        assert status == 400 and "has not begun, has ended or was idle too long" in why
        status, why = await step(asks, sequence_start=True)
        assert status == 503 and "the worker that is to hold sequence 7 of model 'sum' is being started" in why
        assert counted(asks)[2] == 0
        holds.core.sequences.give_back(held)
        way.is_there = True
        assert await step(asks, sequence_start=True) == (200, 11.0)


async def test_a_model_that_is_not_there_is_told_of_and_counted_once(models: Path) -> None:
    async with two(models) as (asks, holds):
        holds.core.repository.unload("sum")
        status, why = await step(asks, sequence_start=True)
        assert status == 503 and "no version of model 'sum' is ready" in why
        assert counted(asks) == (1, {"not_ready": 1}, 0) and counted(holds) == (0, {}, 0)


async def test_a_fault_of_the_other_one_is_logged_there_and_told_without_its_words(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a secret")

    async with two(models) as (asks, holds):
        monkeypatch.setattr(holds.core.sequences, "take", fails)
        status, why = await step(asks, sequence_start=True)
        assert (status, why) == (500, "the server failed on this request (RuntimeError): its log says more")
        assert "a secret" in caplog.text and "POST /v2/models/sum/infer" in caplog.text


async def test_where_there_is_no_room(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(value: Any) -> Any:
        if isinstance(value, tuple if here else Answered):
            raise OSError(24, "Too many open files")
        return pack(value)

    async with two(models) as (asks, _):
        monkeypatch.setattr(_links, "pack", no_room)
        here = True
        status, why = await step(asks, sequence_start=True)
        assert status == 503 and "there is no room to hand the request to the worker" in why
        assert counted(asks) == (1, {"overloaded": 1}, 0)
        here = False  # it was made: who asked again would have it made twice
        status, why = await step(asks, sequence_start=True)
        assert status == 500 and "there is no room for the answer of the worker" in why
        monkeypatch.undo()
        assert await step(asks) == (200, 12.0)


async def test_no_file_stays_open(models: Path) -> None:
    async def serve(handed: Handed, asked: list[InferRequest]) -> Answered:
        if asked[0].id == "fail":
            raise ServiceError(Kind.BAD_REQUEST, "no")
        array = np.zeros(1 << 16, np.float32)
        return Answered(InferResponse("m", "1", (OutputTensor("y", DATATYPES["FP32"], array, True),)), Phases())

    asks, holds = Way(1), Way(None)
    asks.other = holds
    asks.links, holds.links = Links(asks.dial, serve), Links(holds.dial, serve)

    async def ask(identifier: str, cancelled: bool = False) -> None:
        assert asks.links is not None
        data = memoryview(bytes(1 << 18))
        request = InferRequest((InputTensor("x", DATATYPES["FP32"], (1 << 16,), data),), id=identifier)
        task = asks.links.hand_over(1, ("", "m", 1), _handed(), [request])
        if cancelled:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def opened(what: str) -> int:
        links = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
        return sum(what in os.readlink(each) for each in links if os.path.islink(each))

    before = opened("socket:")
    for number in range(64):
        await ask("fail" if number % 3 == 0 else "", number % 4 == 0)
    await asyncio.gather(*(ask("") for _ in range(64)))
    gc.collect()
    await until(lambda: not opened("memfd:maas-rt request"))
    assert opened("socket:") == before + 2
    asks.links.close()
    holds.is_there = False
    with pytest.raises(NotHeld):
        await asks.links.hand_over(1, ("", "m", 1), _handed(), [InferRequest()])
    await until(lambda: opened("socket:") == before)  # the other end sees it


async def test_tensors_in_shared_memory_are_read_and_written_by_the_one_that_holds_the_sequence(models: Path) -> None:
    path = Path(f"/dev/shm/maas-rt-test-{secrets.token_hex(8)}")
    path.write_bytes(np.ones(4, np.float32).tobytes() + bytes(16))
    try:
        async with two(models, shared_memory=True) as (asks, holds):
            for server in (asks, holds):
                assert server.core.regions is not None
                server.core.regions.register("", "r", path.name, 0, 32)
            place = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": place}
            output = {"name": "y", "parameters": {**place, "shared_memory_offset": 16}}
            body = {"inputs": [tensor], "outputs": [output], "parameters": {"sequence_id": 1, "sequence_start": True}}
            status, found, _ = await asks.ask("POST", "/v2/models/sum/infer", json=body)
            assert status == 200 and "data" not in found["outputs"][0] and found["outputs"][0]["shape"] == [1, 4]
            assert np.frombuffer(path.read_bytes()[16:], np.float32).tolist() == [11.0] * 4
    finally:
        path.unlink()


# ---- what goes over


def test_a_parcel_is_copied_once() -> None:
    array, strings = np.arange(1 << 16, dtype=np.float64), np.array([b"a", b"\xff" * 99], object)
    outputs = (
        OutputTensor("y", DATATYPES["FP64"], array, True),
        OutputTensor("s", BYTES, strings),
        OutputTensor("shared", DATATYPES["FP64"], array, False, SharedMemory("r", array.nbytes)),
    )
    packed = pack(InferResponse("m", "1", outputs))
    assert packed.file is not None
    size = os.fstat(packed.file.descriptor).st_size
    assert array.nbytes < size < array.nbytes + 4096  # what lies in the client's memory stays there
    found = unpack(mapped(os.dup(packed.file.descriptor)))
    y, s, shared = found.outputs
    assert (y.array == array).all() and not y.array.flags.owndata and not y.array.flags.writeable
    assert s.array.tolist() == strings.tolist() and s.datatype is BYTES
    assert shared.array.shape == array.shape and shared.shared_memory == SharedMemory("r", array.nbytes)
    small = pack(InferRequest((InputTensor("x", BYTES, (1,), memoryview(b"....")),)))
    assert small.file is None
    assert bytes(unpack(memoryview(small.data)).inputs[0].data) == b"...."


def test_places_are_those_of_all_workers() -> None:
    first = SharedPlaces(16, 0)
    second = SharedPlaces(16, 1, os.dup(first.descriptor))
    held = [first.take("a"), second.take("a")]
    with pytest.raises(ServiceError, match="2 sequences of this client are under way"):
        first.take("a")
    second.give_back(held[1])
    held[1] = first.take("a")
    held += [second.take("") for _ in range(14)]
    assert sorted(held) == list(range(16))
    with pytest.raises(ServiceError, match="16 sequences are under way") as caught:
        first.take("b")
    assert caught.value.kind is Kind.OVERLOADED
    first.end(0)  # it has died
    assert [second.take("a"), first.take("a")] == held[:2]


def test_an_end_gives_all_places_back(models: Path) -> None:
    from maas_rt.service import Repository

    places = SharedPlaces(2)
    sequences, repository = Sequences(places=places), Repository(models)
    for identifier in (1, 2):
        sequences.give_back(sequences.take("sum", identifier, True, repository.lease("sum")).result(0))
    sequences.close()
    assert {places.take(""), places.take("")} == {0, 1}
